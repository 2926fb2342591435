// A rival for `fovea bench`: the same problems in plain LibTorch, as a user of torch::nn writes
// them. A program of its own, so that its libraries and its environment are its own; rival.h says
// how it is driven.
#include <ATen/autocast_mode.h>
#include <torch/torch.h>
#include <torch/version.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "rival.h"

namespace {

using torch::Tensor;
using Tensors = std::map<std::string, Tensor>;
using rival::Options;
using rival::status_bytes;
namespace nn = torch::nn;

Tensors read_tensors(const std::string& path) {
  const std::map<std::string, torch::Dtype> types = {
      {"F32", torch::kFloat32}, {"U8", torch::kUInt8}, {"I32", torch::kInt32}};
  Tensors tensors;
  for (const auto& [name, raw] : rival::read_tensors(path)) {
    Tensor tensor = torch::empty(raw.shape, types.at(raw.dtype));
    if (raw.bytes.size() != tensor.nbytes())
      throw std::runtime_error(path + " is not what it says of " + name);
    std::memcpy(tensor.data_ptr(), raw.bytes.data(), raw.bytes.size());
    tensors[name] = tensor;
  }
  return tensors;
}

// The file behind the library of products: Debian installs one of several.
std::string blas() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto slash = line.find('/');
    if (slash == std::string::npos || line.find("blas") == std::string::npos) continue;
    const std::string path = line.substr(slash);
    if (path.find("openblas") != std::string::npos) return "openblas";
    if (path.find("blis") != std::string::npos) return "blis";
    if (path.find("libblas") != std::string::npos) return "reference";
  }
  return "unknown";
}

// Attention without a fused kernel, which LibTorch 1.13 has none of for the processor.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(-1)));
  return torch::matmul(torch::softmax(torch::matmul(q, k.transpose(-2, -1)) * scale, -1), v);
}

// [B, N, H * D] to [B, H, N, D], and back.
Tensor split_heads(const Tensor& x, int64_t heads) {
  return x.view({x.size(0), x.size(1), heads, -1}).transpose(1, 2);
}
Tensor join_heads(const Tensor& x) { return x.transpose(1, 2).reshape({x.size(0), x.size(2), -1}); }

struct BlockImpl : nn::Module {
  BlockImpl(int64_t width, int64_t mlp, int64_t heads_)
      : heads(heads_),
        norm1(register_module("norm1", nn::LayerNorm(nn::LayerNormOptions({width})))),
        q(register_module("q", nn::Linear(width, width))),
        k(register_module("k", nn::Linear(nn::LinearOptions(width, width).bias(false)))),
        v(register_module("v", nn::Linear(width, width))),
        out(register_module("out", nn::Linear(width, width))),
        norm2(register_module("norm2", nn::LayerNorm(nn::LayerNormOptions({width})))),
        fc1(register_module("fc1", nn::Linear(width, mlp))),
        fc2(register_module("fc2", nn::Linear(mlp, width))) {}

  Tensor forward(Tensor x) {
    const Tensor h = norm1(x);
    const Tensor a =
        attention(split_heads(q(h), heads), split_heads(k(h), heads), split_heads(v(h), heads));
    x = x + out(join_heads(a));
    return x + fc2(torch::gelu(fc1(norm2(x))));
  }

  int64_t heads;
  nn::LayerNorm norm1;
  nn::Linear q, k, v, out;
  nn::LayerNorm norm2;
  nn::Linear fc1, fc2;
};
TORCH_MODULE(Block);

// The parameters are called as the variables of fovea's model behind "vit.".
struct VisionTransformerImpl : nn::Module {
  VisionTransformerImpl(const Tensors& tensors, int64_t heads) {
    const auto sizes = [&](const std::string& name) { return tensors.at("vit." + name).sizes(); };
    const int64_t width = sizes("embed.weight")[0], pixels = sizes("embed.weight")[1];
    patch = std::lround(std::sqrt(static_cast<double>(pixels / tensors.at("image").size(3))));
    embed = register_module("embed", nn::Linear(pixels, width));
    position = register_parameter("position", torch::empty(sizes("position")));
    for (int64_t i = 0; tensors.count("vit.enc." + std::to_string(i) + ".q.weight"); ++i)
      blocks->push_back(Block(width, sizes("enc.0.fc1.weight")[0], heads));
    norm = nn::LayerNorm(nn::LayerNormOptions({width}));
    nn::ModuleDict encoder;
    register_module("enc", blocks);
    register_module("norm", norm);
    head = register_module("head", nn::Linear(width, sizes("head.weight")[0]));
    load(tensors);
  }

  void load(const Tensors& tensors) {
    const torch::NoGradGuard guard;
    for (auto& parameter : named_parameters()) {
      const std::string& key = parameter.key();
      const std::string name = "vit." + (key.rfind("norm.", 0) == 0 ? "enc." + key : key);
      parameter.value().copy_(tensors.at(name));
    }
  }

  // u8 [B, H, W, C] to logits [B, classes].
  Tensor forward(const Tensor& image) {
    const Tensor pixels = image.to(torch::kFloat32) * (2.0 / 255.0) - 1.0;
    const int64_t b = image.size(0), rows = image.size(1) / patch, columns = image.size(2) / patch;
    const Tensor patches = pixels.view({b, rows, patch, columns, patch, image.size(3)})
                               .permute({0, 1, 3, 2, 4, 5})
                               .reshape({b, rows * columns, -1});
    Tensor x = embed(patches) + position;
    for (const auto& block : *blocks) x = block->as<Block>()->forward(x);
    return head(norm(x).mean(1));
  }

  int64_t patch = 1;
  nn::Linear embed{nullptr}, head{nullptr};
  Tensor position;
  nn::ModuleList blocks;
  nn::LayerNorm norm{nullptr};
};
TORCH_MODULE(VisionTransformer);

class Problem : public rival::Problem {
 public:
  std::vector<float> output() override {
    std::vector<float> all;
    for (const Tensor& tensor : results()) {
      const Tensor flat = tensor.detach().to(torch::kFloat32).contiguous();
      all.insert(all.end(), flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel());
    }
    return all;
  }
  std::string description() const override {
    return "version=" TORCH_VERSION " kernel=" + kernel() + " blas=" + blas();
  }

 private:
  virtual std::vector<Tensor> results() = 0;
  virtual std::string kernel() const { return "unfused"; }
};

class Autocast {
 public:
  explicit Autocast(bool on) : on_(on) {
    if (!on_) return;
    at::autocast::set_autocast_cpu_dtype(torch::kBFloat16);
    at::autocast::set_cpu_enabled(true);
    at::autocast::increment_nesting();
  }
  ~Autocast() {
    if (!on_) return;
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_cpu_enabled(false);
  }

 private:
  bool on_;
};

class Training : public Problem {
 public:
  Training(Tensors tensors, Options& options)
      : image_(tensors.at("image")),
        label_(tensors.at("label").to(torch::kInt64)),
        model_(tensors, std::stoll(options.at("heads"))),
        bf16_(options.at("dtype") == "bf16") {
    // Its state goes with it.
    make_optimiser(0, 0);
    step(image_.slice(0, 0, 1).contiguous(), label_.slice(0, 0, 1).contiguous());
    make_optimiser(std::stod(options.at("rate")), std::stod(options.at("decay")));
    resident_before = status_bytes("VmRSS");
    // Where the system allows it, the peak begins here.
    std::ofstream("/proc/self/clear_refs") << "5";
  }

  void run() override { step(image_, label_); }

 private:
  std::vector<Tensor> results() override {
    std::vector<Tensor> losses;
    for (int i = 0; i < 3; ++i) losses.push_back(step(image_, label_));
    return losses;
  }
  std::string kernel() const override { return bf16_ ? "autocast" : "unfused"; }

  void make_optimiser(double rate, double decay) {
    std::vector<Tensor> weights, vectors;
    for (auto& parameter : model_->parameters())
      (parameter.dim() >= 2 ? weights : vectors).push_back(parameter);
    using torch::optim::AdamWOptions;
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(weights,
                        std::make_unique<AdamWOptions>(AdamWOptions(rate).weight_decay(decay)));
    groups.emplace_back(vectors,
                        std::make_unique<AdamWOptions>(AdamWOptions(rate).weight_decay(0)));
    optimiser_ = std::make_unique<torch::optim::AdamW>(groups, AdamWOptions(rate));
  }

  Tensor step(const Tensor& image, const Tensor& label) {
    optimiser_->zero_grad();
    Tensor loss;
    {
      const Autocast autocast(bf16_);
      loss = torch::cross_entropy_loss(model_->forward(image), label);
    }
    loss.backward();
    optimiser_->step();
    return loss.detach();
  }

  Tensor image_, label_;
  VisionTransformer model_;
  bool bf16_;
  std::unique_ptr<torch::optim::AdamW> optimiser_;
};

class Inference : public Problem {
 public:
  Inference(Tensors tensors, Options& options)
      : image_(tensors.at("image")),
        model_(tensors, std::stoll(options.at("heads"))),
        bf16_(options.at("dtype") == "bf16") {
    model_->eval();
  }

  void run() override { logits(); }

 private:
  std::vector<Tensor> results() override { return {logits()}; }
  std::string kernel() const override { return bf16_ ? "autocast" : "unfused"; }

  Tensor logits() {
    const torch::NoGradGuard guard;
    const Autocast autocast(bf16_);
    return model_->forward(image_);
  }

  Tensor image_;
  VisionTransformer model_;
  bool bf16_;
};

// On [B, H, N, D], laid out so beforehand.
class Attention : public Problem {
 public:
  Attention(Tensors tensors, Options& options, bool backward) : backward_(backward) {
    const int64_t heads = std::stoll(options.at("heads"));
    const auto type = options.at("dtype") == "bf16" ? torch::kBFloat16 : torch::kFloat32;
    const auto take = [&](const std::string& name) {
      return split_heads(tensors.at(name), heads).contiguous().to(type);
    };
    q_ = take("q"), k_ = take("k"), v_ = take("v");
    if (!backward_) return;
    dout_ = take("dout");
    for (Tensor* x : {&q_, &k_, &v_}) x->requires_grad_(true);
    out_ = attention(q_, k_, v_);
  }

  void run() override { compute(); }

 private:
  std::vector<Tensor> results() override {
    std::vector<Tensor> all;
    for (const Tensor& x : compute()) all.push_back(join_heads(x));
    return all;
  }

  std::vector<Tensor> compute() {
    if (backward_)
      return torch::autograd::grad({out_}, {q_, k_, v_}, {dout_}, /*retain_graph=*/true);
    const torch::NoGradGuard guard;
    return {attention(q_, k_, v_)};
  }

  bool backward_;
  Tensor q_, k_, v_, dout_, out_;
};

std::unique_ptr<rival::Problem> make_problem(const std::string& kind, Options& options) {
  torch::set_num_threads(std::stoi(options.at("threads")));
  Tensors tensors = read_tensors(options.at("tensors"));
  if (kind == "train") return std::make_unique<Training>(std::move(tensors), options);
  if (kind == "infer") return std::make_unique<Inference>(std::move(tensors), options);
  if (kind == "attention") return std::make_unique<Attention>(std::move(tensors), options, false);
  if (kind == "attention_backward")
    return std::make_unique<Attention>(std::move(tensors), options, true);
  throw std::runtime_error("unknown problem " + kind);
}

}  // namespace

int main() { return rival::serve(make_problem); }

// A rival for `fovea bench`: the same problems in plain LibTorch, as a user of torch::nn writes
// them. A program of its own, so that its libraries and its environment are its own. Driven by
// lines on standard input, one answer each ("ok KEY=VALUE...", "times MS MS...", "error TEXT"):
//   setup train|infer|attention|attention_backward KEY=VALUE...
//         threads=N dtype=f32|bf16 tensors=FILE heads=N, for train also rate= decay=
//   output FILE   the results of the problem as raw f32: logits, losses of three steps, out, or
//                 dq dk dv; before any run
//   run N         the milliseconds of N runs
//   memory        bytes resident after a step of one image, and at most since then
//   quit
#include <ATen/autocast_mode.h>
#include <torch/torch.h>
#include <torch/version.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using torch::Tensor;
using Tensors = std::map<std::string, Tensor>;
using Options = std::map<std::string, std::string>;
namespace nn = torch::nn;

// A file in the safetensors format: eight bytes of header length, a JSON header, the data.
Tensors read_tensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream buffer;
  buffer << file.rdbuf();
  const std::string bytes = buffer.str();
  uint64_t length = 0;
  if (bytes.size() < 8) throw std::runtime_error(path + " cannot be read");
  std::memcpy(&length, bytes.data(), 8);
  if (length > bytes.size() - 8) throw std::runtime_error(path + " is cut short");
  const auto header = nlohmann::json::parse(bytes.substr(8, length));
  const std::map<std::string, torch::Dtype> types = {
      {"F32", torch::kFloat32}, {"U8", torch::kUInt8}, {"I32", torch::kInt32}};
  Tensors tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto shape = entry.at("shape").get<std::vector<int64_t>>();
    const auto range = entry.at("data_offsets").get<std::vector<uint64_t>>();
    Tensor tensor = torch::empty(shape, types.at(entry.at("dtype").get<std::string>()));
    if (range.at(1) > bytes.size() - 8 - length || range[1] - range[0] != tensor.nbytes())
      throw std::runtime_error(path + " is not what it says of " + name);
    std::memcpy(tensor.data_ptr(), bytes.data() + 8 + length + range[0], tensor.nbytes());
    tensors[name] = tensor;
  }
  return tensors;
}

void write_floats(const std::string& path, const std::vector<Tensor>& tensors) {
  std::ofstream file(path, std::ios::binary);
  for (const Tensor& tensor : tensors) {
    const Tensor flat = tensor.detach().to(torch::kFloat32).contiguous();
    file.write(static_cast<const char*>(flat.data_ptr()),
               static_cast<std::streamsize>(flat.nbytes()));
  }
  if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}

// A line of /proc/self/status in bytes.
int64_t status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind(key + ":", 0) == 0) return std::stoll(line.substr(key.size() + 1)) * 1024;
  return 0;
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

class Problem {
 public:
  virtual ~Problem() = default;
  virtual void run() = 0;
  virtual std::vector<Tensor> output() = 0;
  virtual std::string kernel() const { return "unfused"; }
  int64_t resident_before = 0;  // after a step of one image
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

  std::vector<Tensor> output() override {
    std::vector<Tensor> losses;
    for (int i = 0; i < 3; ++i) losses.push_back(step(image_, label_));
    return losses;
  }

  std::string kernel() const override { return bf16_ ? "autocast" : "unfused"; }

 private:
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
  std::vector<Tensor> output() override { return {logits()}; }
  std::string kernel() const override { return bf16_ ? "autocast" : "unfused"; }

 private:
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
    const auto take = [&](const std::string& name) {
      return split_heads(tensors.at(name), heads).contiguous();
    };
    q_ = take("q"), k_ = take("k"), v_ = take("v");
    if (!backward_) return;
    dout_ = take("dout");
    for (Tensor* x : {&q_, &k_, &v_}) x->requires_grad_(true);
    out_ = attention(q_, k_, v_);
  }

  void run() override { compute(); }
  std::vector<Tensor> output() override {
    std::vector<Tensor> all;
    for (const Tensor& x : compute()) all.push_back(join_heads(x));
    return all;
  }

 private:
  std::vector<Tensor> compute() {
    if (backward_)
      return torch::autograd::grad({out_}, {q_, k_, v_}, {dout_}, /*retain_graph=*/true);
    const torch::NoGradGuard guard;
    return {attention(q_, k_, v_)};
  }

  bool backward_;
  Tensor q_, k_, v_, dout_, out_;
};

std::unique_ptr<Problem> make_problem(std::istringstream& words) {
  std::string kind;
  words >> kind;
  Options options;
  for (std::string word; words >> word;) {
    const auto equals = word.find('=');
    if (equals == std::string::npos) throw std::runtime_error("expected KEY=VALUE, got " + word);
    options[word.substr(0, equals)] = word.substr(equals + 1);
  }
  torch::set_num_threads(std::stoi(options.at("threads")));
  Tensors tensors = read_tensors(options.at("tensors"));
  if (kind == "train") return std::make_unique<Training>(std::move(tensors), options);
  if (kind == "infer") return std::make_unique<Inference>(std::move(tensors), options);
  if (kind == "attention") return std::make_unique<Attention>(std::move(tensors), options, false);
  if (kind == "attention_backward")
    return std::make_unique<Attention>(std::move(tensors), options, true);
  throw std::runtime_error("unknown problem " + kind);
}

std::string times_of_runs(Problem& problem, int64_t runs) {
  std::ostringstream answer;
  answer << "times";
  for (int64_t i = 0; i < runs; ++i) {
    const auto start = std::chrono::steady_clock::now();
    problem.run();
    answer << ' '
           << std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
                  .count();
  }
  return answer.str();
}

std::string answer(const std::string& line, std::unique_ptr<Problem>& problem) {
  std::istringstream words(line);
  std::string command;
  words >> command;
  if (command == "setup") {
    problem = make_problem(words);
    return "ok version=" TORCH_VERSION " kernel=" + problem->kernel() + " blas=" + blas();
  }
  if (!problem) throw std::runtime_error("no problem is set up");
  if (command == "output") {
    std::string path;
    words >> path;
    write_floats(path, problem->output());
    return "ok";
  }
  if (command == "run") {
    int64_t runs = 0;
    words >> runs;
    return times_of_runs(*problem, runs);
  }
  if (command == "memory")
    return "ok resident=" + std::to_string(problem->resident_before) +
           " peak=" + std::to_string(status_bytes("VmHWM"));
  throw std::runtime_error("unknown command " + command);
}

}  // namespace

int main() {
  std::unique_ptr<Problem> problem;
  for (std::string line; std::getline(std::cin, line) && line != "quit";) {
    std::string reply;
    try {
      reply = answer(line, problem);
    } catch (const std::exception& e) {
      reply = std::string("error ") + e.what();
      reply = reply.substr(0, reply.find('\n'));
    }
    std::cout << reply << std::endl;
  }
}

// The attention kernels on raw memory, without a graph around them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include "cli/bench_attention.h"
#include "fovea/base/aligned.h"
#include "fovea/base/error.h"
#include "fovea/base/philox.h"
#include "fovea/base/text.h"
#include "fovea/base/visit.h"
#include "fovea/formats/safetensors.h"
#include "fovea/kernels/attention.h"

namespace fovea::cli {

namespace {

constexpr int64_t kBlock = 64;   // tokens, of which live ones are counted
constexpr int64_t kReach = 128;  // of a window, to each side

// Which links there are.
enum class Links { all, causal, window, blocks };
std::string_view text_of(Links links) {
  constexpr std::string_view kTexts[] = {"", " causal", " window 256", " a tenth of blocks of 64"};
  return kTexts[static_cast<int>(links)];
}

struct Sizes {
  int64_t batch, heads, tokens, dim;
  bool backward = false;
  Links links = Links::all;

  int64_t elements() const { return batch * heads * tokens * dim; }
  int64_t blocks() const { return (tokens + kBlock - 1) / kBlock; }
  // Whether links join the blocks i and j.
  bool live(int64_t i, int64_t j) const {
    if (links == Links::causal) return j <= i;
    if (links == Links::window)
      return j * kBlock <= (i + 1) * kBlock - 1 + kReach && (j + 1) * kBlock > i * kBlock - kReach;
    // One of ten, as if drawn.
    if (links == Links::blocks) return (i * 7919 + j * 104729 + i * j * 31) % 10 == 0;
    return true;
  }
  // Products of the scores and of the values; backward computes the scores again and has four
  // products of its own. Of a causal mask half the links count, else those of live blocks.
  int64_t flops() const {
    const int64_t all = (backward ? 10 : 4) * elements() * tokens;
    if (links == Links::all) return all;
    if (links == Links::causal) return all / 2;
    int64_t count = 0;
    for (int64_t i = 0; i < blocks(); ++i)
      for (int64_t j = 0; j < blocks(); ++j) count += live(i, j);
    return static_cast<int64_t>(static_cast<double>(all) * static_cast<double>(count) /
                                static_cast<double>(blocks() * blocks()));
  }
  std::string name() const {
    return fmt::format("attention {} B{} H{} N{} D{}{} f32", backward ? "backward" : "forward",
                       batch, heads, tokens, dim, text_of(links));
  }
};

AttentionProblem problem_of(const Sizes& s) {
  AttentionProblem p;
  p.batch = s.batch;
  p.tq = p.tk = s.tokens;
  p.heads = p.kv_heads = p.heads_kept = s.heads;
  p.head_dim = p.value_dim = s.dim;
  p.scale = 1 / std::sqrt(static_cast<double>(s.dim));
  p.want_lse = s.backward;
  p.causal = s.links == Links::causal;
  if (s.links == Links::window) p.window_left = p.window_right = kReach;
  if (s.links == Links::blocks) {
    p.block = kBlock;
    p.block_plane.query = s.blocks();  // the same for all heads
  }
  set_dense_strides(p, /*packed=*/true);
  return p;
}

void check_kernel(const std::string& kernel) {
  std::vector<std::string> names;
  for (const auto& k : attention_kernels()) names.emplace_back(k.name);
  for (const auto& k : attention_backward_kernels())
    if (std::find(names.begin(), names.end(), k.name) == names.end()) names.emplace_back(k.name);
  if (!kernel.empty() && std::find(names.begin(), names.end(), kernel) == names.end())
    throw Error(ErrorCode::not_found,
                fmt::format("[bench] --kernel: there is no '{}'{} (kernels: {})", kernel,
                            did_you_mean(kernel, names), fmt::join(names, ", ")));
}

class OwnAttention : public Competitor {
 public:
  OwnAttention(const Sizes& sizes, const std::string& wanted, std::shared_ptr<ThreadPool> pool)
      : sizes_(sizes),
        pool_(std::move(pool)),
        q_(random_values(sizes.elements(), DType::f32, "q")),
        k_(random_values(sizes.elements(), DType::f32, "k")),
        v_(random_values(sizes.elements(), DType::f32, "v")),
        out_(q_.size(), "output of attention"),
        lse_(static_cast<size_t>(sizes.batch * sizes.heads * sizes.tokens) * sizeof(float),
             "log-sum-exp") {
    const AttentionProblem problem = problem_of(sizes);
    if (sizes.links == Links::blocks)
      for (int64_t i = 0; i < sizes.blocks(); ++i)
        for (int64_t j = 0; j < sizes.blocks(); ++j)
          blocks_.push_back(static_cast<uint8_t>(sizes.live(i, j)));
    // Backward is measured with the kernel asked for, after the first forward kernel.
    auto forward = plan_of(attention_kernels(), sizes.backward ? "" : wanted, problem);
    forward_ = std::move(forward.plan);
    forward_scratch_.emplace(*forward_, *pool_);
    kernel = forward.name;
    implementation = "fovea";
    flops = sizes.flops();
    if (!sizes.backward) return;
    run_forward();
    dout_ = random_values(sizes.elements(), DType::f32, "dout");
    for (AlignedBuffer* gradient : {&dq_, &dk_, &dv_})
      *gradient = AlignedBuffer(q_.size(), "gradients of attention");
    auto backward = plan_of(attention_backward_kernels(), wanted, problem);
    backward_ = std::move(backward.plan);
    backward_scratch_.emplace(*backward_, *pool_);
    kernel = backward.name;
  }

  std::vector<float> output() override {
    run_once();
    std::vector<float> all;
    for (const AlignedBuffer* part :
         sizes_.backward ? std::vector{&dq_, &dk_, &dv_} : std::vector<AlignedBuffer*>{&out_}) {
      const auto* values = reinterpret_cast<const float*>(part->data());
      all.insert(all.end(), values, values + sizes_.elements());
    }
    return all;
  }

  std::vector<double> run(int64_t runs) override {
    return time_runs(runs, [this] { run_once(); });
  }

 private:
  void run_once() { sizes_.backward ? run_backward() : run_forward(); }

  void run_forward() {
    forward_->run({.q = q_.data(),
                   .k = k_.data(),
                   .v = v_.data(),
                   .out = out_.data(),
                   .lse = sizes_.backward ? lse_.data() : nullptr,
                   .links = {.blocks = blocks_.data()}},
                  forward_scratch_->context);
  }

  void run_backward() {
    backward_->run({.q = q_.data(),
                    .k = k_.data(),
                    .v = v_.data(),
                    .out = out_.data(),
                    .lse = lse_.data(),
                    .dout = dout_.data(),
                    .dq = dq_.data(),
                    .dk = dk_.data(),
                    .dv = dv_.data(),
                    .links = {.blocks = blocks_.data()}},
                   backward_scratch_->context);
  }

  Sizes sizes_;
  std::shared_ptr<ThreadPool> pool_;
  AlignedBuffer q_, k_, v_, out_, lse_, dout_, dq_, dk_, dv_;
  std::vector<uint8_t> blocks_;
  std::unique_ptr<KernelPlan<AttentionArgs>> forward_;
  std::optional<Scratch<AttentionArgs>> forward_scratch_;
  std::unique_ptr<KernelPlan<AttentionBackwardArgs>> backward_;
  std::optional<Scratch<AttentionBackwardArgs>> backward_scratch_;
};

BenchCase case_of(const Sizes& sizes, const std::string& kernel) {
  BenchCase c;
  c.name = sizes.name();
  c.tolerance = 1e-5;
  c.own = [=](const std::shared_ptr<ThreadPool>& pool) {
    std::vector<std::unique_ptr<Competitor>> own;
    own.push_back(std::make_unique<OwnAttention>(sizes, kernel, pool));
    return own;
  };
  c.write_files = [=](const std::filesystem::path& folder) {
    write_attention_inputs(folder, {sizes.batch, sizes.tokens, sizes.heads * sizes.dim});
  };
  c.setup = [=](std::string_view rival) -> std::string {
    // ONNX Runtime has no backward, and rivals compute all links.
    if (sizes.links != Links::all) return {};
    if (sizes.backward && rival == "onnxruntime") return {};
    return fmt::format("setup {} dtype=f32 tensors=tensors.safetensors heads={}",
                       sizes.backward ? "attention_backward" : "attention", sizes.heads);
  };
  return c;
}

}  // namespace

AlignedBuffer random_values(int64_t elements, DType dtype, std::string_view name) {
  AlignedBuffer buffer(static_cast<size_t>(elements) * dtype_size(dtype), "inputs of attention");
  PhiloxStream random(1, stream_id(name));
  for (int64_t i = 0; i < elements; ++i) {
    const float x = 2 * random.unit() - 1;
    if (dtype == DType::f32) reinterpret_cast<float*>(buffer.data())[i] = x;
    if (dtype == DType::bf16) reinterpret_cast<bf16*>(buffer.data())[i] = bf16(x);
    if (dtype == DType::i8)
      reinterpret_cast<int8_t*>(buffer.data())[i] = static_cast<int8_t>(std::lround(127 * x));
  }
  return buffer;
}

void write_attention_inputs(const std::filesystem::path& folder,
                            const std::array<int64_t, 3>& shape) {
  std::vector<AlignedBuffer> data;
  std::vector<TensorView> tensors;
  for (const char* name : {"q", "k", "v", "dout"}) {
    data.push_back(random_values(shape[0] * shape[1] * shape[2], DType::f32, name));
    tensors.push_back({.name = name,
                       .shape = {shape.begin(), shape.end()},
                       .bytes = std::as_const(data.back()).bytes()});
  }
  write_safetensors(folder / "tensors.safetensors", tensors);
}

bool supports(const AttentionProblem& problem, bool backward, const std::string& kernel) {
  return backward ? plan_of(attention_backward_kernels(), kernel, problem).plan != nullptr
                  : plan_of(attention_kernels(), kernel, problem).plan != nullptr;
}

std::vector<BenchCase> attention_cases(const std::string& kernel) {
  check_kernel(kernel);
  std::vector<BenchCase> cases;
  for (const bool backward : {false, true})
    for (Sizes s : {Sizes{1, 8, 2048, 64}, Sizes{1, 8, 512, 64}, Sizes{1, 8, 4096, 64},
                    Sizes{1, 8, 2048, 128}, Sizes{128, 4, 49, 16}}) {
      s.backward = backward;
      if (supports(problem_of(s), s.backward, kernel)) cases.push_back(case_of(s, kernel));
    }
  for (Sizes s :
       {Sizes{1, 8, 4096, 64, false, Links::causal}, Sizes{1, 8, 4096, 64, true, Links::causal},
        Sizes{1, 8, 16384, 64, false, Links::window}, Sizes{1, 8, 16384, 64, true, Links::window},
        Sizes{1, 8, 4096, 64, false, Links::blocks}, Sizes{1, 8, 4096, 64, true, Links::blocks}})
    if (supports(problem_of(s), s.backward, kernel)) cases.push_back(case_of(s, kernel));
  for (BenchCase& c : low_precision_cases(kernel)) cases.push_back(std::move(c));
  auto others = score_cases(kernel);
  std::move(others.begin(), others.end(), std::back_inserter(cases));
  for (BenchCase& c : attention_extra_cases(kernel)) cases.push_back(std::move(c));
  for (BenchCase& c : attention_block_cases(kernel)) cases.push_back(std::move(c));
  for (BenchCase& c : decode_cases(kernel)) cases.push_back(std::move(c));
  return cases;
}

}  // namespace fovea::cli

// Attention in bf16 and in 8 bits at length, each beside the next wider type of ours.
#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/bench_attention.h"

namespace fovea::cli {

namespace {

constexpr int64_t kHeads = 8;

// What says where tokens stand, beside a causal mask: rotary positions, or ALiBi's biases.
enum class Positions { all, causal, rotary, alibi };
std::string_view text_of(Positions positions) {
  constexpr std::string_view kTexts[] = {"", " causal", " causal rotary", " causal ALiBi"};
  return kTexts[static_cast<int>(positions)];
}

struct Narrow {
  int64_t tokens, dim;
  DType dtype;  // i8: keys and values, and products; queries are bf16
  bool backward = false;
  Positions positions = Positions::all;

  int64_t elements() const { return kHeads * tokens * dim; }
  DType numbers() const { return dtype == DType::i8 ? DType::bf16 : dtype; }
  std::string name() const {
    return fmt::format("attention {} B1 H{} N{} D{}{} {}", backward ? "backward" : "forward",
                       kHeads, tokens, dim, text_of(positions), dtype_name(dtype));
  }
  Narrow in(DType other) const { return {tokens, dim, other, backward, positions}; }
  // Of a causal mask half the links count.
  int64_t flops() const {
    return (backward ? 10 : 4) * elements() * tokens / (positions == Positions::all ? 1 : 2);
  }
};

AttentionProblem problem_of(const Narrow& s) {
  AttentionProblem p;
  p.dtype = s.numbers();
  p.tq = p.tk = s.tokens;
  p.heads = p.kv_heads = p.heads_kept = kHeads;
  p.head_dim = p.value_dim = s.dim;
  p.scale = 1 / std::sqrt(static_cast<double>(s.dim));
  p.want_lse = s.backward;
  if (s.dtype == DType::i8) {
    p.kv_dtype = DType::i8;
    p.int8_products = true;
  }
  p.causal = s.positions != Positions::all;
  p.distance_bias = s.positions == Positions::alibi;
  if (s.positions == Positions::rotary) p.rotary = s.dim;
  set_dense_strides(p, /*packed=*/true);
  return p;
}

// -2^-(h + 1) for each token between (Press et al. 2022, section 3).
std::vector<float> alibi_biases(int64_t tokens) {
  std::vector<float> biases;
  for (int64_t h = 0; h < kHeads; ++h)
    for (int64_t n = 1 - tokens; n < tokens; ++n)
      biases.push_back(static_cast<float>(-std::exp2(-h - 1) * static_cast<double>(std::abs(n))));
  return biases;
}

class OwnNarrow : public Competitor {
 public:
  OwnNarrow(const Narrow& sizes, const std::string& wanted, std::shared_ptr<ThreadPool> pool)
      : s_(sizes),
        pool_(std::move(pool)),
        q_(random_values(sizes.elements(), sizes.numbers(), "q")),
        k_(random_values(sizes.elements(), sizes.dtype, "k")),
        v_(random_values(sizes.elements(), sizes.dtype, "v")),
        out_(q_.size(), "output of attention"),
        lse_(static_cast<size_t>(kHeads * sizes.tokens) * sizeof(float), "log-sum-exp"),
        scales_(static_cast<size_t>(kHeads * sizes.tokens), 1.0f / 127) {
    if (sizes.positions == Positions::alibi) biases_ = alibi_biases(sizes.tokens);
    const AttentionProblem problem = problem_of(sizes);
    auto forward = plan_of(attention_kernels(), sizes.backward ? "" : wanted, problem);
    forward_ = std::move(forward.plan);
    forward_scratch_.emplace(*forward_, *pool_);
    implementation = fmt::format("fovea {}", dtype_name(sizes.dtype));
    kernel = forward.name;
    flops = sizes.flops();
    if (!sizes.backward) return;
    run_forward();
    dout_ = random_values(sizes.elements(), sizes.dtype, "dout");
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
         s_.backward ? std::vector{&dq_, &dk_, &dv_} : std::vector<AlignedBuffer*>{&out_})
      for (int64_t i = 0; i < s_.elements(); ++i)
        all.push_back(s_.numbers() == DType::f32
                          ? reinterpret_cast<const float*>(part->data())[i]
                          : static_cast<float>(reinterpret_cast<const bf16*>(part->data())[i]));
    return all;
  }

  std::vector<double> run(int64_t runs) override {
    return time_runs(runs, [this] { run_once(); });
  }

 private:
  void run_once() { s_.backward ? run_backward() : run_forward(); }
  void run_forward() {
    forward_->run({.q = q_.data(),
                   .k = k_.data(),
                   .v = v_.data(),
                   .out = out_.data(),
                   .lse = s_.backward ? lse_.data() : nullptr,
                   .links = {.distance_bias = biases_.data()},
                   .k_scale = scales_.data(),
                   .v_scale = scales_.data()},
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
                    .links = {.distance_bias = biases_.data()}},
                   backward_scratch_->context);
  }

  Narrow s_;
  std::shared_ptr<ThreadPool> pool_;
  AlignedBuffer q_, k_, v_, out_, lse_, dout_, dq_, dk_, dv_;
  std::vector<float> scales_;  // of rows of i8
  std::vector<float> biases_;  // by distance
  std::unique_ptr<KernelPlan<AttentionArgs>> forward_;
  std::optional<Scratch<AttentionArgs>> forward_scratch_;
  std::unique_ptr<KernelPlan<AttentionBackwardArgs>> backward_;
  std::optional<Scratch<AttentionBackwardArgs>> backward_scratch_;
};

BenchCase case_of(const Narrow& s, const std::string& kernel) {
  BenchCase c;
  c.name = s.name();
  c.dtype = DType::bf16;  // of both, so that they compare
  c.tolerance = s.dtype == DType::i8 ? 5e-2 : 3e-2;
  c.own = [=](const std::shared_ptr<ThreadPool>& pool) {
    std::vector<std::unique_ptr<Competitor>> own;
    own.push_back(std::make_unique<OwnNarrow>(s, kernel, pool));
    const DType wider = s.dtype == DType::i8 ? DType::bf16 : DType::f32;
    own.push_back(std::make_unique<OwnNarrow>(s.in(wider), "", pool));
    return own;
  };
  c.write_files = [=](const std::filesystem::path& folder) {
    write_attention_inputs(folder, {1, s.tokens, kHeads * s.dim});
  };
  // None takes 8 bits, ONNX Runtime no bf16 either, and all compute all links.
  c.setup = [=](std::string_view rival) -> std::string {
    if (s.dtype == DType::i8 || s.positions != Positions::all || rival == "onnxruntime") return {};
    return fmt::format("setup {} dtype=bf16 tensors=tensors.safetensors heads={}",
                       s.backward ? "attention_backward" : "attention", kHeads);
  };
  return c;
}

}  // namespace

std::vector<BenchCase> low_precision_cases(const std::string& kernel) {
  std::vector<BenchCase> cases;
  for (const Narrow& s :
       {Narrow{512, 64, DType::bf16}, Narrow{2048, 64, DType::bf16}, Narrow{4096, 64, DType::bf16},
        Narrow{2048, 128, DType::bf16}, Narrow{4096, 128, DType::bf16},
        Narrow{2048, 64, DType::bf16, true}, Narrow{4096, 64, DType::bf16, true},
        Narrow{2048, 128, DType::bf16, true}, Narrow{2048, 64, DType::i8},
        Narrow{4096, 64, DType::i8}, Narrow{2048, 128, DType::i8}, Narrow{4096, 128, DType::i8}}) {
    if (supports(problem_of(s), s.backward, kernel)) cases.push_back(case_of(s, kernel));
  }
  for (const Positions positions : {Positions::causal, Positions::rotary, Positions::alibi})
    for (const bool backward : {false, true})
      for (const int64_t dim : {64, 128})
        if (const Narrow s{2048, dim, DType::bf16, backward, positions};
            supports(problem_of(s), backward, kernel))
          cases.push_back(case_of(s, kernel));
  return cases;
}

}  // namespace fovea::cli

// What dropout, statistics and a learned span add to attention, or save, beside attention without
// them in the same run.
#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <utility>

#include "cli/bench_attention.h"
#include "fovea/base/philox.h"

namespace fovea::cli {

namespace {

constexpr int64_t kTopLinks = 8;
constexpr int64_t kRamp = 32;
constexpr float kSpan = 256;

struct Extra {
  std::string name;
  int64_t tokens, dim;
  bool backward = false;
  void (*ask)(AttentionProblem&);

  AttentionProblem problem(bool plain) const {
    AttentionProblem p{.tq = tokens,
                       .tk = tokens,
                       .heads = 8,
                       .kv_heads = 8,
                       .heads_kept = 8,
                       .head_dim = dim,
                       .value_dim = dim,
                       .scale = 1 / std::sqrt(static_cast<double>(dim)),
                       .want_lse = true};
    if (!plain) ask(p);
    set_dense_strides(p, /*packed=*/true);
    return p;
  }
  int64_t elements() const { return 8 * tokens * dim; }
};

// With the extra, or plain.
class ExtraAttention : public Competitor {
 public:
  ExtraAttention(const Extra& extra, bool plain, const std::string& wanted,
                 std::shared_ptr<ThreadPool> pool)
      : extra_(extra), problem_(extra.problem(plain)), pool_(std::move(pool)) {
    const auto n = static_cast<size_t>(extra.elements());
    for (std::vector<float>* x : {&q_, &k_, &v_, &out_, &dout_, &dq_, &dk_, &dv_}) {
      PhiloxStream random(1, inputs_++);
      x->resize(n);
      for (float& e : *x) e = 2 * random.unit() - 1;
    }
    const auto rows = static_cast<size_t>(8 * extra.tokens);
    for (std::vector<float>* x : {&lse_, &entropy_, &mass_}) x->resize(rows);
    top_keys_.resize(rows * static_cast<size_t>(problem_.top_links));
    top_probabilities_.resize(top_keys_.size());
    auto forward = plan_of(attention_kernels(), extra.backward ? "" : wanted, problem_);
    forward_ = std::move(forward.plan);
    forward_scratch_.emplace(*forward_, *pool_);
    kernel = forward.name;
    implementation = plain ? "plain" : "fovea";
    flops = (extra.backward ? 10 : 4) * extra.elements() * extra.tokens;
    run_forward();
    if (!extra.backward) return;
    auto backward = plan_of(attention_backward_kernels(), wanted, problem_);
    backward_ = std::move(backward.plan);
    backward_scratch_.emplace(*backward_, *pool_);
    kernel = backward.name;
  }

  // Dropout and statistics leave the log-sum-exp as it is; a span is compared with nothing.
  std::vector<float> output() override {
    return extra_.name == "span" ? std::vector<float>() : lse_;
  }
  std::vector<double> run(int64_t runs) override {
    return time_runs(runs, [this] { backward_ ? run_backward() : run_forward(); });
  }

 private:
  void run_forward() {
    forward_->run({.q = q_.data(),
                   .k = k_.data(),
                   .v = v_.data(),
                   .out = out_.data(),
                   .lse = lse_.data(),
                   .entropy = entropy_.data(),
                   .mass = mass_.data(),
                   .top_keys = top_keys_.data(),
                   .top_probabilities = top_probabilities_.data(),
                   .links = {.spans = spans_, .rng = rng_}},
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
                    .links = {.spans = spans_, .rng = rng_},
                    .dspans = dspans_},
                   backward_scratch_->context);
  }

  Extra extra_;
  AttentionProblem problem_;
  std::shared_ptr<ThreadPool> pool_;
  uint64_t inputs_ = 0;
  std::vector<float> q_, k_, v_, out_, dout_, dq_, dk_, dv_, lse_, entropy_, mass_;
  std::vector<int32_t> top_keys_;
  std::vector<float> top_probabilities_;
  int32_t rng_[3] = {1, 2, 0};
  float spans_[8] = {kSpan, kSpan, kSpan, kSpan, kSpan, kSpan, kSpan, kSpan};
  float dspans_[8] = {};
  std::unique_ptr<KernelPlan<AttentionArgs>> forward_;
  std::optional<Scratch<AttentionArgs>> forward_scratch_;
  std::unique_ptr<KernelPlan<AttentionBackwardArgs>> backward_;
  std::optional<Scratch<AttentionBackwardArgs>> backward_scratch_;
};

void ask_dropout(AttentionProblem& p) { p.dropout = 0.1; }
void ask_entropy(AttentionProblem& p) { p.want_entropy = true; }
void ask_span(AttentionProblem& p) {
  p.span = true;
  p.span_ramp = kRamp;
}
void ask_statistics(AttentionProblem& p) {
  p.want_entropy = p.want_mass = true;
  p.top_links = kTopLinks;
}

}  // namespace

std::vector<BenchCase> attention_extra_cases(const std::string& kernel) {
  std::vector<BenchCase> cases;
  for (const int64_t dim : {64, 128})
    for (const Extra& extra :
         {Extra{"dropout", 2048, dim, false, ask_dropout},
          Extra{"dropout", 2048, dim, true, ask_dropout},
          Extra{"entropy", 2048, dim, false, ask_entropy},
          Extra{"statistics", 2048, dim, false, ask_statistics},
          Extra{"span", 2048, dim, false, ask_span}, Extra{"span", 2048, dim, true, ask_span}}) {
      const AttentionProblem p = extra.problem(false);
      if (!supports(p, extra.backward, kernel)) continue;
      BenchCase c;
      c.name = fmt::format("attention {} {} B1 H8 N{} D{} f32",
                           extra.backward ? "backward" : "forward", extra.name, extra.tokens, dim);
      c.tolerance = 1e-4;
      c.own = [=](const std::shared_ptr<ThreadPool>& pool) {
        std::vector<std::unique_ptr<Competitor>> own;
        own.push_back(std::make_unique<ExtraAttention>(extra, false, kernel, pool));
        own.push_back(std::make_unique<ExtraAttention>(extra, true, kernel, pool));
        return own;
      };
      c.write_files = [](const std::filesystem::path&) {};
      c.setup = [](std::string_view) { return std::string(); };
      cases.push_back(std::move(c));
    }
  return cases;
}

}  // namespace fovea::cli

// What positions, biases, sinks, other normalisers, dropout, statistics and a learned span add to
// attention, or save, beside attention without them in the same run.
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
constexpr int64_t kHeads = 8;
constexpr int64_t kTopK = 32;

struct Extra {
  std::string name;
  void (*ask)(AttentionProblem&);
  // The log-sum-exp is that without the extra, so that both can be compared.
  bool same_lse = false;
  bool forward_only = false;
  bool both_dims = false;  // also with heads of 128
  int64_t tokens = 2048, dim = 64;
  bool backward = false;

  AttentionProblem problem(bool plain) const {
    AttentionProblem p{.tq = tokens,
                       .tk = tokens,
                       .heads = kHeads,
                       .kv_heads = kHeads,
                       .heads_kept = kHeads,
                       .head_dim = dim,
                       .value_dim = dim,
                       .scale = 1 / std::sqrt(static_cast<double>(dim)),
                       .want_lse = true};
    if (!plain) ask(p);
    set_dense_strides(p, /*packed=*/true);
    return p;
  }
  int64_t elements() const { return kHeads * tokens * dim; }
};

// With the extra, or plain.
class ExtraAttention : public Competitor {
 public:
  ExtraAttention(const Extra& extra, bool plain, const std::string& wanted,
                 std::shared_ptr<ThreadPool> pool)
      : extra_(extra), problem_(extra.problem(plain)), pool_(std::move(pool)) {
    const auto distances = 2 * extra.tokens - 1;
    for (const auto& [x, elements] :
         {std::pair(&q_, extra.elements()), std::pair(&k_, extra.elements()),
          std::pair(&v_, extra.elements()), std::pair(&dout_, extra.elements()),
          std::pair(&sinks_, kHeads), std::pair(&relative_keys_, kHeads * distances * extra.dim),
          std::pair(&query_biases_, kHeads * extra.dim)}) {
      PhiloxStream random(1, inputs_++);
      x->resize(static_cast<size_t>(elements));
      for (float& e : *x) e = 2 * random.unit() - 1;
    }
    for (int64_t h = 0; h < kHeads; ++h)  // ALiBi's slopes of 8 heads
      for (int64_t i = 0; i < distances; ++i)
        distance_bias_.push_back(-std::exp2(-static_cast<float>(h + 1)) *
                                 std::abs(static_cast<float>(i - extra.tokens + 1)));
    for (std::vector<float>* x : {&out_, &dq_, &dk_, &dv_}) x->resize(q_.size());
    drelative_keys_.resize(relative_keys_.size());
    dquery_biases_.resize(2 * query_biases_.size());
    const auto rows = static_cast<size_t>(kHeads * extra.tokens);
    for (std::vector<float>* x : {&lse_, &entropy_, &mass_}) x->resize(rows);
    top_keys_.resize(rows * static_cast<size_t>(problem_.top_links));
    top_probabilities_.resize(top_keys_.size());
    const auto name_of = [&](bool backward) {
      return backward == extra.backward && supports(problem_, backward, wanted) ? wanted : "";
    };
    auto forward = plan_of(attention_kernels(), name_of(false), problem_);
    forward_ = std::move(forward.plan);
    forward_scratch_.emplace(*forward_, *pool_);
    kernel = forward.name;
    implementation = plain ? "plain" : "fovea";
    flops = (extra.backward ? 10 : 4) * extra.elements() * extra.tokens;
    run_forward();
    if (!extra.backward) return;
    auto backward = plan_of(attention_backward_kernels(), name_of(true), problem_);
    backward_ = std::move(backward.plan);
    backward_scratch_.emplace(*backward_, *pool_);
    kernel = backward.name;
  }

  std::vector<float> output() override { return extra_.same_lse ? lse_ : std::vector<float>(); }
  std::vector<double> run(int64_t runs) override {
    return time_runs(runs, [this] { backward_ ? run_backward() : run_forward(); });
  }

 private:
  AttentionLinks links() const {
    return {.distance_bias = distance_bias_.data(),
            .sinks = sinks_.data(),
            .relative_keys = relative_keys_.data(),
            .content_biases = query_biases_.data(),
            .position_biases = query_biases_.data(),
            .spans = spans_,
            .rng = rng_};
  }

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
                   .links = links()},
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
                    .links = links(),
                    .dsinks = dsinks_,
                    .drelative_keys = drelative_keys_.data(),
                    .dcontent_biases = dquery_biases_.data(),
                    .dposition_biases = dquery_biases_.data() + query_biases_.size(),
                    .dspans = dspans_},
                   backward_scratch_->context);
  }

  Extra extra_;
  AttentionProblem problem_;
  std::shared_ptr<ThreadPool> pool_;
  uint64_t inputs_ = 0;
  std::vector<float> q_, k_, v_, out_, dout_, dq_, dk_, dv_, lse_, entropy_, mass_;
  std::vector<float> sinks_, distance_bias_, relative_keys_, query_biases_;
  std::vector<float> drelative_keys_, dquery_biases_;
  std::vector<int32_t> top_keys_;
  std::vector<float> top_probabilities_;
  int32_t rng_[3] = {1, 2, 0};
  float spans_[8] = {kSpan, kSpan, kSpan, kSpan, kSpan, kSpan, kSpan, kSpan};
  float dspans_[8] = {}, dsinks_[8] = {};
  std::unique_ptr<KernelPlan<AttentionArgs>> forward_;
  std::optional<Scratch<AttentionArgs>> forward_scratch_;
  std::unique_ptr<KernelPlan<AttentionBackwardArgs>> backward_;
  std::optional<Scratch<AttentionBackwardArgs>> backward_scratch_;
};

template <Normaliser kKind>
void ask_normaliser(AttentionProblem& p) {
  p.normaliser.kind = kKind;
  if (kKind == Normaliser::top_k) p.normaliser.top_k = kTopK;
}

void ask_statistics(AttentionProblem& p) {
  p.want_entropy = p.want_mass = true;
  p.top_links = kTopLinks;
}
void ask_span(AttentionProblem& p) {
  p.span = true;
  p.span_ramp = kRamp;
}

const Extra kExtras[] = {
    {.name = "rotary", .ask = [](AttentionProblem& p) { p.rotary = p.head_dim; }},
    {.name = "cosine", .ask = [](AttentionProblem& p) { p.cosine = true; }},
    {.name = "relative_keys",
     .ask = [](AttentionProblem& p) { p.relative_keys = p.content_bias = p.position_bias = true; }},
    {.name = "alibi", .ask = [](AttentionProblem& p) { p.distance_bias = true; }},
    {.name = "sink", .ask = [](AttentionProblem& p) { p.sink = true; }},
    {.name = "soft_cap", .ask = [](AttentionProblem& p) { p.soft_cap = 30; }},
    {.name = "top_k 32", .ask = ask_normaliser<Normaliser::top_k>},
    {.name = "sparsemax", .ask = ask_normaliser<Normaliser::sparsemax>},
    {.name = "entmax15", .ask = ask_normaliser<Normaliser::entmax15>},
    {.name = "hard", .ask = ask_normaliser<Normaliser::hard>},
    {.name = "gumbel", .ask = ask_normaliser<Normaliser::gumbel>},
    {.name = "gumbel_hard", .ask = ask_normaliser<Normaliser::gumbel_hard>},
    {.name = "dropout",
     .ask = [](AttentionProblem& p) { p.dropout = 0.1; },
     .same_lse = true,
     .both_dims = true},
    {.name = "entropy",
     .ask = [](AttentionProblem& p) { p.want_entropy = true; },
     .same_lse = true,
     .forward_only = true,
     .both_dims = true},
    {.name = "statistics",
     .ask = ask_statistics,
     .same_lse = true,
     .forward_only = true,
     .both_dims = true},
    {.name = "span", .ask = ask_span, .both_dims = true},
};

}  // namespace

std::vector<BenchCase> attention_extra_cases(const std::string& kernel) {
  std::vector<BenchCase> cases;
  for (const int64_t dim : {64, 128})
    for (const Extra& row : kExtras)
      for (const bool backward : {false, true}) {
        Extra extra = row;
        extra.dim = dim;
        extra.backward = backward;
        if (backward && extra.forward_only) continue;
        if (dim == 128 && !extra.both_dims) continue;
        if (!supports(extra.problem(false), backward, kernel)) continue;
        BenchCase c;
        c.name =
            fmt::format("attention {} {} B1 H{} N{} D{} f32", backward ? "backward" : "forward",
                        extra.name, kHeads, extra.tokens, dim);
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

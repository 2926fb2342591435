// The plain reference: loops as the formulas stand, sums in double, O(tk) memory for each worker.
#include <cmath>
#include <string>
#include <type_traits>

#include "fovea/base/error.h"
#include "fovea/kernels/convert.h"
#include "fovea/kernels/pair_attention.h"

namespace fovea {
namespace {

using attention_detail::row;
using pair_attention_detail::KeyRange;
using pair_attention_detail::visible_keys;

template <class T>
double number(T x) {
  return convert<double, false>(x);
}
template <class T>
T rounded(double x) {
  return convert<T, false>(x);
}

// Of the log-sum-exp.
template <class T>
using LseType = std::conditional_t<std::is_same_v<T, bf16>, float, T>;

// What is weighed by w, and its slope with respect to q; that of k has the sign of `of_key`.
struct Term {
  double value, slope;
};
Term term(PairScore score, double q, double k) {
  if (score == PairScore::subtraction) return {q <= k ? 0.0 : q - k, q <= k ? 0.0 : 1.0};
  const double t = std::tanh(q + k);
  return {t, 1 - t * t};
}
double of_key(PairScore score) { return score == PairScore::additive ? 1 : -1; }

template <class T>
double score_of(const PairAttentionProblem& p, const T* q, const T* k, const T* w) {
  double sum = 0;
  for (int64_t d = 0; d < p.head_dim; ++d)
    sum += number(w[d]) * term(p.score, number(q[d]), number(k[d])).value;
  return p.scale * sum;
}

template <class T>
class RefForward final : public KernelPlan<PairAttentionArgs> {
 public:
  using Lse = LseType<T>;

  explicit RefForward(const PairAttentionProblem& problem) : p_(problem) {
    worker_scratch_bytes = static_cast<size_t>(p_.tk + p_.value_dim) * sizeof(double);
  }

  void run(const PairAttentionArgs& args, const KernelContext& context) const noexcept override {
    context.pool->parallel_for(p_.batch * p_.heads, [&](int64_t block, int worker) {
      const int64_t b = block / p_.heads, h = block % p_.heads;
      for (int64_t i = 0; i < p_.tq; ++i) query(args, b, h, i, context.worker<double>(worker));
    });
  }

 private:
  void query(const PairAttentionArgs& args, int64_t b, int64_t h, int64_t i,
             double* scratch) const {
    const int64_t g = h / p_.group();
    const T* q = row(static_cast<const T*>(args.q), p_.q, b, i, h);
    const T* w = static_cast<const T*>(args.w) + h * p_.head_dim;
    T* out = row(static_cast<T*>(args.out), p_.out, b, i, h);
    Lse* lse = p_.want_lse && args.lse
                   ? static_cast<Lse*>(args.lse) + (b * p_.heads + h) * p_.tq + i
                   : nullptr;
    std::fill_n(out, p_.value_dim, rounded<T>(0));
    if (lse) *lse = -INFINITY;
    const KeyRange keys = visible_keys(p_, i, p_.key_length(args.key_lengths, b));
    if (keys.end <= keys.begin) return;
    double* const score = scratch;
    double* const sum_v = scratch + p_.tk;
    double max = -INFINITY, sum = 0;
    for (int64_t j = keys.begin; j < keys.end; ++j) {
      score[j] = score_of(p_, q, row(static_cast<const T*>(args.k), p_.k, b, j, g), w);
      max = std::max(max, score[j]);
    }
    std::fill_n(sum_v, p_.value_dim, 0.0);
    for (int64_t j = keys.begin; j < keys.end; ++j) {
      const double e = std::exp(score[j] - max);
      const T* v = row(static_cast<const T*>(args.v), p_.v, b, j, g);
      sum += e;
      for (int64_t d = 0; d < p_.value_dim; ++d) sum_v[d] += e * number(v[d]);
    }
    for (int64_t d = 0; d < p_.value_dim; ++d) out[d] = rounded<T>(sum_v[d] / sum);
    if (lse) *lse = static_cast<Lse>(max + std::log(sum));
  }

  PairAttentionProblem p_;
};

// With P = exp(S - lse), dP = dO V^T, delta = rowsum(dO * O) and dS = P * (dP - delta): dV = P^T
// dO; and with f the function of the pair, dq_i = scale sum_j dS_ij w f'(q_i, k_j), dk_j likewise
// over i, dw = scale sum_ij dS_ij f(q_i, k_j).
template <class T>
class RefBackward final : public KernelPlan<PairAttentionBackwardArgs> {
 public:
  using Lse = LseType<T>;

  explicit RefBackward(const PairAttentionProblem& problem) : p_(problem) {
    worker_scratch_bytes =
        static_cast<size_t>((p_.tk + 1) * p_.head_dim + p_.tk * p_.value_dim) * sizeof(double);
    scratch_bytes = static_cast<size_t>(p_.batch * p_.heads * p_.head_dim) * sizeof(double);
  }

  void run(const PairAttentionBackwardArgs& args,
           const KernelContext& context) const noexcept override {
    FOVEA_ASSERT(args.lse != nullptr);
    // dw of each sample; added in their order.
    auto* const parts = reinterpret_cast<double*>(context.scratch);
    context.pool->parallel_for(p_.batch * p_.kv_heads, [&](int64_t block, int worker) {
      head(args, block / p_.kv_heads, block % p_.kv_heads, context.worker<double>(worker), parts);
    });
    const int64_t weights = p_.heads * p_.head_dim;
    for (int64_t d = 0; d < weights; ++d) {
      double sum = 0;
      for (int64_t b = 0; b < p_.batch; ++b) sum += parts[b * weights + d];
      static_cast<T*>(args.dw)[d] = rounded<T>(sum);
    }
  }

 private:
  void head(const PairAttentionBackwardArgs& args, int64_t b, int64_t g, double* scratch,
            double* parts) const {
    double* const dq = scratch;
    double* const dk = dq + p_.head_dim;
    double* const dv = dk + p_.tk * p_.head_dim;
    std::fill_n(dk, p_.tk * (p_.head_dim + p_.value_dim), 0.0);
    for (int64_t h = g * p_.group(); h < (g + 1) * p_.group(); ++h) {
      double* const dw = parts + (b * p_.heads + h) * p_.head_dim;
      std::fill_n(dw, p_.head_dim, 0.0);
      for (int64_t i = 0; i < p_.tq; ++i) {
        std::fill_n(dq, p_.head_dim, 0.0);
        query(args, b, h, g, i, dq, dk, dv, dw);
        T* to = row(static_cast<T*>(args.dq), p_.dq, b, i, h);
        for (int64_t d = 0; d < p_.head_dim; ++d) to[d] = rounded<T>(dq[d]);
      }
    }
    for (int64_t j = 0; j < p_.tk; ++j) {
      T* to_k = row(static_cast<T*>(args.dk), p_.dk, b, j, g);
      T* to_v = row(static_cast<T*>(args.dv), p_.dv, b, j, g);
      for (int64_t d = 0; d < p_.head_dim; ++d) to_k[d] = rounded<T>(dk[j * p_.head_dim + d]);
      for (int64_t d = 0; d < p_.value_dim; ++d) to_v[d] = rounded<T>(dv[j * p_.value_dim + d]);
    }
  }

  void query(const PairAttentionBackwardArgs& args, int64_t b, int64_t h, int64_t g, int64_t i,
             double* dq, double* dk, double* dv, double* dw) const {
    const T* q = row(static_cast<const T*>(args.q), p_.q, b, i, h);
    const T* w = static_cast<const T*>(args.w) + h * p_.head_dim;
    const T* out = row(static_cast<const T*>(args.out), p_.out, b, i, h);
    const T* dout = row(static_cast<const T*>(args.dout), p_.dout, b, i, h);
    const double lse = number(static_cast<const Lse*>(args.lse)[(b * p_.heads + h) * p_.tq + i]);
    double delta = 0;
    for (int64_t e = 0; e < p_.value_dim; ++e) delta += number(dout[e]) * number(out[e]);
    const KeyRange keys = visible_keys(p_, i, p_.key_length(args.key_lengths, b));
    for (int64_t j = keys.begin; j < keys.end; ++j) {
      const T* k = row(static_cast<const T*>(args.k), p_.k, b, j, g);
      const T* v = row(static_cast<const T*>(args.v), p_.v, b, j, g);
      const double prob = std::exp(score_of(p_, q, k, w) - lse);
      double dp = 0;
      for (int64_t e = 0; e < p_.value_dim; ++e) {
        dp += number(dout[e]) * number(v[e]);
        dv[j * p_.value_dim + e] += prob * number(dout[e]);
      }
      const double ds = p_.scale * prob * (dp - delta);
      for (int64_t d = 0; d < p_.head_dim; ++d) {
        const Term t = term(p_.score, number(q[d]), number(k[d]));
        const double slope = ds * number(w[d]) * t.slope;
        dq[d] += slope;
        dk[j * p_.head_dim + d] += of_key(p_.score) * slope;
        dw[d] += ds * t.value;
      }
    }
  }

  PairAttentionProblem p_;
};

template <class Args, template <class> class Plan, bool kBackward>
std::unique_ptr<KernelPlan<Args>> plan_ref(const PairAttentionProblem& problem) {
  pair_attention_detail::check(problem, kBackward);
  if (problem.dtype == DType::f32) return std::make_unique<Plan<float>>(problem);
  if (problem.dtype == DType::f64) return std::make_unique<Plan<double>>(problem);
  if (problem.dtype == DType::bf16) return std::make_unique<Plan<bf16>>(problem);
  return nullptr;
}

}  // namespace

namespace pair_attention_detail {

void check(const PairAttentionProblem& p, bool backward) {
  fovea::check(p, backward);
  const auto wrong = [](const std::string& expected, const std::string& got) {
    throw Error{ErrorCode::invalid_argument,
                "[pair_attention] expected " + expected + ", got " + got};
  };
  if (p.window_left < -1 || p.window_right < -1)
    wrong("windows of at least 0, or -1 for no limit",
          std::to_string(p.window_left) + " and " + std::to_string(p.window_right));
  if (!(std::abs(p.scale) < static_cast<double>(std::numeric_limits<float>::max())))
    wrong("a finite scale", std::to_string(p.scale));
}

}  // namespace pair_attention_detail

std::span<const PairAttentionKernel> pair_attention_kernels() {
  static const std::vector<PairAttentionKernel> list = [] {
    std::vector<PairAttentionKernel> kernels;
    pair_attention_detail::append_hwy(kernels);
    kernels.push_back({"ref", plan_ref<PairAttentionArgs, RefForward, false>});
    return kernels;
  }();
  return list;
}

std::span<const PairAttentionBackwardKernel> pair_attention_backward_kernels() {
  static const std::vector<PairAttentionBackwardKernel> list = [] {
    std::vector<PairAttentionBackwardKernel> kernels;
    pair_attention_detail::append_backward_hwy(kernels);
    kernels.push_back({"ref", plan_ref<PairAttentionBackwardArgs, RefBackward, true>});
    return kernels;
  }();
  return list;
}

}  // namespace fovea

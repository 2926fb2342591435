// The plain reference: loops as the formulas stand, sums in double, O(tk) memory for each worker.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "fovea/base/error.h"
#include "fovea/kernels/attention.h"
#include "fovea/kernels/convert.h"

namespace fovea::attention_detail {
namespace {

template <class T>
double number(T x) {
  return convert<double, false>(x);
}
template <class T>
T rounded(double x) {
  return convert<T, false>(x);
}

template <class T>
double dot(const T* a, const T* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += number(a[i]) * number(b[i]);
  return sum;
}

// Of the log-sum-exp.
template <class T>
using LseType = std::conditional_t<std::is_same_v<T, bf16>, float, T>;

template <class T>
class RefForward final : public KernelPlan<AttentionArgs> {
 public:
  using Lse = LseType<T>;

  explicit RefForward(const AttentionProblem& problem) : p_(problem) {
    worker_scratch_bytes = static_cast<size_t>(p_.tk + p_.value_dim) * sizeof(double);
  }

  void run(const AttentionArgs& args, const KernelContext& context) const noexcept override {
    context.pool->parallel_for(p_.batch * p_.heads, [&](int64_t block, int worker) {
      const int64_t b = block / p_.heads, h = block % p_.heads;
      for (int64_t i = 0; i < p_.tq; ++i) query(args, b, h, i, context.worker<double>(worker));
    });
  }

 private:
  void query(const AttentionArgs& args, int64_t b, int64_t h, int64_t i, double* scratch) const {
    const int64_t g = h / (p_.heads / p_.kv_heads);
    const T* q = row(static_cast<const T*>(args.q), p_.q, b, i, h);
    const T* k = static_cast<const T*>(args.k);
    const T* v = static_cast<const T*>(args.v);
    T* out = row(static_cast<T*>(args.out), p_.out, b, i, h);
    Lse* lse = p_.want_lse && args.lse
                   ? static_cast<Lse*>(args.lse) + (b * p_.heads + h) * p_.tq + i
                   : nullptr;
    std::fill_n(out, p_.value_dim, rounded<T>(0));
    if (lse) *lse = 0;
    if (h >= p_.heads_kept) return;
    const KeyRange keys = visible_keys(p_, i, key_length(p_, args.key_lengths, b));
    double* score = scratch;
    double* sum_v = scratch + p_.tk;
    double max = -INFINITY;
    for (int64_t j = keys.begin; j < keys.end; ++j) {
      score[j] = p_.scale * dot(q, row(k, p_.k, b, j, g), p_.head_dim);
      max = std::max(max, score[j]);
    }
    if (keys.end <= keys.begin) {
      if (lse) *lse = -INFINITY;
      return;
    }
    std::fill_n(sum_v, p_.value_dim, 0.0);
    double sum = 0;
    for (int64_t j = keys.begin; j < keys.end; ++j) {
      const double e = std::exp(score[j] - max);
      const T* vj = row(v, p_.v, b, j, g);
      sum += e;
      for (int64_t d = 0; d < p_.value_dim; ++d) sum_v[d] += e * number(vj[d]);
    }
    for (int64_t d = 0; d < p_.value_dim; ++d) out[d] = rounded<T>(sum_v[d] / sum);
    if (lse) *lse = static_cast<Lse>(max + std::log(sum));
  }

  AttentionProblem p_;
};

// With P = exp(S - lse), dP = dO V^T and delta = rowsum(dO * O):
//   dS = P * (dP - delta), dQ = scale dS K, dK = scale dS^T Q, dV = P^T dO.
template <class T>
class RefBackward final : public KernelPlan<AttentionBackwardArgs> {
 public:
  using Lse = LseType<T>;

  explicit RefBackward(const AttentionProblem& problem) : p_(problem) {
    worker_scratch_bytes =
        static_cast<size_t>((p_.tk + 1) * p_.head_dim + p_.tk * p_.value_dim) * sizeof(double);
  }

  void run(const AttentionBackwardArgs& args,
           const KernelContext& context) const noexcept override {
    FOVEA_ASSERT(args.lse != nullptr);
    context.pool->parallel_for(p_.batch * p_.kv_heads, [&](int64_t block, int worker) {
      head(args, block / p_.kv_heads, block % p_.kv_heads, context.worker<double>(worker));
    });
  }

 private:
  void head(const AttentionBackwardArgs& args, int64_t b, int64_t g, double* scratch) const {
    double* dq = scratch;
    double* dk = dq + p_.head_dim;
    double* dv = dk + p_.tk * p_.head_dim;
    std::fill_n(dk, p_.tk * (p_.head_dim + p_.value_dim), 0.0);
    const int64_t group = p_.heads / p_.kv_heads;
    for (int64_t h = g * group; h < (g + 1) * group; ++h) {
      for (int64_t i = 0; i < p_.tq; ++i) {
        std::fill_n(dq, p_.head_dim, 0.0);
        if (h < p_.heads_kept) query(args, b, h, g, i, dq, dk, dv);
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

  void query(const AttentionBackwardArgs& args, int64_t b, int64_t h, int64_t g, int64_t i,
             double* dq, double* dk, double* dv) const {
    const T* q = row(static_cast<const T*>(args.q), p_.q, b, i, h);
    const T* out = row(static_cast<const T*>(args.out), p_.out, b, i, h);
    const T* dout = row(static_cast<const T*>(args.dout), p_.dout, b, i, h);
    const double lse = number(static_cast<const Lse*>(args.lse)[(b * p_.heads + h) * p_.tq + i]);
    const double delta = dot(dout, out, p_.value_dim);
    const KeyRange keys = visible_keys(p_, i, key_length(p_, args.key_lengths, b));
    for (int64_t j = keys.begin; j < keys.end; ++j) {
      const T* k = row(static_cast<const T*>(args.k), p_.k, b, j, g);
      const T* v = row(static_cast<const T*>(args.v), p_.v, b, j, g);
      const double prob = std::exp(p_.scale * dot(q, k, p_.head_dim) - lse);
      const double ds = p_.scale * prob * (dot(dout, v, p_.value_dim) - delta);
      double* dkj = dk + j * p_.head_dim;
      double* dvj = dv + j * p_.value_dim;
      for (int64_t d = 0; d < p_.head_dim; ++d) {
        dq[d] += ds * number(k[d]);
        dkj[d] += ds * number(q[d]);
      }
      for (int64_t d = 0; d < p_.value_dim; ++d) dvj[d] += prob * number(dout[d]);
    }
  }

  AttentionProblem p_;
};

}  // namespace

std::unique_ptr<KernelPlan<AttentionArgs>> plan_ref(const AttentionProblem& problem) {
  check(problem, false);
  if (problem.dtype == DType::f32) return std::make_unique<RefForward<float>>(problem);
  if (problem.dtype == DType::f64) return std::make_unique<RefForward<double>>(problem);
  if (problem.dtype == DType::bf16) return std::make_unique<RefForward<bf16>>(problem);
  return nullptr;
}

std::unique_ptr<KernelPlan<AttentionBackwardArgs>> plan_backward_ref(
    const AttentionProblem& problem) {
  check(problem, true);
  if (problem.dtype == DType::f32) return std::make_unique<RefBackward<float>>(problem);
  if (problem.dtype == DType::f64) return std::make_unique<RefBackward<double>>(problem);
  if (problem.dtype == DType::bf16) return std::make_unique<RefBackward<bf16>>(problem);
  return nullptr;
}

}  // namespace fovea::attention_detail

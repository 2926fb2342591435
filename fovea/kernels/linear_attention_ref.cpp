// The plain reference: one token after the other, all sums in double.
#include <algorithm>
#include <cmath>

#include "fovea/kernels/convert.h"
#include "fovea/kernels/linear_attention.h"

namespace fovea {
namespace {

using attention_detail::row;

template <class T>
double number(T x) {
  return convert<double, false>(x);
}
template <class T>
T rounded(double x) {
  return convert<T, false>(x);
}

// elu(x) + 1. Its slope is min(phi(x), 1).
double phi(double x) { return x > 0 ? x + 1 : std::exp(x); }
double slope(double x) { return x > 0 ? 1 : std::exp(x); }

// Sums over tokens: of phi(a) b^T, and of phi(a) times a number.
struct State {
  State(double* memory, int64_t rows, int64_t columns)
      : matrix(memory), vector(memory + rows * columns) {}
  static int64_t size(int64_t rows, int64_t columns) { return rows * (columns + 1); }

  double* matrix;  // [rows][columns]
  double* vector;  // [rows]
};

// What both directions do: tokens in order, each key with the queries that stand at its position.
template <class T>
class Sweep {
 public:
  Sweep(const LinearAttentionProblem& p, int64_t batch, int64_t kv_head, int64_t length)
      : p_(p), batch_(batch), kv_head_(kv_head), length_(length) {}

  // Calls key(j) for each key and then query(h, i) for those that see it first; without a causal
  // mask all keys come first.
  template <class Key, class Query>
  void forwards(Key key, Query query) const {
    if (!p_.causal) {
      for (int64_t j = 0; j < length_; ++j) key(j);
      for (int64_t i = 0; i < p_.tq; ++i) each_head(i, query);
      return;
    }
    for (int64_t i = 0; i < std::min(p_.tq, p_.tq - p_.tk); ++i) each_head(i, query);
    for (int64_t j = 0; j < p_.tk; ++j) {
      if (j < length_) key(j);
      each_head(j - p_.tk + p_.tq, query);
    }
  }
  // In the opposite order: each key after all the queries that see it.
  template <class Key, class Query>
  void backwards(Key key, Query query) const {
    if (!p_.causal) {
      for (int64_t i = 0; i < p_.tq; ++i) each_head(i, query);
      for (int64_t j = 0; j < p_.tk; ++j) key(j);
      return;
    }
    for (int64_t j = p_.tk - 1; j >= 0; --j) {
      each_head(j - p_.tk + p_.tq, query);
      key(j);
    }
  }

  const T* at(const void* base, const AttentionStrides& s, int64_t t, int64_t h) const {
    return row(static_cast<const T*>(base), s, batch_, t, h);
  }
  T* at(void* base, const AttentionStrides& s, int64_t t, int64_t h) const {
    return row(static_cast<T*>(base), s, batch_, t, h);
  }

 private:
  template <class Query>
  void each_head(int64_t i, Query query) const {
    if (i < 0 || i >= p_.tq) return;
    for (int64_t h = 0; h < p_.group(); ++h) query(kv_head_ * p_.group() + h, i);
  }

  const LinearAttentionProblem& p_;
  int64_t batch_, kv_head_, length_;
};

template <class T>
void add_key(const LinearAttentionProblem& p, const State& s, const T* k, const T* v) {
  for (int64_t d = 0; d < p.head_dim; ++d) {
    const double f = phi(number(k[d]));
    s.vector[d] += f;
    for (int64_t e = 0; e < p.value_dim; ++e) s.matrix[d * p.value_dim + e] += f * number(v[e]);
  }
}

template <class T>
class RefForward final : public KernelPlan<LinearAttentionArgs> {
 public:
  explicit RefForward(const LinearAttentionProblem& problem) : p_(problem) {
    worker_scratch_bytes =
        static_cast<size_t>(State::size(p_.head_dim, p_.value_dim) + p_.value_dim) * sizeof(double);
  }

  void run(const LinearAttentionArgs& args, const KernelContext& context) const noexcept override {
    context.pool->parallel_for(p_.batch * p_.kv_heads, [&](int64_t block, int worker) {
      head(args, block / p_.kv_heads, block % p_.kv_heads, context.worker<double>(worker));
    });
  }

 private:
  void head(const LinearAttentionArgs& args, int64_t b, int64_t g, double* scratch) const {
    const State state(scratch, p_.head_dim, p_.value_dim);
    double* const sum = scratch + State::size(p_.head_dim, p_.value_dim);
    std::fill_n(scratch, State::size(p_.head_dim, p_.value_dim), 0.0);
    const Sweep<T> sweep(p_, b, g, p_.key_length(args.key_lengths, b));
    sweep.forwards(
        [&](int64_t j) {
          add_key(p_, state, sweep.at(args.k, p_.k, j, g), sweep.at(args.v, p_.v, j, g));
        },
        [&](int64_t h, int64_t i) {
          const T* q = sweep.at(args.q, p_.q, i, h);
          T* out = sweep.at(args.out, p_.out, i, h);
          std::fill_n(sum, p_.value_dim, 0.0);
          double mass = 0;
          for (int64_t d = 0; d < p_.head_dim; ++d) {
            const double f = phi(number(q[d]));
            mass += f * state.vector[d];
            for (int64_t e = 0; e < p_.value_dim; ++e)
              sum[e] += f * state.matrix[d * p_.value_dim + e];
          }
          for (int64_t e = 0; e < p_.value_dim; ++e)
            out[e] = rounded<T>(mass == 0 ? 0 : sum[e] / mass);
        });
  }

  LinearAttentionProblem p_;
};

// With y_i = S_i dO_i, n_i = 1 / (phi(q_i) z_i) and w_i = -(phi(q_i) y_i) n_i^2:
//   dphi(q_i) = n_i y_i + w_i z_i;  and with R_j = sum_i phi(q_i) (n_i dO_i)^T and
//   r_j = sum_i w_i phi(q_i) over the queries that see key j:
//   dphi(k_j) = R_j v_j + r_j,  dV_j = R_j^T phi(k_j).
template <class T>
class RefBackward final : public KernelPlan<LinearAttentionBackwardArgs> {
 public:
  explicit RefBackward(const LinearAttentionProblem& problem) : p_(problem) {
    worker_scratch_bytes = static_cast<size_t>(2 * State::size(p_.head_dim, p_.value_dim) +
                                               p_.head_dim + 2 * p_.group() * p_.tq) *
                           sizeof(double);
  }

  void run(const LinearAttentionBackwardArgs& args,
           const KernelContext& context) const noexcept override {
    context.pool->parallel_for(p_.batch * p_.kv_heads, [&](int64_t block, int worker) {
      head(args, block / p_.kv_heads, block % p_.kv_heads, context.worker<double>(worker));
    });
  }

 private:
  void head(const LinearAttentionBackwardArgs& args, int64_t b, int64_t g, double* scratch) const {
    const int64_t size = State::size(p_.head_dim, p_.value_dim), columns = p_.value_dim;
    const State state(scratch, p_.head_dim, columns), later(scratch + size, p_.head_dim, columns);
    double* const y = scratch + 2 * size;
    double* const inverses = y + p_.head_dim;
    double* const weights = inverses + p_.group() * p_.tq;
    std::fill_n(scratch, 2 * size, 0.0);
    const int64_t length = p_.key_length(args.key_lengths, b);
    const Sweep<T> sweep(p_, b, g, length);
    const auto place = [&](int64_t h, int64_t i) { return (h - g * p_.group()) * p_.tq + i; };

    sweep.forwards(
        [&](int64_t j) {
          add_key(p_, state, sweep.at(args.k, p_.k, j, g), sweep.at(args.v, p_.v, j, g));
        },
        [&](int64_t h, int64_t i) {
          const T* q = sweep.at(args.q, p_.q, i, h);
          const T* dout = sweep.at(args.dout, p_.dout, i, h);
          T* dq = sweep.at(args.dq, p_.dq, i, h);
          double mass = 0, dot = 0;
          for (int64_t d = 0; d < p_.head_dim; ++d) {
            y[d] = 0;
            for (int64_t e = 0; e < columns; ++e)
              y[d] += state.matrix[d * columns + e] * number(dout[e]);
            const double f = phi(number(q[d]));
            mass += f * state.vector[d];
            dot += f * y[d];
          }
          const double inverse = mass == 0 ? 0 : 1 / mass, weight = -dot * inverse * inverse;
          inverses[place(h, i)] = inverse;
          weights[place(h, i)] = weight;
          for (int64_t d = 0; d < p_.head_dim; ++d)
            dq[d] = rounded<T>((inverse * y[d] + weight * state.vector[d]) * slope(number(q[d])));
        });

    sweep.backwards(
        [&](int64_t j) {
          T* dk = sweep.at(args.dk, p_.dk, j, g);
          T* dv = sweep.at(args.dv, p_.dv, j, g);
          std::fill_n(dk, p_.head_dim, rounded<T>(0));
          std::fill_n(dv, columns, rounded<T>(0));
          if (j >= length) return;
          const T* k = sweep.at(args.k, p_.k, j, g);
          const T* v = sweep.at(args.v, p_.v, j, g);
          for (int64_t d = 0; d < p_.head_dim; ++d) {
            double sum = later.vector[d];
            for (int64_t e = 0; e < columns; ++e)
              sum += later.matrix[d * columns + e] * number(v[e]);
            dk[d] = rounded<T>(sum * slope(number(k[d])));
          }
          for (int64_t e = 0; e < columns; ++e) {
            double sum = 0;
            for (int64_t d = 0; d < p_.head_dim; ++d)
              sum += later.matrix[d * columns + e] * phi(number(k[d]));
            dv[e] = rounded<T>(sum);
          }
        },
        [&](int64_t h, int64_t i) {
          const T* q = sweep.at(args.q, p_.q, i, h);
          const T* dout = sweep.at(args.dout, p_.dout, i, h);
          for (int64_t d = 0; d < p_.head_dim; ++d) {
            const double f = phi(number(q[d])), scaled = f * inverses[place(h, i)];
            later.vector[d] += f * weights[place(h, i)];
            for (int64_t e = 0; e < columns; ++e)
              later.matrix[d * columns + e] += scaled * number(dout[e]);
          }
        });
  }

  LinearAttentionProblem p_;
};

std::unique_ptr<KernelPlan<LinearAttentionArgs>> plan_ref(const LinearAttentionProblem& problem) {
  check(problem, false);
  if (problem.dtype == DType::f32) return std::make_unique<RefForward<float>>(problem);
  if (problem.dtype == DType::f64) return std::make_unique<RefForward<double>>(problem);
  if (problem.dtype == DType::bf16) return std::make_unique<RefForward<bf16>>(problem);
  return nullptr;
}

std::unique_ptr<KernelPlan<LinearAttentionBackwardArgs>> plan_backward_ref(
    const LinearAttentionProblem& problem) {
  check(problem, true);
  if (problem.dtype == DType::f32) return std::make_unique<RefBackward<float>>(problem);
  if (problem.dtype == DType::f64) return std::make_unique<RefBackward<double>>(problem);
  if (problem.dtype == DType::bf16) return std::make_unique<RefBackward<bf16>>(problem);
  return nullptr;
}

}  // namespace

std::span<const LinearAttentionKernel> linear_attention_kernels() {
  static const std::vector<LinearAttentionKernel> list = [] {
    std::vector<LinearAttentionKernel> kernels;
    linear_attention_detail::append_hwy(kernels);
    kernels.push_back({"ref", plan_ref});
    return kernels;
  }();
  return list;
}

std::span<const LinearAttentionBackwardKernel> linear_attention_backward_kernels() {
  static const std::vector<LinearAttentionBackwardKernel> list = [] {
    std::vector<LinearAttentionBackwardKernel> kernels;
    linear_attention_detail::append_backward_hwy(kernels);
    kernels.push_back({"ref", plan_backward_ref});
    return kernels;
  }();
  return list;
}

}  // namespace fovea

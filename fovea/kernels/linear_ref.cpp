// The plain kernels of linear, for every combination of types, and the plain epilogue.
#include <cmath>
#include <memory>

#include "fovea/kernels/lanes.h"
#include "fovea/kernels/linear.h"
#include "fovea/kernels/linear_dnnl.h"

namespace fovea {
namespace {

using linear_detail::EpilogueBlock;

constexpr int64_t kRows = 16;  // rows of the result in a block of work

// Any of the types, read and written as Real (float or double).
template <class Real>
Real get(const void* p, DType type, int64_t i) {
  if (type == DType::f64) return static_cast<Real>(static_cast<const double*>(p)[i]);
  if (type == DType::bf16)
    return static_cast<Real>(static_cast<float>(static_cast<const bf16*>(p)[i]));
  return static_cast<Real>(static_cast<const float*>(p)[i]);
}
template <class Real>
void put(Real value, void* p, DType type, int64_t i) {
  if (type == DType::f64)
    static_cast<double*>(p)[i] = static_cast<double>(value);
  else if (type == DType::bf16)
    static_cast<bf16*>(p)[i] = bf16(static_cast<float>(value));
  else
    static_cast<float*>(p)[i] = static_cast<float>(value);
}

template <class Real>
Real activation(UnaryOp f, Real x) {
  if (f == UnaryOp::relu) return x < 0 ? Real{0} : x;
  if (f == UnaryOp::silu) return x * lanes::sigmoid(x);
  return x * lanes::normal(x).cumulative;
}
template <class Real>
Real slope(UnaryOp f, Real x) {
  if (f == UnaryOp::relu) return x > 0 ? Real{1} : Real{0};
  if (f == UnaryOp::silu) {
    const Real s = lanes::sigmoid(x);
    return s * (Real{1} + x * (Real{1} - s));
  }
  const auto n = lanes::normal(x);
  return n.cumulative + x * n.density;
}

// What follows the product, for elements [first, first + count) of row `row`; h[0] is the first.
template <class Real>
void finish(const LinearProblem& p, const LinearArgs& args, const Real* h, bool add_bias,
            int64_t row, int64_t first, int64_t count) {
  for (int64_t c = 0; c < count; ++c) {
    const int64_t i = row * p.n + first + c;
    Real v = h[c];
    if (add_bias) v += static_cast<const Real*>(args.bias)[first + c];
    if (p.save_pre) put(v, args.pre_out, p.pre, i);
    if (p.activation == LinearActivation::forward) v = activation(p.function, v);
    if (p.activation == LinearActivation::gradient)
      v *= slope(p.function, get<Real>(args.pre, p.pre, i));
    if (p.residual) v += get<Real>(args.residual, p.residual_type, i);
    put(v, args.y, p.y, i);
  }
}

// Real: of bias, activation and residual; Sum: of the products; kRound: operands go to bf16 first.
// An element as the product reads it: rounded to bf16, or as it is.
template <class Sum, bool kRound>
Sum operand(const void* p, DType type, int64_t i) {
  if constexpr (kRound)
    return static_cast<Sum>(static_cast<float>(bf16(get<float>(p, type, i))));
  else
    return get<Sum>(p, type, i);
}

template <class Real, class Sum, bool kRound>
class LinearRef : public KernelPlan<LinearArgs> {
 public:
  explicit LinearRef(const LinearProblem& problem) : p_(problem) {
    worker_scratch_bytes =
        static_cast<size_t>(p_.k) * sizeof(Sum) + static_cast<size_t>(p_.n) * sizeof(Real);
  }

  void run(const LinearArgs& args, const KernelContext& context) const noexcept override {
    const int64_t w_step = p_.transposed ? p_.n : 1;
    context.pool->parallel_for(lanes::ceil_div(p_.rows, kRows), [&](int64_t block, int worker) {
      Sum* x = context.worker<Sum>(worker);
      Real* h = reinterpret_cast<Real*>(x + p_.k);
      for (int64_t r = block * kRows; r < std::min(p_.rows, (block + 1) * kRows); ++r) {
        for (int64_t l = 0; l < p_.k; ++l) x[l] = operand<Sum, kRound>(args.x, p_.x, r * p_.k + l);
        for (int64_t j = 0; j < p_.n; ++j) {
          const int64_t first = p_.transposed ? j : j * p_.k;
          Sum sum = 0;
          for (int64_t l = 0; l < p_.k; ++l)
            sum += x[l] * operand<Sum, kRound>(args.w, p_.w, first + l * w_step);
          h[j] = static_cast<Real>(sum);
        }
        finish(p_, args, h, p_.bias, r, 0, p_.n);
      }
    });
  }

 private:
  LinearProblem p_;
};

template <class Real, class Sum, bool kRound>
class GradWeightRef : public KernelPlan<LinearGradWeightArgs> {
 public:
  explicit GradWeightRef(const LinearGradWeightProblem& problem) : p_(problem) {
    worker_scratch_bytes = static_cast<size_t>(kRows * p_.k) * sizeof(Sum);
  }

  void run(const LinearGradWeightArgs& args, const KernelContext& context) const noexcept override {
    context.pool->parallel_for(lanes::ceil_div(p_.n, kRows), [&](int64_t block, int worker) {
      Sum* sums = context.worker<Sum>(worker);
      const int64_t first = block * kRows, count = std::min(kRows, p_.n - first);
      std::fill_n(sums, count * p_.k, Sum{0});
      double biases[kRows] = {};
      for (int64_t r = 0; r < p_.rows; ++r) {
        for (int64_t j = 0; j < count; ++j) {
          const int64_t at = r * p_.n + first + j;
          biases[j] += get<double>(args.dy, p_.dy, at);
          const Sum dy = operand<Sum, kRound>(args.dy, p_.dy, at);
          for (int64_t l = 0; l < p_.k; ++l)
            sums[j * p_.k + l] += dy * operand<Sum, kRound>(args.x, p_.x, r * p_.k + l);
        }
      }
      Real* dw = static_cast<Real*>(args.dw) + first * p_.k;
      for (int64_t i = 0; i < count * p_.k; ++i) dw[i] = static_cast<Real>(sums[i]);
      if (!p_.bias) return;
      for (int64_t j = 0; j < count; ++j)
        static_cast<Real*>(args.db)[first + j] = static_cast<Real>(biases[j]);
    });
  }

 private:
  LinearGradWeightProblem p_;
};

}  // namespace

namespace linear_detail {

void plain_epilogue(const LinearProblem& p, const LinearArgs& args, const EpilogueBlock& block) {
  for (int64_t r = 0; r < block.rows; ++r)
    finish(p, args, block.h + r * block.stride, block.add_bias, block.first_row + r,
           block.first_column, block.columns);
}

bool has_function(const LinearProblem& p) {
  return p.activation == LinearActivation::none || p.function == UnaryOp::relu ||
         p.function == UnaryOp::silu || p.function == UnaryOp::gelu;
}

std::unique_ptr<KernelPlan<LinearArgs>> plan_ref(const LinearProblem& p) {
  check(p);
  if (!has_function(p)) return nullptr;
  // Sums of floats in double: the yardstick of the others.
  if (p.w == DType::f64) return std::make_unique<LinearRef<double, double, false>>(p);
  if (p.w == DType::f32) return std::make_unique<LinearRef<float, double, false>>(p);
  if (p.w == DType::bf16) return std::make_unique<LinearRef<float, float, true>>(p);
  return nullptr;
}

std::unique_ptr<KernelPlan<LinearGradWeightArgs>> plan_grad_weight_ref(
    const LinearGradWeightProblem& p) {
  check(p);
  if (p.dy == DType::f64) return std::make_unique<GradWeightRef<double, double, false>>(p);
  if (p.dy == DType::f32 && p.x == DType::f32)
    return std::make_unique<GradWeightRef<float, double, false>>(p);
  if (p.dy == DType::f32 || p.dy == DType::bf16)
    return std::make_unique<GradWeightRef<float, float, true>>(p);
  return nullptr;
}

}  // namespace linear_detail
}  // namespace fovea

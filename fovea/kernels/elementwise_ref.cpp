#include <cmath>
#include <memory>
#include <utility>

#include "fovea/kernels/convert.h"
#include "fovea/kernels/elementwise.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/storage.h"
#include "fovea/kernels/strided.h"

namespace fovea {
namespace {

constexpr bool real(DType d) { return d == DType::f32 || d == DType::f64; }

constexpr bool supports(UnaryOp op, DType d) {
  switch (op) {
    case UnaryOp::logical_not:
      return d == DType::boolean;
    case UnaryOp::neg:
    case UnaryOp::abs:
    case UnaryOp::relu:
    case UnaryOp::square:
    case UnaryOp::sign:
      return real(d) || d == DType::i32;
    default:
      return real(d);
  }
}

constexpr bool supports(BinaryOp op, DType d) {
  const bool logical = op == BinaryOp::logical_and || op == BinaryOp::logical_or;
  if (real(d)) return !logical;
  if (d == DType::boolean) return logical || op == BinaryOp::equal || op == BinaryOp::not_equal;
  const bool compares = op >= BinaryOp::equal && op <= BinaryOp::greater_equal;
  if (d == DType::u8) return compares || op == BinaryOp::max || op == BinaryOp::min;
  return d == DType::i32 && (compares || op <= BinaryOp::min);
}

// Whole numbers wrap around: computed without a sign, where that is defined.
template <class T>
auto wide(T x) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<uint32_t>(x);
  else
    return x;
}

template <UnaryOp Op, class T>
auto apply(T x) {
  if constexpr (Op == UnaryOp::is_finite)
    return static_cast<uint8_t>(std::isfinite(x));
  else if constexpr (Op == UnaryOp::logical_not)
    return static_cast<uint8_t>(x == 0);
  else if constexpr (Op == UnaryOp::neg && std::is_integral_v<T>)
    return static_cast<T>(0u - wide(x));
  else if constexpr (Op == UnaryOp::neg)
    return -x;
  else if constexpr (Op == UnaryOp::abs && std::is_integral_v<T>)
    return static_cast<T>(x < 0 ? 0u - wide(x) : wide(x));
  else if constexpr (Op == UnaryOp::abs)
    return std::abs(x);
  else if constexpr (Op == UnaryOp::exp)
    return lanes::exp(x);
  else if constexpr (Op == UnaryOp::log)
    return std::log(x);
  else if constexpr (Op == UnaryOp::sqrt)
    return std::sqrt(x);
  else if constexpr (Op == UnaryOp::rsqrt)
    return T{1} / std::sqrt(x);
  else if constexpr (Op == UnaryOp::tanh)
    return std::tanh(x);
  else if constexpr (Op == UnaryOp::sigmoid)
    return lanes::sigmoid(x);
  else if constexpr (Op == UnaryOp::relu)
    return x < 0 ? T{0} : x;
  else if constexpr (Op == UnaryOp::silu)
    return x * lanes::sigmoid(x);
  else if constexpr (Op == UnaryOp::gelu)
    return x * lanes::normal(x).cumulative;
  else if constexpr (Op == UnaryOp::square)
    return static_cast<T>(wide(x) * wide(x));
  else if constexpr (Op == UnaryOp::reciprocal)
    return T{1} / x;
  else if constexpr (Op == UnaryOp::erf)
    return std::erf(x);
  else if constexpr (Op == UnaryOp::sin)
    return std::sin(x);
  else if constexpr (Op == UnaryOp::cos)
    return std::cos(x);
  else if constexpr (Op == UnaryOp::floor)
    return std::floor(x);
  else {
    static_assert(Op == UnaryOp::sign);
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>((x > 0) - (x < 0));
    else
      return x > 0 ? T{1} : x < 0 ? T{-1} : x;  // zero and NaN stay
  }
}

template <BinaryOp Op, class T>
auto apply(T a, T b) {
  if constexpr (Op == BinaryOp::add)
    return static_cast<T>(wide(a) + wide(b));
  else if constexpr (Op == BinaryOp::sub)
    return static_cast<T>(wide(a) - wide(b));
  else if constexpr (Op == BinaryOp::mul)
    return static_cast<T>(wide(a) * wide(b));
  else if constexpr (Op == BinaryOp::div && std::is_integral_v<T>)
    return b == 0 ? T{0} : static_cast<T>(int64_t{a} / b);
  else if constexpr (Op == BinaryOp::div)
    return a / b;
  else if constexpr (Op == BinaryOp::max)
    return lanes::larger(a, b);
  else if constexpr (Op == BinaryOp::min)
    return lanes::smaller(a, b);
  else if constexpr (Op == BinaryOp::pow)
    return std::pow(a, b);
  else if constexpr (Op == BinaryOp::equal)
    return static_cast<uint8_t>(a == b);
  else if constexpr (Op == BinaryOp::not_equal)
    return static_cast<uint8_t>(a != b);
  else if constexpr (Op == BinaryOp::less)
    return static_cast<uint8_t>(a < b);
  else if constexpr (Op == BinaryOp::less_equal)
    return static_cast<uint8_t>(a <= b);
  else if constexpr (Op == BinaryOp::greater)
    return static_cast<uint8_t>(a > b);
  else if constexpr (Op == BinaryOp::greater_equal)
    return static_cast<uint8_t>(a >= b);
  else if constexpr (Op == BinaryOp::logical_and)
    return static_cast<uint8_t>(a != 0 && b != 0);
  else if constexpr (Op == BinaryOp::logical_or)
    return static_cast<uint8_t>(a != 0 || b != 0);
  else if constexpr (Op == BinaryOp::gelu_grad) {
    const auto p = lanes::normal(a);
    return b * (p.cumulative + a * p.density);
  } else if constexpr (Op == BinaryOp::silu_grad) {
    const T s = lanes::sigmoid(a);
    return b * (s * (T{1} + a * (T{1} - s)));
  } else if constexpr (Op == BinaryOp::tanh_grad)
    return b * (T{1} - a * a);
  else if constexpr (Op == BinaryOp::sigmoid_grad)
    return b * (a * (T{1} - a));
  else {
    static_assert(Op == BinaryOp::relu_grad);
    return a > 0 ? b : T{0};
  }
}

// One row of n elements that lie the given strides apart; the output is dense.
using UnaryRow = void (*)(const void* x, int64_t sx, void* y, int64_t n);
using BinaryRow = void (*)(const void* a, int64_t sa, const void* b, int64_t sb, void* y,
                           int64_t n);

template <class R, class T, class F>
void unary_row(const void* vx, int64_t sx, void* vy, int64_t n, F f) {
  const T* x = static_cast<const T*>(vx);
  R* y = static_cast<R*>(vy);
  if (sx == 1) return lanes::map(n, y, f, x);
  if (sx == 0) return static_cast<void>(std::fill_n(y, n, f(*x)));
  for (int64_t i = 0; i < n; ++i) y[i] = f(x[i * sx]);
}

template <class T, class F>
void binary_row(const void* va, int64_t sa, const void* vb, int64_t sb, void* vy, int64_t n, F f) {
  using R = decltype(f(T{}, T{}));
  const T* a = static_cast<const T*>(va);
  const T* b = static_cast<const T*>(vb);
  R* y = static_cast<R*>(vy);
  if (sa == 1 && sb == 1) return lanes::map(n, y, f, a, b);
  if (sa == 1 && sb == 0)
    return lanes::map(
        n, y, [f, s = *b](T v) { return f(v, s); }, a);
  if (sa == 0 && sb == 1)
    return lanes::map(
        n, y, [f, s = *a](T v) { return f(s, v); }, b);
  for (int64_t i = 0; i < n; ++i) y[i] = f(a[i * sa], b[i * sb]);
}

template <DType D, size_t I>
constexpr UnaryRow unary_entry() {
  constexpr UnaryOp op = static_cast<UnaryOp>(I);
  if constexpr (supports(op, D)) {
    using T = Storage<D>;
    return [](const void* x, int64_t sx, void* y, int64_t n) {
      const auto f = [](T v) { return apply<op>(v); };
      unary_row<decltype(f(T{})), T>(x, sx, y, n, f);
    };
  } else {
    return nullptr;
  }
}
template <DType D, size_t I>
constexpr BinaryRow binary_entry() {
  constexpr BinaryOp op = static_cast<BinaryOp>(I);
  if constexpr (supports(op, D)) {
    using T = Storage<D>;
    return [](const void* a, int64_t sa, const void* b, int64_t sb, void* y, int64_t n) {
      binary_row<T>(a, sa, b, sb, y, n, [](T u, T v) { return apply<op>(u, v); });
    };
  } else {
    return nullptr;
  }
}

template <DType D, size_t... I>
UnaryRow row_of(UnaryOp op, std::index_sequence<I...>) {
  static constexpr UnaryRow kRows[] = {unary_entry<D, I>()...};
  return kRows[static_cast<size_t>(op)];
}
template <DType D, size_t... I>
BinaryRow row_of(BinaryOp op, std::index_sequence<I...>) {
  static constexpr BinaryRow kRows[] = {binary_entry<D, I>()...};
  return kRows[static_cast<size_t>(op)];
}

const std::byte* at(const void* p, int64_t offset, size_t size) {
  return static_cast<const std::byte*>(p) + offset * static_cast<int64_t>(size);
}
std::byte* at(void* p, int64_t offset, size_t size) {
  return static_cast<std::byte*>(p) + offset * static_cast<int64_t>(size);
}

// Unary functions and casts: one operand, one output.
template <class Args>
class MapPlan final : public KernelPlan<Args> {
 public:
  MapPlan(StridedLoop<2> loop, UnaryRow row, DType in, DType out)
      : loop_(std::move(loop)), row_(row), in_(dtype_size(in)), out_(dtype_size(out)) {}

  void run(const Args& args, const KernelContext& context) const noexcept override {
    const int64_t step = loop_.inner_strides()[0];
    context.pool->parallel_for(loop_.blocks(), [&](int64_t block, int) {
      loop_.for_block(block, [&](const auto& offset, int64_t n) {
        row_(at(args.x, offset[0], in_), step, at(args.y, offset[1], out_), n);
      });
    });
  }

 private:
  StridedLoop<2> loop_;
  UnaryRow row_;
  size_t in_, out_;
};

class BinaryPlan final : public KernelPlan<BinaryArgs> {
 public:
  BinaryPlan(StridedLoop<3> loop, BinaryRow row, DType in, DType out)
      : loop_(std::move(loop)), row_(row), in_(dtype_size(in)), out_(dtype_size(out)) {}

  void run(const BinaryArgs& args, const KernelContext& context) const noexcept override {
    const auto& step = loop_.inner_strides();
    context.pool->parallel_for(loop_.blocks(), [&](int64_t block, int) {
      loop_.for_block(block, [&](const auto& offset, int64_t n) {
        row_(at(args.a, offset[0], in_), step[0], at(args.b, offset[1], in_), step[1],
             at(args.y, offset[2], out_), n);
      });
    });
  }

 private:
  StridedLoop<3> loop_;
  BinaryRow row_;
  size_t in_, out_;
};

template <class T>
class SelectPlan final : public KernelPlan<SelectArgs> {
 public:
  explicit SelectPlan(StridedLoop<4> loop) : loop_(std::move(loop)) {}

  void run(const SelectArgs& args, const KernelContext& context) const noexcept override {
    const auto& s = loop_.inner_strides();
    context.pool->parallel_for(loop_.blocks(), [&](int64_t block, int) {
      loop_.for_block(block, [&](const auto& offset, int64_t n) {
        const uint8_t* c = static_cast<const uint8_t*>(args.cond) + offset[0];
        const T* a = static_cast<const T*>(args.a) + offset[1];
        const T* b = static_cast<const T*>(args.b) + offset[2];
        T* y = static_cast<T*>(args.y) + offset[3];
        for (int64_t i = 0; i < n; ++i) y[i] = c[i * s[0]] ? a[i * s[1]] : b[i * s[2]];
      });
    });
  }

 private:
  StridedLoop<4> loop_;
};

using UnaryOps = std::make_index_sequence<static_cast<size_t>(UnaryOp::logical_not) + 1>;
using BinaryOps = std::make_index_sequence<static_cast<size_t>(BinaryOp::relu_grad) + 1>;

std::unique_ptr<KernelPlan<UnaryArgs>> plan_unary(const UnaryProblem& p) {
  const UnaryRow row = visit_dtype(p.dtype, [&]<DType D>() { return row_of<D>(p.op, UnaryOps{}); });
  auto loop = StridedLoop<2>::make(p.dims, {p.strides, {}});
  if (!row || !loop) return nullptr;
  return std::make_unique<MapPlan<UnaryArgs>>(*loop, row, p.dtype, result_type(p.op, p.dtype));
}

std::unique_ptr<KernelPlan<BinaryArgs>> plan_binary(const BinaryProblem& p) {
  const BinaryRow row =
      visit_dtype(p.dtype, [&]<DType D>() { return row_of<D>(p.op, BinaryOps{}); });
  auto loop = StridedLoop<3>::make(p.dims, {p.a_strides, p.b_strides, {}});
  if (!row || !loop) return nullptr;
  return std::make_unique<BinaryPlan>(*loop, row, p.dtype, result_type(p.op, p.dtype));
}

std::unique_ptr<KernelPlan<SelectArgs>> plan_select(const SelectProblem& p) {
  auto loop = StridedLoop<4>::make(p.dims, {p.cond_strides, p.a_strides, p.b_strides, {}});
  if (!loop) return nullptr;
  return visit_dtype(p.dtype, [&]<DType D>() -> std::unique_ptr<KernelPlan<SelectArgs>> {
    return std::make_unique<SelectPlan<Storage<D>>>(*loop);
  });
}

std::unique_ptr<KernelPlan<CastArgs>> plan_cast(const CastProblem& p) {
  const UnaryRow row = visit_dtype(p.from, [&]<DType F>() {
    return visit_dtype(p.to, []<DType T>() -> UnaryRow {
      if constexpr (F == DType::f16 || T == DType::f16) {
        return nullptr;
      } else {
        return [](const void* x, int64_t sx, void* y, int64_t n) {
          unary_row<Storage<T>, Storage<F>>(x, sx, y, n, [](Storage<F> v) {
            return convert<Storage<T>, T == DType::boolean>(v);
          });
        };
      }
    });
  });
  auto loop = StridedLoop<2>::make(p.dims, {p.strides, {}});
  if (!row || !loop) return nullptr;
  return std::make_unique<MapPlan<CastArgs>>(*loop, row, p.from, p.to);
}

}  // namespace

std::span<const Kernel<UnaryProblem, UnaryArgs>> unary_kernels() {
  static constexpr Kernel<UnaryProblem, UnaryArgs> kList[] = {{"ref", plan_unary}};
  return kList;
}
std::span<const Kernel<BinaryProblem, BinaryArgs>> binary_kernels() {
  static constexpr Kernel<BinaryProblem, BinaryArgs> kList[] = {{"ref", plan_binary}};
  return kList;
}
std::span<const Kernel<SelectProblem, SelectArgs>> select_kernels() {
  static constexpr Kernel<SelectProblem, SelectArgs> kList[] = {{"ref", plan_select}};
  return kList;
}
std::span<const Kernel<CastProblem, CastArgs>> cast_kernels() {
  static constexpr Kernel<CastProblem, CastArgs> kList[] = {{"ref", plan_cast}};
  return kList;
}

}  // namespace fovea

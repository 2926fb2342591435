#include <memory>
#include <utility>

#include "fovea/kernels/convert.h"
#include "fovea/kernels/elementwise.h"
#include "fovea/kernels/elementwise_scalar.h"
#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/storage.h"
#include "fovea/kernels/strided.h"

namespace fovea {
namespace {

using elementwise::apply;
using elementwise::BinaryOps;
using elementwise::UnaryOps;

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
  static const auto list = with_hwy<UnaryProblem, UnaryArgs>(plan_unary);
  return list;
}
std::span<const Kernel<BinaryProblem, BinaryArgs>> binary_kernels() {
  static const auto list = with_hwy<BinaryProblem, BinaryArgs>(plan_binary);
  return list;
}
std::span<const Kernel<SelectProblem, SelectArgs>> select_kernels() {
  static const auto list = with_hwy<SelectProblem, SelectArgs>(plan_select);
  return list;
}
std::span<const Kernel<CastProblem, CastArgs>> cast_kernels() {
  static const auto list = with_hwy<CastProblem, CastArgs>(plan_cast);
  return list;
}

}  // namespace fovea

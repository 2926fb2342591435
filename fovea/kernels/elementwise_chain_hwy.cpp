// The steps of elementwise_blocks.h in SIMD of each target.
#include <cmath>
#include <utility>

#define HWY_TARGET_INCLUDE "fovea/kernels/elementwise_chain_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/elementwise_blocks.h"
#include "fovea/kernels/math-inl.h"
#include "fovea/kernels/storage.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using elementwise::BlockFunctions;
using elementwise::Operand;
using elementwise::StepFunction;
using simd::F32;
using simd::I32;
using simd::kLanes;
using simd::Vec;
using Mask = hn::Mask<F32>;

HWY_INLINE Vec one() { return hn::Set(F32(), 1.0f); }
HWY_INLINE Vec zero() { return hn::Zero(F32()); }
// NaN differs from all, which hn::Ne does not say on every target.
HWY_INLINE Mask differs(Vec a, Vec b) { return hn::Not(hn::Eq(a, b)); }
HWY_INLINE Vec truth(Mask m) { return hn::IfThenElseZero(m, one()); }

// These have no vector form that is worth its keep: they stand in tables made once.
constexpr bool one_by_one(UnaryOp op) { return op == UnaryOp::sin || op == UnaryOp::cos; }
constexpr bool one_by_one(BinaryOp op) { return op == BinaryOp::pow; }

template <UnaryOp Op>
HWY_INLINE Vec apply(Vec x) {
  if constexpr (Op == UnaryOp::neg) return hn::Neg(x);
  if constexpr (Op == UnaryOp::abs) return hn::Abs(x);
  if constexpr (Op == UnaryOp::exp) return simd::exp(x);
  if constexpr (Op == UnaryOp::log) return simd::log(x);
  if constexpr (Op == UnaryOp::sqrt) return hn::Sqrt(x);
  if constexpr (Op == UnaryOp::rsqrt) return hn::Div(one(), hn::Sqrt(x));
  if constexpr (Op == UnaryOp::tanh) return simd::tanh(x);
  if constexpr (Op == UnaryOp::sigmoid) return simd::sigmoid(x);
  if constexpr (Op == UnaryOp::relu) return simd::relu(x);
  if constexpr (Op == UnaryOp::silu) return simd::silu(x);
  if constexpr (Op == UnaryOp::gelu) return simd::gelu(x);
  if constexpr (Op == UnaryOp::square) return hn::Mul(x, x);
  if constexpr (Op == UnaryOp::reciprocal) return hn::Div(one(), x);
  if constexpr (Op == UnaryOp::erf) return simd::erf(x);
  if constexpr (Op == UnaryOp::sign)
    // Zero and NaN stay.
    return hn::IfThenElse(hn::Gt(hn::Abs(x), zero()), hn::CopySign(one(), x), x);
  if constexpr (Op == UnaryOp::floor) return hn::Floor(x);
  if constexpr (Op == UnaryOp::is_finite) return truth(hn::IsFinite(x));
  if constexpr (Op == UnaryOp::logical_not) return truth(hn::Eq(x, zero()));
  return x;
}
template <UnaryOp Op>
float apply_one(float x) {
  return Op == UnaryOp::sin ? std::sin(x) : std::cos(x);
}

template <BinaryOp Op>
HWY_INLINE Vec apply(Vec a, Vec b) {
  if constexpr (Op == BinaryOp::add) return hn::Add(a, b);
  if constexpr (Op == BinaryOp::sub) return hn::Sub(a, b);
  if constexpr (Op == BinaryOp::mul) return hn::Mul(a, b);
  if constexpr (Op == BinaryOp::div) return hn::Div(a, b);
  // Where an operand is NaN, x86 gives the second.
  if constexpr (Op == BinaryOp::max) return hn::IfThenElse(hn::IsNaN(a), a, hn::Max(a, b));
  if constexpr (Op == BinaryOp::min) return hn::IfThenElse(hn::IsNaN(a), a, hn::Min(a, b));
  if constexpr (Op == BinaryOp::equal) return truth(hn::Eq(a, b));
  if constexpr (Op == BinaryOp::not_equal) return truth(differs(a, b));
  if constexpr (Op == BinaryOp::less) return truth(hn::Lt(a, b));
  if constexpr (Op == BinaryOp::less_equal) return truth(hn::Le(a, b));
  if constexpr (Op == BinaryOp::greater) return truth(hn::Gt(a, b));
  if constexpr (Op == BinaryOp::greater_equal) return truth(hn::Ge(a, b));
  if constexpr (Op == BinaryOp::logical_and)
    return truth(hn::And(differs(a, zero()), differs(b, zero())));
  if constexpr (Op == BinaryOp::logical_or)
    return truth(hn::Or(differs(a, zero()), differs(b, zero())));
  if constexpr (Op == BinaryOp::gelu_grad) return hn::Mul(b, simd::gelu_slope(a));
  if constexpr (Op == BinaryOp::silu_grad) return hn::Mul(b, simd::silu_slope(a));
  if constexpr (Op == BinaryOp::tanh_grad) return hn::Mul(b, hn::NegMulAdd(a, a, one()));
  if constexpr (Op == BinaryOp::sigmoid_grad) return hn::Mul(b, hn::Mul(a, hn::Sub(one(), a)));
  if constexpr (Op == BinaryOp::relu_grad) return hn::IfThenElseZero(hn::Gt(a, zero()), b);
  return a;
}

float element(Operand a, int64_t i) { return a.p[a.step ? i : i % kLanes]; }

template <UnaryOp Op>
void unary_step(Operand a, Operand, Operand, float* y, int64_t n) {
  if constexpr (one_by_one(Op)) {
    for (int64_t i = 0; i < n; ++i) y[i] = apply_one<Op>(element(a, i));
  } else {
    for (int64_t i = 0; i < n; i += kLanes, a.p += a.step)
      simd::store(apply<Op>(simd::load(a.p)), y + i);
  }
}

template <BinaryOp Op>
void binary_step(Operand a, Operand b, Operand, float* y, int64_t n) {
  if constexpr (one_by_one(Op)) {
    for (int64_t i = 0; i < n; ++i) y[i] = std::pow(element(a, i), element(b, i));
  } else {
    for (int64_t i = 0; i < n; i += kLanes, a.p += a.step, b.p += b.step)
      simd::store(apply<Op>(simd::load(a.p), simd::load(b.p)), y + i);
  }
}

void select_step(Operand a, Operand b, Operand c, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes, a.p += a.step, b.p += b.step, c.p += c.step) {
    const Mask chosen = differs(simd::load(a.p), zero());
    simd::store(hn::IfThenElse(chosen, simd::load(b.p), simd::load(c.p)), y + i);
  }
}

HWY_INLINE Vec load_as_float(const float* x) { return simd::load(x); }
HWY_INLINE Vec load_as_float(const bf16* x) { return simd::load(x); }
HWY_INLINE Vec load_as_float(const int32_t* x) { return hn::ConvertTo(F32(), hn::LoadU(I32(), x)); }
HWY_INLINE Vec load_as_float(const uint8_t* x) {
  const hn::Rebind<uint8_t, F32> d8;
  return hn::ConvertTo(F32(), hn::PromoteTo(I32(), hn::LoadU(d8, x)));
}

template <DType D>
void read(const void* from, int64_t offset, int64_t stride, float* y, int64_t n) {
  const Storage<D>* x = static_cast<const Storage<D>*>(from) + offset;
  if (stride == 0) {
    const Vec v = hn::Set(F32(), static_cast<float>(*x));
    for (int64_t i = 0; i < n; i += kLanes) simd::store(v, y + i);
    return;
  }
  int64_t i = 0;
  if (stride == 1)
    for (; i + kLanes <= n; i += kLanes) simd::store(load_as_float(x + i), y + i);
  for (; i < n; ++i) y[i] = static_cast<float>(x[i * stride]);
}

template <class T>
void write_float(const float* x, void* to, int64_t offset, int64_t n) {
  T* y = static_cast<T*>(to) + offset;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) simd::store(simd::load(x + i), y + i);
  for (; i < n; ++i) y[i] = static_cast<T>(x[i]);
}

void write_bool(const float* x, void* to, int64_t offset, int64_t n) {
  const hn::Rebind<uint8_t, F32> d8;
  const simd::U32 du;
  uint8_t* y = static_cast<uint8_t*>(to) + offset;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const auto is_zero = hn::RebindMask(du, hn::Eq(simd::load(x + i), zero()));
    hn::StoreU(hn::TruncateTo(d8, hn::IfThenZeroElse(is_zero, hn::Set(du, 1))), d8, y + i);
  }
  for (; i < n; ++i) y[i] = x[i] != 0;
}

template <size_t... I>
constexpr std::array<StepFunction, sizeof...(I)> unary_steps(std::index_sequence<I...>) {
  return {unary_step<static_cast<UnaryOp>(I)>...};
}
template <size_t... I>
constexpr std::array<StepFunction, sizeof...(I)> binary_steps(std::index_sequence<I...>) {
  return {binary_step<static_cast<BinaryOp>(I)>...};
}

constexpr BlockFunctions functions() {
  BlockFunctions f;
  f.lanes = kLanes;
  f.unary = unary_steps(std::make_index_sequence<elementwise::kUnaryOps>());
  f.binary = binary_steps(std::make_index_sequence<elementwise::kBinaryOps>());
  f.select = select_step;
  f.read[static_cast<size_t>(DType::f32)] = read<DType::f32>;
  f.read[static_cast<size_t>(DType::bf16)] = read<DType::bf16>;
  f.read[static_cast<size_t>(DType::u8)] = read<DType::u8>;
  f.read[static_cast<size_t>(DType::i32)] = read<DType::i32>;
  f.read[static_cast<size_t>(DType::boolean)] = read<DType::boolean>;
  f.write[static_cast<size_t>(DType::f32)] = write_float<float>;
  f.write[static_cast<size_t>(DType::bf16)] = write_float<bf16>;
  f.write[static_cast<size_t>(DType::boolean)] = write_bool;
  return f;
}

}  // namespace

const elementwise::BlockFunctions& block_functions() {
  static constexpr BlockFunctions kFunctions = functions();
  return kFunctions;
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

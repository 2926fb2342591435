// Functions of a vector of floats, and loads and stores that convert, for the Highway kernels;
// included once a target. NaN passes through.
#if defined(FOVEA_KERNELS_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_MATH_INL_H_
#undef FOVEA_KERNELS_MATH_INL_H_
#else
#define FOVEA_KERNELS_MATH_INL_H_
#endif

#include <cmath>
#include <cstdint>

#include "fovea/base/dtype.h"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/highway.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace simd {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;
using I32 = hn::RebindToSigned<F32>;
using U32 = hn::RebindToUnsigned<F32>;
using Vec = hn::Vec<F32>;

constexpr int64_t kLanes = HWY_LANES(float);

// Whole vectors. bf16 rounds to nearest even.
HWY_INLINE Vec load(const float* p) { return hn::LoadU(F32(), p); }
HWY_INLINE Vec load(const bf16* p) {
  const hn::Rebind<uint16_t, F32> d16;
  const U32 d32;
  const auto u = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(F32(), hn::ShiftLeft<16>(u));
}
HWY_INLINE void store(Vec v, float* p) { hn::StoreU(v, F32(), p); }
HWY_INLINE void store(Vec v, bf16* p) {
  const hn::Rebind<uint16_t, F32> d16;
  const U32 d32;
  const auto u = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(d32, 1));
  const auto rounded = hn::Add(u, hn::Add(odd, hn::Set(d32, 0x7fff)));
  // A NaN stays one: its upper half is kept, made quiet.
  const auto quiet = hn::Or(u, hn::Set(d32, 0x400000));
  const auto nan = hn::RebindMask(d32, hn::IsNaN(v));
  const auto upper = hn::ShiftRight<16>(hn::IfThenElse(nan, quiet, rounded));
  hn::StoreU(hn::TruncateTo(d16, upper), d16, reinterpret_cast<uint16_t*>(p));
}

// The first n < kLanes elements; absent lanes are 0. Nothing beyond them is touched.
template <class T>
HWY_INLINE Vec load_some(const T* p, int64_t n) {
  HWY_ALIGN T lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
template <class T>
HWY_INLINE void store_some(Vec v, T* p, int64_t n) {
  HWY_ALIGN T lanes[kLanes];
  store(v, lanes);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
#if HWY_TARGET <= HWY_AVX2
template <>
HWY_INLINE Vec load_some(const float* p, int64_t n) {
  return hn::MaskedLoad(hn::FirstN(F32(), static_cast<size_t>(n)), F32(), p);
}
template <>
HWY_INLINE void store_some(Vec v, float* p, int64_t n) {
  hn::BlendedStore(v, hn::FirstN(F32(), static_cast<size_t>(n)), F32(), p);
}
#endif

// min(x, high) and max(x, low), but NaN stays: where an operand is NaN, x86 gives the second.
HWY_INLINE Vec at_most(Vec x, float high) { return hn::Min(hn::Set(F32(), high), x); }
HWY_INLINE Vec at_least(Vec x, float low) { return hn::Max(hn::Set(F32(), low), x); }

// 1 / x for |x| in [2^-126, 2^127) and for NaN; relative error below 2e-7. Cheaper than a division.
HWY_INLINE Vec inverse(Vec x) {
  const Vec one = hn::Set(F32(), 1.0f);
#if HWY_TARGET == HWY_AVX3
  const Vec r{_mm512_rcp14_ps(x.raw)};
  return hn::MulAdd(r, hn::NegMulAdd(x, r, one), r);
#else
  return hn::Div(one, x);
#endif
}

// 1 / x, but 0 for 0: what is divided by a sum of powers that is empty stays 0.
HWY_INLINE Vec inverse_or_zero(Vec x) {
  const F32 d;
  return hn::IfThenZeroElse(hn::Eq(x, hn::Zero(d)), hn::Div(hn::Set(d, 1.0f), x));
}

// What is subtracted before the powers of a softmax are taken: the maximum, but 0 for -infinity, so
// that -infinity less the base is -infinity and not NaN.
HWY_INLINE Vec base_of(Vec max) {
  return hn::IfThenZeroElse(hn::Eq(max, hn::Set(F32(), -HUGE_VALF)), max);
}

// x + kRound - kRound is x rounded to a whole number, for |x| < 2^22; the low bits of x + kRound
// hold it.
constexpr float kRound = 12582912.0f;  // 1.5 2^23

// p 2^n for whole |n| <= 252, shifted = n + kRound: zero and infinity beyond the ends of the range.
HWY_INLINE Vec times_power(Vec p, [[maybe_unused]] Vec n, [[maybe_unused]] Vec shifted) {
#if HWY_TARGET == HWY_AVX3
  return Vec{_mm512_scalef_ps(p.raw, n.raw)};
#else
  const F32 d;
  const I32 di;
  // As two factors, each of which has an exponent of its own.
  const auto k = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, hn::Set(d, kRound)));
  const auto k1 = hn::ShiftRight<1>(k);
  const auto bias = hn::Set(di, 127);
  const Vec a = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(k1, bias)));
  const Vec b = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(k, k1), bias)));
  return hn::Mul(hn::Mul(p, a), b);
#endif
}

// e^x, relative error below 3e-7: x = n ln 2 + r, a polynomial of degree 6 in r. 0 below -104,
// infinity above 89.
HWY_INLINE Vec exp(Vec x) {
  const F32 d;
  const Vec clamped = at_most(at_least(x, -104.0f), 104.0f);
  const Vec shifted = hn::MulAdd(clamped, hn::Set(d, 1.44269504088896341f), hn::Set(d, kRound));
  const Vec n = hn::Sub(shifted, hn::Set(d, kRound));
  Vec r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), clamped);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  Vec p = hn::Set(d, 1.394111891e-3f);
  p = hn::MulAdd(p, r, hn::Set(d, 8.375134775e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.166635277e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.666641541e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.000000047e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  return times_power(p, n, shifted);
}

HWY_INLINE Vec sigmoid(Vec x) {
  const Vec one = hn::Set(F32(), 1.0f);
  // Held where e^-x has an inverse: below the smallest float that is not denormal.
  return inverse(hn::Add(one, exp(hn::Neg(at_least(x, -88.0f)))));
}

// The standard normal distribution function and density, for z = min(|x|, kNormalEnd):
// exp(-z^2 / 2), and Phi(-z) = exp(-z^2 / 2) tail with tail = t P(t), t = 1 / (1 + 39/128 z), P of
// degree 7 (relative error 1e-7). Relative error of Phi(-z) below 4e-7 + z^2 5e-8, the
// second from the rounding of z^2.
constexpr float kNormalEnd = 14.5f;  // beyond it everything is below the smallest float
struct NormalParts {
  Vec z;
  Vec bell;  // exp(-z^2 / 2)
  Vec tail;
};
HWY_INLINE NormalParts normal_parts(Vec x) {
  const F32 d;
  const Vec one = hn::Set(d, 1.0f);
  const Vec z = at_most(hn::Abs(x), kNormalEnd);
  // 2^(-z^2 log2(e) / 2) = 2^n 2^f with |f| <= 1/2 and a polynomial of degree 5 (7.5e-8).
  const Vec scaled = hn::Mul(z, hn::Set(d, -0.721347520444481704f));
  const Vec shifted = hn::MulAdd(scaled, z, hn::Set(d, kRound));
  const Vec n = hn::Sub(shifted, hn::Set(d, kRound));
  const Vec f = hn::MulSub(scaled, z, n);
  Vec e = hn::Set(d, 1.32764806e-3f);
  e = hn::MulAdd(e, f, hn::Set(d, 9.675541655e-3f));
  e = hn::MulAdd(e, f, hn::Set(d, 5.550713254e-2f));
  e = hn::MulAdd(e, f, hn::Set(d, 2.402211972e-1f));
  e = hn::MulAdd(e, f, hn::Set(d, 6.931469671e-1f));
  e = hn::MulAdd(e, f, hn::Set(d, 1.000000072f));
  const Vec t = inverse(hn::MulAdd(z, hn::Set(d, 0.3046875f), one));
  Vec p = hn::Set(d, 3.656427432e-2f);
  p = hn::MulAdd(p, t, hn::Set(d, -1.529631908e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.864841694e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, -3.8461577e-2f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.212343433e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.032793927e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.22347762e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.215148358e-1f));
  return {z, times_power(e, n, shifted), hn::Mul(p, t)};
}

// Phi(x) and phi(x).
struct Normal {
  Vec cumulative;
  Vec density;
};
HWY_INLINE Normal normal(Vec x) {
  const F32 d;
  const NormalParts parts = normal_parts(x);
  const Vec below = hn::Mul(parts.bell, parts.tail);  // Phi(-z)
  const auto negative = hn::Lt(x, hn::Zero(d));
  return {hn::IfThenElse(negative, below, hn::Sub(hn::Set(d, 1.0f), below)),
          hn::Mul(parts.bell, hn::Set(d, 0.398942280401432678f))};
}

// x Phi(x) (Hendrycks and Gimpel 2016) = max(x, 0) - z Phi(-z), and its derivative
// Phi(x) + x phi(x), which is Phi(-z) - z phi(z) below 0 and 1 minus that above.
HWY_INLINE Vec gelu(Vec x) {
  const NormalParts parts = normal_parts(x);
  return hn::NegMulAdd(hn::Mul(parts.z, parts.tail), parts.bell, at_least(x, 0.0f));
}
HWY_INLINE Vec gelu_slope(Vec x) {
  const F32 d;
  const NormalParts parts = normal_parts(x);
  const Vec below =
      hn::Mul(parts.bell, hn::NegMulAdd(parts.z, hn::Set(d, 0.398942280401432678f), parts.tail));
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), below, hn::Sub(hn::Set(d, 1.0f), below));
}

// x sigmoid(x), and its derivative s (1 + x (1 - s)).
HWY_INLINE Vec silu(Vec x) {
  // -infinity times 0 would be NaN.
  return hn::Mul(at_least(x, -104.0f), sigmoid(x));
}
HWY_INLINE Vec silu_slope(Vec x) {
  const Vec one = hn::Set(F32(), 1.0f);
  const Vec held = at_most(at_least(x, -104.0f), 104.0f);
  const Vec s = sigmoid(held);
  return hn::Mul(s, hn::MulAdd(held, hn::Sub(one, s), one));
}

// max(x, 0), NaN stays; its derivative is 1 above 0.
HWY_INLINE Vec relu(Vec x) { return at_least(x, 0.0f); }
HWY_INLINE Vec relu_slope(Vec x) {
  const F32 d;
  return hn::IfThenElseZero(hn::Gt(x, hn::Zero(d)), hn::Set(d, 1.0f));
}

// Relative error below 4e-7: x N(x^2) / D(x^2), of degrees 4 and 5, for |x| <= 9, beyond which it
// is 1.
HWY_INLINE Vec tanh(Vec x) {
  const F32 d;
  const Vec held = at_most(at_least(x, -9.0f), 9.0f);
  const Vec u = hn::Mul(held, held);
  Vec n = hn::Set(d, 6.470940184e-8f);
  n = hn::MulAdd(n, u, hn::Set(d, 3.564553439e-5f));
  n = hn::MulAdd(n, u, hn::Set(d, 4.196914676e-3f));
  n = hn::MulAdd(n, u, hn::Set(d, 1.393360444e-1f));
  n = hn::MulAdd(n, u, hn::Set(d, 1.0f));
  Vec q = hn::Set(d, 1.013783293e-9f);
  q = hn::MulAdd(q, u, hn::Set(d, 1.929091358e-6f));
  q = hn::MulAdd(q, u, hn::Set(d, 4.546790533e-4f));
  q = hn::MulAdd(q, u, hn::Set(d, 2.842000146e-2f));
  q = hn::MulAdd(q, u, hn::Set(d, 4.726694128e-1f));
  q = hn::MulAdd(q, u, hn::Set(d, 1.0f));
  const Vec y = hn::Mul(hn::Mul(held, n), inverse(q));
  return at_most(at_least(y, -1.0f), 1.0f);
}

// Relative error below 4e-7: below 1 an odd polynomial of degree 13, above it 1 - 2 Phi(-sqrt(2)
// |x|).
HWY_INLINE Vec erf(Vec x) {
  const F32 d;
  const Vec u = hn::Mul(x, x);
  Vec p = hn::Set(d, 7.853860632e-5f);
  p = hn::MulAdd(p, u, hn::Set(d, -8.010193659e-4f));
  p = hn::MulAdd(p, u, hn::Set(d, 5.188327729e-3f));
  p = hn::MulAdd(p, u, hn::Set(d, -2.685381199e-2f));
  p = hn::MulAdd(p, u, hn::Set(d, 1.128358515e-1f));
  p = hn::MulAdd(p, u, hn::Set(d, -3.761262582e-1f));
  p = hn::MulAdd(p, u, hn::Set(d, 1.128379166f));
  const NormalParts parts = normal_parts(hn::Mul(x, hn::Set(d, 1.41421356237309505f)));
  const Vec below = hn::Mul(parts.bell, parts.tail);
  const Vec far = hn::CopySign(hn::NegMulAdd(below, hn::Set(d, 2.0f), hn::Set(d, 1.0f)), x);
  return hn::IfThenElse(hn::Lt(hn::Abs(x), hn::Set(d, 1.0f)), hn::Mul(x, p), far);
}

// Error below 2e-7 max(1, |log x|): x = 2^n (1 + r) with 1 + r from sqrt(1/2) to sqrt(2), and
// r - r^2 / 2 + r^3 P(r). -infinity for 0 and denormal x, NaN below 0.
HWY_INLINE Vec log(Vec x) {
  const F32 d;
  const I32 di;
  const auto bits = hn::BitCast(di, x);
  const auto k = hn::ShiftRight<23>(hn::Sub(bits, hn::BitCast(di, hn::Set(d, 0.707106781f))));
  const Vec r = hn::Sub(hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<23>(k))), hn::Set(d, 1.0f));
  const Vec n = hn::ConvertTo(d, k);
  Vec p = hn::Set(d, 7.037643744e-2f);
  p = hn::MulAdd(p, r, hn::Set(d, -1.151459771e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.16770091e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, -1.242014371e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.424932195e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, -1.666805749e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 2.000071479e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, -2.4999994e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 3.333333117e-1f));
  const Vec square = hn::Mul(r, r);
  Vec y = hn::Mul(hn::Mul(square, r), p);
  y = hn::MulAdd(n, hn::Set(d, -2.12194440e-4f), y);
  y = hn::NegMulAdd(square, hn::Set(d, 0.5f), y);
  y = hn::MulAdd(n, hn::Set(d, 0.693359375f), hn::Add(y, r));
  const Vec infinity = hn::Set(d, HUGE_VALF);
  y = hn::IfThenElse(hn::Lt(x, hn::Set(d, 0x1p-126f)), hn::Neg(infinity), y);
  y = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Set(d, NAN), y);
  // Infinity and NaN are their own logarithms.
  return hn::IfThenElse(hn::Lt(x, infinity), y, x);
}

}  // namespace simd
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

// Loops and functions that the plain kernels share, in a form that compilers turn into vector code:
// fixed groups of kLanes, loads before stores (so an output may be an input), no libm in float.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numbers>
#include <type_traits>

#include "fovea/base/thread_pool.h"

namespace fovea::lanes {

constexpr int kLanes = 16;
// Rows in a block of rows whose partial sums are kept, and elements in a block of flat work.
constexpr int64_t kRowBlock = 256;
constexpr int64_t kFlatBlock = 16384;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of `cols` elements that make a block of about kFlatBlock elements, at most kRowBlock.
inline int64_t rows_in_block(int64_t cols) {
  return std::clamp<int64_t>(kFlatBlock / std::max<int64_t>(cols, 1), 1, kRowBlock);
}

// Calls row(r) for each of `rows` rows of `cols` elements, in blocks over the pool.
template <class F>
inline void for_rows(ThreadPool& pool, int64_t rows, int64_t cols, F row) {
  const int64_t size = rows_in_block(cols);
  pool.parallel_for(ceil_div(rows, size), [&](int64_t block, int) {
    const int64_t last = std::min(rows, (block + 1) * size);
    for (int64_t r = block * size; r < last; ++r) row(r);
  });
}

// Calls body(start, n) for the pieces of n <= kFlatBlock elements that make up `count`, over the
// pool.
template <class F>
inline void for_flat(ThreadPool& pool, int64_t count, F body) {
  pool.parallel_for(ceil_div(count, kFlatBlock), [&](int64_t block, int) {
    const int64_t start = block * kFlatBlock;
    body(start, std::min(kFlatBlock, count - start));
  });
}

// Copies `count` elements, unless they are to stay where they are.
inline void keep(int64_t count, const void* from, void* to, size_t element_size) {
  if (from != to && count > 0) std::memcpy(to, from, static_cast<size_t>(count) * element_size);
}

// y[i] = f(a[i]...) for i in [0, n). y may be one of the a.
template <class R, class F, class... A>
inline void map(int64_t n, R* y, F f, const A*... a) {
  const int64_t whole = n - n % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    R t[kLanes];
    for (int j = 0; j < kLanes; ++j) t[j] = f(a[i + j]...);
    for (int j = 0; j < kLanes; ++j) y[i + j] = t[j];
  }
  for (int64_t i = whole; i < n; ++i) y[i] = f(a[i]...);
}

// Folds f(a[i]...) with `join`, starting from `first`: kLanes partial results, joined in a fixed
// order.
template <class S, class J, class F, class... A>
inline S fold(int64_t n, S first, J join, F f, const A*... a) {
  S lane[kLanes];
  for (int j = 0; j < kLanes; ++j) lane[j] = first;
  const int64_t whole = n - n % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lane[j] = join(lane[j], f(a[i + j]...));
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) lane[j] = join(lane[j], lane[j + half]);
  for (int64_t i = whole; i < n; ++i) lane[0] = join(lane[0], f(a[i]...));
  return lane[0];
}

template <class S, class F, class... A>
inline S sum(int64_t n, F f, const A*... a) {
  return fold(
      n, S{0}, [](S u, S v) { return u + v; }, f, a...);
}

// The larger of the two; a NaN wins.
template <class T>
inline T larger(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return (a > b || a != a) ? a : b;
  return a > b ? a : b;
}
template <class T>
inline T smaller(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return (a < b || a != a) ? a : b;
  return a < b ? a : b;
}

// The largest of a[0, n), NaN if one of them is; -infinity for n = 0.
template <class T>
inline T max_of(int64_t n, const T* a) {
  return fold(
      n, -std::numeric_limits<T>::infinity(), [](T u, T v) { return larger(u, v); },
      [](T v) { return v; }, a);
}

inline int32_t bits(float x) { return std::bit_cast<int32_t>(x); }
inline float from_bits(int32_t b) { return std::bit_cast<float>(b); }

// e^x. float: reduction by powers of two and a polynomial of degree 6 (Chebyshev points; relative
// error below 2e-7); exp(-inf) = 0, exp(inf) = inf, NaN stays. Written without branches and
// comparisons, which would keep the compiler from vector code.
inline double exp(double x) { return std::exp(x); }
inline float exp(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr int32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000, kQuietNan = 0x7fc00000;
  const int32_t magnitude = bits(x) & kMagnitude;
  const int32_t nan = ((kInfinity - magnitude) >> 31) & kQuietNan;
  const int32_t over = magnitude - std::bit_cast<int32_t>(104.0f);
  x = from_bits(bits(x) - (over & ~(over >> 31)));  // clamped to [-104, 104]
  const float shifted = x * std::numbers::log2e_v<float> + kRound;
  const float n = shifted - kRound;
  // ln 2 in two parts, the first short enough that its product with n is exact.
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.394111891e-3f;
  p = p * r + 8.375134775e-3f;
  p = p * r + 4.166635277e-2f;
  p = p * r + 1.666641541e-1f;
  p = p * r + 5.000000047e-1f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // 2^n as two factors, so that results over and under the range become infinity and zero.
  const int32_t k = bits(shifted) - bits(kRound);
  const int32_t k1 = k >> 1;
  const float y = p * from_bits((k1 + 127) << 23) * from_bits((k - k1 + 127) << 23);
  return from_bits(bits(y) | nan);
}

template <class T>
inline T sigmoid(T x) {
  return T{1} / (T{1} + exp(-x));
}

// The standard normal distribution function Phi(x) and density phi(x).
template <class T>
struct Normal {
  T cumulative;
  T density;
};
inline Normal<double> normal(double x) {
  return {0.5 * std::erfc(-x * (std::numbers::sqrt2 / 2)),
          std::exp(-0.5 * x * x) * (std::numbers::inv_sqrtpi / std::numbers::sqrt2)};
}
// float: erfc(z) = exp(-z^2) t P(t), t = 1 / (1 + z / 2), z = |x| / sqrt(2), with P of degree 8
// fitted at Chebyshev points (relative error 5e-8 for z < 9.5), so both tails keep their relative
// accuracy.
inline Normal<float> normal(float x) {
  constexpr float kHalfSqrt2 = std::numbers::sqrt2_v<float> / 2;
  const float z = std::abs(x) * kHalfSqrt2;
  const float t = 1.0f / (1.0f + 0.5f * z);
  const float e = exp(-0.5f * x * x);
  float p = -5.933812589e-2f;
  p = p * t + 2.859796717e-1f;
  p = p * t - 4.902760465e-1f;
  p = p * t + 2.817421930e-1f;
  p = p * t - 2.923109799e-2f;
  p = p * t + 2.038022608e-1f;
  p = p * t + 2.428240908e-1f;
  p = p * t + 2.824126132e-1f;
  p = p * t + 2.820844014e-1f;
  const float tail = 0.5f * e * t * p;
  const int32_t negative = bits(x) >> 31;
  return {from_bits((bits(tail) & negative) | (bits(1.0f - tail) & ~negative)),
          e * (std::numbers::inv_sqrtpi_v<float> * kHalfSqrt2)};
}

}  // namespace fovea::lanes

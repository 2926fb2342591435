// SIMD parts shared by the attention kernels, included once a target. Everywhere the lanes run over
// queries (or over the columns of the right operand), so row maxima and sums need no horizontal
// step.
#if defined(FOVEA_KERNELS_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_ATTENTION_INL_H_
#undef FOVEA_KERNELS_ATTENTION_INL_H_
#else
#define FOVEA_KERNELS_ATTENTION_INL_H_
#endif

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "fovea/kernels/attention.h"
#include "fovea/kernels/rows-inl.h"
#include "hwy/highway.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using simd::F32;
using simd::I32;
using simd::kLanes;
using simd::Vec;
using simd::whole_vectors;

constexpr double kLog2E = 1.4426950408889634;

constexpr int kTileVecs = 3;
// As many accumulators as the registers hold beside the operands.
constexpr int kTileRows = HWY_TARGET == HWY_AVX3 ? 8 : 4;

// 2^x, relative error below 2e-7; exactly 1 at 0, and 0 below -127. For x < 128. NaN stays NaN.
// The polynomial is the minimax one of degree 5 for 2^f on [0, 1) with p(0) = 1 (8.3e-8).
HWY_INLINE Vec exp2(Vec x) {
  const F32 d;
#if HWY_TARGET == HWY_AVX3
  const Vec fraction{_mm512_reduce_ps(x.raw, 0x09)};  // x - floor(x); 0 at -infinity
#else
  x = hn::Max(hn::Set(d, -127.0f), x);
  const Vec whole = hn::Floor(x);
  const Vec fraction = hn::Sub(x, whole);
#endif
  Vec p = hn::Set(d, 0.0018671300724391285f);
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.009017030315890247f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.05579991310967655f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.2401644501528686f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.6931513118048798f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 1.0f));
#if HWY_TARGET == HWY_AVX3
  return Vec{_mm512_scalef_ps(p.raw, x.raw)};
#else
  const I32 di;
  const auto exponent = hn::Add(hn::ConvertTo(di, whole), hn::Set(di, 127));
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(exponent)));
#endif
}

// What a product does with what stands in C already.
enum class Into {
  set,      // C = A B
  set_max,  // and keeps the maximum of each column in lane_row
  add,      // C += A B
  rescale,  // C = lane_row * C + A B, column by column
};

// Which index of A is contiguous: A(row, step) is a[row * a_stride + step] or a[step * a_stride +
// row].
enum class Contiguous { step, row };

// C[rows][columns] from A[rows][steps] and B[steps][columns]. B, C and lane_row are aligned.
struct Product {
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  float* lane_row;  // for set_max and rescale
  int64_t steps;
};

template <Into kInto, Contiguous kA, int kRows, int kVecs>
HWY_INLINE void product_tile(const Product& x, const float* HWY_RESTRICT a,
                             const float* HWY_RESTRICT b, float* HWY_RESTRICT c,
                             float* HWY_RESTRICT lane_row) {
  const F32 d;
  Vec sum[kRows][kVecs];
  FOVEA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      if constexpr (kInto == Into::add) {
        sum[r][v] = hn::Load(d, c + r * x.c_stride + v * kLanes);
      } else if constexpr (kInto == Into::rescale) {
        sum[r][v] = hn::Mul(hn::Load(d, c + r * x.c_stride + v * kLanes),
                            hn::Load(d, lane_row + v * kLanes));
      } else {
        sum[r][v] = hn::Zero(d);
      }
    }
  }
  const int64_t steps = x.steps, a_stride = x.a_stride, b_stride = x.b_stride;
  for (int64_t k = 0; k < steps; ++k) {
    Vec right[kVecs];
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) right[v] = hn::Load(d, b + v * kLanes);
    FOVEA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec left = hn::Set(d, kA == Contiguous::step ? a[r * a_stride] : a[r]);
      FOVEA_UNROLL
      for (int v = 0; v < kVecs; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
    }
    a += kA == Contiguous::step ? 1 : a_stride;
    b += b_stride;
  }
  FOVEA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) hn::Store(sum[r][v], d, c + r * x.c_stride + v * kLanes);
  }
  if constexpr (kInto == Into::set_max) {
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      Vec max = hn::Load(d, lane_row + v * kLanes);
      FOVEA_UNROLL
      for (int r = 0; r < kRows; ++r) max = hn::Max(max, sum[r][v]);
      hn::Store(max, d, lane_row + v * kLanes);
    }
  }
}

template <Into kInto, Contiguous kA, int kVecs>
HWY_NOINLINE void product_columns(const Product& x, int64_t rows, int64_t column) {
  const int64_t a_row = kA == Contiguous::step ? x.a_stride : 1;
  const float* b = x.b + column;
  constexpr bool kLaneRow = kInto == Into::set_max || kInto == Into::rescale;
  float* lane_row = kLaneRow ? x.lane_row + column : nullptr;
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows)
    product_tile<kInto, kA, kTileRows, kVecs>(x, x.a + r * a_row, b, x.c + r * x.c_stride + column,
                                              lane_row);
  if (kTileRows > 4 && r + 4 <= rows) {
    product_tile<kInto, kA, 4, kVecs>(x, x.a + r * a_row, b, x.c + r * x.c_stride + column,
                                      lane_row);
    r += 4;
  }
  if (r + 2 <= rows) {
    product_tile<kInto, kA, 2, kVecs>(x, x.a + r * a_row, b, x.c + r * x.c_stride + column,
                                      lane_row);
    r += 2;
  }
  if (r < rows)
    product_tile<kInto, kA, 1, kVecs>(x, x.a + r * a_row, b, x.c + r * x.c_stride + column,
                                      lane_row);
}

// vecs: columns in vectors, cut into pieces of nearly equal width that fit the registers.
template <Into kInto, Contiguous kA>
HWY_INLINE void product(const Product& x, int64_t rows, int64_t vecs) {
  int64_t pieces = (vecs + kTileVecs - 1) / kTileVecs;
  for (int64_t column = 0; pieces > 0; --pieces) {
    const int64_t width = (vecs + pieces - 1) / pieces;
    if (width == 3) product_columns<kInto, kA, 3>(x, rows, column);
    if (width == 2) product_columns<kInto, kA, 2>(x, rows, column);
    if (width == 1) product_columns<kInto, kA, 1>(x, rows, column);
    column += width * kLanes;
    vecs -= width;
  }
}

// dst[column][row] = factor * src[row][column], or += if kAdd.
template <bool kAdd>
HWY_INLINE void transpose(const float* HWY_RESTRICT src, int64_t src_stride, int64_t rows,
                          int64_t columns, float factor, float* HWY_RESTRICT dst,
                          int64_t dst_stride) {
  const hn::FixedTag<float, 4> d;
  const hn::FixedTag<double, 2> pairs;
  const auto f = hn::Set(d, factor);
  const auto scalar = [&](int64_t r, int64_t c) HWY_ATTR {
    const float value = factor * src[r * src_stride + c];
    float& to = dst[c * dst_stride + r];
    to = kAdd ? to + value : value;
  };
  const auto put = [&](hn::Vec<decltype(pairs)> value, float* to) HWY_ATTR {
    auto scaled = hn::Mul(hn::BitCast(d, value), f);
    if (kAdd) scaled = hn::Add(scaled, hn::LoadU(d, to));
    hn::StoreU(scaled, d, to);
  };
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const float* from = src + r * src_stride;
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
      const auto r0 = hn::LoadU(d, from + c), r1 = hn::LoadU(d, from + src_stride + c);
      const auto r2 = hn::LoadU(d, from + 2 * src_stride + c);
      const auto r3 = hn::LoadU(d, from + 3 * src_stride + c);
      const auto low01 = hn::BitCast(pairs, hn::InterleaveLower(d, r0, r1));
      const auto high01 = hn::BitCast(pairs, hn::InterleaveUpper(d, r0, r1));
      const auto low23 = hn::BitCast(pairs, hn::InterleaveLower(d, r2, r3));
      const auto high23 = hn::BitCast(pairs, hn::InterleaveUpper(d, r2, r3));
      float* to = dst + c * dst_stride + r;
      put(hn::InterleaveLower(pairs, low01, low23), to);
      put(hn::InterleaveUpper(pairs, low01, low23), to + dst_stride);
      put(hn::InterleaveLower(pairs, high01, high23), to + 2 * dst_stride);
      put(hn::InterleaveUpper(pairs, high01, high23), to + 3 * dst_stride);
    }
    for (; c < columns; ++c)
      for (int64_t i = r; i < r + 4; ++i) scalar(i, c);
  }
  for (; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) scalar(r, c);
}

// factor * the rows of queries into [dim][width], absent queries as zeros.
HWY_INLINE void load_transposed(const float* src, int64_t stride, int64_t queries, int64_t dim,
                                float factor, float* dst, int64_t width) {
  if (queries % kLanes != 0) {
    const F32 d;
    for (int64_t c = 0; c < dim; ++c)
      hn::Store(hn::Zero(d), d, dst + c * width + queries / kLanes * kLanes);
  }
  transpose<false>(src, stride, queries, dim, factor, dst, width);
}

// Rows of dim elements to rows of padded floats; the last vector is filled up with zeros.
template <class T>
HWY_INLINE void copy_rows(const T* from, int64_t stride, int64_t rows, int64_t dim, float* to,
                          int64_t padded) {
  int64_t r = 0;
  if (dim == kLanes) {
    for (; r + 4 <= rows; r += 4, from += 4 * stride, to += 4 * padded) {
      const Vec x0 = simd::load(from), x1 = simd::load(from + stride);
      const Vec x2 = simd::load(from + 2 * stride), x3 = simd::load(from + 3 * stride);
      simd::store(x0, to);
      simd::store(x1, to + padded);
      simd::store(x2, to + 2 * padded);
      simd::store(x3, to + 3 * padded);
    }
  }
  for (; r < rows; ++r, from += stride, to += padded) {
    simd::for_columns(
        dim, [&](int64_t c, auto n) HWY_ATTR { simd::store(simd::get(from + c, n), to + c); });
  }
}

// Rows of padded floats to rows of dim elements.
template <class T>
HWY_INLINE void store_rows(const float* from, int64_t padded, int64_t rows, int64_t dim, T* to,
                           int64_t stride) {
  int64_t r = 0;
  if (dim == kLanes) {
    for (; r + 2 <= rows; r += 2, from += 2 * padded, to += 2 * stride) {
      const Vec x0 = simd::load(from), x1 = simd::load(from + padded);
      simd::store(x0, to);
      simd::store(x1, to + stride);
    }
  }
  for (; r < rows; ++r, from += padded, to += stride) {
    simd::for_columns(
        dim, [&](int64_t c, auto n) HWY_ATTR { simd::put(simd::load(from + c), to + c, n); });
  }
}

template <class T>
HWY_INLINE void fill_zero(T* at, int64_t n) {
  for (int64_t i = 0; i < n; ++i) at[i] = T(0.0f);
}

template <class T>
HWY_INLINE void write_zeros(T* to, const AttentionStrides& strides, int64_t rows, int64_t dim) {
  for (int64_t r = 0; r < rows; ++r, to += strides.token) fill_zero(to, dim);
}

struct Rows {
  const float* first;
  int64_t stride;
};

// Rows copied to `room`, padded with zeros to whole vectors.
template <class T>
HWY_INLINE Rows copied(const T* from, const AttentionStrides& strides, int64_t rows, int64_t dim,
                       float* room) {
  const int64_t padded = whole_vectors(dim);
  copy_rows(from, strides.token, rows, dim, room, padded);
  return {room, padded};
}

// Rows as they lie, or copied to `gathered` if they are scattered or not floats.
template <class T>
HWY_INLINE Rows gather_rows(const T* from, const AttentionStrides& strides, int64_t rows,
                            int64_t dim, float* gathered) {
  if constexpr (std::is_same_v<T, float>) {
    if (!attention_detail::scattered(strides, dim)) return {from, strides.token};
  }
  return copied(from, strides, rows, dim, gathered);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

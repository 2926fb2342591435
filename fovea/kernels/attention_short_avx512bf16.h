// What the two directions of attention for short sequences share where products are formed by
// vdpbf16ps; not for callers. Every product takes its left operand as pairs that are broadcast and
// its right one as vectors of pairs. The last vector of 16 lanes is a half where 8 suffice.
#pragma once

#include <cstring>
#include <utility>

#include "fovea/kernels/attention_short.h"
#include "fovea/kernels/avx512_bf16.h"

namespace fovea::attention_detail {

// As the others for short sequences; nullptr where the problem is not one for them.
std::unique_ptr<KernelPlan<AttentionArgs>> plan_short_avx512bf16(const AttentionProblem& problem);
std::unique_ptr<KernelPlan<AttentionBackwardArgs>> plan_backward_short_avx512bf16(
    const AttentionProblem& problem);

}  // namespace fovea::attention_detail

#if FOVEA_AVX512_BF16
namespace fovea::attention_detail::short_bf16 {

constexpr int64_t kMostDim = 64;
constexpr int64_t kPieceLanes = 64;          // that a tile covers at most
constexpr int64_t kRowBytes = 2 * kMostDim;  // from a copied row of K or V to the next
constexpr int64_t kWideRowBytes = 2 * 128;   // of 128 queries
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// Positions are left to the kernels that skip what they mask.
inline bool supported(const AttentionProblem& p) {
  const auto fits = [](int64_t dim) { return dim % 16 == 0 && dim <= kMostDim; };
  return is_plain(p) && !reads_cache(p) && p.dtype == DType::bf16 &&
         std::max(p.tq, p.tk) <= kShortTokens && fits(p.head_dim) && fits(p.value_dim) &&
         !p.causal && p.window_left < 0 && p.window_right < 0 && avx512_bf16::available();
}

inline int64_t pairs(int64_t n) { return (n + 1) / 2; }

// Lanes in whole vectors and a half.
struct Vectors {
  explicit Vectors(int64_t lanes) : whole((lanes + 7) / 16), half(lanes > 16 * whole) {}
  int64_t whole;
  bool half;
};

// C[row][lane] = sum over pairs of A(row, step) . B[step][lane], for 1 to 64 lanes.
struct Product {
  const std::byte* a;  // a pair, 4 bytes
  int64_t a_step;      // bytes
  const uint32_t* b;
  int64_t b_step;  // pairs
  int64_t steps;
  float* c;
  int64_t c_row;
  bf16* out;
  int64_t out_row;
  float* extra;
};

enum class Finish {
  max,          // to C; extra[lane] becomes the maximum of itself and the lane's results
  store,        // to C
  add,          // to what stands in C
  round,        // to `out`
  scale_round,  // row r times extra[r], to `out`
};

}  // namespace fovea::attention_detail::short_bf16

FOVEA_AVX512_BF16_BEGIN
namespace fovea::attention_detail::short_bf16 {

// What is done alike for vectors of 16 and of 8 floats.
struct Whole {
  using F = __m512;
  static constexpr int64_t kLanes = 16;
  static F zero() { return _mm512_setzero_ps(); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_load_ps(p); }
  static void store(float* p, F x) { _mm512_store_ps(p, x); }
  static __m512i load_pairs(const uint32_t* p) { return _mm512_load_si512(p); }
  static F dot(F sum, __m512i left, __m512i right) {
    return _mm512_dpbf16_ps(sum, (__m512bh)left, (__m512bh)right);
  }
  static F max(F a, F b) { return _mm512_maskz_max_ps(0xffff, a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F fms(F a, F b, F c) { return _mm512_fmsub_ps(a, b, c); }
  static F fraction(F x) { return _mm512_maskz_reduce_ps(0xffff, x, 1); }
  static F scale(F x, F power) { return _mm512_maskz_scalef_ps(0xffff, x, power); }
  // Whether some |x| is larger, or not a number.
  static bool beyond(F x, float most) {
    return _mm512_cmp_ps_mask(max(x, zero() - x), set(most), _CMP_NLE_UQ) != 0;
  }
  static __m256i narrow(F x) { return (__m256i)_mm512_cvtneps_pbh(x); }
  static void store_narrow(void* p, F x) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), narrow(x));
  }
  // Pairs (even[c], odd[c]).
  static void store_pairs(uint32_t* p, F even, F odd) {
    _mm512_store_si512(p, join((__m512i)_mm512_cvtne2ps_pbh(odd, even)));
  }
  // (x[c], x[c + 16])
  static __m512i join(__m512i x) {
    const __m256i order =
        _mm256_setr_epi8(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10,
                         26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return _mm512_maskz_permutexvar_epi16(0xffffffff, _mm512_maskz_cvtepu8_epi16(0xffffffff, order),
                                          x);
  }
};

struct Half {
  using F = __m256;
  static constexpr int64_t kLanes = 8;
  static F zero() { return _mm256_setzero_ps(); }
  static F set(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_load_ps(p); }
  static void store(float* p, F x) { _mm256_store_ps(p, x); }
  static __m256i load_pairs(const uint32_t* p) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
  }
  static F dot(F sum, __m512i left, __m256i right) {
    const __m256i low = (__m256i)__builtin_shufflevector(left, left, 0, 1, 2, 3);
    return _mm256_dpbf16_ps(sum, (__m256bh)low, (__m256bh)right);
  }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F fms(F a, F b, F c) { return _mm256_fmsub_ps(a, b, c); }
  static F fraction(F x) { return _mm256_maskz_reduce_ps(0xff, x, 1); }
  static F scale(F x, F power) { return _mm256_maskz_scalef_ps(0xff, x, power); }
  static bool beyond(F x, float most) {
    return _mm256_cmp_ps_mask(max(x, zero() - x), set(most), _CMP_NLE_UQ) != 0;
  }
  static void store_narrow(void* p, F x) {
    _mm_storeu_si128(static_cast<__m128i*>(p), (__m128i)_mm256_cvtneps_pbh(x));
  }
  static void store_pairs(uint32_t* p, F even, F odd) {
    const __m128i order = _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    const __m256i x = (__m256i)_mm256_cvtne2ps_pbh(odd, even);
    _mm256_store_si256(reinterpret_cast<__m256i*>(p),
                       _mm256_maskz_permutexvar_epi16(0xffff, _mm256_cvtepu8_epi16(order), x));
  }
};

// 2^x by a polynomial on [0, 1). Relative error 7.5e-5 (degree 3), 7.5e-8 (degree 5).
template <class V, int kDegree>
inline typename V::F exp2(typename V::F x) {
  const typename V::F f = V::fraction(x);
  typename V::F p;
  if constexpr (kDegree == 3) {
    p = V::set(0.0780245227f);
    p = V::fma(p, f, V::set(0.226067155f));
    p = V::fma(p, f, V::set(0.695833541f));
    p = V::fma(p, f, V::set(0.999925219f));
  } else {
    p = V::set(0.00187757667f);
    p = V::fma(p, f, V::set(0.00898934009f));
    p = V::fma(p, f, V::set(0.0558263181f));
    p = V::fma(p, f, V::set(0.240153617f));
    p = V::fma(p, f, V::set(0.693153073f));
    p = V::fma(p, f, V::set(0.999999925f));
  }
  return V::scale(p, x);
}

inline __m512i broadcast_pair(const std::byte* p) {
  int pair;
  std::memcpy(&pair, p, sizeof pair);
  return _mm512_set1_epi32(pair);
}

// kARow: from a row of A to the next, in bytes.
template <int kARow, Finish kFinish, int R, int V, bool H>
[[gnu::noinline]] void tile(const Product& x, int64_t row) {
  __m512 sum[R][V ? V : 1];
  __m256 half[R];
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = Whole::zero();
    if (H) half[r] = Half::zero();
  }
  const std::byte* a = x.a + row * kARow;
  const uint32_t* b = x.b;
  const int64_t a_step = x.a_step, b_step = x.b_step;
  for (int64_t k = x.steps; k > 0; --k) {
    __m512i right[V ? V : 1];
    __m256i half_right;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = Whole::load_pairs(b + 16 * v);
    if (H) half_right = Half::load_pairs(b + 16 * V);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
      const __m512i pair = broadcast_pair(a + r * kARow);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = Whole::dot(sum[r][v], pair, right[v]);
      if (H) half[r] = Half::dot(half[r], pair, half_right);
    }
    a += a_step;
    b += b_step;
  }
  if constexpr (kFinish == Finish::max) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      __m512 max = Whole::load(x.extra + 16 * v);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) max = Whole::max(max, sum[r][v]);
      Whole::store(x.extra + 16 * v, max);
    }
    if constexpr (H) {
      __m256 max = Half::load(x.extra + 16 * V);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) max = Half::max(max, half[r]);
      Half::store(x.extra + 16 * V, max);
    }
  }
  if constexpr (kFinish == Finish::scale_round) {
    const float* factor = x.extra + row;
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = _mm512_mul_ps(sum[r][v], _mm512_set1_ps(factor[r]));
    }
  }
  if constexpr (kFinish == Finish::round || kFinish == Finish::scale_round) {
    const int64_t out_row = x.out_row;
    bf16* out = x.out + row * out_row;
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r, out += out_row) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) Whole::store_narrow(out + 16 * v, sum[r][v]);
    }
    return;
  }
  const int64_t c_row = x.c_row;
  float* c = x.c + row * c_row;
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r, c += c_row) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if constexpr (kFinish == Finish::add)
        sum[r][v] = _mm512_add_ps(sum[r][v], Whole::load(c + 16 * v));
      Whole::store(c + 16 * v, sum[r][v]);
    }
    if constexpr (H) Half::store(c + 16 * V, half[r]);
  }
}

template <int kARow, Finish kFinish, int V, bool H, int... kRow>
inline void run_tiles(const Product& x, int64_t rows, std::integer_sequence<int, kRow...>) {
  using Tile = void (*)(const Product&, int64_t);
  static constexpr Tile kTiles[] = {tile<kARow, kFinish, kRow + 1, V, H>...};
  constexpr int64_t kMost = sizeof...(kRow);
  // Tiles of nearly equal height.
  int64_t pieces = (rows + kMost - 1) / kMost;
  for (int64_t row = 0; pieces > 0; --pieces) {
    const int64_t height = (rows - row) / pieces;
    kTiles[height - 1](x, row);
    row += height;
  }
}

// Rows of accumulators beside the operands.
constexpr int tile_rows(int vectors) {
  return vectors == 1 ? 25 : vectors == 2 ? 12 : vectors == 3 ? 8 : 6;
}

template <int kARow, Finish kFinish, int V, bool H>
inline void product_of(const Product& x, int64_t rows) {
  run_tiles<kARow, kFinish, V, H>(x, rows, std::make_integer_sequence<int, tile_rows(V + H)>());
}

template <int kARow, Finish kFinish>
inline void product(const Product& x, int64_t rows, int64_t whole) {
  if (whole == 1) product_of<kARow, kFinish, 1, false>(x, rows);
  if (whole == 2) product_of<kARow, kFinish, 2, false>(x, rows);
  if (whole == 3) product_of<kARow, kFinish, 3, false>(x, rows);
  if (whole == 4) product_of<kARow, kFinish, 4, false>(x, rows);
}

// ---- Operands

// 16 elements; zeros for null.
inline __m256i load_row(const bf16* p) {
  return p ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)) : _mm256_setzero_si256();
}
inline __m512i two_rows(const bf16* low, const bf16* high) {
  return _mm512_mask_broadcast_i64x4(_mm512_castsi256_si512(load_row(low)), 0xf0, load_row(high));
}

// Of 16 rows' 16 elements: pairs [8][16 rows]. a[i] holds rows i and i + 8.
inline void transpose_pairs(__m512i (&a)[8]) {
  __m512i b[8], c[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm512_maskz_unpacklo_epi32(0xffff, a[i], a[i + 1]);
    b[i + 1] = _mm512_maskz_unpackhi_epi32(0xffff, a[i], a[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    c[i] = _mm512_maskz_unpacklo_epi64(0xff, b[i], b[i + 2]);
    c[i + 1] = _mm512_maskz_unpackhi_epi64(0xff, b[i], b[i + 2]);
    c[i + 2] = _mm512_maskz_unpacklo_epi64(0xff, b[i + 1], b[i + 3]);
    c[i + 3] = _mm512_maskz_unpackhi_epi64(0xff, b[i + 1], b[i + 3]);
  }
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
  const __m512i second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_permutex2var_epi64(c[i], first, c[4 + i]);
    a[4 + i] = _mm512_permutex2var_epi64(c[i], second, c[4 + i]);
  }
}

// use(pair of elements, first row, vector of 16 rows) for all of [rows, dim]; rows that are not
// there are 0.
template <class Use>
inline void each_transposed(const bf16* from, int64_t token, int64_t rows, int64_t dim,
                            const Use& use) {
  for (int64_t r = 0; r < rows; r += 16) {
    const auto row = [&](int64_t i) { return i < rows ? from + i * token : nullptr; };
    for (int64_t d = 0; d < dim; d += 16) {
      __m512i a[8];
      if (r + 16 <= rows) {
        const bf16* at = from + r * token + d;
#pragma GCC unroll 8
        for (int64_t i = 0; i < 8; ++i) a[i] = two_rows(at + i * token, at + (i + 8) * token);
      } else {
#pragma GCC unroll 8
        for (int64_t i = 0; i < 8; ++i) {
          const bf16 *low = row(r + i), *high = row(r + i + 8);
          a[i] = two_rows(low ? low + d : low, high ? high + d : high);
        }
      }
      transpose_pairs(a);
#pragma GCC unroll 8
      for (int64_t i = 0; i < 8; ++i) use(d / 2 + i, r, a[i]);
    }
  }
}

// Pairs along the rows' elements, [dim / 2][lanes]. signs: bits to flip in each pair.
inline void transposed(const bf16* from, int64_t token, int64_t rows, int64_t dim, uint32_t signs,
                       uint32_t* to, int64_t lanes) {
  const __m512i flip = _mm512_set1_epi32(static_cast<int>(signs));
  each_transposed(from, token, rows, dim, [&](int64_t pair, int64_t row, __m512i x) {
    _mm512_store_si512(to + pair * lanes + row, _mm512_xor_si512(x, flip));
  });
}

// Pairs of rows, [pairs(rows)][dim]; after an odd number of rows comes one of zeros.
inline void row_pairs(const bf16* from, int64_t token, int64_t rows, int64_t dim, uint32_t* to) {
  for (int64_t r = 0; r < rows; r += 2, from += 2 * token, to += dim) {
    for (int64_t d = 0; d < dim; d += 16)
      _mm512_store_si512(
          to + d, Whole::join(two_rows(from + d, r + 1 < rows ? from + token + d : nullptr)));
  }
}

// Rows kRowBytes apart.
inline void copy_rows(const bf16* from, int64_t token, int64_t rows, int64_t dim, std::byte* to) {
  for (int64_t r = 0; r < rows; ++r, from += token, to += kRowBytes) {
    for (int64_t d = 0; d < dim; d += 16)
      _mm256_store_si256(reinterpret_cast<__m256i*>(to + 2 * d),
                         _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + d)));
  }
}

inline void write_zeros(bf16* to, int64_t token, int64_t rows, int64_t dim) {
  for (int64_t r = 0; r < rows; ++r, to += token)
    std::memset(static_cast<void*>(to), 0, static_cast<size_t>(dim) * sizeof(bf16));
}

}  // namespace fovea::attention_detail::short_bf16
FOVEA_TARGET_END
#endif  // FOVEA_AVX512_BF16

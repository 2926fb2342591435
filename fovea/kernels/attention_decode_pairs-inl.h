// Pieces of decoding with products of pairs of 16 bits (vdpbf16ps, vpdpwssd), for a cache of bf16
// or i8. Scores: a vector holds sixteen elements of two rows of K, as they stand; the eight parts
// of a score are joined when sixteen keys are done. P V: pairs of rows of V, interleaved within
// lanes of 128 bits. Included where the instructions are allowed; not for callers.
#pragma once

#include <cmath>

#include "fovea/kernels/attention_decode.h"
#include "fovea/kernels/attention_short_avx512bf16.h"

namespace fovea::attention_detail {
namespace {

using short_bf16::broadcast_pair;
using short_bf16::Whole;

constexpr int kRowsAtOnce = 4;
// A row's base is raised when a score exceeds it by so much, as a power of two: powers stay small
// enough for sums in f32, and almost no block has to rescale what stands.
constexpr float kSlack = 8;

// What differs between caches: rows become vectors of 16 bits an element, sums are f32 or whole
// numbers.
struct Bf16Cache {
  using T = bf16;
  using Sum = __m512;
  static constexpr bool kScaled = false;

  // Sixteen elements of two keys.
  static __m512i two_keys(const bf16* a, const bf16* b) {
    return _mm512_maskz_inserti64x4(
        0xff, _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a))),
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)), 1);
  }
  static __m512i row32(const bf16* p) { return _mm512_loadu_si512(p); }
  static Sum zero() { return _mm512_setzero_ps(); }
  static Sum dot(Sum sum, __m512i a, __m512i b) { return Whole::dot(sum, a, b); }
  static Sum add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
  static __m512 number(Sum sum) { return sum; }
};
// Queries and powers get a scale a row, and 16 bits.
struct Int8Cache {
  using T = int8_t;
  using Sum = __m512i;
  static constexpr bool kScaled = true;

  static __m512i two_keys(const int8_t* a, const int8_t* b) {
    return _mm512_maskz_cvtepi8_epi16(
        ~0u, _mm256_inserti128_si256(
                 _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a))),
                 _mm_loadu_si128(reinterpret_cast<const __m128i*>(b)), 1));
  }
  static __m512i row32(const int8_t* p) {
    return _mm512_maskz_cvtepi8_epi16(~0u, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Sum zero() { return _mm512_setzero_si512(); }
  // GCC 12 copies each sum from register to register where the intrinsic stands in a loop.
  static Sum dot(Sum sum, __m512i a, __m512i b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
  static Sum add(__m512 a, __m512 b) { return _mm512_add_epi32((__m512i)a, (__m512i)b); }
  static __m512 number(Sum sum) { return _mm512_maskz_cvtepi32_ps(0xffff, sum); }
};

// Eight parts of each of two keys become four of each of four, then two, then one.
template <class Cache, class Sum = typename Cache::Sum>
inline Sum halves(Sum a, Sum b) {
  return Cache::add(_mm512_maskz_shuffle_f32x4(0xffff, (__m512)a, (__m512)b, 0x88),
                    _mm512_maskz_shuffle_f32x4(0xffff, (__m512)a, (__m512)b, 0xdd));
}
template <class Cache, class Sum = typename Cache::Sum>
inline Sum pairs_joined(Sum a, Sum b) {
  return Cache::add(_mm512_maskz_unpacklo_ps(0xffff, (__m512)a, (__m512)b),
                    _mm512_maskz_unpackhi_ps(0xffff, (__m512)a, (__m512)b));
}
template <class Cache, class Sum = typename Cache::Sum>
inline Sum singles_joined(Sum a, Sum b) {
  return Cache::add((__m512)_mm512_maskz_unpacklo_pd(0xff, (__m512d)a, (__m512d)b),
                    (__m512)_mm512_maskz_unpackhi_pd(0xff, (__m512d)a, (__m512d)b));
}

// Scores of kRows queries with keys j, 4 + j, 8 + j, 12 + j and those one behind them: lane j / 4
// of the result holds two parts of each of its two.
template <class Cache, int kRows>
[[gnu::always_inline]] inline void score_tile(const DecodeKeys<typename Cache::T>& k, int64_t j,
                                              const uint32_t* q, int64_t dim,
                                              typename Cache::Sum (&joined)[kRows]) {
  typename Cache::Sum sum[kRows][4];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) sum[r][g] = Cache::zero();
  const typename Cache::T* at[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) at[i] = k.at[j + i / 2 * 4 + i % 2] + k.offset;
  for (int64_t c = 0; c < dim; c += 32) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
      __builtin_prefetch(k.ahead[j + i / 2 * 4 + i % 2] + k.offset + c, 0, 2);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half, q += 4 * 16) {
      __m512i x[4];
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g)
        x[g] = Cache::two_keys(at[g % 2 * 4 + g / 2] + c + 16 * half,
                               at[g % 2 * 4 + 2 + g / 2] + c + 16 * half);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const __m512i y = _mm512_load_si512(q + 16 * r);
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) sum[r][g] = Cache::dot(sum[r][g], x[g], y);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
    joined[r] = pairs_joined<Cache>(halves<Cache>(sum[r][0], sum[r][1]),
                                    halves<Cache>(sum[r][2], sum[r][3]));
}

// The same for a head_dim of 16 kSteps, with the keys in registers: row by row, so that one row is
// joined while the next one is computed.
template <class Cache, int kRows, int kSteps>
[[gnu::always_inline]] inline void score_tile(const DecodeKeys<typename Cache::T>& k, int64_t j,
                                              const uint32_t* q,
                                              typename Cache::Sum (&joined)[kRows]) {
  constexpr int kKeys = 16 / kSteps;  // vectors of two, that the registers hold
  typename Cache::Sum parts[kRows][2];
#pragma GCC unroll 2
  for (int g = 0; g < 4; g += kKeys) {
    __m512i x[kKeys][kSteps];
#pragma GCC unroll 4
    for (int i = 0; i < kKeys; ++i) {
      const int64_t key = j + (g + i) % 2 * 8 + (g + i) / 2;
      const typename Cache::T *a = k.at[key] + k.offset, *b = k.at[key + 4] + k.offset;
#pragma GCC unroll 8
      for (int s = 0; s < kSteps; ++s) x[i][s] = Cache::two_keys(a + 16 * s, b + 16 * s);
      fetch_ahead(k.ahead[key] + k.offset, 16 * kSteps);
      fetch_ahead(k.ahead[key + 4] + k.offset, 16 * kSteps);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      typename Cache::Sum sum[kKeys];
#pragma GCC unroll 4
      for (int i = 0; i < kKeys; ++i) sum[i] = Cache::zero();
#pragma GCC unroll 8
      for (int s = 0; s < kSteps; ++s) {
        const __m512i y = _mm512_load_si512(q + 16 * (4 * s + r));
#pragma GCC unroll 4
        for (int i = 0; i < kKeys; ++i) sum[i] = Cache::dot(sum[i], x[i][s], y);
      }
#pragma GCC unroll 2
      for (int i = 0; i < kKeys; i += 2) parts[r][(g + i) / 2] = halves<Cache>(sum[i], sum[i + 1]);
      if (g + kKeys == 4) joined[r] = pairs_joined<Cache>(parts[r][0], parts[r][1]);
    }
  }
}

// Scores of kRows queries, times the factors of queries and the scales of keys, in the order of
// keys: [kRows][kDecodeBlock]; most: their largest ones of each lane.
template <class Cache, int kRows, int kSteps>
[[gnu::noinline]] void score_block(const DecodeKeys<typename Cache::T>& k, int64_t keys,
                                   const uint32_t* q, int64_t dim, const float* factors,
                                   const float* scales, float* scores, float* most) {
  __m512 largest[kRows], times[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    largest[r] = _mm512_set1_ps(-HUGE_VALF);
    times[r] = _mm512_set1_ps(factors[r]);
  }
  for (int64_t j = 0; j < keys; j += 16) {
    typename Cache::Sum a[kRows], b[kRows];
    if constexpr (kSteps > 0) {
      score_tile<Cache, kRows, kSteps>(k, j, q, a);
      score_tile<Cache, kRows, kSteps>(k, j + 2, q, b);
    } else {
      score_tile<Cache, kRows>(k, j, q, dim, a);
      score_tile<Cache, kRows>(k, j + 2, q, dim, b);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      __m512 x = _mm512_mul_ps(Cache::number(singles_joined<Cache>(a[r], b[r])), times[r]);
      if constexpr (Cache::kScaled) x = _mm512_mul_ps(x, Whole::load(scales + j));
      Whole::store(scores + r * kDecodeBlock + j, x);
      largest[r] = Whole::max(largest[r], x);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) Whole::store(most + 16 * r, largest[r]);
}

inline float largest_lane(__m512 x) {
  x = Whole::max(x, _mm512_maskz_shuffle_f32x4(0xffff, x, x, 0x4e));
  x = Whole::max(x, _mm512_maskz_shuffle_f32x4(0xffff, x, x, 0xb1));
  x = Whole::max(x, _mm512_maskz_permute_ps(0xffff, x, 0x4e));
  return _mm512_cvtss_f32(Whole::max(x, _mm512_maskz_permute_ps(0xffff, x, 0xb1)));
}
inline float sum_of_lanes(__m512 x) {
  x = _mm512_add_ps(x, _mm512_maskz_shuffle_f32x4(0xffff, x, x, 0x4e));
  x = _mm512_add_ps(x, _mm512_maskz_shuffle_f32x4(0xffff, x, x, 0xb1));
  x = _mm512_add_ps(x, _mm512_maskz_permute_ps(0xffff, x, 0x4e));
  return _mm512_cvtss_f32(_mm512_add_ps(x, _mm512_maskz_permute_ps(0xffff, x, 0xb1)));
}

// scores = by tanh(scores / by), to whole vectors.
inline void cap_scores(float* scores, int64_t keys, float by) {
  const __m512 one = _mm512_set1_ps(1), two = _mm512_set1_ps(2);
  const __m512 times = _mm512_set1_ps(2 * kDecodeLog2E / by);
  for (int64_t j = 0; j < keys; j += 16) {
    const __m512 e = short_bf16::exp2<Whole, 5>(_mm512_mul_ps(Whole::load(scores + j), times));
    const __m512 tanh = _mm512_sub_ps(one, _mm512_div_ps(two, _mm512_add_ps(e, one)));
    Whole::store(scores + j, _mm512_mul_ps(tanh, _mm512_set1_ps(by)));
  }
}

// Scores of `whole` keys, a multiple of 16, become powers in bf16; gives what is to be added to the
// sum.
template <int kDegree>
inline __m512 powers_of(const float* s, int64_t whole, __m512 base, bf16* powers) {
  const auto power = [&](int64_t j) {
    return short_bf16::exp2<Whole, kDegree>(_mm512_sub_ps(Whole::load(s + j), base));
  };
  __m512 even = _mm512_setzero_ps(), odd = even;
  int64_t j = 0;
  for (; j + 32 <= whole; j += 32) {
    const __m512 a = power(j), b = power(j + 16);
    even = _mm512_add_ps(even, a);
    odd = _mm512_add_ps(odd, b);
    _mm512_store_si512(powers + j, avx512_bf16::narrow(a, b));
  }
  if (j < whole) {
    const __m512 a = power(j);
    even = _mm512_add_ps(even, a);
    _mm512_store_si512(powers + j, avx512_bf16::narrow(a, _mm512_setzero_ps()));
  }
  return _mm512_add_ps(even, odd);
}

// The same for an i8 cache: powers times the scales of values become whole numbers of 16 bits, the
// largest of the block 32767; factor: what one of them stands for.
template <int kDegree>
inline __m512 powers_of(float* s, int64_t whole, __m512 base, const float* scales, int16_t* powers,
                        float& factor) {
  __m512 sum = _mm512_setzero_ps(), largest = sum;
  for (int64_t j = 0; j < whole; j += 16) {
    const __m512 x = short_bf16::exp2<Whole, kDegree>(_mm512_sub_ps(Whole::load(s + j), base));
    sum = _mm512_add_ps(sum, x);
    const __m512 y = _mm512_mul_ps(x, Whole::load(scales + j));
    largest = Whole::max(largest, y);
    Whole::store(s + j, y);
  }
  const float most = largest_lane(largest);
  factor = most * (1 / 32767.0f);
  const __m512 inverse = _mm512_set1_ps(most > 1e-30f ? 32767.0f / most : 0.0f);
  for (int64_t j = 0; j < whole; j += 16) {
    const __m512i x = _mm512_maskz_cvtps_epi32(0xffff, _mm512_mul_ps(Whole::load(s + j), inverse));
    _mm256_store_si256(reinterpret_cast<__m256i*>(powers + j),
                       _mm512_maskz_cvtsepi32_epi16(0xffff, x));
  }
  return sum;
}

// O = rescale O + factor P V for kRows queries and 32 kPairs columns; factors: of powers of 16
// bits. out: in the order of the lanes.
template <class Cache, int kRows, int kPairs>
[[gnu::noinline]] void value_tile(const DecodeKeys<typename Cache::T>& v, int64_t keys,
                                  int64_t column, const std::byte* powers, const float* rescale,
                                  const float* factors, float* out, int64_t stride) {
  typename Cache::Sum sum[kRows][2 * kPairs];
  const auto rescaled = [&](int r, int c) {
    return _mm512_mul_ps(Whole::load(out + r * stride + column + 16 * c),
                         _mm512_set1_ps(rescale[r]));
  };
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < 2 * kPairs; ++c) {
      if constexpr (Cache::kScaled)
        sum[r][c] = Cache::zero();
      else
        sum[r][c] = rescaled(r, c);
    }
  }
  const int64_t offset = v.offset + column;
  for (int64_t j = 0; j < keys; j += 2) {
    const typename Cache::T *even = v.at[j] + offset, *odd = v.at[j + 1] + offset;
    fetch_ahead(v.ahead[j] + offset, 32 * kPairs);
    fetch_ahead(v.ahead[j + 1] + offset, 32 * kPairs);
    __m512i x[2 * kPairs];
#pragma GCC unroll 2
    for (int c = 0; c < kPairs; ++c) {
      const __m512i a = Cache::row32(even + 32 * c), b = Cache::row32(odd + 32 * c);
      x[2 * c] = _mm512_unpacklo_epi16(a, b);
      x[2 * c + 1] = _mm512_unpackhi_epi16(a, b);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m512i p = broadcast_pair(powers + (r * kDecodeBlock + j) * 2);
#pragma GCC unroll 4
      for (int c = 0; c < 2 * kPairs; ++c) sum[r][c] = Cache::dot(sum[r][c], p, x[c]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < 2 * kPairs; ++c) {
      __m512 x = Cache::number(sum[r][c]);
      if constexpr (Cache::kScaled)
        x = _mm512_fmadd_ps(x, _mm512_set1_ps(factors[r]), rescaled(r, c));
      Whole::store(out + r * stride + column + 16 * c, x);
    }
  }
}

}  // namespace
}  // namespace fovea::attention_detail

// What the kernels for AVX-512 with bf16 products share: whether the processor has them, and
// bringing operands into pairs of bf16. Everything is compiled for its instructions by attributes
// between FOVEA_AVX512_BF16_BEGIN and FOVEA_TARGET_END; callers ask avx512_bf16::available() first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fovea/base/dtype.h"

namespace fovea::avx512_bf16 {

// Whether the processor has AVX-512 (F, BW, VL, DQ, BF16) and the system saves its registers; asked
// for once.
bool available();

// Whether vdpbf16ps, which takes two products a lane, is issued as often as an fp32 FMA. So it is
// on AMD's processors, from the first that has it (Zen 4) on; on Intel's it runs at half the rate
// of FMA's products, and they have AMX.
bool pays();

}  // namespace fovea::avx512_bf16

namespace fovea::avx512_vnni {

// Whether the processor has AVX-512 (F, BW, VL, DQ, VNNI, VBMI2), as above.
bool available();

}  // namespace fovea::avx512_vnni

#if defined(__x86_64__)
#define FOVEA_AVX512_BF16 1
#include <immintrin.h>

#define FOVEA_AVX512_BF16_TARGET "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"
#define FOVEA_TARGET_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define FOVEA_TARGET_BEGIN(features) \
  FOVEA_TARGET_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define FOVEA_TARGET_END _Pragma("clang attribute pop")
#else
#define FOVEA_TARGET_BEGIN(features) \
  _Pragma("GCC push_options") FOVEA_TARGET_PRAGMA(GCC target(features))
#define FOVEA_TARGET_END _Pragma("GCC pop_options")
#endif
#define FOVEA_AVX512_BF16_BEGIN FOVEA_TARGET_BEGIN(FOVEA_AVX512_BF16_TARGET)

// For all that have AVX-512.
FOVEA_TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")
namespace fovea::avx512_bf16 {

// Transposes 16 x 16 elements of 4 bytes.
inline void transpose(__m512i (&a)[16]) {
  __m512i b[16];
  // In each lane of 128 bits: pairs of rows, then fours.
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_maskz_unpacklo_epi32(0xffff, a[i], a[i + 1]);
    b[i + 1] = _mm512_maskz_unpackhi_epi32(0xffff, a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_maskz_unpacklo_epi64(0xff, b[i], b[i + 2]);
    a[i + 1] = _mm512_maskz_unpackhi_epi64(0xff, b[i], b[i + 2]);
    a[i + 2] = _mm512_maskz_unpacklo_epi64(0xff, b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_maskz_unpackhi_epi64(0xff, b[i + 1], b[i + 3]);
  }
  // a[4 g + c] holds, in lane l, column 4 l + c of rows 4 g to 4 g + 3: now the lanes.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    b[c] = _mm512_maskz_shuffle_i32x4(0xffff, a[c], a[4 + c], 0x88);
    b[4 + c] = _mm512_maskz_shuffle_i32x4(0xffff, a[c], a[4 + c], 0xdd);
    b[8 + c] = _mm512_maskz_shuffle_i32x4(0xffff, a[8 + c], a[12 + c], 0x88);
    b[12 + c] = _mm512_maskz_shuffle_i32x4(0xffff, a[8 + c], a[12 + c], 0xdd);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    a[c] = _mm512_maskz_shuffle_i32x4(0xffff, b[c], b[8 + c], 0x88);
    a[8 + c] = _mm512_maskz_shuffle_i32x4(0xffff, b[c], b[8 + c], 0xdd);
    a[4 + c] = _mm512_maskz_shuffle_i32x4(0xffff, b[4 + c], b[12 + c], 0x88);
    a[12 + c] = _mm512_maskz_shuffle_i32x4(0xffff, b[4 + c], b[12 + c], 0xdd);
  }
}

}  // namespace fovea::avx512_bf16
FOVEA_TARGET_END

FOVEA_AVX512_BF16_BEGIN
namespace fovea::avx512_bf16 {

// The low n bits, 0 <= n.
inline __mmask16 mask16(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1);
}
inline __mmask32 mask32(int64_t n) { return n >= 32 ? 0xffffffffu : n <= 0 ? 0u : (1u << n) - 1; }

inline __m512 widen(__m256i v) {
  return _mm512_castsi512_ps(
      _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, v), 16));
}
// To nearest even; denormals become 0 and a NaN stays one. `low` is stored first.
inline __m512i narrow(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// The first n of 32 elements as bf16, then zeros.
inline __m512i load32(const bf16* p, int64_t n) {
  if (n >= 32) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi16(mask32(n), p);
}
inline __m512i load32(const float* p, int64_t n) {
  if (n >= 32) return narrow(_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16));
  return narrow(_mm512_maskz_loadu_ps(mask16(n), p), _mm512_maskz_loadu_ps(mask16(n - 16), p + 16));
}

// Pairs (even[c], odd[c]) of 32 elements of two rows, c = 0 to 15 and 16 to 31.
struct Pairs {
  __m512i first, second;
};
inline Pairs interleave(__m512i even, __m512i odd) {
  const __m256i low = _mm256_setr_epi8(0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8,
                                       40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47);
  const __m512i first = _mm512_maskz_cvtepu8_epi16(0xffffffff, low);
  const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  return {_mm512_permutex2var_epi16(even, first, odd),
          _mm512_permutex2var_epi16(even, second, odd)};
}

}  // namespace fovea::avx512_bf16
FOVEA_TARGET_END

#else
#define FOVEA_AVX512_BF16 0
#endif

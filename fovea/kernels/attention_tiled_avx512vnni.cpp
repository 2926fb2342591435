// The format of 8 bits with vpdpbusd for tiled attention, forward, against keys and values in i8
// with a scale a row (SageAttention, Zhang et al. 2024, has the same two products in i8). Queries
// get a scale a row when they are loaded. Probabilities become u8, 255 being the largest of a query
// in the block of keys times the largest scale of the block's values; sums are whole numbers within
// a block and f32 beyond it. vpdpbusd wants one operand without a sign: keys stand 128 higher, and
// sums begin at -128 times the sum of the query.
#include <cmath>
#include <cstring>

#include "fovea/kernels/attention_rows.h"
#include "fovea/kernels/attention_tiled.h"
#include "fovea/kernels/avx512_bf16.h"

#if FOVEA_AVX512_BF16

FOVEA_TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi2")
#include "fovea/kernels/attention_tiled_products-inl.h"

namespace fovea::attention_detail {
namespace {

struct Sums {
  using Sum = __m512i;
  static constexpr bool kWhole = true;
  static __m512 number(Sum sum) { return _mm512_maskz_cvtepi32_ps(0xffff, sum); }
};
// GCC 12 copies each sum from register to register where the intrinsic stands in a loop.
inline __m512i dot_bytes(__m512i sum, __m512i without_sign, __m512i with_sign) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(without_sign), "v"(with_sign));
  return sum;
}
struct KeyDot : Sums {
  static Sum start(const int32_t* start, int64_t lane) { return _mm512_load_si512(start + lane); }
  static Sum dot(Sum sum, __m512i left, __m512i right) { return dot_bytes(sum, left, right); }
};
struct ValueDot : Sums {
  static Sum start(const int32_t*, int64_t) { return _mm512_setzero_si512(); }
  static Sum dot(Sum sum, __m512i left, __m512i right) { return dot_bytes(sum, right, left); }
};

inline __mmask16 mask16(int64_t n) {
  return static_cast<__mmask16>((1u << std::clamp<int64_t>(n, 0, 16)) - 1);
}
inline __mmask64 mask64(int64_t n) { return n >= 64 ? ~0ull : (1ull << n) - 1; }

inline __m512 load16(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(mask16(n), p); }
inline __m512 load16(const bf16* p, int64_t n) {
  const __m256i x = _mm256_maskz_loadu_epi16(mask16(n), p);
  return _mm512_castsi512_ps(
      _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, x), 16));
}

inline __m512i absolute_bits(__m512 x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

// Row of 16 elements at a time to 64 bytes; 0 where there are none. inverse: of the scale.
template <class T>
inline __m512i quantised64(const T* from, int64_t n, __m512 inverse) {
  __m512i all = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512 x = _mm512_mul_ps(load16(from + 16 * i, n - 16 * i), inverse);
    const __m128i bytes = _mm512_maskz_cvtsepi32_epi8(0xffff, _mm512_maskz_cvtps_epi32(0xffff, x));
    all = i == 0   ? _mm512_mask_broadcast_i32x4(all, 0x000f, bytes)
          : i == 1 ? _mm512_mask_broadcast_i32x4(all, 0x00f0, bytes)
          : i == 2 ? _mm512_mask_broadcast_i32x4(all, 0x0f00, bytes)
                   : _mm512_mask_broadcast_i32x4(all, 0xf000, bytes);
  }
  return all;
}

template <class T>
void load_queries_of(const TiledQueries& q, const TiledPanel& panel) {
  const auto* from = static_cast<const T*>(q.rows);
  const float sign = q.factor < 0 ? -1.0f : 1.0f;
  const float scale = std::abs(q.factor);
  const int64_t steps = (q.dim + 3) / 4;
  alignas(64) float inverses[16];
  for (int64_t r = 0; r < panel.width; r += 16) {
    for (int64_t i = 0; i < 16; ++i) {
      __m512i largest = _mm512_setzero_si512();  // NaN is larger than all numbers
      const T* row = from + (r + i) * q.token;
      if (r + i < panel.queries)
        for (int64_t c = 0; c < q.dim; c += 16)
          largest =
              _mm512_maskz_max_epu32(0xffff, largest, absolute_bits(load16(row + c, q.dim - c)));
      alignas(64) uint32_t lanes[16];
      _mm512_store_si512(lanes, largest);
      const uint32_t bits = *std::max_element(lanes, lanes + 16);
      float most;
      std::memcpy(&most, &bits, sizeof most);
      // Of zeros any factor is right, and one above 0 wanted. What is not finite leaves NaN.
      const bool zero = most < 1e-30f;
      inverses[i] = zero ? 0.0f : sign * 127.0f / most;
      panel.factor[r + i] = zero ? scale : std::isfinite(most) ? most / 127.0f * scale : NAN;
      panel.start[r + i] = 0;
    }
    __m512i start = _mm512_setzero_si512();
    for (int64_t c = 0; c < q.dim; c += 64) {
      __m512i x[16];
      for (int64_t i = 0; i < 16; ++i)
        x[i] = r + i < panel.queries ? quantised64(from + (r + i) * q.token + c, q.dim - c,
                                                   _mm512_set1_ps(inverses[i]))
                                     : _mm512_setzero_si512();
      avx512_bf16::transpose(x);
      const int64_t count = std::min<int64_t>(16, steps - c / 4);
      for (int64_t s = 0; s < count; ++s) {
        start = _mm512_dpbusd_epi32(start, _mm512_set1_epi8(static_cast<char>(128)), x[s]);
        _mm512_store_si512(panel.q + (c / 4 + s) * panel.width + r, x[s]);
      }
    }
    _mm512_store_si512(panel.start + r, _mm512_sub_epi32(_mm512_setzero_si512(), start));
  }
}

void load_queries(const TiledQueries& from, const TiledPanel& panel) {
  if (from.dtype == DType::f32)
    load_queries_of<float>(from, panel);
  else
    load_queries_of<bf16>(from, panel);
}

inline __m512i load64(const std::byte* p, int64_t n) {
  return n >= 64 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8(mask64(n), p);
}

void load_keys(const TiledRows& from, const TiledBlock& to) {
  const int64_t stride = tiled_columns(from.dim);
  const __m512i higher = _mm512_set1_epi8(static_cast<char>(128));
  for (int64_t j = 0; j < from.count; ++j) {
    for (int64_t c = 0; c < from.dim; c += 64)
      _mm512_store_si512(to.k + j * stride + c,
                         _mm512_xor_si512(load64(from.rows[j] + c, from.dim - c), higher));
    to.k_scale[j] = from.scales[j];
  }
}

void load_values(const TiledRows& from, TiledBlock& to) {
  const int64_t stride = tiled_columns(from.dim);
  uint32_t largest = 0;  // NaN is larger than all numbers
  for (int64_t j = 0; j < from.count; ++j) {
    uint32_t bits;
    std::memcpy(&bits, from.scales + j, sizeof bits);
    largest = std::max(largest, bits & 0x7fffffffu);
  }
  std::memcpy(&to.largest_scale, &largest, sizeof largest);
  const float inverse = largest == 0 ? 0.0f : 1 / to.largest_scale;
  for (int64_t j = 0; j < from.count; ++j) to.v_scale[j] = std::abs(from.scales[j]) * inverse;
  const __m512i zero = _mm512_setzero_si512();
  for (int64_t j = 0; j < from.count; j += 4) {
    uint32_t* const fours = to.v + j / 4 * stride;
    for (int64_t c = 0; c < from.dim; c += 64) {
      __m512i x[4];
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; ++i) {
        const bool there = j + i < from.count;
        x[i] = there ? load64(from.rows[j + i] + c, from.dim - c) : zero;
        if (there && from.scales[j + i] < 0) x[i] = _mm512_subs_epi8(zero, x[i]);
      }
      const __m512i a = _mm512_unpacklo_epi8(x[0], x[1]), b = _mm512_unpackhi_epi8(x[0], x[1]);
      const __m512i e = _mm512_unpacklo_epi8(x[2], x[3]), f = _mm512_unpackhi_epi8(x[2], x[3]);
      // In each 128 bits l: columns 16 l + 4 i to 16 l + 4 i + 3.
      const __m512i fours_of[4] = {_mm512_unpacklo_epi16(a, e), _mm512_unpackhi_epi16(a, e),
                                   _mm512_unpacklo_epi16(b, f), _mm512_unpackhi_epi16(b, f)};
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        uint32_t* at = fours + c + 4 * i;
        _mm_store_si128(reinterpret_cast<__m128i*>(at),
                        _mm512_maskz_extracti32x4_epi32(0xf, fours_of[i], 0));
        _mm_store_si128(reinterpret_cast<__m128i*>(at + 16),
                        _mm512_maskz_extracti32x4_epi32(0xf, fours_of[i], 1));
        _mm_store_si128(reinterpret_cast<__m128i*>(at + 32),
                        _mm512_maskz_extracti32x4_epi32(0xf, fours_of[i], 2));
        _mm_store_si128(reinterpret_cast<__m128i*>(at + 48),
                        _mm512_maskz_extracti32x4_epi32(0xf, fours_of[i], 3));
      }
    }
  }
}

void scores(const AttentionProblem& p, const TiledPanel& panel, const TiledBlock& block,
            int64_t key, int64_t keys, bool with_factor, float* to) {
  const int64_t stride = tiled_columns(p.head_dim);
  const TiledProduct x{.a = block.k + key * stride,
                       .a_row = stride,
                       .a_step = 4,
                       .b = panel.q,
                       .b_step = panel.width,
                       .steps = (p.head_dim + 3) / 4,
                       .c = to,
                       .c_row = panel.width,
                       .lanes = panel.new_max,
                       .row_factor = block.k_scale + key,
                       .lane_factor = panel.factor,
                       .start = panel.start};
  if (with_factor)
    tiled_product<KeyDot, Finish::scaled, Contiguous::step>(x, keys, panel.width);
  else
    tiled_product<KeyDot, Finish::max, Contiguous::step>(x, keys, panel.width);
}

template <int kDegree>
inline void softmax_of(const TiledPanel& panel, const TiledBlock& block, int64_t key, int64_t keys,
                       const float* factors, float* scores) {
  // The lowest byte of a number below 256 plus this is the number, rounded.
  const __m512 round = _mm512_set1_ps(12582912.0f);
  const __m512 most = _mm512_set1_ps(255.0f);
  alignas(64) float to_bytes[kTiledKeys];
  for (int64_t j = 0; j < keys; j += 16)
    _mm512_store_ps(to_bytes + j, _mm512_mul_ps(_mm512_loadu_ps(block.v_scale + key + j), most));
  for (int64_t v = 0; v < panel.width; v += 16) {
    const __m512 factor = _mm512_load_ps(factors + v);
    const __m512 own_max = _mm512_mul_ps(_mm512_load_ps(panel.new_max + v), factor);
    const __m512 own_base = tiled_base(own_max);
    const int64_t stride = panel.width;
    const float* from = scores + v;
    auto* to = reinterpret_cast<uint32_t*>(scores) + v;
    __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    // Of the maximum exactly 1: fused, its score might be above it.
    const auto power = [&](int64_t j, int i) __attribute__((always_inline)) {
      const __m512 x = tiled_exp2<kDegree>(
          _mm512_sub_ps(_mm512_mul_ps(_mm512_load_ps(from + i * stride), factor), own_base));
      sums[i % 2] = _mm512_add_ps(sums[i % 2], x);
      return _mm512_castps_si512(_mm512_fmadd_ps(x, _mm512_set1_ps(to_bytes[j + i]), round));
    };
    int64_t j = 0;
    for (; j + 4 <= keys; j += 4, from += 4 * stride, to += stride) {
      __m512i x = _mm512_maskz_slli_epi32(0xffff, power(j, 0), 24);
      x = _mm512_shrdi_epi32(x, power(j, 1), 8);
      x = _mm512_shrdi_epi32(x, power(j, 2), 8);
      x = _mm512_shrdi_epi32(x, power(j, 3), 8);
      _mm512_store_si512(to, x);
    }
    if (j < keys) {
      const __m512i nothing = _mm512_setzero_si512();
      __m512i x = _mm512_maskz_slli_epi32(0xffff, power(j, 0), 24);
      x = _mm512_shrdi_epi32(x, j + 1 < keys ? power(j, 1) : nothing, 8);
      x = _mm512_shrdi_epi32(x, j + 2 < keys ? power(j, 2) : nothing, 8);
      x = _mm512_shrdi_epi32(x, nothing, 8);
      _mm512_store_si512(to, x);
    }
    const __m512 old_max = _mm512_load_ps(panel.max + v);
    const __m512 max = _mm512_maskz_max_ps(0xffff, old_max, own_max);
    const __m512 base = tiled_base(max);
    const __m512 rescale = tiled_exp2<5>(_mm512_sub_ps(old_max, base));
    const __m512 own = tiled_exp2<5>(_mm512_sub_ps(own_max, base));
    const __m512 before = _mm512_mul_ps(_mm512_load_ps(panel.sum + v), rescale);
    _mm512_store_ps(panel.sum + v, _mm512_fmadd_ps(_mm512_add_ps(sums[0], sums[1]), own, before));
    _mm512_store_ps(panel.rescale + v, rescale);
    _mm512_store_ps(panel.weight + v,
                    _mm512_mul_ps(own, _mm512_set1_ps(block.largest_scale / 255.0f)));
    _mm512_store_ps(panel.max + v, max);
  }
}

// Powers that become 8 bits at once need few digits; the log-sum-exp shall have more.
void softmax(const AttentionProblem& p, const TiledPanel& panel, const TiledBlock& block,
             int64_t key, int64_t keys, const float* factor, float* scores) {
  if (p.want_lse)
    softmax_of<5>(panel, block, key, keys, factor, scores);
  else
    softmax_of<3>(panel, block, key, keys, factor, scores);
}

void values(const AttentionProblem& p, const TiledPanel& panel, const TiledBlock& block,
            int64_t key, int64_t keys, const float* scores) {
  const int64_t stride = tiled_columns(p.value_dim);
  tiled_product<ValueDot, Finish::rescale, Contiguous::row>(
      {.a = reinterpret_cast<const std::byte*>(block.v + key / 4 * stride),
       .a_row = 4,
       .a_step = 4 * stride,
       .b = reinterpret_cast<const uint32_t*>(scores),
       .b_step = panel.width,
       .steps = (keys + 3) / 4,
       .c = panel.ot,
       .c_row = panel.width,
       .lanes = panel.rescale,
       .lane_factor = panel.weight},
      p.value_dim, panel.width);
}

}  // namespace
}  // namespace fovea::attention_detail
FOVEA_TARGET_END

std::unique_ptr<fovea::KernelPlan<fovea::AttentionArgs>>
fovea::attention_detail::plan_tiled_avx512vnni(const AttentionProblem& problem) {
  check(problem, false);
  static const TiledFormat kFormat{.name = "tiled_avx512vnni",
                                   .in_step = 4,
                                   .load_queries = load_queries,
                                   .load_keys = load_keys,
                                   .load_values = load_values,
                                   .scores = scores,
                                   .softmax = softmax,
                                   .values = values};
  const bool types = (problem.dtype == DType::f32 || problem.dtype == DType::bf16) &&
                     problem.kv_dtype == DType::i8 && problem.int8_products;
  if (!types || changes_rows(problem) || few_queries(problem) || !tiled(problem) ||
      !avx512_vnni::available())
    return nullptr;
  return plan_tiled(problem, kFormat);
}

#else

std::unique_ptr<fovea::KernelPlan<fovea::AttentionArgs>>
fovea::attention_detail::plan_tiled_avx512vnni(const AttentionProblem& problem) {
  check(problem, false);
  return nullptr;
}

#endif

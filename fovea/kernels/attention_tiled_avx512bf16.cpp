// Products with vdpbf16ps for tiled attention, forward as a format (attention_tiled.h) and backward
// (attention_backward_tiled.h). Forward: queries, keys and the rows of V^T
// as pairs along the head dimension and along the keys. Scores are formed in f32 and multiplied by
// their factor there, probabilities are rounded to bf16 before they are divided by their sum.
#include <cmath>
#include <cstring>

#include "fovea/kernels/attention_backward_tiled.h"
#include "fovea/kernels/attention_tiled.h"
#include "fovea/kernels/avx512_bf16.h"

#if FOVEA_AVX512_BF16

FOVEA_AVX512_BF16_BEGIN
#include "fovea/kernels/attention_tiled_products-inl.h"

namespace fovea::attention_detail {
namespace {

struct Dot {
  using Sum = __m512;
  static constexpr bool kWhole = false;
  static Sum start(const int32_t*, int64_t) { return _mm512_setzero_ps(); }
  static Sum dot(Sum sum, __m512i left, __m512i right) {
    return _mm512_dpbf16_ps(sum, (__m512bh)left, (__m512bh)right);
  }
  static __m512 number(Sum sum) { return sum; }
};

// (even, odd) halves, and pairs of them lane by lane.
inline __m512i pairs_of_halves(__m512i x) {
  const __m256i order = _mm256_setr_epi8(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8,
                                         24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return _mm512_maskz_permutexvar_epi16(0xffffffff, _mm512_maskz_cvtepu8_epi16(0xffffffff, order),
                                        x);
}
void load_queries(const TiledQueries& from, const TiledPanel& panel) {
  tiled_bf16::transposed({static_cast<const bf16*>(from.rows), from.token, panel.queries, from.dim},
                         panel.q, panel.width);
  if (from.factor < 0)
    for (int64_t i = 0; i < (from.dim + 1) / 2 * panel.width; ++i) panel.q[i] ^= 0x80008000u;
  std::fill_n(panel.factor, panel.width, std::abs(from.factor));
}

void load_keys(const TiledRows& from, const TiledBlock& to) {
  const int64_t stride = 2 * tiled_columns(from.dim);
  for (int64_t j = 0; j < from.count; ++j) {
    const auto* row = reinterpret_cast<const bf16*>(from.rows[j]);
    for (int64_t c = 0; c < from.dim; c += 32)
      _mm512_store_si512(to.k + j * stride + 2 * c, avx512_bf16::load32(row + c, from.dim - c));
  }
}

void load_values(const TiledRows& from, TiledBlock& to) {
  const int64_t stride = tiled_columns(from.dim);
  for (int64_t j = 0; j < from.count; j += 2) {
    const auto* even = reinterpret_cast<const bf16*>(from.rows[j]);
    const auto* odd =
        j + 1 < from.count ? reinterpret_cast<const bf16*>(from.rows[j + 1]) : nullptr;
    uint32_t* pairs = to.v + j / 2 * stride;
    for (int64_t c = 0; c < from.dim; c += 32) {
      const auto two = avx512_bf16::interleave(
          avx512_bf16::load32(even + c, from.dim - c),
          odd ? avx512_bf16::load32(odd + c, from.dim - c) : _mm512_setzero_si512());
      _mm512_store_si512(pairs + c, two.first);
      _mm512_store_si512(pairs + c + 16, two.second);
    }
  }
}

void scores(const AttentionProblem& p, const TiledPanel& panel, const TiledBlock& block,
            int64_t key, int64_t keys, bool with_factor, float* to) {
  const int64_t stride = 2 * tiled_columns(p.head_dim);
  const TiledProduct x{.a = block.k + key * stride,
                       .a_row = stride,
                       .a_step = 4,
                       .b = panel.q,
                       .b_step = panel.width,
                       .steps = (p.head_dim + 1) / 2,
                       .c = to,
                       .c_row = panel.width,
                       .lanes = panel.new_max,
                       .lane_factor = panel.factor};
  if (with_factor)
    tiled_product<Dot, Finish::scaled, Contiguous::step>(x, keys, panel.width);
  else
    tiled_product<Dot, Finish::max, Contiguous::step>(x, keys, panel.width);
}

template <int kDegree>
inline void softmax_of(const TiledPanel& panel, int64_t keys, const float* factors, float* scores) {
  for (int64_t v = 0; v < panel.width; v += 16) {
    const __m512 factor = _mm512_load_ps(factors + v);
    const __m512 old_max = _mm512_load_ps(panel.max + v);
    const __m512 max = _mm512_maskz_max_ps(
        0xffff, old_max, _mm512_mul_ps(_mm512_load_ps(panel.new_max + v), factor));
    const __m512 base = tiled_base(max);
    const __m512 rescale = tiled_exp2<5>(_mm512_sub_ps(old_max, base));
    const int64_t stride = panel.width;
    const float* from = scores + v;
    auto* to = reinterpret_cast<uint32_t*>(scores) + v;
    __m512 even_sum = _mm512_setzero_ps(), odd_sum = even_sum;
    // Of the maximum exactly 0: fused, it would be what rounding took away.
    const auto scaled = [&](const float* at) __attribute__((always_inline)) {
      return _mm512_sub_ps(_mm512_mul_ps(_mm512_load_ps(at), factor), base);
    };
    int64_t j = 0;
    for (; j + 2 <= keys; j += 2, from += 2 * stride, to += stride) {
      const __m512 even = tiled_exp2<kDegree>(scaled(from));
      const __m512 odd = tiled_exp2<kDegree>(scaled(from + stride));
      _mm512_store_si512(to, pairs_of_halves(avx512_bf16::narrow(even, odd)));
      even_sum = _mm512_add_ps(even_sum, even);
      odd_sum = _mm512_add_ps(odd_sum, odd);
    }
    if (j < keys) {
      const __m512 even = tiled_exp2<kDegree>(scaled(from));
      _mm512_store_si512(to, pairs_of_halves(avx512_bf16::narrow(even, _mm512_setzero_ps())));
      even_sum = _mm512_add_ps(even_sum, even);
    }
    const __m512 sum = _mm512_add_ps(even_sum, odd_sum);
    _mm512_store_ps(panel.sum + v, _mm512_fmadd_ps(_mm512_load_ps(panel.sum + v), rescale, sum));
    _mm512_store_ps(panel.rescale + v, rescale);
    _mm512_store_ps(panel.max + v, max);
  }
}

// Powers that are rounded to bf16 at once need few digits; the log-sum-exp shall have more.
void softmax(const AttentionProblem& p, const TiledPanel& panel, const TiledBlock&, int64_t,
             int64_t keys, const float* factor, float* scores) {
  if (p.want_lse)
    softmax_of<5>(panel, keys, factor, scores);
  else
    softmax_of<3>(panel, keys, factor, scores);
}

void values(const AttentionProblem& p, const TiledPanel& panel, const TiledBlock& block,
            int64_t key, int64_t keys, const float* scores) {
  const int64_t stride = tiled_columns(p.value_dim);
  tiled_product<Dot, Finish::rescale, Contiguous::row>(
      {.a = reinterpret_cast<const std::byte*>(block.v + key / 2 * stride),
       .a_row = 4,
       .a_step = 4 * stride,
       .b = reinterpret_cast<const uint32_t*>(scores),
       .b_step = panel.width,
       .steps = (keys + 1) / 2,
       .c = panel.ot,
       .c_row = panel.width,
       .lanes = panel.rescale},
      p.value_dim, panel.width);
}

}  // namespace
}  // namespace fovea::attention_detail

namespace fovea::attention_detail::tiled_bf16 {

using avx512_bf16::load32;

void transposed(const RowsFrom& from, uint32_t* to, int64_t width) {
  const int64_t steps = (from.dim + 1) / 2;
  for (int64_t r = 0; r < width; r += 16) {
    for (int64_t c = 0; c < from.dim; c += 32) {
      __m512i x[16];
      for (int64_t i = 0; i < 16; ++i)
        x[i] = r + i < from.count ? load32(from.first + (r + i) * from.token + c, from.dim - c)
                                  : _mm512_setzero_si512();
      avx512_bf16::transpose(x);
      const int64_t count = std::min<int64_t>(16, steps - c / 2);
      for (int64_t s = 0; s < count; ++s) _mm512_store_si512(to + (c / 2 + s) * width + r, x[s]);
    }
  }
}

namespace {

inline __m256i load16(const bf16* p, __mmask16 mask) { return _mm256_maskz_loadu_epi16(mask, p); }
inline void store16(bf16* p, __mmask16 mask, __m256i x) { _mm256_mask_storeu_epi16(p, mask, x); }

// (a, b) turned by an angle.
struct Turned {
  __m512 a, b;
};
inline Turned turned(__m512 a, __m512 b, __m512 cosine, __m512 sine) {
  return {_mm512_fnmadd_ps(b, sine, _mm512_mul_ps(a, cosine)),
          _mm512_fmadd_ps(a, sine, _mm512_mul_ps(b, cosine))};
}

template <RotaryLayout kLayout>
inline void rotate_row(const bf16* from, const float* cosines, int64_t half, bf16* to) {
  for (int64_t i = 0; i < half; i += 16) {
    const __mmask16 some = avx512_bf16::mask16(half - i);
    const __m512 cosine = _mm512_maskz_loadu_ps(some, cosines + i);
    const __m512 sine = _mm512_maskz_loadu_ps(some, cosines + half + i);
    if constexpr (kLayout == RotaryLayout::pairs) {
      const __m512i both = _mm512_maskz_loadu_epi32(some, from + 2 * i);
      const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
      const Turned x = turned(_mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, both, 16)),
                              _mm512_castsi512_ps(_mm512_and_si512(both, upper)), cosine, sine);
      _mm512_mask_storeu_epi32(to + 2 * i, some, pairs_of_halves(avx512_bf16::narrow(x.a, x.b)));
    } else {
      const Turned x = turned(avx512_bf16::widen(load16(from + i, some)),
                              avx512_bf16::widen(load16(from + half + i, some)), cosine, sine);
      const __m512i two = avx512_bf16::narrow(x.a, x.b);
      store16(to + i, some, _mm512_maskz_extracti64x4_epi64(0xf, two, 0));
      store16(to + half + i, some, _mm512_maskz_extracti64x4_epi64(0xf, two, 1));
    }
  }
}

template <RotaryLayout kLayout>
inline void rotate_rows(const RotatedRows& from, bf16* to, int64_t stride) {
  for (int64_t r = 0; r < from.count; ++r, to += stride) {
    const bf16* row = from.rows[r];
    rotate_row<kLayout>(row, from.table + 2 * from.half * r, from.half, to);
    for (int64_t c = 2 * from.half; c < from.dim; c += 16) {
      const __mmask16 some = avx512_bf16::mask16(from.dim - c);
      store16(to + c, some, load16(row + c, some));
    }
  }
}

}  // namespace

void rotated(const RotatedRows& from, bf16* to, int64_t stride) {
  if (from.layout == RotaryLayout::pairs)
    rotate_rows<RotaryLayout::pairs>(from, to, stride);
  else
    rotate_rows<RotaryLayout::halves>(from, to, stride);
}

void copied(const RowsFrom& from, bf16* to, int64_t stride) {
  for (int64_t r = 0; r < from.count; ++r)
    for (int64_t c = 0; c < from.dim; c += 32)
      _mm512_store_si512(to + r * stride + c,
                         load32(from.first + r * from.token + c, from.dim - c));
}

void paired(const RowsFrom& from, int64_t rows, uint32_t* to, int64_t stride) {
  const auto load = [&](int64_t r, int64_t c) {
    return r < from.count ? load32(from.first + r * from.token + c, from.dim - c)
                          : _mm512_setzero_si512();
  };
  for (int64_t r = 0; r < rows; r += 2) {
    uint32_t* pairs = to + r / 2 * stride;
    for (int64_t c = 0; c < from.dim; c += 32) {
      const auto two = avx512_bf16::interleave(load(r, c), load(r + 1, c));
      _mm512_store_si512(pairs + c, two.first);
      _mm512_store_si512(pairs + c + 16, two.second);
    }
  }
}

namespace {

inline TiledProduct by_rows(const Product& x) {
  return {.a = static_cast<const std::byte*>(x.a),
          .a_row = 2 * x.a_row,
          .a_step = 4,
          .b = x.b,
          .b_step = x.b_step,
          .steps = x.steps,
          .c = x.c,
          .c_row = x.c_row};
}

inline void store_halves(__m512i x, bf16* low, bf16* high) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(low), _mm512_maskz_extracti64x4_epi64(0xf, x, 0));
  _mm256_store_si256(reinterpret_cast<__m256i*>(high), _mm512_maskz_extracti64x4_epi64(0xf, x, 1));
}

// values(key, place, P, dS) gives them from a vector of the scores and of dP. Two keys at a time.
template <class Values>
inline void each_pair(const GradientBlock& x, int64_t v, const Values& values) {
  const int64_t width = x.width;
  __m512 p[2], ds[2];
  int64_t j = 0;
  for (; j + 2 <= x.keys; j += 2) {
    const int64_t at = j * width + v;
    values(j, at, p[0], ds[0]);
    values(j + 1, at + width, p[1], ds[1]);
    store_halves(avx512_bf16::narrow(p[0], p[1]), x.p_rows + at, x.p_rows + at + width);
    const __m512i two = avx512_bf16::narrow(ds[0], ds[1]);
    store_halves(two, x.ds_rows + at, x.ds_rows + at + width);
    _mm512_store_si512(x.ds_pairs + j / 2 * width + v, pairs_of_halves(two));
  }
  if (j == x.keys) return;
  const int64_t at = j * width + v;
  values(j, at, p[0], ds[0]);
  const __m512i both = avx512_bf16::narrow(p[0], ds[0]);
  store_halves(both, x.p_rows + at, x.ds_rows + at);
  _mm512_store_si512(x.ds_pairs + j / 2 * width + v,
                     pairs_of_halves(avx512_bf16::narrow(ds[0], _mm512_setzero_ps())));
}

}  // namespace

void rows_by_lanes(const Product& x, int64_t rows, int64_t lanes) {
  tiled_product<Dot, Finish::set, Contiguous::step>(by_rows(x), rows, lanes);
}
void rows_by_lanes_scaled(const Product& x, int64_t rows, int64_t lanes, const float* lane_factor) {
  TiledProduct y = by_rows(x);
  y.lane_factor = lane_factor;
  tiled_product<Dot, Finish::scaled, Contiguous::step>(y, rows, lanes);
}
void add_rows_by_lanes(const Product& x, int64_t rows, int64_t lanes) {
  tiled_product<Dot, Finish::add, Contiguous::step>(by_rows(x), rows, lanes);
}
void add_columns_by_lanes(const Product& x, int64_t rows, int64_t lanes) {
  TiledProduct y = by_rows(x);
  y.a_step = 4 * x.a_row;
  tiled_product<Dot, Finish::add, Contiguous::row>(y, rows, lanes);
}

namespace {

template <bool kKeep, bool kDistances>
inline void probabilities_of(const GradientBlock& x, float factor, const float* lses,
                             const float* deltas) {
  const __m512 by = _mm512_set1_ps(factor);
  for (int64_t v = 0; v < x.width; v += 16) {
    const __m512 lse = _mm512_load_ps(lses + v), delta = _mm512_load_ps(deltas + v);
    each_pair(
        x, v, [&](int64_t key, int64_t at, __m512 & p, __m512 & ds) __attribute__((always_inline)) {
          __m512 base = lse;
          if constexpr (kDistances)
            base = _mm512_sub_ps(lse, _mm512_loadu_ps(x.distances + v - key));
          p = tiled_exp2<3>(_mm512_fmsub_ps(_mm512_load_ps(x.scores + at), by, base));
          ds = _mm512_mul_ps(p, _mm512_sub_ps(_mm512_load_ps(x.dp + at), delta));
          if constexpr (kKeep) _mm512_store_ps(x.dp + at, ds);
        });
  }
}

}  // namespace

void probabilities(const GradientBlock& x, float factor, const float* lses, const float* deltas,
                   bool keep) {
  if (x.distances && keep)
    probabilities_of<true, true>(x, factor, lses, deltas);
  else if (x.distances)
    probabilities_of<false, true>(x, factor, lses, deltas);
  else if (keep)
    probabilities_of<true, false>(x, factor, lses, deltas);
  else
    probabilities_of<false, false>(x, factor, lses, deltas);
}
void rounded(const GradientBlock& x) {
  for (int64_t v = 0; v < x.width; v += 16)
    each_pair(
        x, v, [&](int64_t, int64_t at, __m512 & p, __m512 & ds) __attribute__((always_inline)) {
          p = _mm512_load_ps(x.scores + at);
          ds = _mm512_load_ps(x.dp + at);
        });
}

float dot_rows(const bf16* a, const bf16* b, int64_t n) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < n; i += 32)
    sum = Dot::dot(sum, load32(a + i, n - i), load32(b + i, n - i));
  alignas(64) float lanes[16];
  _mm512_store_ps(lanes, sum);
  float total = 0;
  for (float x : lanes) total += x;
  return total;
}

}  // namespace fovea::attention_detail::tiled_bf16
FOVEA_TARGET_END

std::unique_ptr<fovea::KernelPlan<fovea::AttentionArgs>>
fovea::attention_detail::plan_tiled_avx512bf16(const AttentionProblem& problem) {
  check(problem, false);
  static const TiledFormat kFormat{.name = "tiled_avx512bf16",
                                   .in_step = 2,
                                   .load_queries = load_queries,
                                   .load_keys = load_keys,
                                   .load_values = load_values,
                                   .scores = scores,
                                   .softmax = softmax,
                                   .values = values};
  if (problem.dtype != DType::bf16 || problem.kv_dtype.value_or(DType::bf16) != DType::bf16 ||
      few_queries(problem) || !tiled(problem) || !avx512_bf16::available())
    return nullptr;
  return plan_tiled(problem, kFormat);
}

std::unique_ptr<fovea::KernelPlan<fovea::AttentionBackwardArgs>>
fovea::attention_detail::plan_backward_tiled_avx512bf16(const AttentionProblem& problem) {
  check(problem, true);
  if (problem.dtype != DType::bf16 || !tiled_backward(problem) || !avx512_bf16::available())
    return nullptr;
  return plan_tiled_backward(problem);
}

#else

std::unique_ptr<fovea::KernelPlan<fovea::AttentionArgs>>
fovea::attention_detail::plan_tiled_avx512bf16(const AttentionProblem& problem) {
  check(problem, false);
  return nullptr;
}

std::unique_ptr<fovea::KernelPlan<fovea::AttentionBackwardArgs>>
fovea::attention_detail::plan_backward_tiled_avx512bf16(const AttentionProblem& problem) {
  check(problem, true);
  return nullptr;
}

#endif

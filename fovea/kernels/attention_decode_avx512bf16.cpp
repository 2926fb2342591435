// Decoding with vdpbf16ps, for queries and a cache of bf16. Scores: a vector holds sixteen elements
// of two rows of K, as they stand; the eight parts of a score are joined when sixteen keys are
// done. P V: pairs of rows of V, interleaved within lanes of 128 bits, whose order is undone when a
// piece is done.
#include "fovea/kernels/attention_decode.h"

#include <cmath>

#include "fovea/base/error.h"
#include "fovea/kernels/attention_short_avx512bf16.h"

#if FOVEA_AVX512_BF16

namespace fovea::attention_detail {
namespace {

constexpr int64_t whole_pairs(int64_t n) { return (n + 31) / 32 * 32; }

constexpr int64_t whole_fours(int64_t n) { return (n + 3) / 4 * 4; }

// Where one worker's scratch holds what, in floats.
struct Layout {
  explicit Layout(const AttentionProblem& p) {
    const DecodeCut cut(p);
    ScratchPieces scratch;
    q = scratch.take(cut.kv_heads * whole_fours(cut.rows) * whole_pairs(p.head_dim));
    sums = scratch.take(cut.kv_heads * cut.rows * 16);
    scores = scratch.take(4 * kDecodeBlock);
    powers = scratch.take(4 * kDecodeBlock / 2);
    k_at = scratch.take(4 * kDecodeBlock);
    v_at = scratch.take(4 * kDecodeBlock);
    k = scratch.take(kDecodeBlock * whole_pairs(p.head_dim) / 2);
    v = scratch.take(kDecodeBlock * whole_pairs(p.value_dim) / 2);
    total = scratch.used();
  }

  // Of four rows together, of each 16 elements a vector a row: eight pairs, twice.
  int64_t q;
  int64_t sums;    // of each row's powers, in 16 lanes
  int64_t scores;  // of four rows
  int64_t powers;  // bf16, of four rows
  int64_t k_at, v_at;
  int64_t k, v;  // rows filled up with zeros to 32 elements, where they are not that
  int64_t total;
};

}  // namespace
}  // namespace fovea::attention_detail

FOVEA_AVX512_BF16_BEGIN
namespace fovea::attention_detail {
namespace {

using short_bf16::broadcast_pair;
using short_bf16::kLn2;
using short_bf16::kLog2E;
using short_bf16::Whole;

constexpr int kRowsAtOnce = 4;
// A row's base is raised when a score exceeds it by so much, as a power of two: powers stay small
// enough for sums in f32, and almost no block has to rescale what stands.
constexpr float kSlack = 8;

// Eight elements of a lane of 128 bits each: the sums of two lanes, of two keys and two more.
inline __m512 halves(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_maskz_shuffle_f32x4(0xffff, a, b, 0x88),
                       _mm512_maskz_shuffle_f32x4(0xffff, a, b, 0xdd));
}
inline __m512 pairs_joined(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_maskz_unpacklo_ps(0xffff, a, b),
                       _mm512_maskz_unpackhi_ps(0xffff, a, b));
}
inline __m512 singles_joined(__m512 a, __m512 b) {
  return (__m512)_mm512_add_ps((__m512)_mm512_maskz_unpacklo_pd(0xff, (__m512d)a, (__m512d)b),
                               (__m512)_mm512_maskz_unpackhi_pd(0xff, (__m512d)a, (__m512d)b));
}

// Sixteen elements of two keys.
inline __m512i two_keys(const bf16* a, const bf16* b) {
  return _mm512_maskz_inserti64x4(
      0xff, _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a))),
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)), 1);
}

// Scores of kRows queries with keys j, 4 + j, 8 + j, 12 + j and those one behind them: lane j / 4
// of the result holds two parts of each of its two.
template <int kRows>
[[gnu::always_inline]] inline void score_tile(const DecodeKeys<bf16>& k, int64_t j,
                                              const uint32_t* q, int64_t dim,
                                              __m512 (&joined)[kRows]) {
  __m512 sum[kRows][4];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) sum[r][g] = _mm512_setzero_ps();
  const bf16* at[8];
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
        x[g] = two_keys(at[g % 2 * 4 + g / 2] + c + 16 * half,
                        at[g % 2 * 4 + 2 + g / 2] + c + 16 * half);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const __m512i y = _mm512_load_si512(q + 16 * r);
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) sum[r][g] = Whole::dot(sum[r][g], x[g], y);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
    joined[r] = pairs_joined(halves(sum[r][0], sum[r][1]), halves(sum[r][2], sum[r][3]));
}

// The same for a head_dim of 16 kSteps, with the keys in registers: row by row, so that one row is
// joined while the next one is computed.
template <int kRows, int kSteps>
[[gnu::always_inline]] inline void score_tile(const DecodeKeys<bf16>& k, int64_t j,
                                              const uint32_t* q, __m512 (&joined)[kRows]) {
  constexpr int kKeys = 16 / kSteps;  // vectors of two, that the registers hold
  __m512 parts[kRows][2];
#pragma GCC unroll 2
  for (int g = 0; g < 4; g += kKeys) {
    __m512i x[kKeys][kSteps];
#pragma GCC unroll 4
    for (int i = 0; i < kKeys; ++i) {
      const int64_t key = j + (g + i) % 2 * 8 + (g + i) / 2;
      const bf16 *a = k.at[key] + k.offset, *b = k.at[key + 4] + k.offset;
#pragma GCC unroll 8
      for (int s = 0; s < kSteps; ++s) x[i][s] = two_keys(a + 16 * s, b + 16 * s);
      const bf16 *c = k.ahead[key] + k.offset, *d = k.ahead[key + 4] + k.offset;
#pragma GCC unroll 4
      for (int s = 0; s < kSteps; s += 2) {
        __builtin_prefetch(c + 16 * s, 0, 2);
        __builtin_prefetch(d + 16 * s, 0, 2);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      __m512 sum[kKeys];
#pragma GCC unroll 4
      for (int i = 0; i < kKeys; ++i) sum[i] = _mm512_setzero_ps();
#pragma GCC unroll 8
      for (int s = 0; s < kSteps; ++s) {
        const __m512i y = _mm512_load_si512(q + 16 * (4 * s + r));
#pragma GCC unroll 4
        for (int i = 0; i < kKeys; ++i) sum[i] = Whole::dot(sum[i], x[i][s], y);
      }
#pragma GCC unroll 2
      for (int i = 0; i < kKeys; i += 2) parts[r][(g + i) / 2] = halves(sum[i], sum[i + 1]);
      if (g + kKeys == 4) joined[r] = pairs_joined(parts[r][0], parts[r][1]);
    }
  }
}

// Scores of kRows queries, times factor, in the order of keys: [kRows][kDecodeBlock]; most: their
// largest ones of each lane.
template <int kRows, int kSteps>
[[gnu::noinline]] void score_block(const DecodeKeys<bf16>& k, int64_t keys, const uint32_t* q,
                                   int64_t dim, float factor, float* scores, float* most) {
  const __m512 times = _mm512_set1_ps(factor);
  __m512 largest[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) largest[r] = _mm512_set1_ps(-HUGE_VALF);
  for (int64_t j = 0; j < keys; j += 16) {
    __m512 a[kRows], b[kRows];
    if constexpr (kSteps > 0) {
      score_tile<kRows, kSteps>(k, j, q, a);
      score_tile<kRows, kSteps>(k, j + 2, q, b);
    } else {
      score_tile<kRows>(k, j, q, dim, a);
      score_tile<kRows>(k, j + 2, q, dim, b);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m512 x = _mm512_mul_ps(singles_joined(a[r], b[r]), times);
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

// O = rescale O + P V for kRows queries and 32 kPairs columns; out: in the order of the lanes.
template <int kRows, int kPairs>
[[gnu::noinline]] void value_tile(const DecodeKeys<bf16>& v, int64_t keys, int64_t column,
                                  const std::byte* powers, const float* rescale, float* out,
                                  int64_t stride) {
  __m512 sum[kRows][2 * kPairs];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const __m512 factor = _mm512_set1_ps(rescale[r]);
#pragma GCC unroll 4
    for (int c = 0; c < 2 * kPairs; ++c)
      sum[r][c] = _mm512_mul_ps(Whole::load(out + r * stride + column + 16 * c), factor);
  }
  const int64_t offset = v.offset + column;
  for (int64_t j = 0; j < keys; j += 2) {
    const bf16 *even = v.at[j] + offset, *odd = v.at[j + 1] + offset;
    fetch_ahead(v.ahead[j] + offset, 32 * kPairs);
    fetch_ahead(v.ahead[j + 1] + offset, 32 * kPairs);
    __m512i x[2 * kPairs];
#pragma GCC unroll 2
    for (int c = 0; c < kPairs; ++c) {
      const __m512i a = _mm512_loadu_si512(even + 32 * c), b = _mm512_loadu_si512(odd + 32 * c);
      x[2 * c] = _mm512_unpacklo_epi16(a, b);
      x[2 * c + 1] = _mm512_unpackhi_epi16(a, b);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m512i p = broadcast_pair(powers + (r * kDecodeBlock + j) * 2);
#pragma GCC unroll 4
      for (int c = 0; c < 2 * kPairs; ++c) sum[r][c] = Whole::dot(sum[r][c], p, x[c]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < 2 * kPairs; ++c)
      Whole::store(out + r * stride + column + 16 * c, sum[r][c]);
  }
}

class Decode {
 public:
  Decode(const DecodeTask& task, float* scratch)
      : task_(task),
        p_(task.problem),
        layout_(p_),
        scratch_(scratch),
        k_width_(whole_pairs(p_.head_dim)),
        v_width_(whole_pairs(p_.value_dim)),
        factor_(static_cast<float>(p_.scale) * kLog2E),
        k_(task, cached_keys(p_, task.args), p_.head_dim, k_width_,
           reinterpret_cast<bf16*>(scratch + layout_.k), scratch + layout_.k_at),
        v_(task, cached_values(p_, task.args), p_.value_dim, v_width_,
           reinterpret_cast<bf16*>(scratch + layout_.v), scratch + layout_.v_at) {}

  void run() {
    for_rows([&](int64_t kv, int64_t r) { start(kv, r); });
    for (int64_t j = task_.keys.begin; j < task_.keys.end; j += kDecodeBlock)
      block(j, std::min(kDecodeBlock, task_.keys.end - j));
    for_rows([&](int64_t kv, int64_t r) { finish(kv, r); });
  }

 private:
  // A block's keys of one head.
  struct Part {
    DecodeKeys<bf16> k, v;
    int64_t kv, first, keys;
  };

  template <class F>
  void for_rows(const F& f) const {
    for (int64_t kv = 0; kv < task_.kv_heads; ++kv)
      for (int64_t r = 0; r < task_.rows(kv); ++r) f(kv, r);
  }

  // Of four rows from r on.
  uint32_t* queries(int64_t kv, int64_t r) const {
    return reinterpret_cast<uint32_t*>(scratch_ + layout_.q) +
           (kv * whole_fours(task_.room) + r) * k_width_;
  }
  float* sums(int64_t kv, int64_t r) const {
    return scratch_ + layout_.sums + (kv * task_.room + r) * 16;
  }

  void start(int64_t kv, int64_t r) const {
    const bf16* from = row(static_cast<const bf16*>(task_.args.q), p_.q, task_.batch,
                           task_.query(r), task_.head(kv, r));
    uint32_t* to = queries(kv, r / 4 * 4) + r % 4 * 16;
    for (int64_t c = 0; c < k_width_; c += 32, to += 2 * 64) {
      const __m512i x = avx512_bf16::load32(from + c, p_.head_dim - c);
      _mm512_store_si512(to, _mm512_maskz_shuffle_i64x2(0xff, x, x, 0x44));
      _mm512_store_si512(to + 64, _mm512_maskz_shuffle_i64x2(0xff, x, x, 0xee));
    }
    float* out = task_.result(kv, r);
    std::fill(out, out + task_.max_at, 0.0f);
    out[task_.max_at] = -HUGE_VALF;
    Whole::store(sums(kv, r), Whole::zero());
  }

  void block(int64_t first, int64_t keys) {
    k_.go_on(first, keys);
    v_.go_on(first, keys);
    for (int64_t kv = 0; kv < task_.kv_heads; ++kv) {
      const int64_t rows = task_.rows(kv);
      const Part part{k_.of(kv), v_.of(kv), kv, first, keys};
      int64_t r = 0;
      for (; r + kRowsAtOnce <= rows; r += kRowsAtOnce) some<kRowsAtOnce>(part, r);
      if (rows - r == 3) some<3>(part, r);
      if (rows - r == 2) some<2>(part, r);
      if (rows - r == 1) some<1>(part, r);
    }
  }

  template <int kRows>
  [[gnu::noinline]] void some(const Part& part, int64_t r) const {
    float* const scores = scratch_ + layout_.scores;
    auto* const powers = reinterpret_cast<bf16*>(scratch_ + layout_.powers);
    float most[kRows * 16] __attribute__((aligned(64)));
    float rescale[kRows];
    const auto score = k_width_ == 64    ? score_block<kRows, 4>
                       : k_width_ == 128 ? score_block<kRows, 8>
                                         : score_block<kRows, 0>;
    score(part.k, part.keys, queries(part.kv, r), k_width_, factor_, scores, most);
    for (int64_t i = 0; i < kRows; ++i)
      rescale[i] =
          softmax(part, r + i, most + 16 * i, scores + i * kDecodeBlock, powers + i * kDecodeBlock);
    float* out = task_.result(part.kv, r);
    const auto* from = reinterpret_cast<const std::byte*>(powers);
    int64_t c = 0;
    for (; c + 64 <= v_width_; c += 64)
      value_tile<kRows, 2>(part.v, part.keys, c, from, rescale, out, task_.stride);
    if (c < v_width_) value_tile<kRows, 1>(part.v, part.keys, c, from, rescale, out, task_.stride);
  }

  // The scores of one row become powers, rounded to bf16; gives by what earlier ones are to be
  // scaled. most: the largest scores of each lane.
  float softmax(const Part& part, int64_t r, const float* most, float* scores, bf16* powers) const {
    const int64_t whole = padded(part.keys);
    __m512 largest = Whole::load(most);
    if (mask_decode_row(task_.seen(r), part.first, part.keys, scores)) {
      largest = _mm512_set1_ps(-HUGE_VALF);
      for (int64_t j = 0; j < whole; j += 16)
        largest = Whole::max(largest, Whole::load(scores + j));
    }
    float* const base = task_.result(part.kv, r) + task_.max_at;
    float* const sum = sums(part.kv, r);
    float rescale = 1;
    if (_mm512_cmp_ps_mask(largest, _mm512_set1_ps(*base + kSlack), _CMP_GT_OQ)) {
      const float max = std::max(*base, largest_lane(largest));
      const __m512 factor =
          short_bf16::exp2<Whole, 5>(_mm512_sub_ps(_mm512_set1_ps(*base), _mm512_set1_ps(max)));
      Whole::store(sum, _mm512_mul_ps(Whole::load(sum), factor));
      rescale = _mm512_cvtss_f32(factor);
      *base = max;
    }
    const __m512 from = _mm512_set1_ps(*base == -HUGE_VALF ? 0.0f : *base);
    // Powers that are rounded to bf16 at once need few digits; the log-sum-exp shall have more.
    const __m512 more = p_.want_lse ? powers_of<5>(scores, whole, from, powers)
                                    : powers_of<3>(scores, whole, from, powers);
    Whole::store(sum, _mm512_add_ps(Whole::load(sum), more));
    return rescale;
  }

  void finish(int64_t kv, int64_t r) const {
    float* const out = task_.result(kv, r);
    out[task_.max_at + 1] = sum_of_lanes(Whole::load(sums(kv, r)));
    // Of 32 columns the first vector held the first and the third four of each eight lanes, the
    // second one the others.
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for (int64_t c = 0; c < v_width_; c += 32) {
      const __m512i a = _mm512_load_si512(out + c), b = _mm512_load_si512(out + c + 16);
      _mm512_store_si512(out + c, _mm512_permutex2var_epi64(a, low, b));
      _mm512_store_si512(out + c + 16, _mm512_permutex2var_epi64(a, high, b));
    }
  }

  const DecodeTask& task_;
  const AttentionProblem& p_;
  const Layout layout_;
  float* const scratch_;
  const int64_t k_width_, v_width_;
  const float factor_;
  DecodeRows<bf16> k_, v_;
};

void decode(const DecodeTask& task, float* scratch) { Decode(task, scratch).run(); }

}  // namespace
}  // namespace fovea::attention_detail
FOVEA_TARGET_END

std::unique_ptr<fovea::KernelPlan<fovea::AttentionArgs>>
fovea::attention_detail::plan_decode_avx512bf16(const AttentionProblem& problem) {
  check(problem, false);
  if (problem.dtype != DType::bf16 || problem.kv_dtype.value_or(DType::bf16) != DType::bf16 ||
      !decodes(problem) || !avx512_bf16::available())
    return nullptr;
  return plan_decode(problem, decode, Layout(problem).total);
}

#else

std::unique_ptr<fovea::KernelPlan<fovea::AttentionArgs>>
fovea::attention_detail::plan_decode_avx512bf16(const AttentionProblem& problem) {
  check(problem, false);
  return nullptr;
}

#endif

// Decoding with vdpbf16ps, for queries and a cache of bf16. Scores: four rows of K at a time become
// vectors that hold the same pairs of four keys, a transposition within lanes of 128 bits only; the
// four lanes of a result are joined at its end. P V: pairs of rows of V, interleaved within the
// same lanes, whose order is undone when a piece is done.
#include "fovea/kernels/attention_decode.h"

#include <cmath>

#include "fovea/base/error.h"
#include "fovea/kernels/attention_short_avx512bf16.h"

#if FOVEA_AVX512_BF16

namespace fovea::attention_detail {
namespace {

constexpr int64_t whole_pairs(int64_t n) { return (n + 31) / 32 * 32; }

// Where one worker's scratch holds what, in floats.
struct Layout {
  explicit Layout(const AttentionProblem& p) {
    const int64_t rows = (DecodeCut(p).rows + 3) / 4 * 4;
    ScratchPieces scratch;
    q = scratch.take(rows * 2 * whole_pairs(p.head_dim));
    sums = scratch.take(4 * kDecodeBlock * 4);
    scores = scratch.take(kDecodeBlock);
    powers = scratch.take(rows * kDecodeBlock / 2);
    rescale = scratch.take(rows);
    k_at = scratch.take(4 * kDecodeBlock);
    v_at = scratch.take(4 * kDecodeBlock);
    k = scratch.take(kDecodeBlock * whole_pairs(p.head_dim) / 2);
    v = scratch.take(kDecodeBlock * whole_pairs(p.value_dim) / 2);
    total = scratch.used();
  }

  // Of four rows together, of each 32 elements four vectors a row; the i-th holds pairs i, 4 + i,
  // 8 + i, 12 + i, each four times.
  int64_t q;
  int64_t sums;     // four lanes of four keys each, for four rows
  int64_t scores;   // of one row
  int64_t powers;   // bf16, [rows][kDecodeBlock]
  int64_t rescale;  // of each row, from the previous maximum to this one
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

// Rows of four keys, 32 elements each: x[i] becomes pairs i, 4 + i, 8 + i, 12 + i of the four keys.
inline void transpose_lanes(__m512i (&x)[4]) {
  const __m512i a = _mm512_maskz_unpacklo_epi32(0xffff, x[0], x[1]);
  const __m512i b = _mm512_maskz_unpackhi_epi32(0xffff, x[0], x[1]);
  const __m512i c = _mm512_maskz_unpacklo_epi32(0xffff, x[2], x[3]);
  const __m512i d = _mm512_maskz_unpackhi_epi32(0xffff, x[2], x[3]);
  x[0] = _mm512_maskz_unpacklo_epi64(0xff, a, c);
  x[1] = _mm512_maskz_unpackhi_epi64(0xff, a, c);
  x[2] = _mm512_maskz_unpacklo_epi64(0xff, b, d);
  x[3] = _mm512_maskz_unpackhi_epi64(0xff, b, d);
}

// Scores of eight keys and kRows queries, four lanes of each that are still to be added.
template <int kRows>
inline void score_tile(const bf16* const* k, const uint32_t* q, int64_t dim, float* sums) {
  __m512 sum[kRows][2];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
  for (int64_t c = 0; c < dim; c += 32, q += 4 * 64) {
    __m512i x[2][4];
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) x[g][i] = _mm512_loadu_si512(k[4 * g + i] + c);
      transpose_lanes(x[g]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const __m512i y = _mm512_load_si512(q + 16 * (4 * i + r));
        sum[r][0] = Whole::dot(sum[r][0], x[0][i], y);
        sum[r][1] = Whole::dot(sum[r][1], x[1][i], y);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    _mm512_store_ps(sums + r * 4 * kDecodeBlock, sum[r][0]);
    _mm512_store_ps(sums + r * 4 * kDecodeBlock + 16, sum[r][1]);
  }
}

template <int kRows>
[[gnu::noinline]] void score_block(const bf16* const* k, const bf16* const* ahead, int64_t keys,
                                   const uint32_t* q, int64_t dim, float* sums) {
  for (int64_t j = 0; j < keys; j += 8) {
#pragma GCC unroll 8
    for (int64_t i = j; i < j + 8; ++i) fetch_ahead(ahead[i], dim);
    score_tile<kRows>(k + j, q, dim, sums + 4 * j);
  }
}

inline __m512 halves(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_maskz_shuffle_f32x4(0xffff, a, b, 0x88),
                       _mm512_maskz_shuffle_f32x4(0xffff, a, b, 0xdd));
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

// The four lanes of four keys each, added: the scores of sixteen keys.
inline __m512 joined(const float* sums) {
  return halves(halves(Whole::load(sums), Whole::load(sums + 16)),
                halves(Whole::load(sums + 32), Whole::load(sums + 48)));
}

// O = rescale O + P V for kRows queries and 32 kPairs columns; out: in the order of the lanes.
template <int kRows, int kPairs>
[[gnu::noinline]] void value_tile(const bf16* const* v, const bf16* const* ahead, int64_t keys,
                                  int64_t column, const std::byte* powers, const float* rescale,
                                  float* out, int64_t stride) {
  __m512 sum[kRows][2 * kPairs];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const __m512 factor = _mm512_set1_ps(rescale[r]);
#pragma GCC unroll 4
    for (int c = 0; c < 2 * kPairs; ++c)
      sum[r][c] = _mm512_mul_ps(Whole::load(out + r * stride + column + 16 * c), factor);
  }
  for (int64_t j = 0; j < keys; j += 2) {
    const bf16 *even = v[j] + column, *odd = v[j + 1] + column;
    fetch_ahead(ahead[j] + column, 32 * kPairs);
    fetch_ahead(ahead[j + 1] + column, 32 * kPairs);
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
        rows_(task.rows()),
        k_width_(whole_pairs(p_.head_dim)),
        v_width_(whole_pairs(p_.value_dim)),
        factor_(static_cast<float>(p_.scale) * kLog2E),
        k_(task, cached_keys(p_, task.args), p_.head_dim, k_width_,
           reinterpret_cast<bf16*>(scratch + layout_.k), scratch + layout_.k_at),
        v_(task, cached_values(p_, task.args), p_.value_dim, v_width_,
           reinterpret_cast<bf16*>(scratch + layout_.v), scratch + layout_.v_at) {}

  void run() {
    start();
    for (int64_t j = task_.keys.begin; j < task_.keys.end; j += kDecodeBlock)
      block(j, std::min(kDecodeBlock, task_.keys.end - j));
    in_order();
  }

 private:
  // Of four rows from r on.
  uint32_t* queries(int64_t r) const {
    return reinterpret_cast<uint32_t*>(scratch_ + layout_.q) + r * 2 * k_width_;
  }

  void start() const {
    for (int64_t r = 0; r < rows_; ++r) {
      const bf16* from = row(static_cast<const bf16*>(task_.args.q), p_.q, task_.batch,
                             task_.query(r), task_.head(r));
      uint32_t* to = queries(r / 4 * 4) + r % 4 * 16;
      for (int64_t c = 0; c < k_width_; c += 32, to += 4 * 64) {
        const __m512i x = avx512_bf16::load32(from + c, p_.head_dim - c);
        _mm512_store_si512(to, _mm512_maskz_shuffle_epi32(0xffff, x, _MM_PERM_AAAA));
        _mm512_store_si512(to + 64, _mm512_maskz_shuffle_epi32(0xffff, x, _MM_PERM_BBBB));
        _mm512_store_si512(to + 128, _mm512_maskz_shuffle_epi32(0xffff, x, _MM_PERM_CCCC));
        _mm512_store_si512(to + 192, _mm512_maskz_shuffle_epi32(0xffff, x, _MM_PERM_DDDD));
      }
      float* out = task_.partial + r * task_.stride;
      std::fill(out, out + task_.max_at, 0.0f);
      out[task_.max_at] = -HUGE_VALF;
      out[task_.max_at + 1] = 0;
    }
  }

  void block(int64_t first, int64_t keys) {
    k_.go_on(first, keys);
    v_.go_on(first, keys);
    int64_t r = 0;
    for (; r + kRowsAtOnce <= rows_; r += kRowsAtOnce) rows<kRowsAtOnce>(r, first, keys);
    if (rows_ - r == 3) rows<3>(r, first, keys);
    if (rows_ - r == 2) rows<2>(r, first, keys);
    if (rows_ - r == 1) rows<1>(r, first, keys);
  }

  template <int kRows>
  [[gnu::noinline]] void rows(int64_t r, int64_t first, int64_t keys) const {
    float* const sums = scratch_ + layout_.sums;
    score_block<kRows>(k_.rows(), k_.ahead(), keys, queries(r), k_width_, sums);
    for (int64_t i = 0; i < kRows; ++i) {
      // Powers that are rounded to bf16 at once need few digits; the log-sum-exp shall have more.
      if (p_.want_lse)
        softmax<5>(r + i, first, keys, sums + i * 4 * kDecodeBlock);
      else
        softmax<3>(r + i, first, keys, sums + i * 4 * kDecodeBlock);
    }
    const auto* powers =
        reinterpret_cast<const std::byte*>(scratch_ + layout_.powers + r * kDecodeBlock / 2);
    const float* rescale = scratch_ + layout_.rescale + r;
    float* out = task_.partial + r * task_.stride;
    int64_t c = 0;
    for (; c + 64 <= v_width_; c += 64)
      value_tile<kRows, 2>(v_.rows(), v_.ahead(), keys, c, powers, rescale, out, task_.stride);
    if (c < v_width_)
      value_tile<kRows, 1>(v_.rows(), v_.ahead(), keys, c, powers, rescale, out, task_.stride);
  }

  // Sums become powers, rounded to bf16; the row's maximum, sum and rescale follow.
  template <int kDegree>
  void softmax(int64_t r, int64_t first, int64_t keys, const float* sums) const {
    const __m512 factor = _mm512_set1_ps(factor_);
    float* const s = scratch_ + layout_.scores;
    const int64_t whole = padded(keys);
    __m512 largest = _mm512_set1_ps(-HUGE_VALF);
    for (int64_t j = 0; j < whole; j += 16) {
      const __m512 x = _mm512_mul_ps(joined(sums + 4 * j), factor);
      largest = Whole::max(largest, x);
      Whole::store(s + j, x);
    }
    if (mask_decode_row(task_.seen(r), first, keys, s)) {
      largest = _mm512_set1_ps(-HUGE_VALF);
      for (int64_t j = 0; j < whole; j += 16) largest = Whole::max(largest, Whole::load(s + j));
    }
    float* const state = task_.partial + r * task_.stride + task_.max_at;
    const float max = std::max(state[0], largest_lane(largest));
    const __m512 base = _mm512_set1_ps(max == -HUGE_VALF ? 0.0f : max);
    const float rescale =
        _mm512_cvtss_f32(short_bf16::exp2<Whole, 5>(_mm512_sub_ps(_mm512_set1_ps(state[0]), base)));
    auto* const powers = reinterpret_cast<bf16*>(scratch_ + layout_.powers + r * kDecodeBlock / 2);
    __m512 even_sum = _mm512_setzero_ps(), odd_sum = _mm512_setzero_ps();
    for (int64_t j = 0; j < whole; j += 32) {
      const __m512 a = short_bf16::exp2<Whole, kDegree>(_mm512_sub_ps(Whole::load(s + j), base));
      const __m512 b =
          j + 16 < whole
              ? short_bf16::exp2<Whole, kDegree>(_mm512_sub_ps(Whole::load(s + j + 16), base))
              : _mm512_setzero_ps();
      even_sum = _mm512_add_ps(even_sum, a);
      odd_sum = _mm512_add_ps(odd_sum, b);
      _mm512_store_si512(powers + j, avx512_bf16::narrow(a, b));
    }
    state[0] = max;
    state[1] = state[1] * rescale + sum_of_lanes(_mm512_add_ps(even_sum, odd_sum));
    scratch_[layout_.rescale + r] = rescale;
  }

  // Of 32 columns the first vector held the first and the third four of each eight lanes, the
  // second one the others.
  void in_order() const {
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for (int64_t r = 0; r < rows_; ++r) {
      float* out = task_.partial + r * task_.stride;
      for (int64_t c = 0; c < v_width_; c += 32) {
        const __m512i a = _mm512_load_si512(out + c), b = _mm512_load_si512(out + c + 16);
        _mm512_store_si512(out + c, _mm512_permutex2var_epi64(a, low, b));
        _mm512_store_si512(out + c + 16, _mm512_permutex2var_epi64(a, high, b));
      }
    }
  }

  const DecodeTask& task_;
  const AttentionProblem& p_;
  const Layout layout_;
  float* const scratch_;
  const int64_t rows_, k_width_, v_width_;
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

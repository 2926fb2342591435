// Decoding with products of pairs of 16 bits, for queries in bf16: over a cache of bf16
// (vdpbf16ps), or of i8 (vpdpwssd), whose elements are widened when they are loaded; queries then
// become whole numbers of 16 bits, and so do powers, block by block, sums are exact within a block
// and f32 beyond it.
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
    factors = scratch.take(cut.kv_heads * cut.rows);
    sums = scratch.take(cut.kv_heads * cut.rows * 16);
    scores = scratch.take(4 * kDecodeBlock);
    powers = scratch.take(4 * kDecodeBlock / 2);
    k_at = scratch.take(4 * kDecodeBlock);
    v_at = scratch.take(4 * kDecodeBlock);
    k_scale = scratch.take(kDecodeBlock);
    v_scale = scratch.take(kDecodeBlock);
    k = scratch.take(kDecodeBlock * whole_pairs(p.head_dim) / 2);
    v = scratch.take(kDecodeBlock * whole_pairs(p.value_dim) / 2);
    total = scratch.used();
  }

  // Of four rows together, of each 16 elements a vector a row: eight pairs, twice.
  int64_t q;
  int64_t factors;  // of each row
  int64_t sums;     // of each row's powers, in 16 lanes
  int64_t scores;   // of four rows
  int64_t powers;   // of 16 bits, of four rows
  int64_t k_at, v_at;
  int64_t k_scale, v_scale;
  int64_t k, v;  // rows filled up with zeros to 32 elements, where they are not that
  int64_t total;
};

}  // namespace
}  // namespace fovea::attention_detail

FOVEA_TARGET_BEGIN(FOVEA_AVX512_BF16_TARGET ",avx512vnni")
#include "fovea/kernels/attention_decode_pairs-inl.h"

namespace fovea::attention_detail {
namespace {

template <class Cache>
class Decode {
  using T = typename Cache::T;

 public:
  Decode(const DecodeTask& task, float* scratch)
      : task_(task),
        p_(task.problem),
        layout_(p_),
        scratch_(scratch),
        k_width_(whole_pairs(p_.head_dim)),
        v_width_(whole_pairs(p_.value_dim)),
        k_rows_(cached_keys(p_, task.args)),
        v_rows_(cached_values(p_, task.args)),
        k_(task, k_rows_, p_.head_dim, k_width_, reinterpret_cast<T*>(scratch + layout_.k),
           scratch + layout_.k_at),
        v_(task, v_rows_, p_.value_dim, v_width_, reinterpret_cast<T*>(scratch + layout_.v),
           scratch + layout_.v_at) {}

  void run() {
    for_rows([&](int64_t kv, int64_t r) { start(kv, r); });
    each_decode_block(task_,
                      [&](int64_t first, int64_t keys, int64_t next) { block(first, keys, next); });
    for_rows([&](int64_t kv, int64_t r) { finish(kv, r); });
  }

 private:
  // A block's keys of one head.
  struct Part {
    DecodeKeys<T> k, v;
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
  // Of a query: the scale of scores, and that of its numbers.
  float& factors(int64_t kv, int64_t r) const {
    return scratch_[layout_.factors + kv * task_.room + r];
  }
  float* sums(int64_t kv, int64_t r) const {
    return scratch_ + layout_.sums + (kv * task_.room + r) * 16;
  }

  void start(int64_t kv, int64_t r) const {
    const bf16* from = row(static_cast<const bf16*>(task_.args.q), p_.q, task_.batch,
                           task_.query(r), task_.head(kv, r));
    uint32_t* to = queries(kv, r / 4 * 4) + r % 4 * 16;
    float& factor = factors(kv, r);
    factor = score_factor(task_, kv, r);
    const float inverse = Cache::kScaled ? scale_query(from, factor) : 1.0f;
    for (int64_t c = 0; c < k_width_; c += 32, to += 2 * 64) {
      __m512i x = avx512_bf16::load32(from + c, p_.head_dim - c);
      if constexpr (Cache::kScaled) x = whole_numbers(x, inverse);
      _mm512_store_si512(to, _mm512_maskz_shuffle_i64x2(0xff, x, x, 0x44));
      _mm512_store_si512(to + 64, _mm512_maskz_shuffle_i64x2(0xff, x, x, 0xee));
    }
    float* out = task_.result(kv, r);
    std::fill(out, out + task_.max_at, 0.0f);
    out[task_.max_at] = -HUGE_VALF;
    Whole::store(sums(kv, r), Whole::zero());
  }

  // Multiplies factor by what a number of 16 bits stands for; gives what makes them of elements.
  float scale_query(const bf16* from, float& factor) const {
    float most = 0;
    bool finite = true;
    for (int64_t c = 0; c < p_.head_dim; ++c) {
      most = std::max(most, std::abs(static_cast<float>(from[c])));
      finite &= std::isfinite(static_cast<float>(from[c]));
    }
    if (!finite) factor = NAN;
    if (!finite || most < 1e-30f) return 0.0f;
    factor *= most / 32767.0f;
    return 32767.0f / most;
  }
  static __m512i whole_numbers(__m512i bf16s, float inverse) {
    const auto half = [&](__m256i x) {
      const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, x);
      return _mm512_maskz_cvtsepi32_epi16(
          0xffff, _mm512_maskz_cvtps_epi32(
                      0xffff, _mm512_mul_ps((__m512)_mm512_maskz_slli_epi32(0xffff, wide, 16),
                                            _mm512_set1_ps(inverse))));
    };
    return _mm512_maskz_inserti64x4(
        0xff, _mm512_castsi256_si512(half(_mm512_maskz_extracti64x4_epi64(0xf, bf16s, 0))),
        half(_mm512_maskz_extracti64x4_epi64(0xf, bf16s, 1)), 1);
  }

  void block(int64_t first, int64_t keys, int64_t next) {
    k_.go_on(first, keys, next);
    v_.go_on(first, keys, next);
    for (int64_t kv = 0; kv < task_.kv_heads; ++kv) {
      if constexpr (Cache::kScaled) {
        find_scales(task_, k_rows_, first, keys, kv, scratch_ + layout_.k_scale);
        find_scales(task_, v_rows_, first, keys, kv, scratch_ + layout_.v_scale);
      }
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
    auto* const powers = reinterpret_cast<std::byte*>(scratch_ + layout_.powers);
    float most[kRows * 16] __attribute__((aligned(64)));
    float rescale[kRows], factors_of_powers[kRows];
    const auto score = k_width_ == 64    ? score_block<Cache, kRows, 4>
                       : k_width_ == 128 ? score_block<Cache, kRows, 8>
                                         : score_block<Cache, kRows, 0>;
    score(part.k, part.keys, queries(part.kv, r), k_width_, &factors(part.kv, r),
          scratch_ + layout_.k_scale, scores, most);
    for (int64_t i = 0; i < kRows; ++i)
      rescale[i] = softmax(part, r + i, most + 16 * i, scores + i * kDecodeBlock,
                           powers + 2 * i * kDecodeBlock, factors_of_powers[i]);
    float* out = task_.result(part.kv, r);
    int64_t c = 0;
    for (; c + 64 <= v_width_; c += 64)
      value_tile<Cache, kRows, 2>(part.v, part.keys, c, powers, rescale, factors_of_powers, out,
                                  task_.stride);
    if (c < v_width_)
      value_tile<Cache, kRows, 1>(part.v, part.keys, c, powers, rescale, factors_of_powers, out,
                                  task_.stride);
  }

  // The scores of one row become powers of 16 bits; gives by what earlier ones are to be scaled.
  // most: the largest scores of each lane. factor: of powers that are whole numbers.
  float softmax(const Part& part, int64_t r, const float* most, float* scores, std::byte* powers,
                float& factor) const {
    const int64_t whole = padded(part.keys);
    __m512 largest = Whole::load(most);
    const bool links = has_decode_links(p_);
    if (links)
      DecodeLinks(p_, task_.args.links, task_.batch, task_.head(part.kv, r), task_.query(r))
          .apply(part.first, part.keys, scores, cap_scores);
    if (mask_decode_row(task_.seen(r), part.first, part.keys, scores) || links) {
      largest = _mm512_set1_ps(-HUGE_VALF);
      for (int64_t j = 0; j < whole; j += 16)
        largest = Whole::max(largest, Whole::load(scores + j));
    }
    float* const base = task_.result(part.kv, r) + task_.max_at;
    float* const sum = sums(part.kv, r);
    float rescale = 1;
    if (_mm512_cmp_ps_mask(largest, _mm512_set1_ps(*base + kSlack), _CMP_GT_OQ)) {
      const float max = std::max(*base, largest_lane(largest));
      const __m512 down =
          short_bf16::exp2<Whole, 5>(_mm512_sub_ps(_mm512_set1_ps(*base), _mm512_set1_ps(max)));
      Whole::store(sum, _mm512_mul_ps(Whole::load(sum), down));
      rescale = _mm512_cvtss_f32(down);
      *base = max;
    }
    const __m512 from = _mm512_set1_ps(*base == -HUGE_VALF ? 0.0f : *base);
    // Powers that are rounded to bf16 at once need few digits; the log-sum-exp shall have more.
    __m512 more;
    if constexpr (Cache::kScaled) {
      more = powers_of<3>(scores, whole, from, scratch_ + layout_.v_scale,
                          reinterpret_cast<int16_t*>(powers), factor);
    } else {
      auto* const to = reinterpret_cast<bf16*>(powers);
      more = p_.want_lse ? powers_of<5>(scores, whole, from, to)
                         : powers_of<3>(scores, whole, from, to);
      factor = 1;
    }
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
  const CacheRows k_rows_, v_rows_;
  DecodeRows<T> k_, v_;
};

template <class Cache>
void decode(const DecodeTask& task, float* scratch) {
  Decode<Cache>(task, scratch).run();
}

}  // namespace
}  // namespace fovea::attention_detail
FOVEA_TARGET_END

std::unique_ptr<fovea::KernelPlan<fovea::AttentionArgs>>
fovea::attention_detail::plan_decode_avx512bf16(const AttentionProblem& problem) {
  check(problem, false);
  if (problem.dtype != DType::bf16 || !decodes(problem) || !avx512_bf16::available())
    return nullptr;
  const DType type = problem.kv_dtype.value_or(DType::bf16);
  if (type == DType::bf16) return plan_decode(problem, decode<Bf16Cache>, Layout(problem).total);
  // The log-sum-exp shall have more digits than queries of 16 bits give.
  if (type == DType::i8 && !problem.want_lse && avx512_vnni::available())
    return plan_decode(problem, decode<Int8Cache>, Layout(problem).total);
  return nullptr;
}

#else

std::unique_ptr<fovea::KernelPlan<fovea::AttentionArgs>>
fovea::attention_detail::plan_decode_avx512bf16(const AttentionProblem& problem) {
  check(problem, false);
  return nullptr;
}

#endif

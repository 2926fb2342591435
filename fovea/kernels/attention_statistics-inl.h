// What is read off a block of scores beside attention's result, with the lanes over queries,
// included once a target: the entropy of each query as the softmax goes, and, in a second sweep
// that knows the log-sum-exp, what each key receives and each query's strongest links.
#if defined(FOVEA_KERNELS_ATTENTION_STATISTICS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_ATTENTION_STATISTICS_INL_H_
#undef FOVEA_KERNELS_ATTENTION_STATISTICS_INL_H_
#else
#define FOVEA_KERNELS_ATTENTION_STATISTICS_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "fovea/kernels/attention-inl.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

// p * x for x = log2(p), at most 0: 0 where p is 0. NaN stays.
HWY_INLINE Vec times_log(Vec p, Vec x, Vec sum) {
  return hn::MulAdd(p, simd::at_least(x, -1e4f), sum);
}

// sum p x of what has been seen so far, relative to another maximum: its powers become `rescale`
// times as large and its exponents grow by `shift` (not above 0).
HWY_INLINE Vec moved_surprise(Vec surprise, Vec sum, Vec rescale, Vec shift) {
  return hn::Mul(rescale, times_log(sum, shift, surprise));
}

// Where a run of queries collects its statistics.
struct LaneStatistics {
  const float* base = nullptr;  // the largest score
  // Of the sum of powers; 0 for absent queries and those without keys.
  const float* inverse = nullptr;
  float* received = nullptr;  // room for [keys][kLanes]
  int64_t queries = 0;
  float* mass = nullptr;  // of the head, by key; null: not wanted
  // Each query's strongest links, strongest first, [queries][top]; those of equal probability in
  // the order of the keys.
  int64_t top = 0;
  float* least = nullptr;  // what a link must have more of to be among them, one a lane
  float* probabilities = nullptr;
  int32_t* keys = nullptr;
};

HWY_NOINLINE void insert_link(const LaneStatistics& x, int64_t lane, float p, int64_t key) {
  float* probabilities = x.probabilities + lane * x.top;
  int32_t* keys = x.keys + lane * x.top;
  int64_t at = x.top - 1;
  for (; at > 0 && probabilities[at - 1] < p; --at) {
    probabilities[at] = probabilities[at - 1];
    keys[at] = keys[at - 1];
  }
  probabilities[at] = p;
  keys[at] = static_cast<int32_t>(key);
  x.least[lane] = HWY_MAX(x.least[lane], probabilities[x.top - 1]);
}

// Keeps the `top` largest of the maxima of groups of 32 keys, [top][width]: so many links at least
// have the smallest of them or more, so that weaker ones need no place in a list.
HWY_NOINLINE void note_maxima(const float* scores, int64_t width, int64_t keys, int64_t top,
                              float* maxima) {
  constexpr int64_t kGroup = 32;
  const F32 d;
  for (int64_t v = 0; v < width; v += kLanes)
    for (int64_t j = 0; j < keys; j += kGroup) {
      const float* from = scores + j * width + v;
      Vec most = hn::Load(d, from);
      for (int64_t n = 1; n < HWY_MIN(kGroup, keys - j); ++n)
        most = hn::Max(most, hn::Load(d, from + n * width));
      for (int64_t n = 0; n < top; ++n) {
        float* at = maxima + n * width + v;
        const Vec other = hn::Load(d, at);
        hn::Store(hn::Max(other, most), d, at);
        most = hn::Min(other, most);
      }
    }
}

// Scores [keys][width] of the keys from first_key on, times log2(e).
template <bool kMass, bool kTop>
HWY_NOINLINE void collect_of(const LaneStatistics& x, const float* scores, int64_t width,
                             int64_t first_key, int64_t keys) {
  const F32 d;
  // Vectors without any query hold anything.
  for (int64_t v = 0; v < x.queries; v += kLanes) {
    const Vec base = hn::Load(d, x.base + v), inverse = hn::Load(d, x.inverse + v);
    Vec least = kTop ? hn::Load(d, x.least + v) : hn::Zero(d);
    for (int64_t j = 0; j < keys; ++j) {
      const Vec score = hn::Load(d, scores + j * width + v);
      const Vec p = hn::Mul(exp2(hn::Sub(score, base)), inverse);
      if constexpr (kMass) {
        float* to = x.received + j * kLanes;
        hn::Store(v == 0 ? p : hn::Add(p, hn::Load(d, to)), d, to);
      }
      if constexpr (kTop) {
        const auto above = hn::Gt(p, least);
        if (HWY_LIKELY(hn::AllFalse(d, above))) continue;
        HWY_ALIGN float lanes[kLanes];
        hn::Store(p, d, lanes);
        uint8_t bytes[8] = {};
        hn::StoreMaskBits(d, above, bytes);
        for (uint32_t bits = bytes[0] | uint32_t{bytes[1]} << 8; bits != 0; bits &= bits - 1) {
          const int64_t i = std::countr_zero(bits);
          insert_link(x, v + i, lanes[i], first_key + j);
        }
        least = hn::Load(d, x.least + v);
      }
    }
  }
  if constexpr (kMass) {
    float* mass = x.mass + first_key;
    int64_t j = 0;
    for (; j + kLanes <= keys; j += kLanes)
      simd::store(
          hn::Add(simd::load(mass + j), simd::join_each_row(x.received + j * kLanes, simd::Plus())),
          mass + j);
    for (; j < keys; ++j)
      mass[j] += hn::GetLane(hn::SumOfLanes(d, hn::Load(d, x.received + j * kLanes)));
  }
}

HWY_INLINE void collect(const LaneStatistics& x, const float* scores, int64_t width,
                        int64_t first_key, int64_t keys) {
  if (x.mass && x.top > 0) collect_of<true, true>(x, scores, width, first_key, keys);
  if (x.mass && x.top == 0) collect_of<true, false>(x, scores, width, first_key, keys);
  if (!x.mass && x.top > 0) collect_of<false, true>(x, scores, width, first_key, keys);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

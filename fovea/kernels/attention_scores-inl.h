// What happens to a block of scores between the two products of attention, included once a target:
// cap, biases, masks, and on the way back their gradients. Blocks lie with the lanes over queries.
#if defined(FOVEA_KERNELS_ATTENTION_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_ATTENTION_SCORES_INL_H_
#undef FOVEA_KERNELS_ATTENTION_SCORES_INL_H_
#else
#define FOVEA_KERNELS_ATTENTION_SCORES_INL_H_
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#include "fovea/kernels/attention-inl.h"
#include "fovea/kernels/attention_seen.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using attention_detail::TouchedKeys;

// For the lanes of a run of queries, the keys that each sees: [begin, end), and where that has gaps
// what lies in near with the lane's phase, or below low_end (SeenKeys).
struct LaneKeys {
  int32_t* begin = nullptr;
  int32_t* end = nullptr;
  int32_t* near_begin = nullptr;  // null: there are no gaps
  int32_t* near_end = nullptr;
  int32_t* low_end = nullptr;
  int32_t* phase = nullptr;
  int32_t dilation = 1;

  LaneKeys() = default;
  // room: kLaneRows rows of `width` numbers, of which two are used where there are no gaps.
  LaneKeys(const AttentionProblem& p, float* room, int64_t width) {
    auto* at = reinterpret_cast<int32_t*>(room);
    begin = at;
    end = at + width;
    if (!attention_detail::has_gaps(p)) return;
    near_begin = at + 2 * width;
    near_end = at + 3 * width;
    low_end = at + 4 * width;
    phase = at + 5 * width;
    dilation = static_cast<int32_t>(p.dilation);
  }

  // Those from a lane on.
  LaneKeys from(int64_t lane) const {
    LaneKeys x = *this;
    for (int32_t** row : {&x.begin, &x.end, &x.near_begin, &x.near_end, &x.low_end, &x.phase})
      if (*row) *row += lane;
    return x;
  }
};

// Fills the lanes for the queries from the first on; lanes without a query see what the last one
// sees.
HWY_INLINE TouchedKeys fill_lanes(const AttentionProblem& p, const attention_detail::Seen& seen,
                                  int64_t first, int64_t queries, int64_t width,
                                  const LaneKeys& lanes) {
  const auto number = [](int64_t n) { return static_cast<int32_t>(n); };
  if (attention_detail::sees_all(p)) {
    for (int64_t i = 0; i < width; ++i) {
      lanes.begin[i] = 0;
      lanes.end[i] = number(seen.length());
    }
    TouchedKeys touched;
    touched.high = touched.full_high = {0, seen.length()};
    return touched;
  }
  attention_detail::SeenKeys first_keys, keys;
  for (int64_t i = 0; i < width; ++i) {
    if (i < queries) keys = seen.of(first + i);
    if (i == 0) first_keys = keys;
    if (lanes.near_begin) {
      lanes.begin[i] = number(keys.hard.begin);
      lanes.end[i] = number(keys.hard.end);
      lanes.near_begin[i] = number(keys.near.begin);
      lanes.near_end[i] = number(keys.near.end);
      lanes.low_end[i] = number(HWY_MIN(keys.low_end, p.tk));
      const int64_t phase = keys.position % p.dilation;
      lanes.phase[i] = number(phase < 0 ? phase + p.dilation : phase);
    } else {
      const attention_detail::KeyRange range = attention_detail::both(keys.hard, keys.near);
      lanes.begin[i] = number(HWY_MIN(range.begin, p.tk));
      lanes.end[i] = number(HWY_MAX(range.end, 0));
    }
  }
  return TouchedKeys(p, first_keys, keys);
}

// Which of a block's links need looking at one by one.
enum class Look { none, range, gaps };

// scores where the lane's query sees the key, else -infinity.
template <Look kLook>
HWY_INLINE Vec masked(Vec scores, int64_t key, const LaneKeys& lanes, int64_t v) {
  if constexpr (kLook == Look::none) return scores;
  const F32 d;
  const I32 di;
  const auto j = hn::Set(di, static_cast<int32_t>(key));
  const auto from = [&](const int32_t* row) HWY_ATTR { return hn::Load(di, row + v); };
  // begin <= j < end, with the comparisons that every target has.
  auto seen = hn::AndNot(hn::Lt(j, from(lanes.begin)), hn::Lt(j, from(lanes.end)));
  if constexpr (kLook == Look::gaps) {
    auto near = hn::AndNot(hn::Lt(j, from(lanes.near_begin)), hn::Lt(j, from(lanes.near_end)));
    const auto phase = hn::Set(di, static_cast<int32_t>(key % lanes.dilation));
    near = hn::And(near, hn::Eq(phase, from(lanes.phase)));
    seen = hn::And(seen, hn::Or(near, hn::Lt(j, from(lanes.low_end))));
  }
  return hn::IfThenElse(hn::RebindMask(d, seen), scores, hn::Set(d, -HUGE_VALF));
}

// Scores of the keys from first_key on, [keys][stride], of which `width` columns are in use, and
// the keys that each column's query sees.
struct ScoreBlock {
  float* scores;
  int64_t stride, width;
  int64_t first_key, keys;
  LaneKeys lanes;

  Look look() const { return lanes.near_begin ? Look::gaps : Look::range; }
  // Rows and columns of it, the first ones counted from its own.
  ScoreBlock part(int64_t key, int64_t count, int64_t column, int64_t columns) const {
    return {scores + key * stride + column,
            stride,
            columns,
            first_key + key,
            count,
            lanes.from(column)};
  }
};

// max[column] becomes the maximum of what the mask leaves and of before[column], if that is not
// null.
template <Look kLook>
HWY_NOINLINE void mask_scores_of(const ScoreBlock& x, const float* before, float* max) {
  const F32 d;
  for (int64_t v = 0; v < x.width; v += kLanes) {
    Vec largest = before ? hn::Load(d, before + v) : hn::Set(d, -HUGE_VALF);
    for (int64_t j = 0; j < x.keys; ++j) {
      float* at = x.scores + j * x.stride + v;
      const Vec score = masked<kLook>(hn::Load(d, at), x.first_key + j, x.lanes, v);
      if (kLook != Look::none) hn::Store(score, d, at);
      largest = hn::Max(largest, score);
    }
    hn::Store(largest, d, max + v);
  }
}
HWY_INLINE void mask_scores(const ScoreBlock& x, Look look, const float* before, float* max) {
  if (look == Look::none) mask_scores_of<Look::none>(x, before, max);
  if (look == Look::range) mask_scores_of<Look::range>(x, before, max);
  if (look == Look::gaps) mask_scores_of<Look::gaps>(x, before, max);
}

// Scores become probabilities, exp2(score - lse), and dP, which lies like them, becomes
// dS = P * (dP - delta).
template <Look kLook>
HWY_NOINLINE void probabilities_of(const ScoreBlock& x, float* dp, const float* lses,
                                   const float* deltas) {
  const F32 d;
  float* const scores = x.scores;
  const int64_t stride = x.stride, keys = x.keys;
  for (int64_t v = 0; v < x.width; v += kLanes) {
    const Vec lse = hn::Load(d, lses + v), delta = hn::Load(d, deltas + v);
    for (int64_t j = 0; j < keys; ++j) {
      const int64_t i = j * stride + v;
      const Vec score = masked<kLook>(hn::Load(d, scores + i), x.first_key + j, x.lanes, v);
      const Vec p = exp2(hn::Sub(score, lse));
      hn::Store(p, d, scores + i);
      hn::Store(hn::Mul(p, hn::Sub(hn::Load(d, dp + i), delta)), d, dp + i);
    }
  }
}
HWY_INLINE void probabilities(const ScoreBlock& x, Look look, float* dp, const float* lses,
                              const float* deltas) {
  if (look == Look::none) probabilities_of<Look::none>(x, dp, lses, deltas);
  if (look == Look::range) probabilities_of<Look::range>(x, dp, lses, deltas);
  if (look == Look::gaps) probabilities_of<Look::gaps>(x, dp, lses, deltas);
}

// Distance biases of one head, times log2(e), by i - j + tk - 1, so that they rise with the lanes.
HWY_INLINE void reverse_distances(const AttentionProblem& p, const float* from, float* to) {
  const int64_t count = p.tq + p.tk - 1;
  for (int64_t n = 0; n < count; ++n) to[n] = from[count - 1 - n] * static_cast<float>(kLog2E);
  for (int64_t n = count; n < attention_detail::distance_row(p); ++n) to[n] = 0;
}
// All that is added to the scores of one head by distance, likewise: biases and the logarithm of
// what its span leaves.
HWY_INLINE void head_distances(const AttentionProblem& p, const AttentionLinks& links, int64_t head,
                               float* to) {
  const int64_t count = p.tq + p.tk - 1;
  if (p.distance_bias) {
    reverse_distances(p, static_cast<const float*>(links.distance_bias) + head * count, to);
  } else {
    for (int64_t n = 0; n < attention_detail::distance_row(p); ++n) to[n] = 0;
  }
  if (!p.span) return;
  const attention_detail::HeadSpan span(p, links, head);
  for (int64_t n = 0; n < count; ++n)
    to[n] += static_cast<float>(span.logarithm(attention_detail::distance_of(p, n)) * kLog2E);
}

// What is added to the scores of one head, and hidden beside positions.
class ScoreLinks {
 public:
  // distances: of all heads, as reverse_distances() writes them.
  ScoreLinks(const AttentionProblem& p, const AttentionLinks& links, const float* distances,
             int64_t batch, int64_t head)
      : p_(p), cap_(static_cast<float>(p.soft_cap * kLog2E)) {
    if (p.mask) mask_ = attention_detail::links_row(links.mask, p.mask_plane, batch, head, 0);
    if (p.bias)
      bias_ = attention_detail::links_row(static_cast<const float*>(links.bias), p.bias_plane,
                                          batch, head, 0);
    if (attention_detail::has_distances(p))
      distances_ = distances + head * attention_detail::distance_row(p);
  }

  // Whether apply() does anything.
  bool any() const { return mask_ || bias_ || distances_ || cap_ > 0; }

  // The mask hides every link of these queries and keys.
  bool hides_all(int64_t query, int64_t queries, int64_t key, int64_t keys) const {
    if (!mask_) return false;
    for (int64_t i = 0; i < queries; ++i) {
      const uint8_t* row = mask_ + (query + i) * p_.mask_plane.query + key;
      int64_t j = 0;
      for (uint64_t word; j + 8 <= keys; j += 8) {
        std::memcpy(&word, row + j, 8);
        if (word != 0) return false;
      }
      for (; j < keys; ++j)
        if (row[j] != 0) return false;
    }
    return true;
  }

  // slopes: the derivative of the cap, laid out like the scores; null: not wanted.
  HWY_NOINLINE void apply(const ScoreBlock& x, int64_t query, int64_t queries,
                          float* slopes) const {
    if (cap_ > 0) cap(x, slopes);
    if (distances_) add_distances(x, query);
    if (bias_)
      transpose<true>(bias_ + query * p_.bias_plane.query + x.first_key, p_.bias_plane.query,
                      queries, x.keys, static_cast<float>(kLog2E), x.scores, x.stride);
    if (mask_) hide(x, query, queries);
  }

 private:
  void cap(const ScoreBlock& x, float* slopes) const {
    const F32 d;
    const Vec cap = hn::Set(d, cap_), inverse = hn::Set(d, 1.0f / cap_), one = hn::Set(d, 1.0f);
    for (int64_t j = 0; j < x.keys; ++j) {
      for (int64_t v = 0; v < x.width; v += kLanes) {
        const int64_t at = j * x.stride + v;
        const Vec t = simd::tanh(hn::Mul(hn::Load(d, x.scores + at), inverse));
        hn::Store(hn::Mul(t, cap), d, x.scores + at);
        if (slopes) hn::Store(hn::NegMulAdd(t, t, one), d, slopes + at);
      }
    }
  }
  void add_distances(const ScoreBlock& x, int64_t query) const {
    const F32 d;
    for (int64_t j = 0; j < x.keys; ++j) {
      const float* from = distances_ + (query - x.first_key - j + p_.tk - 1);
      float* to = x.scores + j * x.stride;
      for (int64_t v = 0; v < x.width; v += kLanes)
        hn::Store(hn::Add(hn::Load(d, to + v), hn::LoadU(d, from + v)), d, to + v);
    }
  }
  void hide(const ScoreBlock& x, int64_t query, int64_t queries) const {
    constexpr uint64_t kLow = 0x0101010101010101u, kHigh = 0x8080808080808080u;
    for (int64_t i = 0; i < queries; ++i) {
      const uint8_t* row = mask_ + (query + i) * p_.mask_plane.query + x.first_key;
      float* to = x.scores + i;
      for (int64_t j = 0; j < x.keys; j += 8) {
        const int64_t count = HWY_MIN(8, x.keys - j);
        uint64_t word = ~uint64_t{0};
        std::memcpy(&word, row + j, static_cast<size_t>(count));
        if (((word - kLow) & ~word & kHigh) == 0) continue;  // no byte is 0
        for (int64_t n = 0; n < count; ++n)
          if (row[j + n] == 0) to[(j + n) * x.stride] = -HUGE_VALF;
      }
    }
  }

  const AttentionProblem& p_;
  const float cap_;  // times log2(e); 0: none
  const uint8_t* mask_ = nullptr;
  const float* bias_ = nullptr;
  const float* distances_ = nullptr;
};

// Adds the gradients of scores, which lie like x, to those of the distances (of one head, as they
// lie in scratch).
HWY_INLINE void add_distance_gradients(const AttentionProblem& p, const ScoreBlock& x,
                                       int64_t query, const float* ds, float* sums) {
  const F32 d;
  for (int64_t j = 0; j < x.keys; ++j) {
    float* to = sums + (query - x.first_key - j + p.tk - 1);
    const float* from = ds + j * x.stride;
    for (int64_t v = 0; v < x.width; v += kLanes)
      hn::StoreU(hn::Add(hn::LoadU(d, to + v), hn::Load(d, from + v)), d, to + v);
  }
}

HWY_INLINE void multiply(const ScoreBlock& x, const float* by, float* to) {
  const F32 d;
  for (int64_t j = 0; j < x.keys; ++j)
    for (int64_t v = 0; v < x.width; v += kLanes) {
      const int64_t at = j * x.stride + v;
      hn::Store(hn::Mul(hn::Load(d, to + at), hn::Load(d, by + at)), d, to + at);
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

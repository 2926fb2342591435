// The scores of sixteen queries in a strip (attention_strip.h), included once a target.
#if defined(FOVEA_KERNELS_ATTENTION_STRIP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_ATTENTION_STRIP_INL_H_
#undef FOVEA_KERNELS_ATTENTION_STRIP_INL_H_
#else
#define FOVEA_KERNELS_ATTENTION_STRIP_INL_H_
#endif

#include <cstdint>

#include "fovea/kernels/attention_rows-inl.h"
#include "fovea/kernels/attention_scores-inl.h"
#include "fovea/kernels/attention_strip.h"
#include "fovea/kernels/normaliser-inl.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using attention_detail::KeyRange;
using attention_detail::kStripKeys;
using attention_detail::kStripQueries;

constexpr int64_t kStripVecs = kStripQueries / kLanes;
constexpr double kLn2 = 0.6931471805599453;

// A run of queries of one head and the scores of the keys that they see, in rising order.
struct StripPanel {
  int64_t first, queries;
  float* qt;      // Q^T times scale log2(e), [head_dim][16]
  float* strip;   // scores times log2(e), [count][16]
  float* slopes;  // of the cap, likewise; null: not wanted
  int32_t* keys;  // [count]
  int64_t count;
  LaneKeys lanes;
  TouchedKeys seen;

  KeyRange touched() const {
    return {seen.low.empty() ? seen.high.begin : seen.low.begin,
            HWY_MAX(seen.low.end, seen.high.end)};
  }
};

// Of one head of one sample.
class StripScores {
 public:
  // noise: room for 17 kStripKeys floats, with a random normaliser; max: for 16.
  StripScores(const AttentionProblem& p, const AttentionLinks& links, const float* distances,
              int64_t batch, int64_t head, float* noise, float* max)
      : p_(p),
        given_(links),
        seen_(p, links, batch),
        links_(p, links, distances, batch, head),
        batch_(batch),
        head_(head),
        noise_(noise),
        max_(max) {}

  // The panel's memory is set; q: its rows as they go into the product, but for this factor.
  void start(StripPanel& panel, int64_t first, const Rows& q, float factor) const {
    panel.first = first;
    panel.queries = HWY_MIN(kStripQueries, p_.tq - first);
    panel.count = 0;
    // Absent queries may fill more vectors than the last.
    if (panel.queries < kStripQueries) fill_zero(panel.qt, p_.head_dim * kStripQueries);
    load_transposed(q.first, q.stride, panel.queries, p_.head_dim,
                    factor * static_cast<float>(p_.scale * kLog2E), panel.qt, kStripQueries);
    panel.seen = fill_lanes(p_, seen_, first, panel.queries, kStripQueries, panel.lanes);
    // Lanes without a query see nothing.
    for (int64_t i = panel.queries; i < kStripQueries; ++i)
      panel.lanes.begin[i] = panel.lanes.end[i] = 0;
  }

  // Calls use(keys) for the runs of keys of the block that the panel sees.
  template <class Use>
  HWY_INLINE void each_run(const StripPanel& panel, const KeyRange& block, const Use& use) const {
    const auto cut = [&](const KeyRange& run) HWY_ATTR {
      for (const KeyRange& r : {panel.seen.low, panel.seen.high}) {
        const KeyRange keys = attention_detail::both(run, r);
        const int64_t count = keys.end - keys.begin;
        if (count > 0 && !links_.hides_all(panel.first, panel.queries, keys.begin, count))
          use(keys);
      }
    };
    if (p_.block == 0) return cut(block);
    attention_detail::each_run(
        p_, attention_detail::block_row(p_, given_, batch_, head_, panel.first), block, cut);
  }

  // Puts the scores of the keys, at most kStripKeys, whose rows are k, behind the others.
  HWY_NOINLINE void add(StripPanel& panel, const KeyRange& keys, const Rows& k) const {
    const int64_t count = keys.end - keys.begin;
    float* s = panel.strip + panel.count * kStripQueries;
    product<Into::set, Contiguous::step>({.a = k.first,
                                          .a_stride = k.stride,
                                          .b = panel.qt,
                                          .b_stride = kStripQueries,
                                          .c = s,
                                          .c_stride = kStripQueries,
                                          .lane_row = nullptr,
                                          .steps = p_.head_dim},
                                         count, kStripVecs);
    const ScoreBlock block{.scores = s,
                           .stride = kStripQueries,
                           .width = kStripQueries,
                           .first_key = keys.begin,
                           .keys = count,
                           .lanes = panel.lanes};
    float* slopes = panel.slopes ? panel.slopes + panel.count * kStripQueries : nullptr;
    if (links_.any()) links_.apply(block, panel.first, panel.queries, slopes);
    if (is_random(p_.normaliser.kind)) add_noise(panel, keys, s);
    const bool whole = panel.queries == kStripQueries && panel.seen.full(keys.begin, count);
    if (!whole) mask_scores(block, block.look(), nullptr, max_);
    for (int64_t n = 0; n < count; ++n)
      panel.keys[panel.count + n] = static_cast<int32_t>(keys.begin + n);
    panel.count += count;
  }

 private:
  void add_noise(const StripPanel& panel, const KeyRange& keys, float* s) const {
    const int64_t count = keys.end - keys.begin;
    for (int64_t i = 0; i < panel.queries; ++i) {
      const int64_t query = ((given_.rng[2] + batch_) * p_.heads + head_) * p_.tq + panel.first + i;
      simd::gumbel_noise(static_cast<uint64_t>(query * p_.tk + keys.begin), count,
                         p_.normaliser.stream, given_.rng, static_cast<float>(kLog2E),
                         noise_ + i * kStripKeys);
    }
    transpose<true>(noise_, kStripKeys, panel.queries, count, 1.0f, s, kStripQueries);
  }

  const AttentionProblem& p_;
  const AttentionLinks& given_;
  const attention_detail::Seen seen_;
  const ScoreLinks links_;
  const int64_t batch_, head_;
  float* const noise_;
  float* const max_;
};

// Rows of a converted or scattered array at chosen places, each padded with zeros to whole vectors.
template <class T>
HWY_INLINE void gather_places(const T* from, int64_t stride, const int32_t* places, int64_t count,
                              int64_t dim, float* to, int64_t padded) {
  for (int64_t n = 0; n < count; ++n, to += padded)
    copy_rows(from + places[n] * stride, stride, 1, dim, to, padded);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

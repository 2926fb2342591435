// Blocks of scores cut along the edges of a mask, included once a target.
#if defined(FOVEA_KERNELS_ATTENTION_CUTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_ATTENTION_CUTS_INL_H_
#undef FOVEA_KERNELS_ATTENTION_CUTS_INL_H_
#else
#define FOVEA_KERNELS_ATTENTION_CUTS_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "fovea/kernels/attention-inl.h"
#include "fovea/kernels/attention_seen.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using attention_detail::KeyRange;
using attention_detail::TouchedKeys;

// A block of scores, [keys][queries], cut into pieces in each of which some neighbouring vectors of
// queries see keys, so that what no query sees is not computed along the edge of a mask.
struct BlockCut {
  int64_t key, keys;     // rows of the block
  int64_t vec, end_vec;  // columns
  bool full;             // all these queries see all these keys
};
constexpr int64_t kMostVecs = 64 / kLanes;  // of a block
struct BlockCuts {
  BlockCut cuts[4 * kMostVecs + 1];
  int64_t count = 0;
  KeyRange rows[kMostVecs];  // of each vector

  // One piece.
  HWY_INLINE void set_whole(int64_t keys, int64_t vecs, bool full) {
    count = 1;
    cuts[0] = {0, keys, 0, vecs, full};
    for (int64_t v = 0; v < vecs; ++v) rows[v] = {0, keys};
  }
};

// The pieces of the keys from j on; seen: by each vector.
HWY_NOINLINE void cut_block(const TouchedKeys* seen, int64_t vecs, int64_t j, int64_t keys,
                            BlockCuts& x) {
  // Pieces of whole tiles.
  constexpr int64_t kStep = kTileRows;
  const auto inside = [&](int64_t key) { return HWY_MIN(HWY_MAX(key - j, 0), keys); };
  const auto below = [](int64_t n) { return n / kStep * kStep; };
  const auto above = [keys](int64_t n) { return HWY_MIN((n + kStep - 1) / kStep * kStep, keys); };
  KeyRange full[kMostVecs];
  int64_t edges[4 * kMostVecs], edge_count = 0;
  for (int64_t v = 0; v < vecs; ++v) {
    KeyRange there{keys, 0};
    for (const KeyRange& r : {seen[v].low, seen[v].high}) {
      const KeyRange part{inside(r.begin), inside(r.end)};
      if (part.empty()) continue;
      there = {HWY_MIN(there.begin, below(part.begin)), HWY_MAX(there.end, above(part.end))};
    }
    // None: before its first key or behind its last one.
    if (there.empty())
      there.begin = there.end =
          HWY_MIN(seen[v].high.begin, seen[v].high.end) >= j + keys ? keys : int64_t{0};
    x.rows[v] = there;
    if (v > 0 && (there.begin < x.rows[v - 1].begin || there.end < x.rows[v - 1].end))
      return x.set_whole(keys, vecs, false);
    for (const KeyRange& r : {seen[v].full_low, seen[v].full_high}) {
      const KeyRange part{above(inside(r.begin)),
                          inside(r.end) == keys ? keys : below(inside(r.end))};
      if (!part.empty()) full[v] = part;
    }
    for (const int64_t edge : {there.begin, there.end, full[v].begin, full[v].end})
      edges[edge_count++] = edge;
  }
  std::sort(edges, edges + edge_count);
  x.count = 0;
  for (int64_t i = 0; i + 1 < edge_count; ++i) {
    const int64_t key = edges[i], end = edges[i + 1];
    if (key == end) continue;
    BlockCut cut{key, end - key, 0, vecs, true};
    while (cut.vec < vecs && x.rows[cut.vec].end <= key) ++cut.vec;
    while (cut.end_vec > cut.vec && x.rows[cut.end_vec - 1].begin > key) --cut.end_vec;
    if (cut.vec == cut.end_vec) continue;
    for (int64_t v = cut.vec; v < cut.end_vec; ++v)
      cut.full = cut.full && full[v].begin <= key && end <= full[v].end;
    BlockCut* last = x.count > 0 ? &x.cuts[x.count - 1] : nullptr;
    if (last && last->vec == cut.vec && last->end_vec == cut.end_vec && last->full == cut.full &&
        last->key + last->keys == key)
      last->keys += cut.keys;
    else
      x.cuts[x.count++] = cut;
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

// Tiled attention, forward, included once a target; bf16 is converted when it is loaded and stored.
// For a block of queries, Q^T is made once; then for each block of keys S^T = K Q^T, the online
// softmax down the columns of S^T, and O^T = diag(rescale) O^T + V^T P^T. K and V are read as they
// lie, where they are f32.
#if defined(FOVEA_KERNELS_ATTENTION_PANELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_ATTENTION_PANELS_INL_H_
#undef FOVEA_KERNELS_ATTENTION_PANELS_INL_H_
#else
#define FOVEA_KERNELS_ATTENTION_PANELS_INL_H_
#endif

#include <cmath>
#include <cstdint>
#include <span>
#include <type_traits>

#include "fovea/kernels/attention_cuts-inl.h"
#include "fovea/kernels/attention_dropout-inl.h"
#include "fovea/kernels/attention_panels.h"
#include "fovea/kernels/attention_relative-inl.h"
#include "fovea/kernels/attention_rows-inl.h"
#include "fovea/kernels/attention_scores-inl.h"
#include "fovea/kernels/attention_softmax-inl.h"
#include "fovea/kernels/attention_statistics-inl.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using attention_detail::ForwardLayout;
using attention_detail::ForwardTask;
using attention_detail::KeyRange;
using attention_detail::kForwardKeys;

// A run of queries and what is kept of it from one block of keys to the next.
struct Panel {
  int64_t first, queries, vecs, width;
  float* qt;           // Q^T times scale log2(e), [head_dim][width]
  float* relative_qt;  // the same for relative keys, if there are any
  float* ot;           // O^T before the division by sum, [value_dim][width]
  LaneRows lane;
  TouchedKeys seen;
  TouchedKeys vec_seen[kMostVecs];  // of each vector of queries
  KeyRange keys;                    // from the first key that is seen to the last one
  const uint8_t* blocks;            // of keys, one byte each; null: there are no blocks
};

template <class T>
class PanelsForward {
 public:
  PanelsForward(const ForwardTask& task, float* scratch)
      : p_(task.problem),
        task_(task),
        layout_(p_, task.panels),
        scratch_(scratch),
        seen_(p_, task.args.links, task.batch, task.head),
        links_(p_, task.args.links, task.distances, task.batch, task.head),
        change_(p_, task.rotary),
        dropout_(p_, task.args.links, task.batch, task.head),
        kv_head_(task.head / (p_.heads / p_.kv_heads)) {}

  void run() {
    for (int64_t i = task_.first_panel; i < task_.end_panel; ++i)
      if (task_.panels.first_query(i) < p_.tq) lay_out(i, panels_[count_]), ++count_;
    sweep();
    if (!p_.want_mass && p_.top_links == 0) return;
    for (int64_t i = 0; i < count_; ++i) start_collecting(panels_[i]);
    collecting_ = true;
    sweep();
  }

 private:
  // All panels against each block of keys, so that its rows are gathered once. A panel's queries
  // are loaded at its first block and its result is written after its last one.
  void sweep() {
    KeyRange all{p_.tk, 0};
    for (int64_t i = 0; i < count_; ++i) {
      const KeyRange& keys = panels_[i].keys;
      if (!keys.empty()) all = {HWY_MIN(all.begin, keys.begin), HWY_MAX(all.end, keys.end)};
    }
    if (p_.block > 0) all.begin = all.begin / p_.block * p_.block;
    const int64_t length = attention_detail::forward_keys(p_);
    for (int64_t j = all.begin; j < all.end; j += length) {
      const KeyRange block{j, HWY_MIN(j + length, all.end)};
      KeyRows rows{block, 0};
      for (int64_t i = 0; i < count_; ++i) {
        Panel& panel = panels_[i];
        if (panel.keys.begin >= block.end || panel.keys.end <= block.begin) continue;
        if (!collecting_ && panel.keys.begin >= block.begin) start(panel);
        if (panel.blocks)
          attention_detail::each_run(p_, panel.blocks, attention_detail::both(block, panel.keys),
                                     [&](const KeyRange& run)
                                         HWY_ATTR { visit(panel, run, rows); });
        else
          visit(panel, block, rows);
        if (!collecting_ && panel.keys.end <= block.end) write(panel);
      }
    }
    for (int64_t i = 0; i < count_ && !collecting_; ++i)
      if (panels_[i].keys.empty()) start(panels_[i]), write(panels_[i]);
  }

  void write(const Panel& panel) {
    T* out = attention_detail::row(static_cast<T*>(task_.args.out), p_.out, task_.batch,
                                   panel.first, task_.head);
    float* lse = p_.want_lse ? static_cast<float*>(task_.args.lse) : nullptr;
    if (lse) lse += first_row(panel);
    finish(p_, panel.lane, panel.vecs, panel.queries, panel.ot, out, scratch_ + layout_.rows, lse);
    if (p_.want_entropy) write_entropy(panel);
  }

  // Rows of K and V of a block of keys, gathered once they have been asked for.
  struct KeyRows {
    KeyRange block;
    uint32_t there;  // one bit for each block of links, or one for all keys
  };

  // What the panel sees of a run of keys of the block.
  HWY_INLINE void visit(const Panel& panel, const KeyRange& run, KeyRows& rows) {
    for (const KeyRange& r : {panel.seen.low, panel.seen.high}) {
      const KeyRange keys = attention_detail::both(run, r);
      const int64_t count = keys.end - keys.begin;
      if (count <= 0 || links_.hides_all(panel.first, panel.queries, keys.begin, count)) continue;
      gather(keys, rows);
      const int64_t row = keys.begin - rows.block.begin;
      const auto from = [&](const void* base, const AttentionStrides& strides, bool copied,
                            int64_t copy, int64_t dim) HWY_ATTR {
        const int64_t padded = whole_vectors(dim);
        if constexpr (std::is_same_v<T, float>) {
          if (!copied) return Rows{at(base, strides, keys.begin, kv_head_), strides.token};
        }
        return Rows{scratch_ + copy + row * padded, padded};
      };
      step(panel, keys.begin, count,
           from(task_.args.k, p_.k, layout_.copies_k, layout_.k, p_.head_dim),
           from(task_.args.v, p_.v, layout_.copies_v, layout_.v, p_.value_dim));
    }
  }
  void gather(const KeyRange& keys, KeyRows& rows) {
    const int64_t unit = p_.block > 0 ? p_.block : rows.block.end - rows.block.begin;
    const int64_t last = (keys.end - 1 - rows.block.begin) / unit;
    for (int64_t n = (keys.begin - rows.block.begin) / unit; n <= last; ++n) {
      if (rows.there >> n & 1) continue;
      rows.there |= uint32_t{1} << n;
      const int64_t row = n * unit, first = rows.block.begin + row;
      const int64_t count = HWY_MIN(unit, rows.block.end - first);
      if (layout_.copies_k)
        gather_changed(change_, at(task_.args.k, p_.k, first, kv_head_), p_.k, count, p_.head_dim,
                       scratch_ + layout_.k + row * whole_vectors(p_.head_dim),
                       attention_detail::first_key_position(p_) + first);
      if (!collecting_)
        gather_rows(at(task_.args.v, p_.v, first, kv_head_), p_.v, count, p_.value_dim,
                    scratch_ + layout_.v + row * whole_vectors(p_.value_dim));
    }
  }

  const T* at(const void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<const T*>(base), s, task_.batch, token, head);
  }

  Rows queries(int64_t first, int64_t count) const {
    const T* q = at(task_.args.q, p_.q, first, task_.head);
    if constexpr (std::is_same_v<T, float>) {
      if (!change_.any() && !p_.relative_keys && !attention_detail::scattered(p_.q, p_.head_dim))
        return {q, p_.q.token};
    }
    const Rows rows = copied(q, p_.q, count, p_.head_dim, scratch_ + layout_.rows);
    if (change_.any())
      change_.apply(scratch_ + layout_.rows, rows.stride, count,
                    attention_detail::first_query_position(p_) + first);
    return rows;
  }

  // Where the next panel's memory is, and what it sees.
  void lay_out(int64_t index, Panel& panel) {
    const int64_t width = task_.panels.width_vecs(index) * kLanes;
    panel.first = task_.panels.first_query(index);
    panel.queries = HWY_MIN(width, p_.tq - panel.first);
    panel.vecs = width / kLanes;
    panel.width = width;
    panel.qt = scratch_ + count_ * layout_.panel;
    panel.relative_qt = panel.qt + p_.head_dim * width;
    panel.ot = panel.relative_qt + (p_.relative_keys ? p_.head_dim * width : 0);
    float* rows = panel.ot + p_.value_dim * width;
    panel.lane = {.max = rows,
                  .sum = rows + width,
                  .rescale = rows + 2 * width,
                  .new_max = rows + 3 * width,
                  .surprise = rows + 4 * width,
                  .maxima = rows + (5 + attention_detail::kLaneRows) * width,
                  .keys = LaneKeys(p_, rows + 5 * width, width)};
    panel.seen = fill_lanes(p_, seen_, panel.first, panel.queries, width, panel.lane.keys);
    panel.keys = panel.seen.high;
    if (!panel.seen.low.empty())
      panel.keys = {panel.seen.low.begin, HWY_MAX(panel.seen.low.end, panel.seen.high.end)};
    panel.blocks = nullptr;
    if (p_.block > 0) {
      panel.blocks =
          attention_detail::block_row(p_, task_.args.links, task_.batch, task_.head, panel.first);
      KeyRange there{p_.tk, 0};
      if (!panel.keys.empty())
        attention_detail::each_run(p_, panel.blocks, panel.keys, [&](const KeyRange& run) {
          there = {HWY_MIN(there.begin, run.begin), run.end};
        });
      panel.keys = there;
    }
    if (attention_detail::sees_all(p_)) return;
    for (int64_t v = 0; v < panel.vecs; ++v) {
      const auto keys_of = [&](int64_t lane) {
        return seen_.of(panel.first + HWY_MIN(lane, panel.queries - 1));
      };
      panel.vec_seen[v] = TouchedKeys(p_, keys_of(v * kLanes), keys_of((v + 1) * kLanes - 1));
    }
  }

  void start(const Panel& panel) {
    const F32 d;
    const int64_t width = panel.width;
    const float factor = static_cast<float>(p_.scale * kLog2E) *
                         attention_detail::temperature(p_, task_.args.links, task_.head);
    const auto load = [&](const float* bias, float* to) HWY_ATTR {
      const Rows q = queries(panel.first, panel.queries);
      if (bias) add_to_rows(bias, scratch_ + layout_.rows, q.stride, panel.queries, p_.head_dim);
      load_transposed(q.first, q.stride, panel.queries, p_.head_dim, factor, to, width);
    };
    load(attention_detail::content_bias(p_, task_.args.links, task_.head), panel.qt);
    if (p_.relative_keys)
      load(attention_detail::position_bias(p_, task_.args.links, task_.head), panel.relative_qt);
    // A sink is a key that has been seen already.
    const float sink = p_.sink ? static_cast<const float*>(task_.args.links.sinks)[task_.head] *
                                     static_cast<float>(kLog2E)
                               : -HUGE_VALF;
    for (int64_t i = 0; i < width; i += kLanes) {
      hn::Store(hn::Set(d, sink), d, panel.lane.max + i);
      hn::Store(hn::Set(d, sink == -HUGE_VALF ? 0.0f : 1.0f), d, panel.lane.sum + i);
      hn::Store(hn::Zero(d), d, panel.lane.surprise + i);
    }
    for (int64_t i = 0; i < p_.value_dim * width; i += kLanes)
      hn::Store(hn::Zero(d), d, panel.ot + i);
    for (int64_t i = 0; i < bounds_ * width; i += kLanes)
      hn::Store(hn::Set(d, -HUGE_VALF), d, panel.lane.maxima + i);
  }

  // One panel and the keys from j on.
  HWY_NOINLINE void step(const Panel& panel, int64_t j, int64_t keys, Rows k, Rows v) {
    const F32 d;
    const LaneRows& lane = panel.lane;
    float* s = scratch_ + layout_.scores;
    for (int64_t i = 0; i < panel.width; i += kLanes)
      hn::Store(hn::Load(d, lane.max + i), d, lane.new_max + i);
    BlockCuts cuts;
    const bool full = panel.seen.full(j, keys);
    if (full || collecting_ || bounds_ > 0)
      cuts.set_whole(keys, panel.vecs, full);
    else
      cut_block(panel.vec_seen, panel.vecs, j, keys, cuts);
    const std::span<const BlockCut> pieces(cuts.cuts, static_cast<size_t>(cuts.count));
    // Whether scores are not what the product leaves.
    const bool changed = p_.relative_keys || links_.any();
    for (const BlockCut& x : pieces) {
      const int64_t column = x.vec * kLanes;
      const Product scores{.a = k.first + x.key * k.stride,
                           .a_stride = k.stride,
                           .b = panel.qt + column,
                           .b_stride = panel.width,
                           .c = s + x.key * panel.width + column,
                           .c_stride = panel.width,
                           .lane_row = lane.new_max + column,
                           .steps = p_.head_dim};
      if (x.full && !changed)
        product<Into::set_max, Contiguous::step>(scores, x.keys, x.end_vec - x.vec);
      else
        product<Into::set, Contiguous::step>(scores, x.keys, x.end_vec - x.vec);
    }
    const ScoreBlock block{.scores = s,
                           .stride = panel.width,
                           .width = panel.width,
                           .first_key = j,
                           .keys = keys,
                           .lanes = lane.keys};
    if (p_.relative_keys)
      add_relative(p_, block, panel.first, panel.queries, panel.relative_qt,
                   task_.relative + kv_head_ * p_.head_dim * relative_width(p_),
                   scratch_ + layout_.relative);
    if (links_.any()) links_.apply(block, panel.first, panel.queries, nullptr);
    for (const BlockCut& x : pieces) {
      if (x.full && !changed) continue;
      float* const max = lane.new_max + x.vec * kLanes;
      mask_scores(block.part(x.key, x.keys, x.vec * kLanes, (x.end_vec - x.vec) * kLanes),
                  x.full ? Look::none : block.look(), max, max);
    }
    if (bounds_ > 0 && !collecting_) note_maxima(s, panel.width, keys, bounds_, lane.maxima);
    if (collecting_) return collect(statistics(panel), s, panel.width, j, keys);
    if (p_.want_entropy)
      online_softmax<true>(lane, panel.vecs, cuts, s);
    else
      online_softmax<false>(lane, panel.vecs, cuts, s);
    if (dropout_.any) {
      auto* words = reinterpret_cast<uint32_t*>(scratch_ + layout_.words);
      draw(dropout_, panel.first, j, keys, panel.width, words);
      drop(words, keys, panel.width, s);
    }
    for (const BlockCut& x : pieces) {
      const int64_t column = x.vec * kLanes;
      product<Into::rescale, Contiguous::row>({.a = v.first + x.key * v.stride,
                                               .a_stride = v.stride,
                                               .b = s + x.key * panel.width + column,
                                               .b_stride = panel.width,
                                               .c = panel.ot + column,
                                               .c_stride = panel.width,
                                               .lane_row = lane.rescale + column,
                                               .steps = x.keys},
                                              p_.value_dim, x.end_vec - x.vec);
      // Once for each vector.
      for (int64_t i = x.vec; i < x.end_vec; ++i)
        hn::Store(hn::Set(d, 1.0f), d, lane.rescale + i * kLanes);
    }
  }

  int64_t first_row(const Panel& panel) const {
    return (task_.batch * p_.heads + task_.head) * p_.tq + panel.first;
  }

  void write_entropy(const Panel& panel) const {
    float* to = static_cast<float*>(task_.args.entropy) + first_row(panel);
    for (int64_t i = 0; i < panel.queries; ++i) {
      const double sum = panel.lane.sum[i], surprise = panel.lane.surprise[i];
      const double entropy = sum == 0 ? 0.0 : std::log(sum) - surprise / sum * kLn2;
      to[i] = static_cast<float>(entropy < 0 ? 0.0 : entropy);
    }
  }

  // From here on the panel's rescale is the inverse of its sum, its surprise what links must have
  // more of to be kept.
  void start_collecting(const Panel& panel) const {
    const F32 d;
    const LaneRows& lane = panel.lane;
    for (int64_t i = panel.queries; i < panel.width; ++i) lane.sum[i] = 0;
    for (int64_t i = 0; i < panel.width; i += kLanes) {
      const Vec base = simd::base_of(hn::Load(d, lane.max + i));
      const Vec inverse = simd::inverse_or_zero(hn::Load(d, lane.sum + i));
      hn::Store(base, d, lane.max + i);
      hn::Store(inverse, d, lane.rescale + i);
      Vec least = hn::Zero(d);
      if (bounds_ > 0) {
        // A little less, so that the link that it is of is taken.
        const Vec bound = hn::Load(d, lane.maxima + (bounds_ - 1) * panel.width + i);
        least = hn::Mul(hn::Mul(exp2(hn::Sub(bound, base)), inverse), hn::Set(d, 1.0f - 1e-6f));
      }
      hn::Store(least, d, lane.surprise + i);
    }
    if (p_.top_links > 0)
      attention_detail::clear_top(p_, task_.args, first_row(panel), panel.queries);
  }
  LaneStatistics statistics(const Panel& panel) const {
    LaneStatistics x{.base = panel.lane.max,
                     .inverse = panel.lane.rescale,
                     .queries = panel.queries,
                     .top = p_.top_links,
                     .least = panel.lane.surprise};
    if (p_.want_mass) {
      x.received = scratch_ + layout_.received;
      x.mass = task_.mass;
    }
    if (p_.top_links > 0) {
      const int64_t first = first_row(panel) * p_.top_links;
      x.probabilities = static_cast<float*>(task_.args.top_probabilities) + first;
      x.keys = task_.args.top_keys + first;
    }
    return x;
  }

  const AttentionProblem& p_;
  const ForwardTask& task_;
  const ForwardLayout layout_;
  float* const scratch_;
  const int64_t bounds_ = attention_detail::bounds(p_);
  bool collecting_ = false;  // the second sweep
  const attention_detail::Seen seen_;
  const ScoreLinks links_;
  const RowsChange change_;
  const LinkDropout dropout_;
  const int64_t kv_head_;
  int64_t count_ = 0;
  Panel panels_[attention_detail::kMostPanels];
};

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

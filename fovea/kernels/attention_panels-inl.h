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
#include <type_traits>

#include "fovea/kernels/attention_dropout-inl.h"
#include "fovea/kernels/attention_panels.h"
#include "fovea/kernels/attention_relative-inl.h"
#include "fovea/kernels/attention_rows-inl.h"
#include "fovea/kernels/attention_scores-inl.h"
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

constexpr double kLn2 = 0.6931471805599453;

// One number a query.
struct LaneRows {
  float* max;      // of the scores so far, times log2(e)
  float* sum;      // of exp2(score - max)
  float* rescale;  // from the previous maximum to this one
  float* new_max;
  float* surprise;  // sum of exp2(x) x for x = score - max
  float* maxima;    // of groups of keys, the largest ones
  LaneKeys keys;
};

// s becomes exp2(s - maximum); maximum, sum and rescale follow, and with kEntropy the surprise.
template <bool kEntropy>
HWY_INLINE void online_softmax(const LaneRows& lane, int64_t vecs, int64_t keys, float* s) {
  const F32 d;
  const int64_t width = vecs * kLanes;
  for (int64_t v = 0; v < width; v += kLanes) {
    const Vec max = hn::Load(d, lane.new_max + v);
    const Vec base = simd::base_of(max);
    const Vec shift = hn::Sub(hn::Load(d, lane.max + v), base);
    const Vec rescale = exp2(shift);
    Vec sum = hn::Zero(d);
    Vec surprise = hn::Zero(d);
    if (kEntropy)
      surprise =
          moved_surprise(hn::Load(d, lane.surprise + v), hn::Load(d, lane.sum + v), rescale, shift);
    for (float* row = s + v; row < s + keys * width; row += width) {
      const Vec x = hn::Sub(hn::Load(d, row), base);
      const Vec p = exp2(x);
      hn::Store(p, d, row);
      sum = hn::Add(sum, p);
      if (kEntropy) surprise = times_log(p, x, surprise);
    }
    if (kEntropy) hn::Store(surprise, d, lane.surprise + v);
    hn::Store(hn::MulAdd(hn::Load(d, lane.sum + v), rescale, sum), d, lane.sum + v);
    hn::Store(rescale, d, lane.rescale + v);
    hn::Store(max, d, lane.max + v);
  }
}

// rows: room for the output in f32, where it is converted.
template <class T>
HWY_INLINE void finish(const AttentionProblem& p, const LaneRows& lane, int64_t vecs,
                       int64_t queries, float* ot, T* out, float* rows, float* lse) {
  const F32 d;
  const int64_t width = vecs * kLanes;
  const Vec kept = hn::Set(d, static_cast<float>(attention_detail::kept_factor(p)));
  for (int64_t v = 0; v < width; v += kLanes) {
    const Vec inverse = hn::Mul(simd::inverse_or_zero(hn::Load(d, lane.sum + v)), kept);
    for (int64_t c = 0; c < p.value_dim; ++c) {
      float* at = ot + c * width + v;
      hn::Store(hn::Mul(hn::Load(d, at), inverse), d, at);
    }
  }
  if constexpr (std::is_same_v<T, float>) {
    transpose<false>(ot, width, p.value_dim, queries, 1.0f, out, p.out.token);
  } else {
    const int64_t padded = whole_vectors(p.value_dim);
    transpose<false>(ot, width, p.value_dim, queries, 1.0f, rows, padded);
    store_rows(rows, padded, queries, p.value_dim, out, p.out.token);
  }
  if (!lse) return;
  for (int64_t i = 0; i < queries; ++i) {
    // The logarithm of 0 is the -infinity of a query without keys.
    const double max = lane.sum[i] == 0.0f ? 0.0 : static_cast<double>(lane.max[i]) * kLn2;
    lse[i] = static_cast<float>(max + static_cast<double>(std::log(lane.sum[i])));
  }
}

constexpr int64_t kMaxPanels = 16;  // 192 queries with four lanes

// A run of queries and what is kept of it from one block of keys to the next.
struct Panel {
  int64_t first, queries, vecs, width;
  float* qt;           // Q^T times scale log2(e), [head_dim][width]
  float* relative_qt;  // the same for relative keys, if there are any
  float* ot;           // O^T before the division by sum, [value_dim][width]
  LaneRows lane;
  TouchedKeys seen;
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
    int64_t count = 0;
    for (int64_t i = task_.first_panel; i < task_.end_panel; ++i)
      if (task_.panels.first_query(i) < p_.tq) start(i, count, panels_[count]), ++count;
    sweep(count);
    for (int64_t i = 0; i < count; ++i) {
      const Panel& panel = panels_[i];
      T* out = attention_detail::row(static_cast<T*>(task_.args.out), p_.out, task_.batch,
                                     panel.first, task_.head);
      float* lse = p_.want_lse ? static_cast<float*>(task_.args.lse) : nullptr;
      if (lse) lse += (task_.batch * p_.heads + task_.head) * p_.tq + panel.first;
      finish(p_, panel.lane, panel.vecs, panel.queries, panel.ot, out, scratch_ + layout_.rows,
             lse);
      if (p_.want_entropy) write_entropy(panel);
    }
    if (!p_.want_mass && p_.top_links == 0) return;
    for (int64_t i = 0; i < count; ++i) start_collecting(panels_[i]);
    collecting_ = true;
    sweep(count);
  }

 private:
  // All panels against the keys that they see.
  void sweep(int64_t count) {
    if (p_.block > 0) {
      for (int64_t i = 0; i < count; ++i) run_blocks(panels_[i]);
    } else {
      run_together(count);
    }
  }
  // All panels against each block of keys, so that its rows are gathered once.
  void run_together(int64_t count) {
    int64_t begin = p_.tk, end = 0;
    for (int64_t i = 0; i < count; ++i) {
      for (const KeyRange& r : {panels_[i].seen.low, panels_[i].seen.high}) {
        if (r.empty()) continue;
        begin = HWY_MIN(begin, r.begin);
        end = HWY_MAX(end, r.end);
      }
    }
    for (int64_t j = begin; j < end; j += kForwardKeys) {
      const KeyRange block{j, HWY_MIN(j + kForwardKeys, end)};
      BlockRows rows{};
      for (int64_t i = 0; i < count; ++i) visit(panels_[i], block, rows);
    }
  }

  // One panel against the blocks of keys that its block of queries sees.
  void run_blocks(const Panel& panel) {
    const uint8_t* blocks =
        attention_detail::block_row(p_, task_.args.links, task_.batch, task_.head, panel.first);
    const KeyRange keys{panel.seen.low.empty() ? panel.seen.high.begin : panel.seen.low.begin,
                        HWY_MAX(panel.seen.low.end, panel.seen.high.end)};
    attention_detail::each_run(p_, blocks, keys, [&](const KeyRange& run) HWY_ATTR {
      for (int64_t j = run.begin; j < run.end; j += kForwardKeys) {
        BlockRows rows{};
        visit(panel, {j, HWY_MIN(j + kForwardKeys, run.end)}, rows);
      }
    });
  }

  // K and V of a block of keys, once they have been asked for.
  struct BlockRows {
    Rows k, v;
    bool there = false;
  };

  // What the panel sees of a block of keys.
  HWY_INLINE void visit(const Panel& panel, const KeyRange& block, BlockRows& rows) {
    for (const KeyRange& r : {panel.seen.low, panel.seen.high}) {
      const KeyRange keys = attention_detail::both(block, r);
      const int64_t count = keys.end - keys.begin;
      if (count <= 0 || links_.hides_all(panel.first, panel.queries, keys.begin, count)) continue;
      if (!rows.there) gather(block, rows);
      const auto from = [&](const Rows& x) HWY_ATTR {
        return Rows{x.first + (keys.begin - block.begin) * x.stride, x.stride};
      };
      step(panel, keys.begin, count, from(rows.k), from(rows.v));
    }
  }
  void gather(const KeyRange& block, BlockRows& rows) {
    const int64_t count = block.end - block.begin;
    rows.k = gather_changed(change_, at(task_.args.k, p_.k, block.begin, kv_head_), p_.k, count,
                            p_.head_dim, scratch_ + layout_.k,
                            attention_detail::first_key_position(p_) + block.begin);
    if (!collecting_)
      rows.v = gather_rows(at(task_.args.v, p_.v, block.begin, kv_head_), p_.v, count, p_.value_dim,
                           scratch_ + layout_.v);
    rows.there = true;
  }

  const T* at(const void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<const T*>(base), s, task_.batch, token, head);
  }

  Rows queries(int64_t first, int64_t count) const {
    const T* q = at(task_.args.q, p_.q, first, task_.head);
    if constexpr (std::is_same_v<T, float>) {
      if (!change_.any() && !p_.relative_keys) return {q, p_.q.token};
    }
    const Rows rows = copied(q, p_.q, count, p_.head_dim, scratch_ + layout_.rows);
    if (change_.any())
      change_.apply(scratch_ + layout_.rows, rows.stride, count,
                    attention_detail::first_query_position(p_) + first);
    return rows;
  }

  void start(int64_t index, int64_t slot, Panel& panel) {
    const F32 d;
    const int64_t width = task_.panels.width_vecs(index) * kLanes;
    panel.first = task_.panels.first_query(index);
    panel.queries = HWY_MIN(width, p_.tq - panel.first);
    panel.vecs = width / kLanes;
    panel.width = width;
    panel.qt = scratch_ + slot * layout_.panel;
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
    panel.seen = fill_lanes(p_, seen_, panel.first, panel.queries, width, panel.lane.keys);
  }

  // One panel and the keys from j on.
  HWY_NOINLINE void step(const Panel& panel, int64_t j, int64_t keys, Rows k, Rows v) {
    const F32 d;
    const LaneRows& lane = panel.lane;
    float* s = scratch_ + layout_.scores;
    for (int64_t i = 0; i < panel.width; i += kLanes)
      hn::Store(hn::Load(d, lane.max + i), d, lane.new_max + i);
    product<Into::set_max, Contiguous::step>({.a = k.first,
                                              .a_stride = k.stride,
                                              .b = panel.qt,
                                              .b_stride = panel.width,
                                              .c = s,
                                              .c_stride = panel.width,
                                              .lane_row = lane.new_max,
                                              .steps = p_.head_dim},
                                             keys, panel.vecs);
    const ScoreBlock block{.scores = s,
                           .stride = panel.width,
                           .width = panel.width,
                           .first_key = j,
                           .keys = keys,
                           .lanes = lane.keys};
    const Look look = panel.seen.full(j, keys) ? Look::none : block.look();
    if (p_.relative_keys)
      add_relative(p_, block, panel.first, panel.queries, panel.relative_qt,
                   task_.relative + kv_head_ * p_.head_dim * relative_width(p_),
                   scratch_ + layout_.relative);
    if (links_.any()) links_.apply(block, panel.first, panel.queries, nullptr);
    if (p_.relative_keys || links_.any() || look != Look::none)
      mask_scores(block, look, lane.max, lane.new_max);
    if (bounds_ > 0 && !collecting_) note_maxima(s, panel.width, keys, bounds_, lane.maxima);
    if (collecting_) return collect(statistics(panel), s, panel.width, j, keys);
    if (p_.want_entropy)
      online_softmax<true>(lane, panel.vecs, keys, s);
    else
      online_softmax<false>(lane, panel.vecs, keys, s);
    if (dropout_.any) {
      auto* words = reinterpret_cast<uint32_t*>(scratch_ + layout_.words);
      draw(dropout_, panel.first, j, keys, panel.width, words);
      drop(words, keys, panel.width, s);
    }
    product<Into::rescale, Contiguous::row>({.a = v.first,
                                             .a_stride = v.stride,
                                             .b = s,
                                             .b_stride = panel.width,
                                             .c = panel.ot,
                                             .c_stride = panel.width,
                                             .lane_row = lane.rescale,
                                             .steps = keys},
                                            p_.value_dim, panel.vecs);
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
  Panel panels_[kMaxPanels];
};

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

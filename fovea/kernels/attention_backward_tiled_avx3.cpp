// The driver of tiled attention in bf16, backward: the steps of attention_backward_hwy.cpp with
// products of pairs. Along the queries P^T and dS^T are read as rows of pairs (dV += P^T dO,
// dK += dS^T Q), along the keys dS^T as pairs of rows (dQ^T += K^T dS). Rows that are changed
// before they are multiplied (attention_rows.h) are so in f32, and rounded once. For AVX-512 alone.
#include <cmath>

#define HWY_TARGET_INCLUDE "fovea/kernels/attention_backward_tiled_avx3.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/base/error.h"
#include "fovea/kernels/attention_backward_tiled.h"
#include "fovea/kernels/attention_rows-inl.h"
#include "fovea/kernels/attention_scores-inl.h"
#include "fovea/kernels/attention_shared_sums.h"
#include "fovea/kernels/attention_tiled.h"

#ifndef FOVEA_ATTENTION_BACKWARD_TILED_ONCE
#define FOVEA_ATTENTION_BACKWARD_TILED_ONCE
namespace fovea::attention_detail {
namespace {

constexpr int64_t kKeyBlock = 64;  // of the products
constexpr int64_t kQueryBlock = 64;
constexpr int64_t kKeySpan = 512;  // keys whose gradients stand in scratch (in L2) at a time

constexpr int64_t columns(int64_t n) { return (n + 31) / 32 * 32; }

// Queries in a block; they lie in one block of links.
inline int64_t query_block(const AttentionProblem& p) {
  for (int64_t width : {64, 48, 32})
    if (p.block > 0 && p.block % width == 0) return width;
  return p.block > 0 ? 16 : kQueryBlock;
}

// The pieces of one worker's scratch, in floats.
struct TiledBackwardLayout {
  explicit TiledBackwardLayout(const AttentionProblem& p) {
    width = std::min(query_block(p), padded(p.tq));
    dim = columns(p.head_dim);
    value_dim = columns(p.value_dim);
    const int64_t span = std::min(kKeySpan, p.tk);
    const int64_t pairs = (span + 1) / 2, group = p.heads / p.kv_heads;
    ScratchPieces scratch;
    qt = scratch.take((p.head_dim + 1) / 2 * width);
    dot = scratch.take((p.value_dim + 1) / 2 * width);
    q = scratch.take(width / 2 * dim);
    dout = scratch.take(width / 2 * value_dim);
    dqt = scratch.take(p.head_dim * width);
    scores = scratch.take(kKeyBlock * width);
    dp = scratch.take(kKeyBlock * width);
    p_rows = scratch.take(kKeyBlock * width / 2);
    ds_rows = scratch.take(kKeyBlock * width / 2);
    ds_pairs = scratch.take(kKeyBlock / 2 * width);
    slopes = scratch.take(p.soft_cap > 0 ? kKeyBlock * width : 0);
    dk = scratch.take(span * dim);
    dv = scratch.take(span * value_dim);
    k = scratch.take(span * dim / 2);
    v = scratch.take(span * value_dim / 2);
    k_pairs = scratch.take(pairs * dim);
    dq = scratch.take(group * p.tq * p.head_dim);
    lse = scratch.take(width);
    delta = scratch.take(width);
    factor = scratch.take(width);
    max = scratch.take(width);
    lane_keys = scratch.take(kLaneRows * width);
    deltas = scratch.take(group * p.tq);
    const bool changed = changes_rows(p) || p.temperature;
    changing = scratch.take(changed ? kQueryBlock * padded(p.head_dim) : 0);
    changed_q = scratch.take(changed ? width * dim / 2 : 0);
    total = scratch.used();
  }

  int64_t width;           // queries in a block
  int64_t dim, value_dim;  // rounded up
  int64_t qt, dot;         // pairs of Q^T and dO^T, [pairs(dim)][width]
  int64_t q, dout;         // pairs of rows, [width / 2][dim]
  int64_t dqt;             // [head_dim][width]
  int64_t scores, dp;      // [keys][width], in f32
  int64_t p_rows, ds_rows, ds_pairs;
  int64_t slopes;  // of the cap
  int64_t dk, dv;  // [span][dim]
  int64_t k, v;    // rows of bf16, [span][dim]
  int64_t k_pairs;
  int64_t dq;          // of every query of the group, in f32
  int64_t lse, delta;  // one a query of the block
  int64_t factor, max;
  int64_t lane_keys;
  int64_t deltas;     // rowsum(dO * O) of every query of the group
  int64_t changing;   // rows of q or k in f32, [kQueryBlock][head_dim in whole vectors]
  int64_t changed_q;  // rows of bf16, [width][dim]
  int64_t total;
};

}  // namespace
}  // namespace fovea::attention_detail
#endif

#if FOVEA_SIMD && HWY_TARGET == HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

namespace products = attention_detail::tiled_bf16;
using attention_detail::HeadBackwardTask;
using attention_detail::kKeyBlock;
using attention_detail::kKeySpan;
using attention_detail::TiledBackwardLayout;

class TiledHeadBackward {
 public:
  TiledHeadBackward(const HeadBackwardTask& task, float* scratch)
      : p_(task.problem),
        args_(task.args),
        task_(task),
        layout_(p_),
        scratch_(scratch),
        seen_(p_, task.args.links, task.batch),
        change_(p_, task.rotary),
        keeps_ds_(task.args.ddistance_bias || task.args.dbias) {}

  void run() {
    const int64_t group = p_.heads / p_.kv_heads;
    const int64_t first_head = task_.kv_head * group;
    const int64_t kept = attention_detail::kept_in_group(p_, task_.kv_head);
    for (int64_t h = 0; h < kept; ++h) {
      for (int64_t i = 0; i < p_.tq; ++i)
        scratch_[layout_.deltas + h * p_.tq + i] =
            products::dot_rows(at(args_.dout, p_.dout, i, first_head + h),
                               at(args_.out, p_.out, i, first_head + h), p_.value_dim);
    }
    for (int64_t h = kept; h < group; ++h)
      write_zeros(at(args_.dq, p_.dq, 0, first_head + h), p_.dq, p_.tq, p_.head_dim);
    for (int64_t h = 0; h < group; ++h) {
      if (args_.dsinks) *sum_of(task_.sink_sums, h) = h < kept ? sink_gradient(h) : 0.0;
      if (args_.ddistance_bias)
        fill_zero(distance_sums(first_head + h), attention_detail::distance_row(p_));
    }
    for (int64_t span = 0; span < p_.tk; span += kKeySpan) {
      const int64_t keys = HWY_MIN(kKeySpan, p_.tk - span);
      load_keys(span, keys);
      for (int64_t h = 0; h < kept; ++h) {
        for (int64_t i = 0; i < p_.tq; i += layout_.width)
          queries(first_head + h, h, i, span, keys);
      }
      for (int64_t j = 0; change_.any() && j < there(span, keys); ++j)
        undo(scratch_ + layout_.dk + j * layout_.dim, at(args_.k, p_.k, span + j, task_.kv_head),
             attention_detail::first_key_position(p_) + span + j, 1.0f);
      write(scratch_ + layout_.dk, layout_.dim, p_.head_dim, static_cast<float>(p_.scale), span,
            keys, args_.dk, p_.dk);
      write(scratch_ + layout_.dv, layout_.value_dim, p_.value_dim, 1.0f, span, keys, args_.dv,
            p_.dv);
    }
    for (int64_t h = 0; h < group && (change_.any() || p_.temperature); ++h)
      undo_queries(h, h < kept);
    for (int64_t h = 0; h < kept; ++h)
      store_rows(scratch_ + layout_.dq + h * p_.tq * p_.head_dim, p_.head_dim, p_.tq, p_.head_dim,
                 at(args_.dq, p_.dq, 0, first_head + h), p_.dq.token);
  }

 private:
  const bf16* at(const void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<const bf16*>(base), s, task_.batch, token, head);
  }
  bf16* at(void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<bf16*>(base), s, task_.batch, token, head);
  }
  bf16* rows(int64_t place) const { return reinterpret_cast<bf16*>(scratch_ + place); }
  uint32_t* pairs(int64_t place) const { return reinterpret_cast<uint32_t*>(scratch_ + place); }
  const float* lse_of(int64_t head) const {
    return static_cast<const float*>(args_.lse) + (task_.batch * p_.heads + head) * p_.tq;
  }

  double* sum_of(double* sums, int64_t head_in_group) const {
    return sums + (task_.batch * p_.kv_heads + task_.kv_head) * (p_.heads / p_.kv_heads) +
           head_in_group;
  }
  float* distance_sums(int64_t head) const {
    return task_.distance_sums +
           (task_.batch * p_.heads + head) * attention_detail::distance_row(p_);
  }
  // The value of a sink is 0, and so is its dP.
  double sink_gradient(int64_t head_in_group) const {
    const int64_t head = task_.kv_head * (p_.heads / p_.kv_heads) + head_in_group;
    const double sink = static_cast<const float*>(args_.links.sinks)[head];
    const float* lse = lse_of(head);
    const float* deltas = scratch_ + layout_.deltas + head_in_group * p_.tq;
    double sum = 0;
    for (int64_t i = 0; i < p_.tq; ++i)
      if (lse[i] != -HUGE_VALF) sum -= std::exp(sink - lse[i]) * deltas[i];
    return sum;
  }

  // As RowsChange::undo(), which is for more than rotations.
  float undo(float* g, const bf16* x, int64_t position, float temperature) const {
    if (p_.cosine || p_.temperature) return change_.undo(g, x, position, temperature);
    rotate_row<true>(g, p_.rotary_layout, task_.rotary.row(position), task_.rotary.half());
    return 0;
  }

  // Gradients of the queries that stand in the products, before the temperature, become those of
  // the queries; on the way that of the temperature.
  void undo_queries(int64_t head_in_group, bool kept) const {
    const int64_t head = task_.kv_head * (p_.heads / p_.kv_heads) + head_in_group;
    const float temperature = attention_detail::temperature(p_, args_.links, head);
    const int64_t position = attention_detail::first_query_position(p_);
    float* dq = scratch_ + layout_.dq + head_in_group * p_.tq * p_.head_dim;
    double sum = 0;
    for (int64_t i = 0; kept && i < p_.tq; ++i, dq += p_.head_dim)
      sum += static_cast<double>(undo(dq, at(args_.q, p_.q, i, head), position + i, temperature));
    if (args_.dtemperatures) *sum_of(task_.temperature_sums, head_in_group) = sum;
  }

  // Rows as the products read them, times the factor, rounded to `to` and filled up with zeros to
  // layout_.dim; the first one stands at the position.
  void change(const products::RowsFrom& from, int64_t position, float factor, bf16* to) const {
    using attention_detail::kQueryBlock;
    const int64_t stride = attention_detail::padded(p_.head_dim);
    float* const f32 = scratch_ + layout_.changing;
    for (int64_t i = 0; i < from.count; i += kQueryBlock) {
      const int64_t count = HWY_MIN(kQueryBlock, from.count - i);
      if (!p_.cosine && factor == 1.0f) {
        const bf16* at[kQueryBlock];
        for (int64_t r = 0; r < count; ++r) at[r] = from.first + (i + r) * from.token;
        products::rotated({.rows = at,
                           .count = count,
                           .dim = p_.head_dim,
                           .table = task_.rotary.row(position + i),
                           .half = task_.rotary.half(),
                           .layout = p_.rotary_layout},
                          to + i * layout_.dim, layout_.dim);
        continue;
      }
      copy_rows(from.first + i * from.token, from.token, count, p_.head_dim, f32, stride);
      change_.apply(f32, stride, count, position + i);
      if (factor != 1.0f) scale_rows(f32, count * stride, factor);
      store_rows(f32, stride, count, p_.head_dim, to + i * layout_.dim, layout_.dim);
    }
    for (int64_t i = 0; i < from.count; ++i)
      fill_zero(to + i * layout_.dim + p_.head_dim, layout_.dim - p_.head_dim);
  }

  // Keys of a span before the length; what lies beyond is not read.
  int64_t there(int64_t span, int64_t keys) const {
    return HWY_MAX(int64_t{0}, HWY_MIN(keys, seen_.length() - span));
  }
  void load_keys(int64_t span, int64_t keys) const {
    const int64_t count = there(span, keys);
    products::RowsFrom k{at(args_.k, p_.k, span, task_.kv_head), p_.k.token, count, p_.head_dim};
    const products::RowsFrom v{at(args_.v, p_.v, span, task_.kv_head), p_.v.token, count,
                               p_.value_dim};
    if (change_.any()) {
      change(k, attention_detail::first_key_position(p_) + span, 1.0f, rows(layout_.k));
      k = {rows(layout_.k), layout_.dim, count, p_.head_dim};
    } else {
      products::copied(k, rows(layout_.k), layout_.dim);
    }
    products::copied(v, rows(layout_.v), layout_.value_dim);
    products::paired(k, count, pairs(layout_.k_pairs), layout_.dim);
    fill_zero(scratch_ + layout_.dk, keys * layout_.dim);
    fill_zero(scratch_ + layout_.dv, keys * layout_.value_dim);
  }

  // The blocks of the keys [span, span + span_keys) that the queries see: calls use(first key,
  // keys). They begin at whole pairs of the span; what comes before the first key seen is masked.
  template <class Use>
  void each_block(const TouchedKeys& seen, int64_t head, int64_t first, int64_t span,
                  int64_t span_keys, const Use& use) const {
    using attention_detail::both;
    using attention_detail::KeyRange;
    const auto cut = [&](KeyRange keys) HWY_ATTR {
      for (const KeyRange& r : {seen.low, seen.high}) {
        const KeyRange there = both(keys, r);
        if (there.empty()) continue;
        for (int64_t j = there.begin - (there.begin - span) % 2; j < there.end; j += kKeyBlock)
          use(j, HWY_MIN(kKeyBlock, there.end - j));
      }
    };
    const KeyRange all{span, span + span_keys};
    if (p_.block == 0) return cut(all);
    const uint8_t* blocks = attention_detail::block_row(p_, args_.links, task_.batch, head, first);
    attention_detail::each_run(p_, blocks, all, cut);
  }

  // One block of queries against the keys [span, span + span_keys).
  HWY_NOINLINE void queries(int64_t head, int64_t head_in_group, int64_t first, int64_t span,
                            int64_t span_keys) {
    const int64_t count = HWY_MIN(layout_.width, p_.tq - first);
    const int64_t width = attention_detail::padded(count);
    float* dq = scratch_ + layout_.dq + (head_in_group * p_.tq + first) * p_.head_dim;
    const ScoreLinks links(p_, args_.links, task_.distances, task_.batch, head);
    const TouchedKeys seen = attention_detail::in_steps(
        TouchedKeys(p_, seen_.of(first), seen_.of(first + count - 1)), 2);
    bool loaded = false;
    each_block(seen, head, first, span, span_keys, [&](int64_t j, int64_t keys) HWY_ATTR {
      if (links.hides_all(first, count, j, keys)) return;
      if (!loaded) {
        load_queries(head, head_in_group, first, count, width);
        loaded = true;
      }
      block({.head = head, .first = first, .count = count, .width = width}, links,
            seen.full(j, keys), j, keys, j - span);
    });
    if (!loaded) {
      if (span == 0) fill_zero(dq, count * p_.head_dim);
      return;
    }
    const float scale = static_cast<float>(p_.scale);
    const float* dqt = scratch_ + layout_.dqt;
    if (span == 0)
      transpose<false>(dqt, width, p_.head_dim, count, scale, dq, p_.head_dim);
    else
      transpose<true>(dqt, width, p_.head_dim, count, scale, dq, p_.head_dim);
  }

  void load_queries(int64_t head, int64_t head_in_group, int64_t first, int64_t count,
                    int64_t width) {
    products::RowsFrom q{at(args_.q, p_.q, first, head), p_.q.token, count, p_.head_dim};
    const products::RowsFrom dout{at(args_.dout, p_.dout, first, head), p_.dout.token, count,
                                  p_.value_dim};
    const float temperature = attention_detail::temperature(p_, args_.links, head);
    factor_ = static_cast<float>(p_.scale * kLog2E) * temperature;
    const products::RowsFrom changed{rows(layout_.changed_q), layout_.dim, count, p_.head_dim};
    const int64_t position = attention_detail::first_query_position(p_) + first;
    if (change_.any()) change(q, position, 1.0f, rows(layout_.changed_q));
    products::transposed(change_.any() ? changed : q, pairs(layout_.qt), width);
    products::transposed(dout, pairs(layout_.dot), width);
    // Scores get the temperature as a factor in f32; what the gradients of keys are made of, here.
    if (p_.temperature) change(q, position, temperature, rows(layout_.changed_q));
    products::paired(change_.any() || p_.temperature ? changed : q, count, pairs(layout_.q),
                     layout_.dim);
    products::paired(dout, count, pairs(layout_.dout), layout_.value_dim);
    fill_zero(scratch_ + layout_.dqt, p_.head_dim * width);
    fill_lanes(p_, seen_, first, count, width, lanes(width));
    const float* lse = lse_of(head) + first;
    const float* deltas = scratch_ + layout_.deltas + head_in_group * p_.tq + first;
    for (int64_t i = 0; i < width; ++i) {
      // +infinity makes the probabilities of a query without keys, and of an absent one, 0.
      const bool none = i >= count || lse[i] == -HUGE_VALF;
      scratch_[layout_.lse + i] =
          none ? HUGE_VALF : static_cast<float>(static_cast<double>(lse[i]) * kLog2E);
      scratch_[layout_.delta + i] = i < count ? deltas[i] : 0.0f;
      scratch_[layout_.factor + i] = factor_;
    }
  }

  // A block of queries.
  struct Queries {
    int64_t head, first, count, width;
  };

  // Of the key and the first query of the block.
  const float* distances_of(const Queries& x, int64_t key) const {
    return task_.distances + x.head * attention_detail::distance_row(p_) + x.first - key + p_.tk -
           1;
  }

  // Gradients of biases from those of scores, which stand in dp.
  void add_bias_gradients(const Queries& x, const ScoreBlock& block) const {
    const float* const ds = scratch_ + layout_.dp;
    if (args_.ddistance_bias) add_distance_gradients(p_, block, x.first, ds, distance_sums(x.head));
    if (!args_.dbias) return;
    float* to = attention_detail::links_row(static_cast<float*>(args_.dbias), p_.bias_plane,
                                            task_.batch, x.head, x.first);
    transpose<true>(ds, x.width, block.keys, x.count, 1.0f, to + block.first_key,
                    p_.bias_plane.query);
  }

  // The five products for the keys from j on, whose gradients stand at row `row` of dk and dv.
  HWY_NOINLINE void block(const Queries& queries, const ScoreLinks& links, bool full, int64_t j,
                          int64_t keys, int64_t row) {
    const int64_t first = queries.first, count = queries.count, width = queries.width;
    float* const s = scratch_ + layout_.scores;
    float* const dp = scratch_ + layout_.dp;
    const Look look = full ? Look::none : look_of(width).look();
    // Masks need the factor first where it is negative.
    const bool distances_alone = full && attention_detail::adds_distances_alone(p_);
    const bool with_factor = !distances_alone && (links.any() || look != Look::none);
    const products::Product scores{.a = rows(layout_.k) + row * layout_.dim,
                                   .a_row = layout_.dim,
                                   .b = pairs(layout_.qt),
                                   .b_step = width,
                                   .steps = (p_.head_dim + 1) / 2,
                                   .c = s,
                                   .c_row = width};
    if (with_factor)
      products::rows_by_lanes_scaled(scores, keys, width, scratch_ + layout_.factor);
    else
      products::rows_by_lanes(scores, keys, width);
    products::rows_by_lanes({.a = rows(layout_.v) + row * layout_.value_dim,
                             .a_row = layout_.value_dim,
                             .b = pairs(layout_.dot),
                             .b_step = width,
                             .steps = (p_.value_dim + 1) / 2,
                             .c = dp,
                             .c_row = width},
                            keys, width);
    const products::GradientBlock x{
        .scores = s,
        .dp = dp,
        .keys = keys,
        .width = width,
        .p_rows = rows(layout_.p_rows),
        .ds_rows = rows(layout_.ds_rows),
        .ds_pairs = pairs(layout_.ds_pairs),
        .distances = distances_alone ? distances_of(queries, j) : nullptr};
    const ScoreBlock block{.scores = s,
                           .stride = width,
                           .width = width,
                           .first_key = j,
                           .keys = keys,
                           .lanes = lanes(width)};
    float* const slopes = p_.soft_cap > 0 ? scratch_ + layout_.slopes : nullptr;
    if (with_factor && links.any()) links.apply(block, first, count, slopes);
    const float* lse = scratch_ + layout_.lse;
    const float* delta = scratch_ + layout_.delta;
    if (slopes) {
      probabilities(block, look, dp, lse, delta);
    } else {
      if (look != Look::none) mask_scores(block, look, nullptr, scratch_ + layout_.max);
      products::probabilities(x, with_factor ? 1.0f : factor_, lse, delta, keeps_ds_);
    }
    if (keeps_ds_) add_bias_gradients(queries, block);
    if (slopes) {
      multiply(block, slopes, dp);
      products::rounded(x);
    }
    products::add_rows_by_lanes({.a = x.p_rows,
                                 .a_row = width,
                                 .b = pairs(layout_.dout),
                                 .b_step = layout_.value_dim,
                                 .steps = (count + 1) / 2,
                                 .c = scratch_ + layout_.dv + row * layout_.value_dim,
                                 .c_row = layout_.value_dim},
                                keys, attention_detail::padded(p_.value_dim));
    products::add_rows_by_lanes({.a = x.ds_rows,
                                 .a_row = width,
                                 .b = pairs(layout_.q),
                                 .b_step = layout_.dim,
                                 .steps = (count + 1) / 2,
                                 .c = scratch_ + layout_.dk + row * layout_.dim,
                                 .c_row = layout_.dim},
                                keys, attention_detail::padded(p_.head_dim));
    products::add_columns_by_lanes({.a = pairs(layout_.k_pairs) + row / 2 * layout_.dim,
                                    .a_row = layout_.dim,
                                    .b = x.ds_pairs,
                                    .b_step = width,
                                    .steps = (keys + 1) / 2,
                                    .c = scratch_ + layout_.dqt,
                                    .c_row = width},
                                   p_.head_dim, width);
  }

  void write(const float* from, int64_t padded, int64_t dim, float factor, int64_t first_key,
             int64_t keys, void* to, const AttentionStrides& strides) const {
    for (int64_t j = 0; j < keys; ++j) {
      bf16* row = at(to, strides, first_key + j, task_.kv_head);
      for (int64_t c = 0; c < dim; ++c) row[c] = bf16(factor * from[j * padded + c]);
    }
  }

  LaneKeys lanes(int64_t width) const { return LaneKeys(p_, scratch_ + layout_.lane_keys, width); }
  ScoreBlock look_of(int64_t width) const {
    return {.scores = nullptr,
            .stride = 0,
            .width = 0,
            .first_key = 0,
            .keys = 0,
            .lanes = lanes(width)};
  }

  const AttentionProblem& p_;
  const AttentionBackwardArgs& args_;
  const HeadBackwardTask& task_;
  const TiledBackwardLayout layout_;
  float* const scratch_;
  const attention_detail::Seen seen_;
  const RowsChange change_;
  const bool keeps_ds_;  // gradients of scores are wanted as they are
  float factor_ = 0;     // of the products of the queries that are loaded, times log2(e)
};

}  // namespace

void attention_backward_tiled(const HeadBackwardTask& task, float* scratch) {
  TiledHeadBackward(task, scratch).run();
}
void attention_backward_tiled_distances(const AttentionProblem& p, const AttentionLinks& links,
                                        int64_t head, float* to) {
  head_distances(p, links, head, to);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD && HWY_TARGET == HWY_AVX3

#if HWY_ONCE
namespace fovea::attention_detail {
#if HWY_TARGETS & HWY_AVX3
namespace {

// One task owns a key/value head; those that add to the same gradient of a bias are a chain.
class TiledBackwardPlan final : public KernelPlan<AttentionBackwardArgs> {
 public:
  explicit TiledBackwardPlan(const AttentionProblem& problem) : p_(problem), rotary_(problem) {
    worker_scratch_bytes = static_cast<size_t>(TiledBackwardLayout(p_).total) * sizeof(float);
    scratch_bytes = SharedSums::bytes(p_);
  }

  void run(const AttentionBackwardArgs& wanted,
           const KernelContext& context) const noexcept override {
    FOVEA_ASSERT(wanted.lse != nullptr);
    const AttentionBackwardArgs args = named(p_, wanted);
    const SharedSums sums(p_, context.scratch);
    sums.sweep(args, rotary_, N_AVX3::attention_backward_tiled_distances, context,
               N_AVX3::attention_backward_tiled);
    sums.write(args, context);
  }

 private:
  AttentionProblem p_;
  RotaryTable<float> rotary_;
};

}  // namespace

std::unique_ptr<KernelPlan<AttentionBackwardArgs>> plan_tiled_backward(
    const AttentionProblem& problem) {
  return std::make_unique<TiledBackwardPlan>(problem);
}
bool tiled_backward(const AttentionProblem& p) {
  return (hwy::SupportedTargets() & HWY_AVX3) && p.head_dim <= 256 && p.value_dim <= 256 &&
         tiled_links(p);
}
#else
std::unique_ptr<KernelPlan<AttentionBackwardArgs>> plan_tiled_backward(const AttentionProblem&) {
  return nullptr;
}
bool tiled_backward(const AttentionProblem&) { return false; }
#endif

}  // namespace fovea::attention_detail
#endif  // HWY_ONCE

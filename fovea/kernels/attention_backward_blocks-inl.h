// Tiled attention, backward, included once a target; bf16 is converted when it is loaded, its sums
// are formed in f32. For a block of keys and a block of queries, with the lanes over queries,
// P^T = exp2(K Q^T - lse) is made again, then (FlashAttention, algorithm 4)
//   dP^T = V dO^T,  dS = P * (dP - delta),  dV += P^T dO,  dK += dS^T Q,  dQ^T += K^T dS.
// Dropout draws the bits of a block again, for dP and for the P of dV.
// One task owns a key/value head, so nothing is added across tasks.
#if defined(FOVEA_KERNELS_ATTENTION_BACKWARD_BLOCKS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_ATTENTION_BACKWARD_BLOCKS_INL_H_
#undef FOVEA_KERNELS_ATTENTION_BACKWARD_BLOCKS_INL_H_
#else
#define FOVEA_KERNELS_ATTENTION_BACKWARD_BLOCKS_INL_H_
#endif

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "fovea/kernels/attention_backward_blocks.h"
#include "fovea/kernels/attention_cuts-inl.h"
#include "fovea/kernels/attention_dropout-inl.h"
#include "fovea/kernels/attention_relative-inl.h"
#include "fovea/kernels/attention_rows-inl.h"
#include "fovea/kernels/attention_scores-inl.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using attention_detail::BackwardLayout;
using attention_detail::BackwardTask;
using attention_detail::kBackwardKeys;

template <class T>
class HeadBackward {
 public:
  HeadBackward(const BackwardTask& task, float* scratch)
      : p_(task.problem),
        args_(task.args),
        task_(task),
        layout_(p_, kLanes),
        scratch_(scratch),
        change_(p_, task.rotary) {}

  void run() {
    const int64_t group = p_.heads / p_.kv_heads;
    const int64_t first_head = task_.kv_head * group;
    const int64_t kept = attention_detail::kept_in_group(p_, task_.kv_head);
    for (int64_t h = 0; h < kept; ++h) {
      for (int64_t i = 0; i < p_.tq; ++i) {
        scratch_[layout_.deltas + h * p_.tq + i] =
            dot_rows(at(args_.dout, p_.dout, i, first_head + h),
                     at(args_.out, p_.out, i, first_head + h), p_.value_dim);
      }
    }
    for (int64_t h = kept; h < group; ++h)
      write_zeros(at(args_.dq, p_.dq, 0, first_head + h), p_.dq, p_.tq, p_.head_dim);
    for (int64_t h = 0; h < group; ++h) {
      if (p_.sink) *sink_sum(first_head + h) = h < kept ? sink_gradient(first_head + h, h) : 0.0;
      if (attention_detail::has_distances(p_))
        fill_zero(distance_sums(first_head + h), attention_detail::distance_row(p_));
    }
    const int64_t length = attention_detail::key_length(p_, args_.links.key_lengths, task_.batch);
    for (int64_t span = 0; span < p_.tk; span += layout_.span) {
      const int64_t keys = HWY_MIN(layout_.span, p_.tk - span);
      const int64_t position = attention_detail::first_key_position(p_) + span;
      k_ = gather_changed(change_, at(args_.k, p_.k, span, task_.kv_head), p_.k, keys, p_.head_dim,
                          scratch_ + layout_.k, position);
      v_ = gather_rows(at(args_.v, p_.v, span, task_.kv_head), p_.v, keys, p_.value_dim,
                       scratch_ + layout_.v);
      fill_zero(scratch_ + layout_.dk, keys * layout_.dim);
      fill_zero(scratch_ + layout_.dv, keys * layout_.value_dim);
      for (int64_t h = 0; h < kept; ++h) {
        const attention_detail::Seen seen(p_, args_.links, task_.batch, first_head + h);
        for (int64_t i = 0; i < p_.tq; i += layout_.width)
          queries(seen, first_head + h, h, i, span, keys);
      }
      // Rows beyond the length may hold anything.
      for (int64_t j = 0; change_.any() && j < keys && span + j < length; ++j)
        change_.undo(scratch_ + layout_.dk + j * layout_.dim,
                     at(args_.k, p_.k, span + j, task_.kv_head), position + j, 1.0f);
      write(scratch_ + layout_.dk, layout_.dim, p_.head_dim, static_cast<float>(p_.scale), span,
            keys, args_.dk, p_.dk);
      write(scratch_ + layout_.dv, layout_.value_dim, p_.value_dim, kept_, span, keys, args_.dv,
            p_.dv);
    }
    for (int64_t h = 0; h < group && (change_.any() || p_.temperature); ++h)
      undo_queries(first_head + h, h, h < kept);
    if constexpr (!std::is_same_v<T, float>) {
      for (int64_t h = 0; h < kept; ++h)
        store_rows(scratch_ + layout_.dq + h * p_.tq * p_.head_dim, p_.head_dim, p_.tq, p_.head_dim,
                   at(args_.dq, p_.dq, 0, first_head + h), p_.dq.token);
    }
  }

 private:
  const T* at(const void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<const T*>(base), s, task_.batch, token, head);
  }
  T* at(void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<T*>(base), s, task_.batch, token, head);
  }

  // Where dQ is summed up: in place if it is f32.
  struct SumRows {
    float* first;
    int64_t stride;
  };
  SumRows dq_rows(int64_t head, int64_t head_in_group, int64_t first) const {
    if constexpr (std::is_same_v<T, float>) {
      static_cast<void>(head_in_group);
      return {at(args_.dq, p_.dq, first, head), p_.dq.token};
    } else {
      static_cast<void>(head);
      return {scratch_ + layout_.dq + (head_in_group * p_.tq + first) * p_.head_dim, p_.head_dim};
    }
  }

  // Gradients of the queries that stand in the products, times the temperature, become those of the
  // queries; on the way that of the temperature.
  void undo_queries(int64_t head, int64_t head_in_group, bool kept) const {
    const float temperature = attention_detail::temperature(p_, args_.links, head);
    const int64_t position = attention_detail::first_query_position(p_);
    const SumRows dq = dq_rows(head, head_in_group, 0);
    double sum = 0;
    for (int64_t i = 0; kept && i < p_.tq; ++i)
      sum += static_cast<double>(change_.undo(dq.first + i * dq.stride, at(args_.q, p_.q, i, head),
                                              position + i, temperature));
    if (p_.temperature) task_.temperature_sums[task_.batch * p_.heads + head] = sum;
  }

  float* relative_of(float* all) const {
    return all + task_.kv_head * attention_detail::relative_room(p_);
  }
  double* sink_sum(int64_t head) const { return task_.sink_sums + task_.batch * p_.heads + head; }
  float* distance_sums(int64_t head) const {
    return task_.distance_sums +
           (task_.batch * p_.heads + head) * attention_detail::distance_row(p_);
  }
  const float* lse_of(int64_t head) const {
    return static_cast<const float*>(args_.lse) + (task_.batch * p_.heads + head) * p_.tq;
  }
  // The value of a sink is 0, and so is its dP.
  double sink_gradient(int64_t head, int64_t head_in_group) const {
    const double sink = static_cast<const float*>(args_.links.sinks)[head];
    const float* lse = lse_of(head);
    const float* deltas = scratch_ + layout_.deltas + head_in_group * p_.tq;
    double sum = 0;
    for (int64_t i = 0; i < p_.tq; ++i)
      if (lse[i] != -HUGE_VALF) sum -= std::exp(sink - lse[i]) * deltas[i];
    return sum;
  }

  // The blocks of the keys [span, span + span_keys) that the queries see: calls use(first key,
  // keys).
  template <class Use>
  HWY_INLINE void each_block(const TouchedKeys& seen, int64_t head, int64_t first, int64_t span,
                             int64_t span_keys, const Use& use) const {
    using attention_detail::both;
    using attention_detail::KeyRange;
    const auto cut = [&](KeyRange keys) HWY_ATTR {
      for (const KeyRange& r : {seen.low, seen.high}) {
        const KeyRange there = both(keys, r);
        for (int64_t j = there.begin; j < there.end; j += kBackwardKeys)
          use(j, HWY_MIN(kBackwardKeys, there.end - j));
      }
    };
    const KeyRange all{span, span + span_keys};
    if (p_.block == 0) return cut(all);
    const uint8_t* blocks = attention_detail::block_row(p_, args_.links, task_.batch, head, first);
    attention_detail::each_run(p_, blocks, all, cut);
  }

  // One block of queries against the keys [span, span + span_keys).
  HWY_NOINLINE void queries(const attention_detail::Seen& seen_keys, int64_t head,
                            int64_t head_in_group, int64_t first, int64_t span, int64_t span_keys) {
    const int64_t count = HWY_MIN(layout_.width, p_.tq - first);
    const int64_t width = (count + kLanes - 1) / kLanes * kLanes;
    const SumRows dq = dq_rows(head, head_in_group, first);
    const ScoreLinks links(p_, args_.links, task_.distances, task_.batch, head);
    const TouchedKeys seen(p_, seen_keys.of(first), seen_keys.of(first + count - 1));
    bool loaded = false;
    each_block(seen, head, first, span, span_keys, [&](int64_t j, int64_t keys) HWY_ATTR {
      if (links.hides_all(first, count, j, keys)) return;
      if (!loaded) {
        load_queries(head, head_in_group, first, count, width);
        fill_lanes(p_, seen_keys, first, count, width, lanes(width));
        loaded = true;
      }
      const Queries all{.head = head,
                        .first = first,
                        .count = count,
                        .width = width,
                        .column = 0,
                        .stride = width};
      if (p_.relative_keys || seen.full(j, keys))
        block(all, links, seen.full(j, keys), j, keys, j - span);
      else
        block_in_pieces(all, seen_keys, links, j, keys, j - span);
    });
    if (!loaded) {
      if (span == 0) {
        for (int64_t i = 0; i < count; ++i) fill_zero(dq.first + i * dq.stride, p_.head_dim);
      }
      return;
    }
    const float scale = static_cast<float>(p_.scale);
    const float* dqt = scratch_ + layout_.dqt;
    if (span == 0)
      transpose<false>(dqt, width, p_.head_dim, count, scale, dq.first, dq.stride);
    else
      transpose<true>(dqt, width, p_.head_dim, count, scale, dq.first, dq.stride);
    if (p_.relative_keys) add_relative_queries(head, count, width, dq);
  }

  // Adds the gradients of a block's queries for relative keys, and those of both biases.
  void add_relative_queries(int64_t head, int64_t count, int64_t width, const SumRows& dq) const {
    const float scale = static_cast<float>(p_.scale);
    const float* dqt = scratch_ + layout_.dqt;
    float* sums = task_.relative.bias_sums + head * attention_detail::biases_room(p_);
    for (int64_t c = 0; c < p_.head_dim; ++c) {
      float sum = 0;
      for (int64_t i = 0; i < count; ++i) sum += dqt[c * width + i];
      sums[c] += scale * sum;
    }
    float* position_sums = sums + attention_detail::padded(p_.head_dim);
    float* rows = scratch_ + layout_.relative_dq;
    scale_rows(rows, count * layout_.dim, scale);
    for (int64_t i = 0; i < count; ++i) {
      const float* row = rows + i * layout_.dim;
      add_to_rows(row, dq.first + i * dq.stride, 0, 1, p_.head_dim);
      add_to_rows(row, position_sums, 0, 1, p_.head_dim);
    }
  }

  void load_queries(int64_t head, int64_t head_in_group, int64_t first, int64_t count,
                    int64_t width) {
    float* q = scratch_ + layout_.q;
    float* dout = scratch_ + layout_.dout;
    copy_rows(at(args_.q, p_.q, first, head), p_.q.token, count, p_.head_dim, q, layout_.dim);
    copy_rows(at(args_.dout, p_.dout, first, head), p_.dout.token, count, p_.value_dim, dout,
              layout_.value_dim);
    const float factor = static_cast<float>(p_.scale * kLog2E);
    const auto bias_and_scale = [&](const float* bias, float* rows) HWY_ATTR {
      add_to_rows(bias, rows, layout_.dim, count, p_.head_dim);
      if (p_.temperature)
        scale_rows(rows, count * layout_.dim, attention_detail::temperature(p_, args_.links, head));
    };
    if (p_.relative_keys) {
      float* relative = scratch_ + layout_.relative_q;
      copy_rows(at(args_.q, p_.q, first, head), p_.q.token, count, p_.head_dim, relative,
                layout_.dim);
      bias_and_scale(attention_detail::position_bias(p_, args_.links, head), relative);
      load_transposed(relative, layout_.dim, count, p_.head_dim, factor,
                      scratch_ + layout_.relative_qt, width);
      fill_zero(scratch_ + layout_.relative_dq, width * layout_.dim);
    }
    if (change_.any())
      change_.apply(q, layout_.dim, count, attention_detail::first_query_position(p_) + first);
    bias_and_scale(attention_detail::content_bias(p_, args_.links, head), q);
    load_transposed(q, layout_.dim, count, p_.head_dim, factor, scratch_ + layout_.qt, width);
    load_transposed(dout, layout_.value_dim, count, p_.value_dim, kept_, scratch_ + layout_.dot,
                    width);
    fill_zero(scratch_ + layout_.dqt, p_.head_dim * width);
    const float* lse = lse_of(head) + first;
    const float* deltas = scratch_ + layout_.deltas + head_in_group * p_.tq + first;
    for (int64_t i = 0; i < width; ++i) {
      // +infinity makes the probabilities of a query without keys, and of an absent one, 0.
      const bool none = i >= count || lse[i] == -HUGE_VALF;
      scratch_[layout_.lse + i] =
          none ? HUGE_VALF : static_cast<float>(static_cast<double>(lse[i]) * kLog2E);
      scratch_[layout_.delta + i] = i < count ? deltas[i] : 0.0f;
    }
  }

  // Queries of a block, from a column of what is loaded on, of which there are `stride`.
  struct Queries {
    int64_t head, first, count, width;
    int64_t column, stride;
  };

  // block() without what a mask hides along its edge.
  void block_in_pieces(const Queries& all, const attention_detail::Seen& seen,
                       const ScoreLinks& links, int64_t j, int64_t keys, int64_t row) {
    const int64_t vecs = all.width / kLanes;
    TouchedKeys vec_seen[kMostVecs];
    for (int64_t v = 0; v < vecs; ++v) {
      const int64_t first = all.first + v * kLanes;
      const int64_t last = HWY_MIN(first + kLanes, all.first + all.count) - 1;
      vec_seen[v] = TouchedKeys(p_, seen.of(first), seen.of(last));
    }
    BlockCuts cuts;
    cut_block(vec_seen, vecs, j, keys, cuts);
    for (int64_t n = 0; n < cuts.count; ++n) {
      BlockCut cut = cuts.cuts[n];
      for (; n + 1 < cuts.count; ++n) {
        const BlockCut& next = cuts.cuts[n + 1];
        if (next.vec != cut.vec || next.end_vec != cut.end_vec || next.key != cut.key + cut.keys)
          break;
        cut.keys += next.keys;
        cut.full = cut.full && next.full;
      }
      const int64_t column = cut.vec * kLanes, width = (cut.end_vec - cut.vec) * kLanes;
      block({.head = all.head,
             .first = all.first + column,
             .count = HWY_MIN(width, all.count - column),
             .width = width,
             .column = column,
             .stride = all.stride},
            links, cut.full, j + cut.key, cut.keys, row + cut.key);
    }
  }

  // The five products for the keys from j on, whose gradients stand at row `row` of dk and dv.
  void block(const Queries& x, const ScoreLinks& links, bool full, int64_t j, int64_t keys,
             int64_t row) {
    const int64_t count = x.count, width = x.width;
    const int64_t vecs = width / kLanes;
    const float* k = k_.first + row * k_.stride;
    const float* v = v_.first + row * v_.stride;
    float* p_block = scratch_ + layout_.p_block;
    float* ds_block = scratch_ + layout_.ds_block;
    product<Into::set, Contiguous::step>({.a = k,
                                          .a_stride = k_.stride,
                                          .b = scratch_ + layout_.qt + x.column,
                                          .b_stride = x.stride,
                                          .c = p_block,
                                          .c_stride = width,
                                          .lane_row = nullptr,
                                          .steps = p_.head_dim},
                                         keys, vecs);
    product<Into::set, Contiguous::step>({.a = v,
                                          .a_stride = v_.stride,
                                          .b = scratch_ + layout_.dot + x.column,
                                          .b_stride = x.stride,
                                          .c = ds_block,
                                          .c_stride = width,
                                          .lane_row = nullptr,
                                          .steps = p_.value_dim},
                                         keys, vecs);
    const ScoreBlock scores{.scores = p_block,
                            .stride = width,
                            .width = width,
                            .first_key = j,
                            .keys = keys,
                            .lanes = lanes(x.stride).from(x.column)};
    float* const slopes = p_.soft_cap > 0 ? scratch_ + layout_.slopes : nullptr;
    if (p_.relative_keys)
      add_relative(p_, scores, x.first, count, scratch_ + layout_.relative_qt,
                   relative_of(task_.relative.transposed), scratch_ + layout_.relative_block);
    if (links.any()) links.apply(scores, x.first, count, slopes);
    auto* words = reinterpret_cast<uint32_t*>(scratch_ + layout_.words);
    if (p_.dropout > 0) {
      draw(LinkDropout(p_, args_.links, task_.batch, x.head), x.first, j, keys, width, words);
      drop(words, keys, width, ds_block);
    }
    probabilities(scores, full ? Look::none : scores.look(), ds_block,
                  scratch_ + layout_.lse + x.column, scratch_ + layout_.delta + x.column);
    if (p_.dropout > 0) drop(words, keys, width, p_block);
    if (attention_detail::has_distances(p_))
      add_distance_gradients(p_, scores, x.first, ds_block, distance_sums(x.head));
    if (args_.dbias) {
      float* to = attention_detail::links_row(static_cast<float*>(args_.dbias), p_.bias_plane,
                                              task_.batch, x.head, x.first);
      transpose<true>(ds_block, width, keys, count, 1.0f, to + j, p_.bias_plane.query);
    }
    if (slopes) multiply(scores, slopes, ds_block);
    if (p_.relative_keys)
      add_relative_gradients(p_, scores, x.first, count, ds_block,
                             {.q = scratch_ + layout_.relative_q,
                              .rows = relative_of(task_.relative.rows),
                              .dq = scratch_ + layout_.relative_dq,
                              .drows = relative_of(task_.relative.drows),
                              .dim = layout_.dim},
                             scratch_ + layout_.relative_block);
    product<Into::add, Contiguous::step>(
        {.a = p_block,
         .a_stride = width,
         .b = scratch_ + layout_.dout + x.column * layout_.value_dim,
         .b_stride = layout_.value_dim,
         .c = scratch_ + layout_.dv + row * layout_.value_dim,
         .c_stride = layout_.value_dim,
         .lane_row = nullptr,
         .steps = count},
        keys, layout_.value_dim / kLanes);
    product<Into::add, Contiguous::step>({.a = ds_block,
                                          .a_stride = width,
                                          .b = scratch_ + layout_.q + x.column * layout_.dim,
                                          .b_stride = layout_.dim,
                                          .c = scratch_ + layout_.dk + row * layout_.dim,
                                          .c_stride = layout_.dim,
                                          .lane_row = nullptr,
                                          .steps = count},
                                         keys, layout_.dim / kLanes);
    product<Into::add, Contiguous::row>({.a = k,
                                         .a_stride = k_.stride,
                                         .b = ds_block,
                                         .b_stride = width,
                                         .c = scratch_ + layout_.dqt + x.column,
                                         .c_stride = x.stride,
                                         .lane_row = nullptr,
                                         .steps = keys},
                                        p_.head_dim, vecs);
  }

  void write(const float* from, int64_t padded, int64_t dim, float factor, int64_t first_key,
             int64_t keys, void* to, const AttentionStrides& strides) const {
    for (int64_t j = 0; j < keys; ++j) {
      T* row = at(to, strides, first_key + j, task_.kv_head);
      for (int64_t c = 0; c < dim; ++c) row[c] = T(factor * from[j * padded + c]);
    }
  }

  LaneKeys lanes(int64_t width) const { return LaneKeys(p_, scratch_ + layout_.lane_keys, width); }

  const AttentionProblem& p_;
  const AttentionBackwardArgs& args_;
  const BackwardTask& task_;
  const BackwardLayout layout_;
  float* const scratch_;
  const RowsChange change_;
  const float kept_ = static_cast<float>(attention_detail::kept_factor(p_));
  Rows k_{}, v_{};  // of the span
};

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

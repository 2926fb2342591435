// Attention by other normalisers than softmax, backward, in SIMD of each target
// (attention_strip.h). For sixteen queries the strip of scores is made again and turned into
// weights P; of the keys that have one, in products over those keys alone,
//   dP^T = V dO^T,  dS from P and dP by the normaliser's rule,  dV += P^T dO,  dK += dS^T Q,
//   dQ^T = K^T dS.
// One task owns a key/value head, so nothing is added across tasks.
#include <cmath>

#define HWY_TARGET_INCLUDE "fovea/kernels/attention_strip_backward_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/attention.h"
#include "fovea/kernels/attention_shared_sums.h"
#include "fovea/kernels/attention_strip-inl.h"

#ifndef FOVEA_ATTENTION_STRIP_BACKWARD_ONCE
#define FOVEA_ATTENTION_STRIP_BACKWARD_ONCE
namespace fovea::attention_detail {
namespace {

// One worker's scratch, in floats.
struct StripBackwardLayout {
  explicit StripBackwardLayout(const AttentionProblem& p) {
    const int64_t count = strip_rows(p), keys = std::min(kStripKeys, p.tk);
    const bool converted = p.dtype != DType::f32;
    dim = padded(p.head_dim);
    value_dim = padded(p.value_dim);
    ScratchPieces scratch;
    qt = scratch.take(p.head_dim * kStripQueries);
    lanes = scratch.take(kLaneRows * kStripQueries);
    strip = scratch.take(count * kStripQueries);
    dstrip = scratch.take(count * kStripQueries);
    slopes = scratch.take(p.soft_cap > 0 ? count * kStripQueries : 0);
    key_of = scratch.take(count);
    active = scratch.take(count + 1);
    room = scratch.take(normaliser_detail::normaliser_room(p.normaliser, count));
    noise = scratch.take(is_random(p.normaliser.kind) ? (kStripQueries + 1) * kStripKeys : 0);
    max = scratch.take(kStripQueries);
    of_sink = scratch.take(kStripQueries);
    means = scratch.take(kStripQueries);
    q = scratch.take(kStripQueries * dim);
    dout = scratch.take(kStripQueries * value_dim);
    dot = scratch.take(p.value_dim * kStripQueries);
    dqt = scratch.take(p.head_dim * kStripQueries);
    gathered = scratch.take(keys * std::max(dim, value_dim));
    dk = scratch.take(p.tk * dim);
    dv = scratch.take(p.tk * value_dim);
    k = scratch.take(converted || changes_rows(p) || scattered(p.k, p.head_dim) ? p.tk * dim : 0);
    v = scratch.take(converted || scattered(p.v, p.value_dim) ? p.tk * value_dim : 0);
    total = scratch.used();
  }
  int64_t dim, value_dim;         // rounded up to whole vectors
  int64_t qt, lanes;              // of a panel
  int64_t strip, dstrip, slopes;  // P, dP and dS, the cap's derivative: [keys][16]
  int64_t key_of, active;
  int64_t room, noise, max;
  int64_t of_sink, means;  // a number a query
  int64_t q, dout;         // [16][dim]
  int64_t dot, dqt;        // dO^T, dQ^T: [dim][16]
  int64_t gathered;        // rows of a block of keys
  int64_t dk, dv;          // [tk][dim]
  int64_t k, v;            // the same, of keys and values that are scattered or converted
  int64_t total;
};

}  // namespace
}  // namespace fovea::attention_detail
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using attention_detail::HeadBackwardTask;
using attention_detail::StripBackwardLayout;

template <class T>
class StripBackward {
 public:
  StripBackward(const HeadBackwardTask& task, float* scratch)
      : p_(task.problem),
        args_(task.args),
        task_(task),
        layout_(p_),
        scratch_(scratch),
        change_(p_, task.rotary) {}

  void run() {
    const int64_t group = p_.heads / p_.kv_heads, first_head = task_.kv_head * group;
    const int64_t kept = attention_detail::kept_in_group(p_, task_.kv_head);
    fill_zero(scratch_ + layout_.dk, p_.tk * layout_.dim);
    fill_zero(scratch_ + layout_.dv, p_.tk * layout_.value_dim);
    const int64_t position = attention_detail::first_key_position(p_);
    k_ = gather_changed(change_, at(args_.k, p_.k, 0, task_.kv_head), p_.k, p_.tk, p_.head_dim,
                        scratch_ + layout_.k, position);
    v_ = gather_rows(at(args_.v, p_.v, 0, task_.kv_head), p_.v, p_.tk, p_.value_dim,
                     scratch_ + layout_.v);
    for (int64_t h = first_head; h < first_head + group; ++h) {
      if (p_.sink) *sink_sum(h) = 0;
      if (p_.temperature) *temperature_sum(h) = 0;
      if (p_.distance_bias) fill_zero(distance_sums(h), attention_detail::distance_row(p_));
      if (h < first_head + kept)
        head(h);
      else
        write_zeros(at(args_.dq, p_.dq, 0, h), p_.dq, p_.tq, p_.head_dim);
    }
    // Rows beyond the length may hold anything.
    const int64_t length = attention_detail::key_length(p_, args_.links.key_lengths, task_.batch);
    for (int64_t j = 0; change_.any() && j < length; ++j)
      change_.undo(scratch_ + layout_.dk + j * layout_.dim, at(args_.k, p_.k, j, task_.kv_head),
                   position + j, 1.0f);
    store(scratch_ + layout_.dk, layout_.dim, p_.head_dim, static_cast<float>(p_.scale), args_.dk,
          p_.dk);
    store(scratch_ + layout_.dv, layout_.value_dim, p_.value_dim, 1.0f, args_.dv, p_.dv);
  }

 private:
  const T* at(const void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<const T*>(base), s, task_.batch, token, head);
  }
  T* at(void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<T*>(base), s, task_.batch, token, head);
  }
  double* sink_sum(int64_t head) const { return task_.sink_sums + task_.batch * p_.heads + head; }
  double* temperature_sum(int64_t head) const {
    return task_.temperature_sums + task_.batch * p_.heads + head;
  }
  float* distance_sums(int64_t head) const {
    return task_.distance_sums +
           (task_.batch * p_.heads + head) * attention_detail::distance_row(p_);
  }

  void head(int64_t head) {
    const StripScores scores(p_, args_.links, task_.distances, task_.batch, head,
                             scratch_ + layout_.noise, scratch_ + layout_.max);
    const float sink =
        p_.sink ? static_cast<const float*>(args_.links.sinks)[head] * static_cast<float>(kLog2E)
                : -HUGE_VALF;
    const simd::StripNormaliser normaliser(p_.normaliser, kLn2, scratch_ + layout_.room, sink);
    for (int64_t first = 0; first < p_.tq; first += kStripQueries) {
      StripPanel panel = started(scores, head, first);
      make_scores(scores, panel);
      gradients(normaliser, head, panel);
      store_dq(head, panel);
    }
  }

  StripPanel started(const StripScores& scores, int64_t head, int64_t first) const {
    StripPanel panel{};
    panel.qt = scratch_ + layout_.qt;
    panel.strip = scratch_ + layout_.strip;
    panel.slopes = p_.soft_cap > 0 ? scratch_ + layout_.slopes : nullptr;
    panel.keys = reinterpret_cast<int32_t*>(scratch_ + layout_.key_of);
    panel.lanes = LaneKeys(p_, scratch_ + layout_.lanes, kStripQueries);
    const int64_t queries = HWY_MIN(kStripQueries, p_.tq - first);
    float* q = scratch_ + layout_.q;
    float* dout = scratch_ + layout_.dout;
    copy_rows(at(args_.q, p_.q, first, head), p_.q.token, queries, p_.head_dim, q, layout_.dim);
    copy_rows(at(args_.dout, p_.dout, first, head), p_.dout.token, queries, p_.value_dim, dout,
              layout_.value_dim);
    if (change_.any())
      change_.apply(q, layout_.dim, queries, attention_detail::first_query_position(p_) + first);
    if (p_.temperature)
      scale_rows(q, queries * layout_.dim, attention_detail::temperature(p_, args_.links, head));
    if (queries < kStripQueries) fill_zero(scratch_ + layout_.dot, p_.value_dim * kStripQueries);
    load_transposed(dout, layout_.value_dim, queries, p_.value_dim, 1.0f, scratch_ + layout_.dot,
                    kStripQueries);
    fill_zero(scratch_ + layout_.dqt, p_.head_dim * kStripQueries);
    scores.start(panel, first, {q, layout_.dim}, 1.0f);
    return panel;
  }

  void make_scores(const StripScores& scores, StripPanel& panel) const {
    const KeyRange all = panel.touched();
    for (int64_t j = all.begin; j < all.end; j += kStripKeys)
      scores.each_run(panel, {j, HWY_MIN(j + kStripKeys, all.end)},
                      [&](const KeyRange& keys) HWY_ATTR {
                        scores.add(panel, keys, {k_.first + keys.begin * k_.stride, k_.stride});
                      });
  }

  void gradients(const simd::StripNormaliser& normaliser, int64_t head, StripPanel& panel) {
    if (is_hard(p_.normaliser.kind)) add_chosen(normaliser, panel);
    simd::Places active{reinterpret_cast<int32_t*>(scratch_ + layout_.active)};
    float* of_sink = scratch_ + layout_.of_sink;
    float* means = scratch_ + layout_.means;
    normaliser.weights(panel.strip, panel.count, true, active, p_.sink ? of_sink : nullptr);
    compact(panel, active);
    float* ds = scratch_ + layout_.dstrip;
    each_block(panel, [&](int64_t n, int64_t count, int64_t first, bool together) HWY_ATTR {
      const Rows v = rows(v_, panel.keys + n, count, first, together, p_.value_dim);
      product<Into::set, Contiguous::step>({.a = v.first,
                                            .a_stride = v.stride,
                                            .b = scratch_ + layout_.dot,
                                            .b_stride = kStripQueries,
                                            .c = ds + n * kStripQueries,
                                            .c_stride = kStripQueries,
                                            .lane_row = nullptr,
                                            .steps = p_.value_dim},
                                           count, kStripVecs);
    });
    normaliser.gradient(panel.strip, ds, active, means);
    if (p_.sink)
      for (int64_t i = 0; i < panel.queries; ++i)
        *sink_sum(head) -= static_cast<double>(of_sink[i]) * static_cast<double>(means[i]);
    add_link_gradients(head, panel, ds);
    if (panel.slopes)
      multiply({.scores = ds,
                .stride = kStripQueries,
                .width = kStripQueries,
                .first_key = 0,
                .keys = panel.count,
                .lanes = {}},
               panel.slopes, ds);
    each_block(panel, [&](int64_t n, int64_t count, int64_t first, bool together) HWY_ATTR {
      const Rows k = rows(k_, panel.keys + n, count, first, together, p_.head_dim);
      product<Into::add, Contiguous::row>({.a = k.first,
                                           .a_stride = k.stride,
                                           .b = ds + n * kStripQueries,
                                           .b_stride = kStripQueries,
                                           .c = scratch_ + layout_.dqt,
                                           .c_stride = kStripQueries,
                                           .lane_row = nullptr,
                                           .steps = count},
                                          p_.head_dim, kStripVecs);
      if (!is_hard(p_.normaliser.kind))
        add_to_keys(panel, n, count, first, together, panel.strip, scratch_ + layout_.dout,
                    layout_.value_dim, scratch_ + layout_.dv);
      add_to_keys(panel, n, count, first, together, ds, scratch_ + layout_.q, layout_.dim,
                  scratch_ + layout_.dk);
    });
  }

  // What forward made of scores: the value of one key for each query.
  void add_chosen(const simd::StripNormaliser& normaliser, const StripPanel& panel) const {
    const F32 d;
    int32_t chosen[kStripQueries];
    normaliser.choose(panel.strip, panel.count, chosen);
    for (int64_t i = 0; i < panel.queries; ++i) {
      if (chosen[i] < 0) continue;
      float* to = scratch_ + layout_.dv + panel.keys[chosen[i]] * layout_.value_dim;
      const float* from = scratch_ + layout_.dout + i * layout_.value_dim;
      for (int64_t c = 0; c < p_.value_dim; c += kLanes)
        hn::Store(hn::Add(hn::Load(d, to + c), hn::Load(d, from + c)), d, to + c);
    }
  }

  // The active rows of the strip, its slopes and keys, one behind the other; then all are active.
  void compact(StripPanel& panel, simd::Places& active) const {
    const F32 d;
    const auto move = [&](float* strip, int64_t to, int64_t from) HWY_ATTR {
      for (int64_t i = 0; i < kStripQueries; i += kLanes)
        hn::Store(hn::Load(d, strip + from * kStripQueries + i), d, strip + to * kStripQueries + i);
    };
    for (int64_t n = 0; n < active.count; ++n) {
      const int32_t from = active.at[n];
      active.at[n] = static_cast<int32_t>(n);
      if (from == n) continue;
      move(panel.strip, n, from);
      if (panel.slopes) move(panel.slopes, n, from);
      panel.keys[n] = panel.keys[from];
    }
    panel.count = active.count;
  }

  // Calls use(row, count, first key, whether the keys are neighbours) for blocks of rows.
  template <class Use>
  HWY_INLINE void each_block(const StripPanel& panel, const Use& use) const {
    for (int64_t n = 0; n < panel.count; n += kStripKeys) {
      const int64_t count = HWY_MIN(kStripKeys, panel.count - n);
      const int64_t first = panel.keys[n], last = panel.keys[n + count - 1];
      use(n, count, first, last - first == count - 1);
    }
  }

  // The rows of these keys, as they lie or together.
  Rows rows(const Rows& all, const int32_t* keys, int64_t count, int64_t first, bool together,
            int64_t dim) const {
    if (together) return {all.first + first * all.stride, all.stride};
    float* to = scratch_ + layout_.gathered;
    const int64_t padded = whole_vectors(dim);
    for (int64_t n = 0; n < count; ++n)
      copy_rows(all.first + keys[n] * all.stride, all.stride, 1, dim, to + n * padded, padded);
    return {to, padded};
  }

  // to[key] += left^T right, of the rows n .. n + count of left [rows][16] and right [16][width].
  void add_to_keys(const StripPanel& panel, int64_t n, int64_t count, int64_t first, bool together,
                   const float* left, const float* right, int64_t width, float* to) const {
    const F32 d;
    Product x{.a = left + n * kStripQueries,
              .a_stride = kStripQueries,
              .b = right,
              .b_stride = width,
              .c = to + first * width,
              .c_stride = width,
              .lane_row = nullptr,
              .steps = panel.queries};
    if (together) return product<Into::add, Contiguous::step>(x, count, width / kLanes);
    x.c = scratch_ + layout_.gathered;
    product<Into::set, Contiguous::step>(x, count, width / kLanes);
    for (int64_t r = 0; r < count; ++r) {
      float* row = to + panel.keys[n + r] * width;
      for (int64_t c = 0; c < width; c += kLanes)
        hn::Store(hn::Add(hn::Load(d, row + c), hn::Load(d, x.c + r * width + c)), d, row + c);
    }
  }

  // Of biases, run of neighbouring keys by run.
  void add_link_gradients(int64_t head, const StripPanel& panel, const float* ds) const {
    if (!args_.dbias && !p_.distance_bias) return;
    for (int64_t n = 0, end; n < panel.count; n = end) {
      for (end = n + 1; end < panel.count && panel.keys[end] == panel.keys[end - 1] + 1;) ++end;
      const float* from = ds + n * kStripQueries;
      const int64_t first = panel.keys[n];
      if (p_.distance_bias)
        add_distance_gradients(p_,
                               {.scores = nullptr,
                                .stride = kStripQueries,
                                .width = kStripQueries,
                                .first_key = first,
                                .keys = end - n,
                                .lanes = {}},
                               panel.first, from, distance_sums(head));
      if (args_.dbias)
        transpose<true>(from, kStripQueries, end - n, panel.queries, 1.0f,
                        attention_detail::links_row(static_cast<float*>(args_.dbias), p_.bias_plane,
                                                    task_.batch, head, panel.first) +
                            first,
                        p_.bias_plane.query);
    }
  }

  void store_dq(int64_t head, const StripPanel& panel) const {
    T* to = at(args_.dq, p_.dq, panel.first, head);
    const float* dqt = scratch_ + layout_.dqt;
    const auto scale = static_cast<float>(p_.scale);
    if constexpr (std::is_same_v<T, float>) {
      transpose<false>(dqt, kStripQueries, p_.head_dim, panel.queries, scale, to, p_.dq.token);
      undo(head, panel, to, p_.dq.token);
    } else {
      float* q = scratch_ + layout_.q;
      transpose<false>(dqt, kStripQueries, p_.head_dim, panel.queries, scale, q, layout_.dim);
      undo(head, panel, q, layout_.dim);
      store_rows(q, layout_.dim, panel.queries, p_.head_dim, to, p_.dq.token);
    }
  }
  // Gradients of the queries that stand in the products, times the temperature, become those of the
  // queries; on the way that of the temperature.
  void undo(int64_t head, const StripPanel& panel, float* dq, int64_t stride) const {
    if (!change_.any() && !p_.temperature) return;
    const float temperature = attention_detail::temperature(p_, args_.links, head);
    const int64_t position = attention_detail::first_query_position(p_) + panel.first;
    double sum = 0;
    for (int64_t i = 0; i < panel.queries; ++i)
      sum += static_cast<double>(change_.undo(
          dq + i * stride, at(args_.q, p_.q, panel.first + i, head), position + i, temperature));
    if (p_.temperature) *temperature_sum(head) += sum;
  }

  void store(const float* from, int64_t padded, int64_t dim, float factor, void* to,
             const AttentionStrides& strides) const {
    for (int64_t j = 0; j < p_.tk; ++j) {
      T* row = at(to, strides, j, task_.kv_head);
      for (int64_t c = 0; c < dim; ++c) row[c] = T(factor * from[j * padded + c]);
    }
  }

  const AttentionProblem& p_;
  const AttentionBackwardArgs& args_;
  const HeadBackwardTask& task_;
  const StripBackwardLayout layout_;
  float* const scratch_;
  const RowsChange change_;
  Rows k_{}, v_{};
};

}  // namespace

void attention_strip_backward(const HeadBackwardTask& task, float* scratch) {
  if (task.problem.dtype == DType::f32)
    StripBackward<float>(task, scratch).run();
  else
    StripBackward<bf16>(task, scratch).run();
}
void attention_strip_backward_distances(const AttentionProblem& p, const AttentionLinks& links,
                                        int64_t head, float* to) {
  head_distances(p, links, head, to);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::attention_detail {
namespace {

struct StripBackwardTarget {
  void (*backward)(const HeadBackwardTask&, float*);
  DistancesFunction distances;
};

class HwyStripBackward final : public KernelPlan<AttentionBackwardArgs> {
 public:
  HwyStripBackward(const AttentionProblem& problem, const StripBackwardTarget& target)
      : p_(problem), target_(target), rotary_(problem) {
    worker_scratch_bytes = static_cast<size_t>(StripBackwardLayout(p_).total) * sizeof(float);
    scratch_bytes = SharedSums::bytes(p_);
  }

  void run(const AttentionBackwardArgs& wanted,
           const KernelContext& context) const noexcept override {
    const AttentionBackwardArgs args = named(p_, wanted);
    const SharedSums sums(p_, context.scratch);
    sums.sweep(args, rotary_, target_.distances, context, target_.backward);
    sums.write(args, context);
  }

 private:
  AttentionProblem p_;
  StripBackwardTarget target_;
  RotaryTable<float> rotary_;
};

template <auto kBackward, auto kDistances>
std::unique_ptr<KernelPlan<AttentionBackwardArgs>> plan_strip(const AttentionProblem& problem) {
  check(problem, true);
  if (!takes_strips(problem)) return nullptr;
  return std::make_unique<HwyStripBackward>(problem, StripBackwardTarget{kBackward, kDistances});
}

}  // namespace

void append_backward_strip([[maybe_unused]] std::vector<AttentionBackwardKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name)                                               \
  if (supported & bit)                                                             \
    list.push_back({strip_name(name), plan_strip<target::attention_strip_backward, \
                                                 target::attention_strip_backward_distances>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::attention_detail
#endif  // HWY_ONCE

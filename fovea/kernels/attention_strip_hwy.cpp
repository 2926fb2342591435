// Attention by other normalisers than softmax, forward, in SIMD of each target
// (attention_strip.h): the strip of scores, the weights down its columns, and the product with the
// values of those keys alone that have a weight.
#include <cmath>

#define HWY_TARGET_INCLUDE "fovea/kernels/attention_strip_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/attention.h"
#include "fovea/kernels/attention_strip-inl.h"

#ifndef FOVEA_ATTENTION_STRIP_ONCE
#define FOVEA_ATTENTION_STRIP_ONCE
namespace fovea::attention_detail {
namespace {

struct StripTask {
  const AttentionProblem& problem;
  const AttentionArgs& args;
  const float* distances;  // of all heads, reversed
  const RotaryTable<float>& rotary;
  int64_t batch, head, first_panel, end_panel;
};

// One worker's scratch, in floats.
struct StripLayout {
  explicit StripLayout(const AttentionProblem& p) {
    const int64_t rows = strip_rows(p), keys = std::min(kStripKeys, p.tk);
    const bool converted = p.dtype != DType::f32;
    ScratchPieces scratch;
    qt = scratch.take(p.head_dim * kStripQueries);
    lanes = scratch.take(kLaneRows * kStripQueries);
    strip = scratch.take(rows * kStripQueries);
    key_of = scratch.take(rows);
    panel = scratch.used();
    scratch = ScratchPieces();
    scratch.take(panel * std::min(panels_together(p), strip_panels(p)));
    ot = scratch.take(p.value_dim * kStripQueries);
    active = scratch.take(rows + 1);
    room = scratch.take(normaliser_detail::normaliser_room(p.normaliser, rows));
    noise = scratch.take(is_random(p.normaliser.kind) ? (kStripQueries + 1) * kStripKeys : 0);
    max = scratch.take(kStripQueries);
    const bool copy_k = converted || changes_rows(p) || scattered(p.k, p.head_dim);
    k = scratch.take(copy_k ? keys * padded(p.head_dim) : 0);
    v = scratch.take(keys * padded(p.value_dim));
    weights = scratch.take(keys * kStripQueries);
    this->rows = scratch.take(kStripQueries * padded(std::max(p.head_dim, p.value_dim)));
    total = scratch.used();
  }
  int64_t qt, lanes, strip, key_of;  // of a panel
  int64_t panel;
  int64_t ot;      // O^T, [value_dim][16]
  int64_t active;  // rows of the strip with weights
  int64_t room, noise, max;
  int64_t k;           // rows of a block of keys, where they are scattered, converted or changed
  int64_t v, weights;  // rows of values, and their weights, that go into a product
  int64_t rows;        // Q or O in f32, where they are converted or changed
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

using attention_detail::StripLayout;
using attention_detail::StripTask;

template <class T>
class StripForward {
 public:
  StripForward(const StripTask& task, float* scratch)
      : p_(task.problem),
        task_(task),
        layout_(p_),
        scratch_(scratch),
        scores_(p_, task.args.links, task.distances, task.batch, task.head, scratch + layout_.noise,
                scratch + layout_.max),
        change_(p_, task.rotary),
        kv_head_(task.head / (p_.heads / p_.kv_heads)) {}

  void run() {
    const int64_t count = task_.end_panel - task_.first_panel;
    KeyRange all{p_.tk, 0};
    for (int64_t n = 0; n < count; ++n) {
      start(n);
      if (panels_[n].touched().empty()) continue;
      all.begin = HWY_MIN(all.begin, panels_[n].touched().begin);
      all.end = HWY_MAX(all.end, panels_[n].touched().end);
    }
    for (int64_t j = all.begin; j < all.end; j += kStripKeys) {
      const KeyRange block{j, HWY_MIN(j + kStripKeys, all.end)};
      Rows k{nullptr, 0};
      for (int64_t n = 0; n < count; ++n)
        scores_.each_run(panels_[n], block, [&](const KeyRange& keys) HWY_ATTR {
          if (!k.first)
            k = gather_changed(change_, at(task_.args.k, p_.k, j, kv_head_), p_.k, block.end - j,
                               p_.head_dim, scratch_ + layout_.k,
                               attention_detail::first_key_position(p_) + j);
          scores_.add(panels_[n], keys, {k.first + (keys.begin - j) * k.stride, k.stride});
        });
    }
    const float sink = p_.sink ? static_cast<const float*>(task_.args.links.sinks)[task_.head] *
                                     static_cast<float>(kLog2E)
                               : -HUGE_VALF;
    const simd::StripNormaliser normaliser(p_.normaliser, kLn2, scratch_ + layout_.room, sink);
    for (int64_t n = 0; n < count; ++n) finish(panels_[n], normaliser);
  }

 private:
  static constexpr int64_t kMostPanels = 4;

  const T* at(const void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<const T*>(base), s, task_.batch, token, head);
  }

  void start(int64_t n) {
    StripPanel& panel = panels_[n];
    float* own = scratch_ + n * layout_.panel;
    panel.qt = own + layout_.qt;
    panel.strip = own + layout_.strip;
    panel.slopes = nullptr;
    panel.keys = reinterpret_cast<int32_t*>(own + layout_.key_of);
    panel.lanes = LaneKeys(p_, own + layout_.lanes, kStripQueries);
    const int64_t first = (task_.first_panel + n) * kStripQueries;
    const T* q = at(task_.args.q, p_.q, first, task_.head);
    const int64_t queries = HWY_MIN(kStripQueries, p_.tq - first);
    scores_.start(panel, first,
                  gather_changed(change_, q, p_.q, queries, p_.head_dim, scratch_ + layout_.rows,
                                 attention_detail::first_query_position(p_) + first),
                  attention_detail::temperature(p_, task_.args.links, task_.head));
  }

  void finish(const StripPanel& panel, const simd::StripNormaliser& normaliser) {
    simd::Places active{reinterpret_cast<int32_t*>(scratch_ + layout_.active)};
    normaliser.weights(panel.strip, panel.count, false, active);
    float* ot = scratch_ + layout_.ot;
    fill_zero(ot, p_.value_dim * kStripQueries);
    for (int64_t n = 0; n < active.count; n += kStripKeys)
      add_values(panel, active.at + n, HWY_MIN(kStripKeys, active.count - n), ot);
    T* out = attention_detail::row(static_cast<T*>(task_.args.out), p_.out, task_.batch,
                                   panel.first, task_.head);
    if constexpr (std::is_same_v<T, float>) {
      transpose<false>(ot, kStripQueries, p_.value_dim, panel.queries, 1.0f, out, p_.out.token);
    } else {
      float* rows = scratch_ + layout_.rows;
      const int64_t padded = whole_vectors(p_.value_dim);
      transpose<false>(ot, kStripQueries, p_.value_dim, panel.queries, 1.0f, rows, padded);
      store_rows(rows, padded, panel.queries, p_.value_dim, out, p_.out.token);
    }
    if (p_.want_lse && task_.args.lse)
      fill_zero(static_cast<float*>(task_.args.lse) +
                    (task_.batch * p_.heads + task_.head) * p_.tq + panel.first,
                panel.queries);
  }

  // Of so many active rows of the strip.
  void add_values(const StripPanel& panel, const int32_t* rows, int64_t count, float* ot) {
    const F32 d;
    const int64_t padded = whole_vectors(p_.value_dim);
    const T* from = at(task_.args.v, p_.v, 0, kv_head_);
    float* values = scratch_ + layout_.v;
    float* weights = scratch_ + layout_.weights;
    for (int64_t n = 0; n < count; ++n) {
      copy_rows(from + panel.keys[rows[n]] * p_.v.token, p_.v.token, 1, p_.value_dim,
                values + n * padded, padded);
      for (int64_t i = 0; i < kStripQueries; i += kLanes)
        hn::Store(hn::Load(d, panel.strip + rows[n] * kStripQueries + i), d,
                  weights + n * kStripQueries + i);
    }
    product<Into::add, Contiguous::row>({.a = values,
                                         .a_stride = padded,
                                         .b = weights,
                                         .b_stride = kStripQueries,
                                         .c = ot,
                                         .c_stride = kStripQueries,
                                         .lane_row = nullptr,
                                         .steps = count},
                                        p_.value_dim, kStripVecs);
  }

  const AttentionProblem& p_;
  const StripTask& task_;
  const StripLayout layout_;
  float* const scratch_;
  const StripScores scores_;
  const RowsChange change_;
  const int64_t kv_head_;
  StripPanel panels_[kMostPanels];
};

}  // namespace

void attention_strip(const StripTask& task, float* scratch) {
  if (task.problem.dtype == DType::f32)
    StripForward<float>(task, scratch).run();
  else
    StripForward<bf16>(task, scratch).run();
}
void attention_strip_distances(const AttentionProblem& p, const float* from, float* to) {
  reverse_distances(p, from, to);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::attention_detail {
namespace {

struct StripTarget {
  void (*forward)(const StripTask&, float*);
  void (*distances)(const AttentionProblem&, const float*, float*);
};

class HwyStrip final : public KernelPlan<AttentionArgs> {
 public:
  HwyStrip(const AttentionProblem& problem, const StripTarget& target)
      : p_(problem), target_(target), rotary_(problem) {
    worker_scratch_bytes = static_cast<size_t>(StripLayout(p_).total) * sizeof(float);
    if (p_.distance_bias)
      scratch_bytes = static_cast<size_t>(p_.heads * distance_row(p_)) * sizeof(float);
  }

  void run(const AttentionArgs& args, const KernelContext& context) const noexcept override {
    float* distances = reinterpret_cast<float*>(context.scratch);
    if (p_.distance_bias) {
      context.pool->parallel_for(p_.heads, [&](int64_t head, int) {
        target_.distances(
            p_, static_cast<const float*>(args.links.distance_bias) + head * (p_.tq + p_.tk - 1),
            distances + head * distance_row(p_));
      });
    }
    const int64_t together = panels_together(p_), panels = strip_panels(p_);
    const int64_t tasks = (panels + together - 1) / together;
    context.pool->parallel_for(p_.batch * p_.heads * tasks, [&](int64_t n, int worker) {
      const int64_t first = n % tasks * together;
      const StripTask task{.problem = p_,
                           .args = args,
                           .distances = distances,
                           .rotary = rotary_,
                           .batch = n / tasks / p_.heads,
                           .head = n / tasks % p_.heads,
                           .first_panel = first,
                           .end_panel = std::min(first + together, panels)};
      if (task.head < p_.heads_kept)
        target_.forward(task, context.worker<float>(worker));
      else if (p_.dtype == DType::f32)
        drop<float>(task);
      else
        drop<bf16>(task);
    });
  }

 private:
  // Zeros for the queries of a head that is not kept.
  template <class T>
  void drop(const StripTask& task) const {
    const int64_t end = std::min(p_.tq, task.end_panel * kStripQueries);
    for (int64_t i = task.first_panel * kStripQueries; i < end; ++i) {
      std::fill_n(row(static_cast<T*>(task.args.out), p_.out, task.batch, i, task.head),
                  p_.value_dim, T(0.0f));
      if (p_.want_lse && task.args.lse)
        static_cast<float*>(task.args.lse)[(task.batch * p_.heads + task.head) * p_.tq + i] = 0;
    }
  }

  AttentionProblem p_;
  StripTarget target_;
  RotaryTable<float> rotary_;
};

template <auto kForward, auto kDistances>
std::unique_ptr<KernelPlan<AttentionArgs>> plan_strip(const AttentionProblem& problem) {
  check(problem, false);
  if (!takes_strips(problem)) return nullptr;
  return std::make_unique<HwyStrip>(problem, StripTarget{kForward, kDistances});
}

}  // namespace

void append_strip([[maybe_unused]] std::vector<AttentionKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name)  \
  if (supported & bit)                \
    list.push_back({strip_name(name), \
                    plan_strip<target::attention_strip, target::attention_strip_distances>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::attention_detail
#endif  // HWY_ONCE

// The driver of tiled attention in low precision, forward: panels of queries against blocks of keys
// as in attention_hwy.cpp, with the products and the softmax of a format (attention_tiled.h) and
// the masks, biases and sinks of the f32 kernels. For AVX-512 alone.
#include <cmath>

#define HWY_TARGET_INCLUDE "fovea/kernels/attention_tiled_avx3.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/attention_backward_tiled.h"
#include "fovea/kernels/attention_rows-inl.h"
#include "fovea/kernels/attention_scores-inl.h"
#include "fovea/kernels/attention_tiled.h"

#ifndef FOVEA_ATTENTION_TILED_ONCE
#define FOVEA_ATTENTION_TILED_ONCE
namespace fovea::attention_detail {
namespace {

constexpr int64_t kLaneCount = 16;
constexpr int64_t kRowsOfPanel = 6;  // of one number a query, in f32; one more in i32

// Queries of one head are cut into panels of at most kTiledLanes, of nearly equal width. Where
// there are blocks of links, a panel lies in one block.
struct TiledCut {
  explicit TiledCut(const AttentionProblem& p)
      : unit((p.block > 0 ? p.block : padded(p.tq)) / kLaneCount),
        in_unit((unit * kLaneCount + kTiledLanes - 1) / kTiledLanes),
        count((p.tq + unit * kLaneCount - 1) / (unit * kLaneCount) * in_unit),
        per_task(std::clamp(p.batch * p.heads * count / kTiledTasks, kLeastTiledPanels,
                            kMostTiledPanels)),
        tasks((count + per_task - 1) / per_task) {}

  int64_t width(int64_t panel) const {
    return kLaneCount * (unit / in_unit + (panel % in_unit < unit % in_unit));
  }
  int64_t first_query(int64_t panel) const {
    const int64_t n = panel % in_unit;
    return kLaneCount *
           (panel / in_unit * unit + n * (unit / in_unit) + std::min(n, unit % in_unit));
  }

  int64_t unit, in_unit, count, per_task, tasks;  // unit: in vectors
};

struct TiledTask {
  const AttentionProblem& problem;
  const AttentionArgs& args;
  const TiledFormat& format;
  const TiledCut& cut;
  const float* distances;  // biases of all heads, reversed
  const RotaryTable<float>& rotary;
  int64_t batch, head, first_panel, end_panel;
};

// Where one worker's scratch holds what, in floats.
struct TiledLayout {
  TiledLayout(const AttentionProblem& p, const TiledFormat& format, const TiledCut& cut) {
    const auto steps = [&](int64_t n) { return (n + format.in_step - 1) / format.in_step; };
    ScratchPieces scratch;
    scores = scratch.take(kTiledLanes * kTiledKeys);
    k = scratch.take(kTiledKeys * steps(tiled_columns(p.head_dim)));
    v = scratch.take(steps(kTiledKeys) * tiled_columns(p.value_dim));
    scales = scratch.take(4 * kTiledKeys);
    ones = scratch.take(kTiledLanes);
    rows = scratch.take(kTiledLanes *
                        padded(changes_rows(p) ? std::max(p.head_dim, p.value_dim) : p.value_dim));
    changed = scratch.take(changes_rows(p) ? kTiledKeys * padded(p.head_dim) / 2 : 0);
    at = scratch.take(2 * kTiledKeys);
    first_panel = scratch.used();
    q = scratch.take(kTiledLanes * steps(tiled_columns(p.head_dim)));
    ot = scratch.take(kTiledLanes * p.value_dim);
    lanes = scratch.take(kTiledLanes * (kRowsOfPanel + 1 + kLaneRows));
    panel = scratch.used() - first_panel;
    total = first_panel + std::min(cut.per_task, cut.count) * panel;
  }

  int64_t scores, k, v;
  int64_t scales;  // of keys, of values, and those of values in part
  int64_t ones;
  int64_t rows;         // O of a panel, or queries or keys, in f32
  int64_t changed;      // the same queries or keys in bf16
  int64_t at;           // pointers to the rows of a block
  int64_t first_panel;  // and in it:
  int64_t q, ot, lanes;
  int64_t panel;  // from one to the next
  int64_t total;
};

using TiledFunction = void (*)(const TiledTask&, float* scratch);

}  // namespace
}  // namespace fovea::attention_detail
#endif

#if FOVEA_SIMD && HWY_TARGET == HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using attention_detail::KeyRange;
using attention_detail::kTiledKeys;
using attention_detail::TiledBlock;
using attention_detail::TiledLayout;
using attention_detail::TiledPanel;
using attention_detail::TiledTask;

template <class T>
class TiledForward {
 public:
  TiledForward(const TiledTask& task, float* scratch)
      : p_(task.problem),
        task_(task),
        format_(task.format),
        layout_(p_, task.format, task.cut),
        scratch_(scratch),
        seen_(p_, task.args.links, task.batch),
        links_(p_, task.args.links, task.distances, task.batch, task.head),
        change_(p_, task.rotary),
        kv_head_(task.head / (p_.heads / p_.kv_heads)),
        keys_(attention_detail::cached_keys(p_, task.args)),
        values_(attention_detail::cached_values(p_, task.args)),
        factor_(static_cast<float>(p_.scale) * static_cast<float>(kLog2E) *
                attention_detail::temperature(p_, task.args.links, task.head)),
        with_factor_(links_.any() || factor_ == 0) {
    block_ = {.k = reinterpret_cast<std::byte*>(scratch + layout_.k),
              .v = reinterpret_cast<uint32_t*>(scratch + layout_.v),
              .k_scale = scratch + layout_.scales,
              .v_scale = scratch + layout_.scales + kTiledKeys,
              .largest_scale = 1};
    for (int64_t i = 0; i < attention_detail::kTiledLanes; ++i) scratch[layout_.ones + i] = 1.0f;
  }

  void run() {
    int64_t count = 0;
    for (int64_t i = task_.first_panel; i < task_.end_panel; ++i)
      if (task_.cut.first_query(i) < p_.tq) start(i, count, panels_[count]), ++count;
    if (p_.block > 0) {
      for (int64_t i = 0; i < count; ++i) run_blocks(panels_[i]);
    } else {
      run_together(count);
    }
    for (int64_t i = 0; i < count; ++i) finish(panels_[i].x);
  }

 private:
  struct Panel {
    TiledPanel x;
    LaneKeys lanes;
    TouchedKeys seen;
  };

  void start(int64_t index, int64_t slot, Panel& panel) {
    const F32 d;
    const int64_t width = task_.cut.width(index);
    const int64_t first = task_.cut.first_query(index);
    float* const at = scratch_ + slot * layout_.panel;  // layout_.q and others begin in the first
    float* const rows = at + layout_.lanes;
    panel.x = {.first = first,
               .queries = HWY_MIN(width, p_.tq - first),
               .width = width,
               .q = reinterpret_cast<uint32_t*>(at + layout_.q),
               .ot = at + layout_.ot,
               .factor = rows,
               .max = rows + width,
               .sum = rows + 2 * width,
               .rescale = rows + 3 * width,
               .new_max = rows + 4 * width,
               .weight = rows + 5 * width,
               .start = reinterpret_cast<int32_t*>(rows + 6 * width)};
    panel.lanes = LaneKeys(p_, rows + 7 * width, width);
    format_.load_queries(queries(first, panel.x.queries), panel.x);
    // A sink is a key that has been seen already.
    const float sink = p_.sink ? static_cast<const float*>(task_.args.links.sinks)[task_.head] *
                                     static_cast<float>(kLog2E)
                               : -HUGE_VALF;
    for (int64_t i = 0; i < width; i += kLanes) {
      hn::Store(hn::Set(d, sink), d, panel.x.max + i);
      hn::Store(hn::Set(d, sink == -HUGE_VALF ? 0.0f : 1.0f), d, panel.x.sum + i);
    }
    for (int64_t i = 0; i < p_.value_dim * width; i += kLanes)
      hn::Store(hn::Zero(d), d, panel.x.ot + i);
    panel.seen = attention_detail::in_steps(
        fill_lanes(p_, seen_, first, panel.x.queries, width, panel.lanes), format_.in_step);
  }

  attention_detail::TiledQueries queries(int64_t first, int64_t count) const {
    const T* const q = attention_detail::row(static_cast<const T*>(task_.args.q), p_.q, task_.batch,
                                             first, task_.head);
    attention_detail::TiledQueries from{
        .rows = q, .dtype = p_.dtype, .token = p_.q.token, .dim = p_.head_dim, .factor = factor_};
    if constexpr (!std::is_same_v<T, float>) {
      if (change_.any()) {
        const auto** at = reinterpret_cast<const bf16**>(scratch_ + layout_.at);
        for (int64_t i = 0; i < count; ++i) at[i] = q + i * p_.q.token;
        change(at, count, attention_detail::first_query_position(p_) + first);
        from.rows = changed(0);
        from.token = attention_detail::padded(p_.head_dim);
      }
    }
    return from;
  }

  // Rows as the products read them, in f32 and then rounded, to changed(0), changed(1) ...; the
  // first one stands at the position.
  void change(const bf16* const* from, int64_t count, int64_t position) const {
    constexpr int64_t kAtOnce = attention_detail::kTiledLanes;
    const int64_t stride = attention_detail::padded(p_.head_dim);
    if (!p_.cosine)
      return attention_detail::tiled_bf16::rotated({.rows = from,
                                                    .count = count,
                                                    .dim = p_.head_dim,
                                                    .table = task_.rotary.row(position),
                                                    .half = task_.rotary.half(),
                                                    .layout = p_.rotary_layout},
                                                   changed(0), stride);
    float* const rows = scratch_ + layout_.rows;
    for (int64_t i = 0; i < count; i += kAtOnce) {
      const int64_t n = HWY_MIN(kAtOnce, count - i);
      for (int64_t r = 0; r < n; ++r)
        copy_rows(from[i + r], 0, 1, p_.head_dim, rows + r * stride, stride);
      change_.apply(rows, stride, n, position + i);
      store_rows(rows, stride, n, p_.head_dim, changed(i), stride);
    }
  }
  bf16* changed(int64_t row) const {
    return reinterpret_cast<bf16*>(scratch_ + layout_.changed) +
           row * attention_detail::padded(p_.head_dim);
  }

  // All panels against each block of keys, whose operands are made once.
  void run_together(int64_t count) {
    int64_t begin = p_.tk, end = 0;
    for (int64_t i = 0; i < count; ++i) {
      for (const KeyRange& r : {panels_[i].seen.low, panels_[i].seen.high}) {
        if (r.empty()) continue;
        begin = HWY_MIN(begin, r.begin);
        end = HWY_MAX(end, r.end);
      }
    }
    for (int64_t j = begin; j < end; j += kTiledKeys) {
      const KeyRange keys{j, HWY_MIN(j + kTiledKeys, end)};
      loaded_ = false;
      for (int64_t i = 0; i < count; ++i) visit(panels_[i], keys);
    }
  }

  // One panel against the blocks of keys that its block of queries sees.
  void run_blocks(const Panel& panel) {
    const uint8_t* blocks =
        attention_detail::block_row(p_, task_.args.links, task_.batch, task_.head, panel.x.first);
    const KeyRange keys{panel.seen.low.empty() ? panel.seen.high.begin : panel.seen.low.begin,
                        HWY_MAX(panel.seen.low.end, panel.seen.high.end)};
    attention_detail::each_run(p_, blocks, keys, [&](const KeyRange& run) HWY_ATTR {
      for (int64_t j = run.begin; j < run.end; j += kTiledKeys) {
        loaded_ = false;
        visit(panel, {j, HWY_MIN(j + kTiledKeys, run.end)});
      }
    });
  }

  // What the panel sees of a block of keys.
  void visit(const Panel& panel, const KeyRange& block) {
    for (const KeyRange& r : {panel.seen.low, panel.seen.high}) {
      KeyRange keys = attention_detail::both(block, r);
      if (keys.empty() ||
          links_.hides_all(panel.x.first, panel.x.queries, keys.begin, keys.end - keys.begin))
        continue;
      if (!loaded_) load(block);
      // The operands have whole steps; what comes before the first key is masked.
      const int64_t row = (keys.begin - block.begin) / format_.in_step * format_.in_step;
      step(panel, block.begin + row, row, keys.end - block.begin - row);
    }
  }

  void load(const KeyRange& block) {
    const auto** at = reinterpret_cast<const std::byte**>(scratch_ + layout_.at);
    const int64_t count = block.end - block.begin;
    const auto rows = [&](const attention_detail::CacheRows& from, int64_t dim, float* scales) {
      for (int64_t i = 0; i < count;) {
        const auto place = from.place(task_.batch, block.begin + i);
        const int64_t run =
            from.pages ? HWY_MIN(count - i, from.page_tokens - place.token) : count - i;
        const std::byte* start =
            attention_detail::row(from.first, from.strides, place.batch, place.token, kv_head_);
        for (int64_t n = 0; n < run; ++n) at[i + n] = start + n * from.strides.token;
        if (from.scales) {
          const float* scale = attention_detail::row(from.scales, from.scale_strides, place.batch,
                                                     place.token, kv_head_);
          for (int64_t n = 0; n < run; ++n) scales[i + n] = scale[n * from.scale_strides.token];
        }
        i += run;
      }
      return attention_detail::TiledRows{
          .rows = at, .scales = from.scales ? scales : nullptr, .count = count, .dim = dim};
    };
    float* const scales = scratch_ + layout_.scales + 2 * kTiledKeys;
    const attention_detail::TiledRows keys = rows(keys_, p_.head_dim, scales);
    if (change_.any()) {
      change(reinterpret_cast<const bf16* const*>(at), count,
             attention_detail::first_key_position(p_) + block.begin);
      for (int64_t i = 0; i < count; ++i) at[i] = reinterpret_cast<const std::byte*>(changed(i));
    }
    format_.load_keys(keys, block_);
    format_.load_values(rows(values_, p_.value_dim, scales), block_);
    loaded_ = true;
  }

  // One panel and the keys from j on, which stand in the block from `row` on.
  void step(const Panel& panel, int64_t j, int64_t row, int64_t keys) {
    const F32 d;
    const TiledPanel& x = panel.x;
    float* const s = scratch_ + layout_.scores;
    for (int64_t i = 0; i < x.width; i += kLanes)
      hn::Store(hn::Set(d, -HUGE_VALF), d, x.new_max + i);
    const bool full = panel.seen.full(j, keys);
    const bool distances_alone = full && attention_detail::adds_distances_alone(p_);
    format_.scores(p_, x, block_, row, keys, with_factor_ && !distances_alone, s);
    const ScoreBlock block{.scores = s,
                           .stride = x.width,
                           .width = x.width,
                           .first_key = j,
                           .keys = keys,
                           .lanes = panel.lanes};
    const Look look = full ? Look::none : block.look();
    if (distances_alone) {
      scale_and_add_distances(block, x);
    } else {
      if (links_.any()) links_.apply(block, x.first, x.queries, nullptr);
      if (with_factor_ || look != Look::none) mask_scores(block, look, nullptr, x.new_max);
    }
    format_.softmax(p_, x, block_, row, keys, with_factor_ ? scratch_ + layout_.ones : x.factor, s);
    format_.values(p_, x, block_, row, keys, s);
  }

  // The same as apply() and mask_scores() in one step, with the factor too.
  HWY_NOINLINE void scale_and_add_distances(const ScoreBlock& block, const TiledPanel& x) const {
    const F32 d;
    const float* const distances = task_.distances +
                                   task_.head * attention_detail::distance_row(p_) + x.first -
                                   block.first_key + p_.tk - 1;
    for (int64_t v = 0; v < x.width; v += kLanes) {
      const Vec factor = hn::Load(d, x.factor + v);
      Vec largest = hn::Set(d, -HUGE_VALF);
      for (int64_t j = 0; j < block.keys; ++j) {
        float* const at = block.scores + j * block.stride + v;
        const Vec score = hn::MulAdd(hn::Load(d, at), factor, hn::LoadU(d, distances - j + v));
        hn::Store(score, d, at);
        largest = hn::Max(largest, score);
      }
      hn::Store(largest, d, x.new_max + v);
    }
  }

  void finish(const TiledPanel& x) {
    const F32 d;
    for (int64_t v = 0; v < x.width; v += kLanes) {
      const Vec inverse = simd::inverse_or_zero(hn::Load(d, x.sum + v));
      for (int64_t c = 0; c < p_.value_dim; ++c) {
        float* at = x.ot + c * x.width + v;
        hn::Store(hn::Mul(hn::Load(d, at), inverse), d, at);
      }
    }
    T* out = attention_detail::row(static_cast<T*>(task_.args.out), p_.out, task_.batch, x.first,
                                   task_.head);
    if constexpr (std::is_same_v<T, float>) {
      transpose<false>(x.ot, x.width, p_.value_dim, x.queries, 1.0f, out, p_.out.token);
    } else {
      float* const rows = scratch_ + layout_.rows;
      const int64_t stride = attention_detail::padded(p_.value_dim);
      transpose<false>(x.ot, x.width, p_.value_dim, x.queries, 1.0f, rows, stride);
      store_rows(rows, stride, x.queries, p_.value_dim, out, p_.out.token);
    }
    if (!p_.want_lse || !task_.args.lse) return;
    float* lse = static_cast<float*>(task_.args.lse) +
                 (task_.batch * p_.heads + task_.head) * p_.tq + x.first;
    constexpr double kLn2 = 0.6931471805599453;
    for (int64_t i = 0; i < x.queries; ++i) {
      // The logarithm of 0 is the -infinity of a query without keys.
      const double max = x.sum[i] == 0.0f ? 0.0 : static_cast<double>(x.max[i]) * kLn2;
      lse[i] = static_cast<float>(max + static_cast<double>(std::log(x.sum[i])));
    }
  }

  const AttentionProblem& p_;
  const TiledTask& task_;
  const attention_detail::TiledFormat& format_;
  const TiledLayout layout_;
  float* const scratch_;
  const attention_detail::Seen seen_;
  const ScoreLinks links_;
  const RowsChange change_;
  const int64_t kv_head_;
  const attention_detail::CacheRows keys_, values_;
  const float factor_;      // of the products
  const bool with_factor_;  // scores get it from the product
  TiledBlock block_{};
  bool loaded_ = false;  // what block_ holds
  Panel panels_[attention_detail::kMostTiledPanels];
};

}  // namespace

void attention_tiled(const TiledTask& task, float* scratch) {
  if (task.problem.dtype == DType::f32)
    TiledForward<float>(task, scratch).run();
  else
    TiledForward<bf16>(task, scratch).run();
}
void attention_tiled_distances(const AttentionProblem& p, const float* from, float* to) {
  reverse_distances(p, from, to);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD && HWY_TARGET == HWY_AVX3

#if HWY_ONCE
namespace fovea::attention_detail {
#if HWY_TARGETS & HWY_AVX3
namespace {

class TiledPlan final : public KernelPlan<AttentionArgs> {
 public:
  TiledPlan(const AttentionProblem& problem, const TiledFormat& format)
      : p_(problem), format_(format), cut_(problem), rotary_(problem) {
    worker_scratch_bytes =
        static_cast<size_t>(TiledLayout(p_, format_, cut_).total) * sizeof(float);
    if (p_.distance_bias)
      scratch_bytes = static_cast<size_t>(p_.heads * distance_row(p_)) * sizeof(float);
  }

  void run(const AttentionArgs& args, const KernelContext& context) const noexcept override {
    float* distances = reinterpret_cast<float*>(context.scratch);
    if (p_.distance_bias) {
      context.pool->parallel_for(p_.heads, [&](int64_t head, int) {
        N_AVX3::attention_tiled_distances(
            p_, static_cast<const float*>(args.links.distance_bias) + head * (p_.tq + p_.tk - 1),
            distances + head * distance_row(p_));
      });
    }
    const int64_t blocks = p_.batch * p_.heads * cut_.tasks;
    context.pool->parallel_for(blocks, [&](int64_t block, int worker) {
      const int64_t first = block % cut_.tasks * cut_.per_task;
      const int64_t head = block / cut_.tasks % p_.heads;
      const TiledTask task{.problem = p_,
                           .args = args,
                           .format = format_,
                           .cut = cut_,
                           .distances = distances,
                           .rotary = rotary_,
                           .batch = block / cut_.tasks / p_.heads,
                           .head = head,
                           .first_panel = first,
                           .end_panel = std::min(first + cut_.per_task, cut_.count)};
      if (head < p_.heads_kept)
        N_AVX3::attention_tiled(task, context.worker<float>(worker));
      else if (p_.dtype == DType::f32)
        drop<float>(task);
      else
        drop<bf16>(task);
    });
  }

 private:
  // Zeros for the queries of a head that is not kept.
  template <class T>
  void drop(const TiledTask& task) const {
    const int64_t end =
        task.end_panel < cut_.count ? std::min(p_.tq, cut_.first_query(task.end_panel)) : p_.tq;
    for (int64_t i = cut_.first_query(task.first_panel); i < end; ++i) {
      std::fill_n(row(static_cast<T*>(task.args.out), p_.out, task.batch, i, task.head),
                  p_.value_dim, T(0.0f));
      if (p_.want_lse && task.args.lse)
        static_cast<float*>(task.args.lse)[(task.batch * p_.heads + task.head) * p_.tq + i] = 0;
    }
  }

  AttentionProblem p_;
  const TiledFormat& format_;
  TiledCut cut_;
  RotaryTable<float> rotary_;
};

}  // namespace

std::unique_ptr<KernelPlan<AttentionArgs>> plan_tiled(const AttentionProblem& problem,
                                                      const TiledFormat& format) {
  return std::make_unique<TiledPlan>(problem, format);
}
bool tiled(const AttentionProblem& p) {
  return (hwy::SupportedTargets() & HWY_AVX3) && p.head_dim <= 256 && p.value_dim <= 256 &&
         tiled_links(p);
}
#else
std::unique_ptr<KernelPlan<AttentionArgs>> plan_tiled(const AttentionProblem&, const TiledFormat&) {
  return nullptr;
}
bool tiled(const AttentionProblem&) { return false; }
#endif

}  // namespace fovea::attention_detail
#endif  // HWY_ONCE

// Tiled attention, forward, in SIMD of each target; bf16 is converted when it is loaded and stored.
// For a block of queries, Q^T is made once; then for each block of keys S^T = K Q^T, the online
// softmax down the columns of S^T, and O^T = diag(rescale) O^T + V^T P^T. K and V are read as they
// lie, where they are f32.
#include <cmath>

#define HWY_TARGET_INCLUDE "fovea/kernels/attention_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/attention-inl.h"
#include "fovea/kernels/attention.h"

#ifndef FOVEA_ATTENTION_FORWARD_ONCE
#define FOVEA_ATTENTION_FORWARD_ONCE
namespace fovea::attention_detail {
namespace {

constexpr int64_t kKeyBlock = 128;

// Queries of one head are cut into panels of at most three vectors, of nearly equal width.
struct Panels {
  Panels(int64_t queries, int64_t lane_count)
      : lanes(lane_count),
        vecs((queries + lanes - 1) / lanes),
        count((vecs + 2) / 3),
        per_task(std::max<int64_t>(1, 192 / (3 * lanes))),
        tasks((count + per_task - 1) / per_task) {}

  int64_t width_vecs(int64_t panel) const { return vecs / count + (panel < vecs % count); }
  int64_t first_query(int64_t panel) const {
    return lanes * (panel * (vecs / count) + std::min(panel, vecs % count));
  }

  int64_t lanes, vecs, count, per_task, tasks;
};

struct ForwardTask {
  const AttentionProblem& problem;
  const AttentionArgs& args;
  const Panels& panels;
  int64_t batch, head, first_panel, end_panel;
};

// Where one worker's scratch holds what, in floats.
struct ForwardLayout {
  ForwardLayout(const AttentionProblem& p, const Panels& panels) {
    const int64_t keys = std::min(kKeyBlock, p.tk);
    const auto round = [&](int64_t n) {
      return (n + panels.lanes - 1) / panels.lanes * panels.lanes;
    };
    width = 3 * panels.lanes;
    panel = width * (p.head_dim + p.value_dim + 6);
    scores = std::min(panels.per_task, panels.count) * panel;
    const bool converted = p.dtype != DType::f32;
    const bool copy_k = converted || scattered(p.k, p.head_dim);
    const bool copy_v = converted || scattered(p.v, p.value_dim);
    k = scores + width * keys;
    v = k + (copy_k ? keys * round(p.head_dim) : 0);
    rows = v + (copy_v ? keys * round(p.value_dim) : 0);
    total = rows + (converted ? width * round(std::max(p.head_dim, p.value_dim)) : 0);
  }

  int64_t width;   // of the widest panel
  int64_t panel;   // of each panel: Q^T, O^T and six rows of one number a query
  int64_t scores;  // S^T of one panel and block of keys
  int64_t k, v;    // the block's rows, where they are scattered in memory or converted
  int64_t rows;    // the panel's Q or O in f32, where they are converted
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

using attention_detail::ForwardLayout;
using attention_detail::ForwardTask;
using attention_detail::KeyRange;
using attention_detail::kKeyBlock;

// One number a query.
struct LaneRows {
  float* max;      // of the scores so far, times log2(e)
  float* sum;      // of exp2(score - max)
  float* rescale;  // from the previous maximum to this one
  float* new_max;
  int32_t* begin;  // keys that the query sees
  int32_t* end;
};

// s becomes exp2(s - maximum); maximum, sum and rescale follow.
HWY_INLINE void online_softmax(const LaneRows& lane, int64_t vecs, int64_t keys, float* s) {
  const F32 d;
  const int64_t width = vecs * kLanes;
  for (int64_t v = 0; v < width; v += kLanes) {
    const Vec max = hn::Load(d, lane.new_max + v);
    const Vec base = simd::base_of(max);
    const Vec rescale = exp2(hn::Sub(hn::Load(d, lane.max + v), base));
    Vec sum = hn::Zero(d);
    for (float* row = s + v; row < s + keys * width; row += width) {
      const Vec p = exp2(hn::Sub(hn::Load(d, row), base));
      hn::Store(p, d, row);
      sum = hn::Add(sum, p);
    }
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
  for (int64_t v = 0; v < width; v += kLanes) {
    const Vec inverse = simd::inverse_or_zero(hn::Load(d, lane.sum + v));
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
  constexpr double kLn2 = 0.6931471805599453;
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
  float* qt;  // Q^T times scale log2(e), [head_dim][width]
  float* ot;  // O^T before the division by sum, [value_dim][width]
  LaneRows lane;
  BlockKeys seen;
};

template <class T>
class PanelsForward {
 public:
  PanelsForward(const ForwardTask& task, float* scratch)
      : p_(task.problem),
        task_(task),
        layout_(p_, task.panels),
        scratch_(scratch),
        length_(attention_detail::key_length(p_, task.args.key_lengths, task.batch)) {}

  void run() {
    const int64_t count = task_.end_panel - task_.first_panel;
    for (int64_t i = 0; i < count; ++i) start(task_.first_panel + i, i, panels_[i]);
    const int64_t kv_head = task_.head / (p_.heads / p_.kv_heads);
    const T* k = at(task_.args.k, p_.k, 0, kv_head);
    const T* v = at(task_.args.v, p_.v, 0, kv_head);
    const int64_t end = panels_[count - 1].seen.touched.end;
    for (int64_t j = panels_[0].seen.touched.begin; j < end; j += kKeyBlock) {
      const int64_t block_end = HWY_MIN(j + kKeyBlock, end);
      const Rows kj =
          gather_rows(k + j * p_.k.token, p_.k, block_end - j, p_.head_dim, scratch_ + layout_.k);
      const Rows vj =
          gather_rows(v + j * p_.v.token, p_.v, block_end - j, p_.value_dim, scratch_ + layout_.v);
      for (int64_t i = 0; i < count; ++i) {
        const KeyRange touched = panels_[i].seen.touched;
        const int64_t from = HWY_MAX(j, touched.begin), to = HWY_MIN(block_end, touched.end);
        if (from < to)
          step(panels_[i], from, to - from, {kj.first + (from - j) * kj.stride, kj.stride},
               {vj.first + (from - j) * vj.stride, vj.stride});
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const Panel& panel = panels_[i];
      T* out = attention_detail::row(static_cast<T*>(task_.args.out), p_.out, task_.batch,
                                     panel.first, task_.head);
      float* lse = p_.want_lse ? static_cast<float*>(task_.args.lse) : nullptr;
      if (lse) lse += (task_.batch * p_.heads + task_.head) * p_.tq + panel.first;
      finish(p_, panel.lane, panel.vecs, panel.queries, panel.ot, out, scratch_ + layout_.rows,
             lse);
    }
  }

 private:
  const T* at(const void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<const T*>(base), s, task_.batch, token, head);
  }

  Rows queries(const T* q, int64_t count) const {
    if constexpr (std::is_same_v<T, float>) {
      static_cast<void>(count);
      return {q, p_.q.token};
    } else {
      const int64_t padded = whole_vectors(p_.head_dim);
      copy_rows(q, p_.q.token, count, p_.head_dim, scratch_ + layout_.rows, padded);
      return {scratch_ + layout_.rows, padded};
    }
  }

  void start(int64_t index, int64_t slot, Panel& panel) {
    const F32 d;
    const int64_t width = task_.panels.width_vecs(index) * kLanes;
    panel.first = task_.panels.first_query(index);
    panel.queries = HWY_MIN(width, p_.tq - panel.first);
    panel.vecs = width / kLanes;
    panel.width = width;
    panel.qt = scratch_ + slot * layout_.panel;
    panel.ot = panel.qt + p_.head_dim * width;
    float* rows = panel.ot + p_.value_dim * width;
    panel.lane = {.max = rows,
                  .sum = rows + width,
                  .rescale = rows + 2 * width,
                  .new_max = rows + 3 * width,
                  .begin = reinterpret_cast<int32_t*>(rows + 4 * width),
                  .end = reinterpret_cast<int32_t*>(rows + 5 * width)};
    const Rows q = queries(at(task_.args.q, p_.q, panel.first, task_.head), panel.queries);
    load_transposed(q.first, q.stride, panel.queries, p_.head_dim,
                    static_cast<float>(p_.scale * kLog2E), panel.qt, width);
    for (int64_t i = 0; i < width; i += kLanes) {
      hn::Store(hn::Set(d, -HUGE_VALF), d, panel.lane.max + i);
      hn::Store(hn::Zero(d), d, panel.lane.sum + i);
    }
    for (int64_t i = 0; i < p_.value_dim * width; i += kLanes)
      hn::Store(hn::Zero(d), d, panel.ot + i);
    panel.seen = block_keys(p_, panel.first, panel.queries, length_, width, panel.lane.begin,
                            panel.lane.end);
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
    if (j < panel.seen.full.begin || j + keys > panel.seen.full.end)
      mask_scores({.scores = s,
                   .stride = panel.width,
                   .width = panel.width,
                   .first_key = j,
                   .keys = keys,
                   .begin = lane.begin,
                   .end = lane.end},
                  lane.max, lane.new_max);
    online_softmax(lane, panel.vecs, keys, s);
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

  const AttentionProblem& p_;
  const ForwardTask& task_;
  const ForwardLayout layout_;
  float* const scratch_;
  const int64_t length_;
  Panel panels_[kMaxPanels];
};

}  // namespace

void attention_forward(const ForwardTask& task, float* scratch) {
  if (task.problem.dtype == DType::f32)
    PanelsForward<float>(task, scratch).run();
  else
    PanelsForward<bf16>(task, scratch).run();
}
int64_t attention_forward_lanes() { return kLanes; }

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::attention_detail {
namespace {

using ForwardFunction = void (*)(const ForwardTask&, float*);

class HwyForward final : public KernelPlan<AttentionArgs> {
 public:
  HwyForward(const AttentionProblem& problem, ForwardFunction function, int64_t lanes)
      : p_(problem), panels_(problem.tq, lanes), function_(function) {
    worker_scratch_bytes = static_cast<size_t>(ForwardLayout(p_, panels_).total) * sizeof(float);
  }

  void run(const AttentionArgs& args, const KernelContext& context) const noexcept override {
    const int64_t blocks = p_.batch * p_.heads * panels_.tasks;
    context.pool->parallel_for(blocks, [&](int64_t block, int worker) {
      const int64_t first = block % panels_.tasks * panels_.per_task;
      const int64_t head = block / panels_.tasks % p_.heads;
      const ForwardTask task{.problem = p_,
                             .args = args,
                             .panels = panels_,
                             .batch = block / panels_.tasks / p_.heads,
                             .head = head,
                             .first_panel = first,
                             .end_panel = std::min(first + panels_.per_task, panels_.count)};
      if (head < p_.heads_kept)
        function_(task, context.worker<float>(worker));
      else if (p_.dtype == DType::f32)
        drop<float>(task);
      else
        drop<bf16>(task);
    });
  }

 private:
  // Zeros for the queries of a head that is not kept.
  template <class T>
  void drop(const ForwardTask& task) const {
    const int64_t end =
        task.end_panel < panels_.count ? panels_.first_query(task.end_panel) : p_.tq;
    for (int64_t i = panels_.first_query(task.first_panel); i < end; ++i) {
      std::fill_n(row(static_cast<T*>(task.args.out), p_.out, task.batch, i, task.head),
                  p_.value_dim, T(0.0f));
      if (p_.want_lse && task.args.lse)
        static_cast<float*>(task.args.lse)[(task.batch * p_.heads + task.head) * p_.tq + i] = 0;
    }
  }

  AttentionProblem p_;
  Panels panels_;
  ForwardFunction function_;
};

template <ForwardFunction kFunction, int64_t (*kLanesOf)()>
std::unique_ptr<KernelPlan<AttentionArgs>> plan_hwy(const AttentionProblem& problem) {
  check(problem, false);
  if (problem.dtype != DType::f32 && problem.dtype != DType::bf16) return nullptr;
  if (problem.head_dim > 256 || problem.value_dim > 256) return nullptr;
  return std::make_unique<HwyForward>(problem, kFunction, kLanesOf());
}

}  // namespace

void append_hwy([[maybe_unused]] std::vector<AttentionKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit)               \
    list.push_back({name, plan_hwy<target::attention_forward, target::attention_forward_lanes>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::attention_detail
#endif  // HWY_ONCE

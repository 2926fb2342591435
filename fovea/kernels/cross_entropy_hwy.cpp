// Cross-entropy in SIMD of each target: the powers and their sums, in groups of short rows or with
// one reading of a long row, are those of softmax_hwy.cpp.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>

#include "fovea/kernels/hwy_targets.h"

#define HWY_TARGET_INCLUDE "fovea/kernels/cross_entropy_hwy.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/cross_entropy.h"
#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/rows-inl.h"
#include "fovea/kernels/softmax-inl.h"

#ifndef FOVEA_CROSS_ENTROPY_ONCE
#define FOVEA_CROSS_ENTROPY_ONCE
namespace fovea {
namespace cross_entropy_detail {
namespace {

struct EntropyTask {
  const CrossEntropyProblem& problem;
  const float* logits;
  const int32_t* labels;
  float* loss;
  const float* dloss;
  float* dlogits;
  float* scratch;
};

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

}  // namespace
}  // namespace cross_entropy_detail
}  // namespace fovea
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {

namespace {

using namespace simd;
using cross_entropy_detail::EntropyTask;
using cross_entropy_detail::kNan;
using softmax_detail::ExpRows;

// The sum of x - base.
HWY_INLINE float sum_less_base(const float* x, int64_t cols, float base) {
  const F32 d;
  const Vec b = hn::Set(d, base);
  Vec sum = hn::Zero(d), other = hn::Zero(d);
  int64_t c = 0;
  for (; c + 2 * kLanes <= cols; c += 2 * kLanes) {
    sum = hn::Add(sum, hn::Sub(load(x + c), b));
    other = hn::Add(other, hn::Sub(load(x + c + kLanes), b));
  }
  for (; c + kLanes <= cols; c += kLanes) sum = hn::Add(sum, hn::Sub(load(x + c), b));
  if (c < cols) {
    const Some n{cols - c};
    other = hn::Add(other, present(hn::Sub(get(x + c, n), b), n));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(sum, other)));
}

// The groups of the rows [first, last). A long row that its label leaves out is not read.
template <class F>
HWY_INLINE void for_groups(const EntropyTask& task, bool keep, int64_t first, int64_t last,
                           const F& f) {
  const int64_t n = task.problem.classes, size = softmax_group(n);
  HWY_ALIGN float base[kLanes], sum[kLanes];
  for (int64_t at = first; at < last; at += size) {
    const ExpRows rows{.x = task.logits + at * n,
                       .e = !keep      ? nullptr
                            : size > 1 ? task.scratch
                                       : task.dlogits + at * n,
                       .count = HWY_MIN(size, last - at),
                       .cols = n,
                       .base = base,
                       .sum = sum,
                       .lane_base = task.scratch};
    const int32_t label = task.labels[at];
    if (size > 1 || (label >= 0 && label < n)) softmax_exp_rows(rows);
    f(at, rows);
  }
}

}  // namespace

void cross_entropy_forward(const EntropyTask& task, int64_t first, int64_t last) {
  const int64_t n = task.problem.classes;
  const float smoothing = static_cast<float>(task.problem.label_smoothing);
  HWY_ALIGN float log[kLanes];
  for_groups(task, false, first, last, [&](int64_t at, const ExpRows& rows) {
    softmax_log_sums(rows.sum, log);
    for (int64_t r = 0; r < rows.count; ++r) {
      const int32_t label = task.labels[at + r];
      float& loss = task.loss[at + r];
      if (label < 0 || label >= n) {
        loss = label < 0 ? 0 : kNan;
        continue;
      }
      const float* x = rows.x + r * n;
      // Where every logit is -infinity, nothing is known.
      float value = rows.sum[r] == 0 ? kNan : log[r];
      value -= (1 - smoothing) * (x[label] - rows.base[r]);
      if (smoothing != 0)  // else 0 times -infinity, where logits are masked
        value -= smoothing / static_cast<float>(n) * sum_less_base(x, n, rows.base[r]);
      loss = value;
    }
  });
}

void cross_entropy_backward(const EntropyTask& task, int64_t first, int64_t last) {
  const int64_t n = task.problem.classes;
  const float smoothing = static_cast<float>(task.problem.label_smoothing);
  const float everywhere = smoothing / static_cast<float>(n);
  for_groups(task, true, first, last, [&](int64_t at, const ExpRows& rows) {
    for (int64_t r = 0; r < rows.count; ++r) {
      const int32_t label = task.labels[at + r];
      float* dx = task.dlogits + (at + r) * n;
      if (label < 0 || label >= n) {
        std::fill_n(dx, n, label < 0 ? 0.0f : kNan);
        continue;
      }
      const float d = task.dloss[at + r];
      softmax_scale_row(rows, r, d / rows.sum[r], -d * everywhere, dx);
      dx[label] -= d * (1 - smoothing);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea {
namespace {

using namespace cross_entropy_detail;

using Rows = void (*)(const EntropyTask&, int64_t first, int64_t last);

template <class F>
void for_blocks(const CrossEntropyProblem& p, const KernelContext& context, const F& f) {
  const int64_t size = lanes::rows_in_block(p.classes);
  context.pool->parallel_for(lanes::ceil_div(p.rows, size), [&](int64_t block, int worker) {
    f(context.worker<float>(worker), block * size, std::min(p.rows, (block + 1) * size));
  });
}

class HwyCrossEntropy final : public KernelPlan<CrossEntropyArgs> {
 public:
  HwyCrossEntropy(const CrossEntropyProblem& p, Rows rows) : p_(p), rows_(rows) {
    worker_scratch_bytes = softmax_detail::scratch_bytes_for(p.classes);
  }

  void run(const CrossEntropyArgs& args, const KernelContext& context) const noexcept override {
    for_blocks(p_, context, [&](float* scratch, int64_t first, int64_t last) {
      rows_({.problem = p_,
             .logits = static_cast<const float*>(args.logits),
             .labels = args.labels,
             .loss = static_cast<float*>(args.loss),
             .dloss = nullptr,
             .dlogits = nullptr,
             .scratch = scratch},
            first, last);
    });
  }

 private:
  CrossEntropyProblem p_;
  Rows rows_;
};

class HwyCrossEntropyGrad final : public KernelPlan<CrossEntropyGradArgs> {
 public:
  HwyCrossEntropyGrad(const CrossEntropyProblem& p, Rows rows) : p_(p), rows_(rows) {
    worker_scratch_bytes = softmax_detail::scratch_bytes_for(p.classes);
  }

  void run(const CrossEntropyGradArgs& args, const KernelContext& context) const noexcept override {
    for_blocks(p_, context, [&](float* scratch, int64_t first, int64_t last) {
      rows_({.problem = p_,
             .logits = static_cast<const float*>(args.logits),
             .labels = args.labels,
             .loss = nullptr,
             .dloss = static_cast<const float*>(args.dloss),
             .dlogits = static_cast<float*>(args.dlogits),
             .scratch = scratch},
            first, last);
    });
  }

 private:
  CrossEntropyProblem p_;
  Rows rows_;
};

template <class Args, class Plan, Rows kRows>
std::unique_ptr<KernelPlan<Args>> plan_hwy(const CrossEntropyProblem& p) {
  if (p.rows < 0 || p.classes < 1 || !(p.label_smoothing >= 0 && p.label_smoothing <= 1) ||
      p.dtype != DType::f32)
    return nullptr;
  return std::make_unique<Plan>(p, kRows);
}

}  // namespace

void append_hwy([[maybe_unused]] KernelList<CrossEntropyProblem, CrossEntropyArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_APPEND(bit, target, name) \
  if (supported & bit)                  \
    list.push_back(                     \
        {name, plan_hwy<CrossEntropyArgs, HwyCrossEntropy, target::cross_entropy_forward>});
  FOVEA_FOR_EACH_TARGET(FOVEA_APPEND)
#undef FOVEA_APPEND
}

void append_hwy([[maybe_unused]] KernelList<CrossEntropyProblem, CrossEntropyGradArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_APPEND(bit, target, name) \
  if (supported & bit)                  \
    list.push_back(                     \
        {name,                          \
         plan_hwy<CrossEntropyGradArgs, HwyCrossEntropyGrad, target::cross_entropy_backward>});
  FOVEA_FOR_EACH_TARGET(FOVEA_APPEND)
#undef FOVEA_APPEND
}

}  // namespace fovea
#endif  // HWY_ONCE

// softmax and log_softmax in SIMD of each target. Rows of a few vectors go in groups of as many as
// a vector has lanes: transposing joins turn the partial maxima and sums of a group into one vector
// with a number for each row. Longer rows go one by one, read once with an online maximum (Milakov
// and Gimelshein 2018, "Online normalizer calculation for softmax") that each lane has for itself.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>

#include "fovea/kernels/hwy_targets.h"

#define HWY_TARGET_INCLUDE "fovea/kernels/softmax_hwy.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/rows-inl.h"
#include "fovea/kernels/softmax-inl.h"
#include "fovea/kernels/softmax.h"
#include "hwy/contrib/math/math-inl.h"

#ifndef FOVEA_SOFTMAX_ONCE
#define FOVEA_SOFTMAX_ONCE
namespace fovea::softmax_detail {
namespace {

struct SoftmaxTask {
  SoftmaxOp op;
  int64_t cols;
  const float* x;  // of the gradient: y
  const float* dy;
  float* y;  // of the gradient: dx
  float* scratch;
};

constexpr int64_t kBlockVecs = 32;  // vectors that a long row's lanes share a maximum for
constexpr int64_t kShortVecs = 8;   // vectors in the longest row that goes in a group

}  // namespace
}  // namespace fovea::softmax_detail
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using namespace simd;
using softmax_detail::ExpRows;
using softmax_detail::kBlockVecs;
using softmax_detail::kShortVecs;
using softmax_detail::SoftmaxTask;

HWY_INLINE Vec low() { return hn::Set(F32(), -HUGE_VALF); }
// -infinity, which adds nothing to a sum of powers, in the absent lanes.
HWY_INLINE Vec get_or_low(const float* p, Whole) { return load(p); }
HWY_INLINE Vec get_or_low(const float* p, Some s) {
  return hn::IfThenElse(hn::FirstN(F32(), static_cast<size_t>(s.n)), load_some(p, s.n), low());
}

HWY_INLINE void exp_short_rows(const ExpRows& rows) {
  const F32 d;
  const int64_t cols = rows.cols;
  HWY_ALIGN float partial[kLanes * kLanes] = {};
  for (int64_t r = 0; r < rows.count; ++r) {
    const float* x = rows.x + r * cols;
    Vec max = low();
    for_columns(cols,
                [&](int64_t c, auto n) HWY_ATTR { max = hn::Max(max, get_or_low(x + c, n)); });
    hn::Store(max, d, partial + r * kLanes);
  }
  store(base_of(join_each_row(partial, Larger())), rows.base);
  for (int64_t r = 0; r < rows.count; ++r) {
    const float* x = rows.x + r * cols;
    const Vec base = hn::Set(d, rows.base[r]);
    Vec sum = hn::Zero(d);
    if (rows.e) {
      // Whole vectors: what was stored in part is slow to load again.
      float* e = rows.e + r * whole_vectors(cols);
      for_columns(cols, [&](int64_t c, auto n) HWY_ATTR {
        const Vec v = exp(hn::Sub(get_or_low(x + c, n), base));
        store(v, e + c);
        sum = hn::Add(sum, v);
      });
    } else {
      for_columns(cols, [&](int64_t c, auto n) HWY_ATTR {
        sum = hn::Add(sum, exp(hn::Sub(get_or_low(x + c, n), base)));
      });
    }
    hn::Store(sum, d, partial + r * kLanes);
  }
  store(join_each_row(partial, Plus()), rows.sum);
}

template <bool kKeep>
HWY_INLINE void exp_long_row(const ExpRows& rows) {
  const F32 d;
  Vec max = low(), sum = hn::Zero(d);
  float* lane_base = rows.lane_base;
  for (int64_t start = 0; start < rows.cols; start += kBlockVecs * kLanes) {
    const int64_t n = HWY_MIN(kBlockVecs * kLanes, rows.cols - start);
    const float* x = rows.x + start;
    Vec first = max, second = max;
    int64_t c = 0;
    for (; c + 2 * kLanes <= n; c += 2 * kLanes) {
      first = hn::Max(first, load(x + c));
      second = hn::Max(second, load(x + c + kLanes));
    }
    if (c + kLanes <= n) {
      first = hn::Max(first, load(x + c));
      c += kLanes;
    }
    if (c < n) second = hn::Max(second, get_or_low(x + c, Some{n - c}));
    const Vec next = hn::Max(first, second), base = base_of(next);
    sum = hn::Mul(sum, exp(hn::Sub(max, base)));
    max = next;
    for_columns(n, [&](int64_t at, auto size) HWY_ATTR {
      const Vec v = exp(hn::Sub(get_or_low(x + at, size), base));
      if (kKeep) put(v, rows.e + start + at, size);
      sum = hn::Add(sum, v);
    });
    if (kKeep) store(max, lane_base);
    lane_base += kLanes;
  }
  const Vec base = base_of(hn::MaxOfLanes(d, max));
  store(base, rows.base);
  store(hn::SumOfLanes(d, hn::Mul(sum, exp(hn::Sub(max, base)))), rows.sum);
}

}  // namespace

int64_t softmax_group(int64_t cols) { return cols <= kShortVecs * kLanes ? kLanes : 1; }

void softmax_exp_rows(const ExpRows& rows) {
  if (rows.cols <= kShortVecs * kLanes)
    exp_short_rows(rows);
  else
    rows.e ? exp_long_row<true>(rows) : exp_long_row<false>(rows);
}

void softmax_scale_row(const ExpRows& rows, int64_t r, float scale, float shift, float* to) {
  const F32 d;
  const Vec s = hn::Set(d, scale), t = hn::Set(d, shift);
  if (rows.cols <= kShortVecs * kLanes) {
    const float* e = rows.e + r * whole_vectors(rows.cols);
    for_columns(rows.cols,
                [&](int64_t c, auto n) HWY_ATTR { put(hn::MulAdd(load(e + c), s, t), to + c, n); });
    return;
  }
  const Vec base = hn::Set(d, rows.base[r]);
  const float* lane_base = rows.lane_base;
  for (int64_t start = 0; start < rows.cols; start += kBlockVecs * kLanes) {
    const Vec factor = hn::Mul(exp(hn::Sub(load(lane_base), base)), s);
    const float* e = rows.e + start;
    for_columns(HWY_MIN(kBlockVecs * kLanes, rows.cols - start), [&](int64_t c, auto n) HWY_ATTR {
      put(hn::MulAdd(get(e + c, n), factor, t), to + start + c, n);
    });
    lane_base += kLanes;
  }
}

void softmax_log_sums(const float* sum, float* out) {
  const F32 d;
  const Vec v = load(sum);
  const Vec log = hn::IfThenElse(hn::IsNaN(v), v, hn::Log(d, v));
  store(hn::IfThenZeroElse(hn::Eq(v, hn::Zero(d)), log), out);
}

void softmax_forward(const SoftmaxTask& task, int64_t first, int64_t last) {
  const F32 d;
  const int64_t cols = task.cols, size = softmax_group(cols);
  const bool log = task.op == SoftmaxOp::log_softmax;
  HWY_ALIGN float base[kLanes], sum[kLanes], end[kLanes];
  for (int64_t at = first; at < last; at += size) {
    const int64_t count = HWY_MIN(size, last - at);
    float* y = task.y + at * cols;
    const ExpRows rows{.x = task.x + at * cols,
                       .e = log ? nullptr : (size > 1 ? task.scratch : y),
                       .count = count,
                       .cols = cols,
                       .base = base,
                       .sum = sum,
                       .lane_base = task.scratch};
    softmax_exp_rows(rows);
    if (!log) {
      store(inverse_or_zero(load(sum)), end);
      for (int64_t r = 0; r < count; ++r) softmax_scale_row(rows, r, end[r], 0, y + r * cols);
      continue;
    }
    softmax_log_sums(sum, end);
    for (int64_t r = 0; r < count; ++r) {
      const float* x = rows.x + r * cols;
      const Vec top = hn::Set(d, base[r]), log_sum = hn::Set(d, end[r]);
      for_columns(cols, [&](int64_t c, auto n) HWY_ATTR {
        put(hn::Sub(hn::Sub(get(x + c, n), top), log_sum), y + r * cols + c, n);
      });
    }
  }
}

namespace {
// The lane-wise sum of dy, for softmax of y dy.
template <bool kLog>
HWY_INLINE Vec sum_row(const float* y, const float* dy, int64_t cols) {
  Vec a = hn::Zero(F32()), b = a;
  const auto plus = [&](Vec sum, int64_t c, auto n) HWY_ATTR {
    return kLog ? hn::Add(sum, get(dy + c, n)) : hn::MulAdd(get(y + c, n), get(dy + c, n), sum);
  };
  int64_t c = 0;
  for (; c + 2 * kLanes <= cols; c += 2 * kLanes) {
    a = plus(a, c, Whole());
    b = plus(b, c + kLanes, Whole());
  }
  if (c + kLanes <= cols) {
    a = plus(a, c, Whole());
    c += kLanes;
  }
  if (c < cols) b = plus(b, c, Some{cols - c});
  return hn::Add(a, b);
}

template <bool kLog>
HWY_INLINE void gradient_rows(const SoftmaxTask& task, int64_t first, int64_t last) {
  const F32 d;
  const int64_t cols = task.cols;
  // As many rows as stay in the L1 cache.
  const int64_t size = HWY_MIN(HWY_MAX(2048 / HWY_MAX(cols, 1), 1), kLanes);
  HWY_ALIGN float partial[kLanes * kLanes] = {};
  HWY_ALIGN float sum[kLanes];
  for (int64_t at = first; at < last; at += size) {
    const int64_t count = HWY_MIN(size, last - at);
    const float* y = task.x + at * cols;
    const float* dy = task.dy + at * cols;
    float* dx = task.y + at * cols;
    for (int64_t r = 0; r < count; ++r)
      hn::Store(sum_row<kLog>(y + r * cols, dy + r * cols, cols), d, partial + r * kLanes);
    hn::Store(join_each_row(partial, Plus()), d, sum);
    for (int64_t r = 0; r < count; ++r) {
      const Vec s = hn::Set(d, sum[r]);
      const int64_t row = r * cols;
      for_columns(cols, [&](int64_t c, auto n) HWY_ATTR {
        const Vec v = get(y + row + c, n), g = get(dy + row + c, n);
        put(kLog ? hn::NegMulAdd(exp(v), s, g) : hn::Mul(v, hn::Sub(g, s)), dx + row + c, n);
      });
    }
  }
}
}  // namespace

void softmax_backward(const SoftmaxTask& task, int64_t first, int64_t last) {
  if (task.op == SoftmaxOp::log_softmax)
    gradient_rows<true>(task, first, last);
  else
    gradient_rows<false>(task, first, last);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea {

size_t softmax_detail::scratch_bytes_for(int64_t cols) {
  constexpr int64_t kGroup = lanes::kLanes * kShortVecs * lanes::kLanes;
  return static_cast<size_t>(std::max(kGroup, cols / kBlockVecs + lanes::kLanes)) * sizeof(float);
}

namespace {

using namespace softmax_detail;

using Rows = void (*)(const SoftmaxTask&, int64_t first, int64_t last);

class HwySoftmax final : public KernelPlan<SoftmaxArgs> {
 public:
  HwySoftmax(const SoftmaxProblem& p, Rows rows) : p_(p), rows_(rows) {
    worker_scratch_bytes = scratch_bytes_for(p.cols);
  }

  void run(const SoftmaxArgs& args, const KernelContext& context) const noexcept override {
    const int64_t size = lanes::rows_in_block(p_.cols);
    context.pool->parallel_for(lanes::ceil_div(p_.rows, size), [&](int64_t block, int worker) {
      const SoftmaxTask task{.op = p_.op,
                             .cols = p_.cols,
                             .x = static_cast<const float*>(args.x),
                             .dy = nullptr,
                             .y = static_cast<float*>(args.y),
                             .scratch = context.worker<float>(worker)};
      rows_(task, block * size, std::min(p_.rows, (block + 1) * size));
    });
  }

 private:
  SoftmaxProblem p_;
  Rows rows_;
};

class HwySoftmaxGrad final : public KernelPlan<SoftmaxGradArgs> {
 public:
  HwySoftmaxGrad(const SoftmaxProblem& p, Rows rows) : p_(p), rows_(rows) {}

  void run(const SoftmaxGradArgs& args, const KernelContext& context) const noexcept override {
    const SoftmaxTask task{.op = p_.op,
                           .cols = p_.cols,
                           .x = static_cast<const float*>(args.y),
                           .dy = static_cast<const float*>(args.dy),
                           .y = static_cast<float*>(args.dx),
                           .scratch = nullptr};
    const int64_t size = lanes::rows_in_block(p_.cols);
    context.pool->parallel_for(lanes::ceil_div(p_.rows, size), [&](int64_t block, int) {
      rows_(task, block * size, std::min(p_.rows, (block + 1) * size));
    });
  }

 private:
  SoftmaxProblem p_;
  Rows rows_;
};

template <class Args, class Plan, Rows kRows>
std::unique_ptr<KernelPlan<Args>> plan_hwy(const SoftmaxProblem& p) {
  if (p.rows < 0 || p.cols < 0 || p.dtype != DType::f32) return nullptr;
  return std::make_unique<Plan>(p, kRows);
}

}  // namespace

void append_hwy([[maybe_unused]] KernelList<SoftmaxProblem, SoftmaxArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_APPEND(bit, target, name) \
  if (supported & bit)                  \
    list.push_back({name, plan_hwy<SoftmaxArgs, HwySoftmax, target::softmax_forward>});
  FOVEA_FOR_EACH_TARGET(FOVEA_APPEND)
#undef FOVEA_APPEND
}

void append_hwy([[maybe_unused]] KernelList<SoftmaxProblem, SoftmaxGradArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_APPEND(bit, target, name) \
  if (supported & bit)                  \
    list.push_back({name, plan_hwy<SoftmaxGradArgs, HwySoftmaxGrad, target::softmax_backward>});
  FOVEA_FOR_EACH_TARGET(FOVEA_APPEND)
#undef FOVEA_APPEND
}

}  // namespace fovea
#endif  // HWY_ONCE

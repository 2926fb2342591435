// Normalisers over rows in SIMD of each target: sixteen rows at a time are turned so that the lanes
// run over them.
#include <algorithm>
#include <cmath>
#include <memory>

#define HWY_TARGET_INCLUDE "fovea/kernels/normalise_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/attention-inl.h"
#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/normalise.h"
#include "fovea/kernels/normaliser-inl.h"

#ifndef FOVEA_NORMALISE_ONCE
#define FOVEA_NORMALISE_ONCE
namespace fovea::normalise_detail {
namespace {

constexpr int64_t kNoise = 128;  // places whose noise is made at a time
constexpr int64_t kMostColumns = int64_t{1} << 22;

// Up to sixteen rows.
struct Task {
  const NormaliseProblem& problem;
  const float* x;
  const float* dy;  // null: forward
  const int32_t* rng;
  float* to;
  int64_t first, rows;
};

struct Layout {
  Layout(const NormaliseProblem& p, bool grad) {
    attention_detail::ScratchPieces scratch;
    strip = scratch.take(p.cols * normaliser_detail::kColumns);
    gradient = scratch.take(grad ? p.cols * normaliser_detail::kColumns : 0);
    room = scratch.take(normaliser_detail::normaliser_room(p.normaliser, p.cols));
    noise =
        scratch.take(is_random(p.normaliser.kind) ? (normaliser_detail::kColumns + 1) * kNoise : 0);
    places = scratch.take(p.cols + 1);
    total = scratch.used();
  }
  int64_t strip, gradient, room, noise, places, total;
};

}  // namespace
}  // namespace fovea::normalise_detail
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using simd::kColumns;

HWY_INLINE void add_noise(const normalise_detail::Task& task, float* noise, float* strip) {
  const NormaliseProblem& p = task.problem;
  const uint64_t origin =
      static_cast<uint64_t>(int64_t{task.rng[2]} * p.per_sample + task.first * p.cols);
  for (int64_t c = 0; c < p.cols; c += normalise_detail::kNoise) {
    const int64_t count = HWY_MIN(normalise_detail::kNoise, p.cols - c);
    for (int64_t r = 0; r < task.rows; ++r)
      simd::gumbel_noise(origin + static_cast<uint64_t>(r * p.cols + c), count, p.normaliser.stream,
                         task.rng, 1.0f, noise + r * normalise_detail::kNoise);
    transpose<true>(noise, normalise_detail::kNoise, task.rows, count, 1.0f, strip + c * kColumns,
                    kColumns);
  }
}

// Zeros at the places that are not in the list.
HWY_INLINE void clear_others(float* strip, int64_t count, const simd::Places& list) {
  int64_t next = 0;
  for (int64_t j = 0; j < count; ++j) {
    if (next < list.count && list.at[next] == j)
      ++next;
    else
      fill_zero(strip + j * kColumns, kColumns);
  }
}

}  // namespace

void normalise_rows(const normalise_detail::Task& task, float* scratch) {
  const F32 d;
  const NormaliseProblem& p = task.problem;
  const normalise_detail::Layout layout(p, task.dy != nullptr);
  float* strip = scratch + layout.strip;
  const int64_t at = task.first * p.cols;
  if (task.rows < kColumns)  // absent rows have no scores
    for (int64_t n = 0; n < p.cols * kColumns; n += kLanes)
      hn::Store(hn::Set(d, -HUGE_VALF), d, strip + n);
  transpose<false>(task.x + at, p.cols, task.rows, p.cols, 1.0f, strip, kColumns);
  if (is_random(p.normaliser.kind)) add_noise(task, scratch + layout.noise, strip);
  const simd::StripNormaliser normaliser(p.normaliser, 1, scratch + layout.room);
  simd::Places active{reinterpret_cast<int32_t*>(scratch + layout.places)};
  normaliser.weights(strip, p.cols, task.dy != nullptr, active);
  float* result = strip;
  if (task.dy) {
    result = scratch + layout.gradient;
    if (task.rows < kColumns) fill_zero(result, p.cols * kColumns);
    transpose<false>(task.dy + at, p.cols, task.rows, p.cols, 1.0f, result, kColumns);
    normaliser.gradient(strip, result, active);
  }
  clear_others(result, p.cols, active);
  transpose<false>(result, kColumns, p.cols, task.rows, 1.0f, task.to + at, p.cols);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea {
namespace {

using RowsFunction = void (*)(const normalise_detail::Task&, float*);
using normaliser_detail::kColumns;

template <class Args>
class NormaliseHwy final : public KernelPlan<Args> {
 public:
  static constexpr bool kGrad = std::is_same_v<Args, NormaliseGradArgs>;

  NormaliseHwy(const NormaliseProblem& p, RowsFunction function) : p_(p), function_(function) {
    this->worker_scratch_bytes =
        static_cast<size_t>(normalise_detail::Layout(p, kGrad).total) * sizeof(float);
  }

  void run(const Args& args, const KernelContext& context) const noexcept override {
    context.pool->parallel_for((p_.rows + kColumns - 1) / kColumns, [&](int64_t n, int worker) {
      normalise_detail::Task task{.problem = p_,
                                  .x = static_cast<const float*>(args.x),
                                  .dy = nullptr,
                                  .rng = args.rng,
                                  .to = nullptr,
                                  .first = n * kColumns,
                                  .rows = std::min(kColumns, p_.rows - n * kColumns)};
      if constexpr (kGrad) {
        task.dy = static_cast<const float*>(args.dy);
        task.to = static_cast<float*>(args.dx);
      } else {
        task.to = static_cast<float*>(args.y);
      }
      function_(task, context.template worker<float>(worker));
    });
  }

 private:
  NormaliseProblem p_;
  RowsFunction function_;
};

template <class Args, RowsFunction kFunction>
std::unique_ptr<KernelPlan<Args>> plan_normalise(const NormaliseProblem& p) {
  if (p.rows < 0 || p.cols < 0 || p.cols > normalise_detail::kMostColumns) return nullptr;
  if (p.dtype != DType::f32 || p.normaliser.fault()) return nullptr;
  return std::make_unique<NormaliseHwy<Args>>(p, kFunction);
}

template <class Args>
void append([[maybe_unused]] KernelList<NormaliseProblem, Args>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit) list.push_back({name, plan_normalise<Args, target::normalise_rows>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace

void append_hwy(KernelList<NormaliseProblem, NormaliseArgs>& list) { append(list); }
void append_hwy(KernelList<NormaliseProblem, NormaliseGradArgs>& list) { append(list); }

}  // namespace fovea
#endif  // HWY_ONCE

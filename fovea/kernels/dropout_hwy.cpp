// Dropout in SIMD of each target, with the same numbers as "ref".
#include <memory>

#define HWY_TARGET_INCLUDE "fovea/kernels/dropout_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/dropout.h"
#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/philox-inl.h"

#ifndef FOVEA_DROPOUT_ONCE
#define FOVEA_DROPOUT_ONCE
namespace fovea::dropout_detail {
namespace {

// A run of elements: n of them, of which the first is number `element` of the global batch.
struct Run {
  const float* x;
  float* y;
  int64_t n;
  uint64_t element;
  uint64_t stream;
  uint32_t key0, key1;
  int32_t threshold;  // kept: random bits >> 8 >= threshold
  float scale;
};

}  // namespace
}  // namespace fovea::dropout_detail
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using simd::F32;
using simd::I32;
using simd::kLanes;
using simd::kPhiloxNumbers;
using simd::philox;
using simd::U32;
using simd::Vec;
using Words = simd::PhiloxWords;

HWY_INLINE Vec kept(Vec x, Words numbers, const dropout_detail::Run& run) {
  const I32 di;
  const auto keep =
      hn::Gt(hn::BitCast(di, hn::ShiftRight<8>(numbers)), hn::Set(di, run.threshold - 1));
  return hn::IfThenElseZero(hn::RebindMask(F32(), keep), hn::Mul(x, hn::Set(F32(), run.scale)));
}

struct ToOutput {
  const dropout_detail::Run& run;
  int64_t from;
  HWY_INLINE void operator()(Words numbers, int64_t at) const {
    simd::store(kept(simd::load(run.x + from + at), numbers, run), run.y + from + at);
  }
};

// Elements from `at` on, at most as many as a set of numbers holds; returns how many.
HWY_NOINLINE int64_t run_some(const dropout_detail::Run& run, int64_t at) {
  uint32_t numbers[kPhiloxNumbers + kLanes] = {};  // room to load whole vectors
  const uint64_t element = run.element + static_cast<uint64_t>(at);
  philox(element / 4, run.stream, run.key0, run.key1, simd::PhiloxToMemory{numbers});
  const auto skipped = static_cast<int64_t>(element % 4);
  const int64_t n = HWY_MIN(kPhiloxNumbers - skipped, run.n - at);
  const float* x = run.x + at;
  float* y = run.y + at;
  for (int64_t i = 0; i < n; i += kLanes) {
    const Words own = hn::LoadU(U32(), numbers + skipped + i);
    if (i + kLanes <= n)
      simd::store(kept(simd::load(x + i), own, run), y + i);
    else
      simd::store_some(kept(simd::load_some(x + i, n - i), own, run), y + i, n - i);
  }
  return n;
}

}  // namespace

void dropout_run(const dropout_detail::Run& given) {
  const dropout_detail::Run run = given;  // out of reach of the stores
  int64_t at = run.element % 4 == 0 ? 0 : run_some(run, 0);
  for (; at + kPhiloxNumbers <= run.n; at += kPhiloxNumbers)
    philox((run.element + static_cast<uint64_t>(at)) / 4, run.stream, run.key0, run.key1,
           ToOutput{run, at});
  while (at < run.n) at += run_some(run, at);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea {
namespace {

using RunFunction = void (*)(const dropout_detail::Run&);

class DropoutHwy final : public KernelPlan<DropoutArgs> {
 public:
  DropoutHwy(const DropoutProblem& p, RunFunction function)
      : p_(p),
        function_(function),
        threshold_(dropout_threshold(p.rate)),
        scale_(p.rate < 1 ? static_cast<float>(1 / (1 - p.rate)) : 0.0f) {}

  void run(const DropoutArgs& args, const KernelContext& context) const noexcept override {
    const int64_t origin = int64_t{args.rng[2]} * p_.per_sample;
    lanes::for_flat(*context.pool, p_.samples * p_.per_sample, [&](int64_t start, int64_t n) {
      function_({.x = static_cast<const float*>(args.x) + start,
                 .y = static_cast<float*>(args.y) + start,
                 .n = n,
                 .element = static_cast<uint64_t>(origin + start),
                 .stream = p_.stream,
                 .key0 = static_cast<uint32_t>(args.rng[0]),
                 .key1 = static_cast<uint32_t>(args.rng[1]),
                 .threshold = threshold_,
                 .scale = scale_});
    });
  }

 private:
  DropoutProblem p_;
  RunFunction function_;
  int32_t threshold_;
  float scale_;
};

template <RunFunction kFunction>
std::unique_ptr<KernelPlan<DropoutArgs>> plan_dropout(const DropoutProblem& p) {
  if (p.samples < 0 || p.per_sample < 0 || !(p.rate >= 0 && p.rate <= 1)) return nullptr;
  if (p.dtype != DType::f32) return nullptr;
  return std::make_unique<DropoutHwy>(p, kFunction);
}

}  // namespace

void append_hwy([[maybe_unused]] KernelList<DropoutProblem, DropoutArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit) list.push_back({name, plan_dropout<target::dropout_run>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea
#endif  // HWY_ONCE

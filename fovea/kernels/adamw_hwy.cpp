// AdamW in SIMD of each target: all that a step reads and writes passes through the processor once.
#define HWY_TARGET_INCLUDE "fovea/kernels/adamw_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/adamw_step.h"
#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/math-inl.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using simd::F32;
using simd::kLanes;
using simd::Vec;

struct Updated {
  Vec w, m, v;
};

// sqrt(x) for x >= 0, relative error below 2e-7, and its inverse follow from approximations: the
// instructions themselves would take most of a step whose weights lie in the caches.
HWY_INLINE Vec square_root(Vec x) {
#if HWY_TARGET == HWY_AVX3
  // Kept finite at both ends, since 0 times infinity is NaN.
  const Vec held = simd::at_most(x, 0x1p127f);
  const Vec r = simd::at_most(hn::ApproximateReciprocalSqrt(held), 0x1p64f);
  const Vec y = hn::Mul(held, r);
  const Vec half = hn::Set(F32(), 0.5f);
  return hn::MulAdd(y, hn::NegMulAdd(y, hn::Mul(r, half), half), y);
#else
  return hn::Sqrt(x);
#endif
}

HWY_INLINE Updated updated(const AdamWFactors<float>& f, Vec w, Vec g, Vec m, Vec v) {
  const F32 d;
  const Vec s = hn::Mul(g, hn::Set(d, f.scale));
  m = hn::MulAdd(m, hn::Set(d, f.beta1), hn::Mul(s, hn::Set(d, f.rest1)));
  v = hn::MulAdd(v, hn::Set(d, f.beta2), hn::Mul(hn::Mul(s, s), hn::Set(d, f.rest2)));
  const Vec size = hn::Add(square_root(hn::Mul(v, hn::Set(d, f.correct2))), hn::Set(d, f.epsilon));
  const Vec direction = hn::Mul(hn::Mul(m, hn::Set(d, f.correct1)), simd::inverse(size));
  const Vec change = hn::MulAdd(w, hn::Set(d, f.decay), direction);
  return {hn::NegMulAdd(change, hn::Set(d, f.lr), w), m, v};
}

}  // namespace

void adamw_update(const AdamWFactors<float>& factors, const AdamWArrays<float>& a, int64_t n) {
  const AdamWFactors<float> f = factors;  // out of reach of the stores
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Updated u = updated(f, simd::load(a.w + i), simd::load(a.g + i), simd::load(a.m + i),
                              simd::load(a.v + i));
    simd::store(u.w, a.w_out + i);
    simd::store(u.m, a.m_out + i);
    simd::store(u.v, a.v_out + i);
  }
  if (i == n) return;
  const int64_t rest = n - i;
  const Updated u = updated(f, simd::load_some(a.w + i, rest), simd::load_some(a.g + i, rest),
                            simd::load_some(a.m + i, rest), simd::load_some(a.v + i, rest));
  simd::store_some(u.w, a.w_out + i, rest);
  simd::store_some(u.m, a.m_out + i, rest);
  simd::store_some(u.v, a.v_out + i, rest);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea {
namespace {

template <AdamWUpdate<float> kUpdate>
std::unique_ptr<KernelPlan<AdamWArgs>> plan_adamw(const AdamWProblem& p) {
  if (!adamw_makes_sense(p) || p.dtype != DType::f32) return nullptr;
  return std::make_unique<AdamWPlan<float>>(p, kUpdate);
}

}  // namespace

void append_hwy([[maybe_unused]] KernelList<AdamWProblem, AdamWArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit) list.push_back({name, plan_adamw<target::adamw_update>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea
#endif  // HWY_ONCE

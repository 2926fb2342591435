// Tiled attention, forward, in SIMD of each target.
#define HWY_TARGET_INCLUDE "fovea/kernels/attention_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/attention_panels-inl.h"
#include "fovea/kernels/attention_panels.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {

void attention_forward(const attention_detail::ForwardTask& task, float* scratch) {
  if (task.problem.dtype == DType::f32)
    PanelsForward<float>(task, scratch).run();
  else
    PanelsForward<bf16>(task, scratch).run();
}
int64_t attention_forward_lanes() { return kLanes; }
void attention_distances(const AttentionProblem& p, const AttentionLinks& links, int64_t head,
                         float* to) {
  head_distances(p, links, head, to);
}
void attention_relative(const AttentionProblem& p, const float* from, float* transposed) {
  lay_out_relative(p, from, nullptr, transposed);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::attention_detail {
namespace {

template <auto kForward, auto kDistances, auto kRelative, auto kLanesOf>
std::unique_ptr<KernelPlan<AttentionArgs>> plan_hwy(const AttentionProblem& problem) {
  return plan_panels(problem, {kForward, kDistances, kRelative, kLanesOf});
}

}  // namespace

void append_hwy([[maybe_unused]] std::vector<AttentionKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name)                                                       \
  if (supported & bit)                                                                     \
    list.push_back({name, plan_hwy<target::attention_forward, target::attention_distances, \
                                   target::attention_relative, target::attention_forward_lanes>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::attention_detail
#endif  // HWY_ONCE

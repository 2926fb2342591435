// Tiled attention, backward, in SIMD of each target.
#define HWY_TARGET_INCLUDE "fovea/kernels/attention_backward_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/attention_backward_blocks-inl.h"
#include "fovea/kernels/attention_backward_blocks.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {

void attention_backward(const attention_detail::BackwardTask& task, float* scratch) {
  if (task.problem.dtype == DType::f32)
    HeadBackward<float>(task, scratch).run();
  else
    HeadBackward<bf16>(task, scratch).run();
}
int64_t attention_backward_lanes() { return kLanes; }
void attention_backward_distances(const AttentionProblem& p, const AttentionLinks& links,
                                  int64_t head, float* to) {
  head_distances(p, links, head, to);
}
void attention_backward_relative(const AttentionProblem& p, const float* from, float* rows,
                                 float* transposed) {
  lay_out_relative(p, from, rows, transposed);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::attention_detail {
namespace {

template <auto kBackward, auto kDistances, auto kRelative, auto kLanesOf>
std::unique_ptr<KernelPlan<AttentionBackwardArgs>> plan_hwy(const AttentionProblem& problem) {
  return plan_backward_blocks(problem, {kBackward, kDistances, kRelative, kLanesOf});
}

}  // namespace

void append_backward_hwy([[maybe_unused]] std::vector<AttentionBackwardKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name)                                                      \
  if (supported & bit)                                                                    \
    list.push_back(                                                                       \
        {name, plan_hwy<target::attention_backward, target::attention_backward_distances, \
                        target::attention_backward_relative, target::attention_backward_lanes>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::attention_detail
#endif  // HWY_ONCE

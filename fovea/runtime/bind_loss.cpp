#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/cross_entropy.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

CrossEntropyProblem problem_of(const NodeProblem& n) {
  const auto logits = n.input_dims(0);
  return {n.input(0).dtype, product(logits, 0, logits.size() - 1), logits.back(),
          n.attrs<CrossEntropyAttrs>().smoothing};
}

std::unique_ptr<NodePlan> bind_cross_entropy(const NodeProblem& n, const KernelChoice& choice) {
  return bind_kernel(n, "cross_entropy", cross_entropy_kernels(), problem_of(n), choice,
                     [](const void* const* in, void* const* out) {
                       return CrossEntropyArgs{in[0], static_cast<const int32_t*>(in[1]), out[0]};
                     });
}

std::unique_ptr<NodePlan> bind_cross_entropy_grad(const NodeProblem& n,
                                                  const KernelChoice& choice) {
  return bind_kernel(
      n, "cross_entropy_grad", cross_entropy_grad_kernels(), problem_of(n), choice,
      [](const void* const* in, void* const* out) {
        return CrossEntropyGradArgs{in[0], static_cast<const int32_t*>(in[1]), in[2], out[0]};
      });
}

}  // namespace

BindingGroup loss_bindings() {
  return {{{"cross_entropy", bind_cross_entropy}, {"cross_entropy_grad", bind_cross_entropy_grad}},
          {family_of("cross_entropy", cross_entropy_kernels()),
           family_of("cross_entropy_grad", cross_entropy_grad_kernels())}};
}

}  // namespace fovea

#include "fovea/base/philox.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/normalise.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

NormaliseProblem problem_of(const NodeProblem& n) {
  const auto& a = n.attrs<NormaliseAttrs>();
  const auto dims = n.output_dims();
  return {.normaliser = {.kind = a.normaliser,
                         .top_k = a.top_k,
                         .softmax_temperature = a.softmax_temperature,
                         .stream = stream_id(a.stream.empty() ? n.node.name : a.stream)},
          .dtype = n.output().dtype,
          .rows = product(dims, 0, dims.size() - 1),
          .cols = dims.back(),
          .per_sample = product(dims, 1)};
}

std::unique_ptr<NodePlan> bind_normalise(const NodeProblem& n, const KernelChoice& choice) {
  const bool random = is_random(n.attrs<NormaliseAttrs>().normaliser);
  return bind_kernel(
      n, "normalise", normalise_kernels(), problem_of(n), choice,
      [random](const void* const* in, void* const* out) {
        return NormaliseArgs{in[0], random ? static_cast<const int32_t*>(in[1]) : nullptr, out[0]};
      });
}
std::unique_ptr<NodePlan> bind_normalise_grad(const NodeProblem& n, const KernelChoice& choice) {
  const bool random = is_random(n.attrs<NormaliseAttrs>().normaliser);
  return bind_kernel(n, "normalise_grad", normalise_grad_kernels(), problem_of(n), choice,
                     [random](const void* const* in, void* const* out) {
                       return NormaliseGradArgs{
                           in[0], in[1], random ? static_cast<const int32_t*>(in[2]) : nullptr,
                           out[0]};
                     });
}

}  // namespace

BindingGroup normaliser_bindings() {
  return {{{"normalise", bind_normalise}, {"normalise_grad", bind_normalise_grad}},
          {family_of("normalise", normalise_kernels()),
           family_of("normalise_grad", normalise_grad_kernels())}};
}

}  // namespace fovea

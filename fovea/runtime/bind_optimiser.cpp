#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/adamw.h"
#include "fovea/kernels/sgd.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

std::unique_ptr<NodePlan> bind_adamw(const NodeProblem& n, const KernelChoice& choice) {
  const auto& a = n.attrs<AdamwAttrs>();
  AdamWProblem p{n.input(0).dtype, {}, a.beta1, a.beta2, a.eps, a.weight_decay};
  const size_t scalars = n.node.inputs.size() - 3;
  for (size_t i = 0; i < scalars; i += 4) p.sizes.push_back(product(n.input_dims(i)));
  return bind_kernel(n, "adamw", adamw_kernels(), p, choice,
                     [scalars](const void* const* in, void* const* out) {
                       return AdamWArgs{.inputs = in,
                                        .lr = static_cast<const float*>(in[scalars]),
                                        .step = static_cast<const int32_t*>(in[scalars + 1]),
                                        .grad_scale = static_cast<const float*>(in[scalars + 2]),
                                        .outputs = out};
                     });
}

std::unique_ptr<NodePlan> bind_sgd(const NodeProblem& n, const KernelChoice& choice) {
  const auto& a = n.attrs<SgdAttrs>();
  const SgdProblem p{n.input(0).dtype, product(n.input_dims(0)), a.momentum, a.weight_decay};
  return bind_kernel(n, "sgd", sgd_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return SgdArgs{.w = in[0],
                                      .g = in[1],
                                      .m = in[2],
                                      .lr = static_cast<const float*>(in[3]),
                                      .grad_scale = static_cast<const float*>(in[4]),
                                      .w_out = out[0],
                                      .m_out = out[1]};
                     });
}

}  // namespace

BindingGroup optimiser_bindings() {
  return {{{"adamw", bind_adamw}, {"sgd", bind_sgd}},
          {family_of("adamw", adamw_kernels()), family_of("sgd", sgd_kernels())}};
}

}  // namespace fovea

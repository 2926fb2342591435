#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/norm.h"
#include "fovea/kernels/softmax.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

template <SoftmaxOp kOp>
std::unique_ptr<NodePlan> bind_softmax(const NodeProblem& n, const KernelChoice& choice) {
  const auto dims = n.output_dims();
  const SoftmaxProblem p{kOp, n.output().dtype, product(dims, 0, dims.size() - 1), dims.back()};
  return bind_kernel(n, "softmax", softmax_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return SoftmaxArgs{in[0], out[0]};
                     });
}
template <SoftmaxOp kOp>
std::unique_ptr<NodePlan> bind_softmax_grad(const NodeProblem& n, const KernelChoice& choice) {
  const auto dims = n.output_dims();
  const SoftmaxProblem p{kOp, n.output().dtype, product(dims, 0, dims.size() - 1), dims.back()};
  return bind_kernel(n, "softmax_grad", softmax_grad_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return SoftmaxGradArgs{in[0], in[1], out[0]};
                     });
}

NormProblem norm_problem(const NodeProblem& n, NormOp op, double eps) {
  const auto x = n.input_dims(0);
  return {op, n.input(0).dtype, product(x, 0, x.size() - 1), x.back(), eps};
}
std::unique_ptr<NodePlan> bind_layer_norm(const NodeProblem& n, const KernelChoice& choice) {
  const auto& a = n.attrs<NormAttrs>();
  return bind_kernel(n, "norm", norm_kernels(), norm_problem(n, NormOp::layer_norm, a.eps), choice,
                     [stats = a.stats](const void* const* in, void* const* out) {
                       return NormArgs{.x = in[0],
                                       .weight = in[1],
                                       .bias = in[2],
                                       .y = out[0],
                                       .mean = stats ? out[1] : nullptr,
                                       .rstd = stats ? out[2] : nullptr};
                     });
}
std::unique_ptr<NodePlan> bind_rms_norm(const NodeProblem& n, const KernelChoice& choice) {
  const auto& a = n.attrs<NormAttrs>();
  return bind_kernel(
      n, "norm", norm_kernels(), norm_problem(n, NormOp::rms_norm, a.eps), choice,
      [stats = a.stats](const void* const* in, void* const* out) {
        return NormArgs{.x = in[0], .weight = in[1], .y = out[0], .rstd = stats ? out[1] : nullptr};
      });
}
// The statistics hold epsilon already: the gradient kernels do not read it.
std::unique_ptr<NodePlan> bind_layer_norm_grad(const NodeProblem& n, const KernelChoice& choice) {
  return bind_kernel(n, "norm_grad", norm_grad_kernels(), norm_problem(n, NormOp::layer_norm, 0),
                     choice, [](const void* const* in, void* const* out) {
                       return NormGradArgs{.x = in[0],
                                           .weight = in[1],
                                           .mean = in[2],
                                           .rstd = in[3],
                                           .dy = in[4],
                                           .dx = out[0],
                                           .dweight = out[1],
                                           .dbias = out[2]};
                     });
}
std::unique_ptr<NodePlan> bind_rms_norm_grad(const NodeProblem& n, const KernelChoice& choice) {
  return bind_kernel(n, "norm_grad", norm_grad_kernels(), norm_problem(n, NormOp::rms_norm, 0),
                     choice, [](const void* const* in, void* const* out) {
                       return NormGradArgs{.x = in[0],
                                           .weight = in[1],
                                           .rstd = in[2],
                                           .dy = in[3],
                                           .dx = out[0],
                                           .dweight = out[1]};
                     });
}

}  // namespace

BindingGroup norm_bindings() {
  return {
      {{"softmax", bind_softmax<SoftmaxOp::softmax>},
       {"log_softmax", bind_softmax<SoftmaxOp::log_softmax>},
       {"softmax_grad", bind_softmax_grad<SoftmaxOp::softmax>},
       {"log_softmax_grad", bind_softmax_grad<SoftmaxOp::log_softmax>},
       {"layer_norm", bind_layer_norm},
       {"layer_norm_grad", bind_layer_norm_grad},
       {"rms_norm", bind_rms_norm},
       {"rms_norm_grad", bind_rms_norm_grad}},
      {family_of("softmax", softmax_kernels()), family_of("softmax_grad", softmax_grad_kernels()),
       family_of("norm", norm_kernels()), family_of("norm_grad", norm_grad_kernels())}};
}

}  // namespace fovea

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

// x, perhaps a residual, weight (and bias) -> y, the sum if there is a residual, statistics.
template <NormOp kOp>
std::unique_ptr<NodePlan> bind_norm(const NodeProblem& n, const KernelChoice& choice) {
  constexpr bool kLayer = kOp == NormOp::layer_norm;
  const auto& a = n.attrs<NormAttrs>();
  const auto x = n.input_dims(0);
  const NormProblem p{kOp,   n.input(0).dtype, product(x, 0, x.size() - 1), x.back(),
                      a.eps, n.output().dtype};
  return bind_kernel(
      n, "norm", norm_kernels(), p, choice,
      [stats = a.stats, residual = a.residual](const void* const* in, void* const* out) {
        const size_t weight = residual ? 2 : 1, first = residual ? 2 : 1;
        NormArgs args{.x = in[0], .weight = in[weight], .y = out[0]};
        if (kLayer) args.bias = in[weight + 1];
        if (residual) {
          args.residual = in[1];
          args.sum = out[1];
        }
        if (stats) {
          if (kLayer) args.mean = out[first];
          args.rstd = out[first + (kLayer ? 1 : 0)];
        }
        return args;
      });
}

// x, weight, statistics, dy, perhaps what is added. The statistics hold epsilon already: the
// gradient kernels do not read it.
template <NormOp kOp>
std::unique_ptr<NodePlan> bind_norm_grad(const NodeProblem& n, const KernelChoice& choice) {
  constexpr bool kLayer = kOp == NormOp::layer_norm;
  constexpr size_t kRstd = kLayer ? 3 : 2;
  const auto x = n.input_dims(0);
  const NormProblem p{kOp, n.input(0).dtype,        product(x, 0, x.size() - 1), x.back(),
                      0,   n.input(kRstd + 1).dtype};
  return bind_kernel(n, "norm_grad", norm_grad_kernels(), p, choice,
                     [add = n.attrs<NormGradAttrs>().add](const void* const* in, void* const* out) {
                       return NormGradArgs{.x = in[0],
                                           .weight = in[1],
                                           .mean = kLayer ? in[2] : nullptr,
                                           .rstd = in[kRstd],
                                           .dy = in[kRstd + 1],
                                           .dx = out[0],
                                           .dweight = out[1],
                                           .dbias = kLayer ? out[2] : nullptr,
                                           .add = add ? in[kRstd + 2] : nullptr};
                     });
}

}  // namespace

BindingGroup norm_bindings() {
  return {
      {{"softmax", bind_softmax<SoftmaxOp::softmax>},
       {"log_softmax", bind_softmax<SoftmaxOp::log_softmax>},
       {"softmax_grad", bind_softmax_grad<SoftmaxOp::softmax>},
       {"log_softmax_grad", bind_softmax_grad<SoftmaxOp::log_softmax>},
       {"layer_norm", bind_norm<NormOp::layer_norm>},
       {"layer_norm_grad", bind_norm_grad<NormOp::layer_norm>},
       {"rms_norm", bind_norm<NormOp::rms_norm>},
       {"rms_norm_grad", bind_norm_grad<NormOp::rms_norm>}},
      {family_of("softmax", softmax_kernels()), family_of("softmax_grad", softmax_grad_kernels()),
       family_of("norm", norm_kernels()), family_of("norm_grad", norm_grad_kernels())}};
}

}  // namespace fovea

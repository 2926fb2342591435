#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/conv2d.h"
#include "fovea/kernels/pool.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

// From the shapes of image and weight, wherever the node has them.
Conv2dProblem conv_problem(DType dtype, const Conv2dAttrs& a, const std::vector<int64_t>& x,
                           const std::vector<int64_t>& w) {
  Conv2dProblem p;
  p.dtype = dtype;
  p.batch = x[0], p.h = x[1], p.w = x[2], p.c = x[3];
  p.o = w[0], p.kh = w[1], p.kw = w[2];
  p.stride_h = a.stride_h, p.stride_w = a.stride_w;
  p.pad_h = a.pad_h, p.pad_w = a.pad_w;
  return p;
}

std::unique_ptr<NodePlan> bind_conv2d(const NodeProblem& n, const KernelChoice& choice) {
  Conv2dProblem p =
      conv_problem(n.input(0).dtype, n.attrs<Conv2dAttrs>(), n.input_dims(0), n.input_dims(1));
  p.bias = n.node.inputs.size() == 3;
  return bind_kernel(
      n, "conv2d", conv2d_kernels(), p, choice,
      [bias = p.bias](const void* const* in, void* const* out) {
        return Conv2dArgs{.x = in[0], .weight = in[1], .bias = bias ? in[2] : nullptr, .y = out[0]};
      });
}
std::unique_ptr<NodePlan> bind_grad_input(const NodeProblem& n, const KernelChoice& choice) {
  const auto& a = n.attrs<Conv2dGradAttrs>();
  const Conv2dProblem p = conv_problem(n.input(0).dtype, a, n.output_dims(), n.input_dims(1));
  return bind_kernel(n, "conv2d_grad_input", conv2d_grad_input_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return Conv2dGradInputArgs{.dy = in[0], .weight = in[1], .dx = out[0]};
                     });
}
std::unique_ptr<NodePlan> bind_grad_weight(const NodeProblem& n, const KernelChoice& choice) {
  const auto& a = n.attrs<Conv2dGradAttrs>();
  const Conv2dProblem p = conv_problem(n.input(0).dtype, a, n.input_dims(1), n.output_dims());
  return bind_kernel(n, "conv2d_grad_weight", conv2d_grad_weight_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return Conv2dGradWeightArgs{.dy = in[0], .x = in[1], .dweight = out[0]};
                     });
}

PoolProblem pool_problem(DType dtype, PoolKind kind, const PoolAttrs& a,
                         const std::vector<int64_t>& x) {
  PoolProblem p;
  p.dtype = dtype;
  p.kind = kind;
  p.batch = x[0], p.h = x[1], p.w = x[2], p.c = x[3];
  p.size_h = a.size_h, p.size_w = a.size_w;
  p.stride_h = a.stride_h, p.stride_w = a.stride_w;
  p.pad_h = a.pad_h, p.pad_w = a.pad_w;
  return p;
}
template <PoolKind kKind>
std::unique_ptr<NodePlan> bind_pool(const NodeProblem& n, const KernelChoice& choice) {
  const auto& a = n.attrs<PoolAttrs>();
  return bind_kernel(
      n, "pool", pool_kernels(), pool_problem(n.input(0).dtype, kKind, a, n.input_dims(0)), choice,
      [indices = a.indices](const void* const* in, void* const* out) {
        return PoolArgs{
            .x = in[0], .y = out[0], .indices = indices ? static_cast<int32_t*>(out[1]) : nullptr};
      });
}
template <PoolKind kKind>
std::unique_ptr<NodePlan> bind_pool_grad(const NodeProblem& n, const KernelChoice& choice) {
  return bind_kernel(
      n, "pool_grad", pool_grad_kernels(),
      pool_problem(n.input(0).dtype, kKind, n.attrs<PoolGradAttrs>(), n.output_dims()), choice,
      [](const void* const* in, void* const* out) {
        return PoolGradArgs{
            .dy = in[0],
            .indices = kKind == PoolKind::max ? static_cast<const int32_t*>(in[1]) : nullptr,
            .dx = out[0]};
      });
}

}  // namespace

BindingGroup conv_bindings() {
  return {{{"conv2d", bind_conv2d},
           {"conv2d_grad_input", bind_grad_input},
           {"conv2d_grad_weight", bind_grad_weight},
           {"max_pool", bind_pool<PoolKind::max>},
           {"avg_pool", bind_pool<PoolKind::average>},
           {"max_pool_grad", bind_pool_grad<PoolKind::max>},
           {"avg_pool_grad", bind_pool_grad<PoolKind::average>}},
          {family_of("conv2d", conv2d_kernels()),
           family_of("conv2d_grad_input", conv2d_grad_input_kernels()),
           family_of("conv2d_grad_weight", conv2d_grad_weight_kernels()),
           family_of("pool", pool_kernels()), family_of("pool_grad", pool_grad_kernels())}};
}

}  // namespace fovea

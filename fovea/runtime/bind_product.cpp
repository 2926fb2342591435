#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/linear.h"
#include "fovea/kernels/matmul.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

// The strides of the leading axes of an operand, 0 where it is broadcast.
std::vector<int64_t> batch_strides(const std::vector<int64_t>& dims,
                                   const std::vector<int64_t>& batch) {
  std::vector<int64_t> to = batch;
  to.insert(to.end(), dims.end() - 2, dims.end());
  std::vector<int64_t> s = broadcast_strides(dims, to);
  s.resize(batch.size());
  return s;
}

std::unique_ptr<NodePlan> bind_matmul(const NodeProblem& n, const KernelChoice& choice) {
  const auto& attrs = n.attrs<MatmulAttrs>();
  const auto a = n.input_dims(0), b = n.input_dims(1), c = n.output_dims();
  MatmulProblem p;
  p.dtype = n.input(0).dtype;
  p.m = c[c.size() - 2];
  p.n = c.back();
  p.k = attrs.transpose_a ? a[a.size() - 2] : a.back();
  p.batch.assign(c.begin(), c.end() - 2);
  p.a_batch = batch_strides(a, p.batch);
  p.b_batch = batch_strides(b, p.batch);
  p.a_row = attrs.transpose_a ? 1 : p.k;
  p.a_col = attrs.transpose_a ? p.m : 1;
  p.b_row = attrs.transpose_b ? 1 : p.n;
  p.b_col = attrs.transpose_b ? p.k : 1;
  // [B,T,K] by one [K,N] is one tall product.
  const bool one_b = product(b, 0, b.size() - 2) == 1;
  if (!p.batch.empty() && one_b && !attrs.transpose_a &&
      product(a) == product(p.batch) * p.m * p.k) {
    p.m *= product(p.batch);
    p.batch.clear();
    p.a_batch.clear();
    p.b_batch.clear();
  }
  return bind_kernel(n, "matmul", matmul_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return MatmulArgs{.a = in[0], .b = in[1], .c = out[0]};
                     });
}

// The kernels' name of an activation: graph and kernels use the same words.
UnaryOp function_of(Activation a) {
  return a == Activation::relu   ? UnaryOp::relu
         : a == Activation::silu ? UnaryOp::silu
                                 : UnaryOp::gelu;
}

// What linear and the gradient of its input have in common: x [..,k] by a weight.
LinearProblem linear_problem(const NodeProblem& n, bool transposed) {
  const auto x = n.input_dims(0), w = n.input_dims(1);
  LinearProblem p;
  p.x = n.input(0).dtype;
  p.w = n.input(1).dtype;
  p.y = n.output().dtype;
  p.rows = product(x, 0, x.size() - 1);
  p.n = transposed ? w[1] : w[0];
  p.k = transposed ? w[0] : w[1];
  p.transposed = transposed;
  return p;
}

template <class Fill>
std::unique_ptr<NodePlan> bind_linear_kernel(const NodeProblem& n, const LinearProblem& p,
                                             const KernelChoice& choice, Fill fill) {
  auto plan = bind_kernel(n, "linear", linear_kernels(), p, choice, std::move(fill));
  plan->packed_inputs = {1};
  if (p.bias) plan->packed_inputs.push_back(2);
  return plan;
}

std::unique_ptr<NodePlan> bind_linear(const NodeProblem& n, const KernelChoice& choice) {
  const auto& a = n.attrs<LinearAttrs>();
  LinearProblem p = linear_problem(n, /*transposed=*/false);
  const size_t last = n.node.inputs.size() - 1;
  p.residual = a.residual;
  p.bias = last == (a.residual ? size_t{3} : size_t{2});
  if (a.residual) p.residual_type = n.input(last).dtype;
  if (a.activation != Activation::none) {
    p.activation = LinearActivation::forward;
    p.function = function_of(a.activation);
    p.save_pre = a.pre;
    p.pre = p.y;
  }
  return bind_linear_kernel(n, p, choice, [p, last](const void* const* in, void* const* out) {
    return LinearArgs{.x = in[0],
                      .w = in[1],
                      .bias = p.bias ? in[2] : nullptr,
                      .residual = p.residual ? in[last] : nullptr,
                      .y = out[0],
                      .pre_out = p.save_pre ? out[1] : nullptr};
  });
}

std::unique_ptr<NodePlan> bind_linear_grad_input(const NodeProblem& n, const KernelChoice& choice) {
  const auto& a = n.attrs<LinearGradInputAttrs>();
  LinearProblem p = linear_problem(n, /*transposed=*/true);
  const size_t last = n.node.inputs.size() - 1;
  p.residual = a.residual;
  if (a.residual) p.residual_type = n.input(last).dtype;
  const bool activation = a.activation != Activation::none;
  if (activation) {
    p.activation = LinearActivation::gradient;
    p.function = function_of(a.activation);
    p.pre = n.input(2).dtype;
  }
  return bind_linear_kernel(n, p, choice,
                            [p, activation, last](const void* const* in, void* const* out) {
                              return LinearArgs{.x = in[0],
                                                .w = in[1],
                                                .residual = p.residual ? in[last] : nullptr,
                                                .pre = activation ? in[2] : nullptr,
                                                .y = out[0]};
                            });
}

std::unique_ptr<NodePlan> bind_linear_grad_weight(const NodeProblem& n,
                                                  const KernelChoice& choice) {
  const auto dy = n.input_dims(0), x = n.input_dims(1);
  const LinearGradWeightProblem p{.dy = n.input(0).dtype,
                                  .x = n.input(1).dtype,
                                  .rows = product(dy, 0, dy.size() - 1),
                                  .n = dy.back(),
                                  .k = x.back(),
                                  .bias = n.attrs<LinearGradWeightAttrs>().bias};
  return bind_kernel(n, "linear_grad_weight", linear_grad_weight_kernels(), p, choice,
                     [bias = p.bias](const void* const* in, void* const* out) {
                       return LinearGradWeightArgs{
                           .dy = in[0], .x = in[1], .dw = out[0], .db = bias ? out[1] : nullptr};
                     });
}

}  // namespace

BindingGroup product_bindings() {
  return {{{"matmul", bind_matmul},
           {"linear", bind_linear},
           {"linear_grad_input", bind_linear_grad_input},
           {"linear_grad_weight", bind_linear_grad_weight}},
          {family_of("matmul", matmul_kernels()), family_of("linear", linear_kernels()),
           family_of("linear_grad_weight", linear_grad_weight_kernels())}};
}

}  // namespace fovea

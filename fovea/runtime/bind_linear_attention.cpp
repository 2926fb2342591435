#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/linear_attention.h"
#include "fovea/runtime/bind_heads.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

LinearAttentionProblem problem_of(const NodeProblem& n) {
  const auto& a = n.attrs<LinearAttentionAttrs>();
  LinearAttentionProblem p;
  fill_heads(n, a.heads, a.kv(), p);
  p.causal = a.causal;
  return p;
}

std::unique_ptr<NodePlan> bind_linear_attention(const NodeProblem& n, const KernelChoice& choice) {
  return bind_kernel(n, "linear_attention", linear_attention_kernels(), problem_of(n), choice,
                     [](const void* const* in, void* const* out) {
                       return LinearAttentionArgs{
                           .q = in[0], .k = in[1], .v = in[2], .out = out[0]};
                     });
}

std::unique_ptr<NodePlan> bind_linear_attention_grad(const NodeProblem& n,
                                                     const KernelChoice& choice) {
  return bind_kernel(n, "linear_attention_backward", linear_attention_backward_kernels(),
                     problem_of(n), choice, [](const void* const* in, void* const* out) {
                       return LinearAttentionBackwardArgs{.q = in[0],
                                                          .k = in[1],
                                                          .v = in[2],
                                                          .dout = in[3],
                                                          .dq = out[0],
                                                          .dk = out[1],
                                                          .dv = out[2]};
                     });
}

}  // namespace

BindingGroup linear_attention_bindings() {
  return {{{"linear_attention", bind_linear_attention},
           {"linear_attention_grad", bind_linear_attention_grad}},
          {family_of("linear_attention", linear_attention_kernels()),
           family_of("linear_attention_backward", linear_attention_backward_kernels())}};
}

}  // namespace fovea

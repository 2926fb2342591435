#include <cmath>

#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/attention.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

AttentionProblem problem_of(const NodeProblem& n) {
  const auto& a = n.attrs<AttentionAttrs>();
  const auto q = n.input_dims(0), k = n.input_dims(1), v = n.input_dims(2);
  AttentionProblem p;
  p.dtype = n.input(0).dtype;
  p.batch = q[0];
  p.tq = q[1];
  p.tk = k[1];
  p.heads = a.heads;
  p.kv_heads = a.kv();
  p.heads_kept = a.kept();
  p.head_dim = q[2] / a.heads;
  p.value_dim = v[2] / a.kv();
  p.scale = a.scale != 0 ? a.scale : 1 / std::sqrt(static_cast<double>(p.head_dim));
  p.causal = a.causal;
  p.window_left = a.window_left;
  p.window_right = a.window_right;
  set_dense_strides(p, /*packed=*/true);
  return p;
}

std::unique_ptr<NodePlan> bind_attention(const NodeProblem& n, const KernelChoice& choice) {
  AttentionProblem p = problem_of(n);
  p.want_lse = n.attrs<AttentionAttrs>().lse;
  return bind_kernel(
      n, "attention", attention_kernels(), p, choice,
      [lse = p.want_lse](const void* const* in, void* const* out) {
        return AttentionArgs{
            .q = in[0], .k = in[1], .v = in[2], .out = out[0], .lse = lse ? out[1] : nullptr};
      });
}

std::unique_ptr<NodePlan> bind_attention_grad(const NodeProblem& n, const KernelChoice& choice) {
  return bind_kernel(n, "attention_backward", attention_backward_kernels(), problem_of(n), choice,
                     [](const void* const* in, void* const* out) {
                       return AttentionBackwardArgs{.q = in[0],
                                                    .k = in[1],
                                                    .v = in[2],
                                                    .out = in[3],
                                                    .lse = in[4],
                                                    .dout = in[5],
                                                    .dq = out[0],
                                                    .dk = out[1],
                                                    .dv = out[2]};
                     });
}

}  // namespace

BindingGroup attention_bindings() {
  return {{{"attention", bind_attention}, {"attention_grad", bind_attention_grad}},
          {family_of("attention", attention_kernels()),
           family_of("attention_backward", attention_backward_kernels())}};
}

}  // namespace fovea

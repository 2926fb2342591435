#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/pair_attention.h"
#include "fovea/runtime/bind_heads.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

PairAttentionProblem problem_of(const NodeProblem& n, PairScore score) {
  const auto& a = n.attrs<PairAttentionAttrs>();
  PairAttentionProblem p;
  fill_heads(n, a.heads, a.kv(), p);
  p.score = score;
  p.scale = a.scale;
  p.causal = a.causal;
  p.window_left = a.window_left;
  p.window_right = a.window_right;
  p.want_lse = a.lse;
  return p;
}

template <PairScore kScore>
std::unique_ptr<NodePlan> bind_forward(const NodeProblem& n, const KernelChoice& choice) {
  const PairAttentionProblem p = problem_of(n, kScore);
  return bind_kernel(n, "pair_attention", pair_attention_kernels(), p, choice,
                     [lse = p.want_lse](const void* const* in, void* const* out) {
                       return PairAttentionArgs{.q = in[0],
                                                .k = in[1],
                                                .v = in[2],
                                                .w = in[3],
                                                .out = out[0],
                                                .lse = lse ? out[1] : nullptr};
                     });
}

template <PairScore kScore>
std::unique_ptr<NodePlan> bind_backward(const NodeProblem& n, const KernelChoice& choice) {
  return bind_kernel(n, "pair_attention_backward", pair_attention_backward_kernels(),
                     problem_of(n, kScore), choice, [](const void* const* in, void* const* out) {
                       return PairAttentionBackwardArgs{.q = in[0],
                                                        .k = in[1],
                                                        .v = in[2],
                                                        .w = in[3],
                                                        .out = in[4],
                                                        .lse = in[5],
                                                        .dout = in[6],
                                                        .dq = out[0],
                                                        .dk = out[1],
                                                        .dv = out[2],
                                                        .dw = out[3]};
                     });
}

}  // namespace

BindingGroup pair_attention_bindings() {
  return {{{"additive_attention", bind_forward<PairScore::additive>},
           {"additive_attention_grad", bind_backward<PairScore::additive>},
           {"subtraction_attention", bind_forward<PairScore::subtraction>},
           {"subtraction_attention_grad", bind_backward<PairScore::subtraction>}},
          {family_of("pair_attention", pair_attention_kernels()),
           family_of("pair_attention_backward", pair_attention_backward_kernels())}};
}

}  // namespace fovea

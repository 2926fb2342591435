// Additive attention (Bahdanau et al. 2015), subtraction attention (Zhao et al. 2020) and their
// gradients. The decomposition is the reference and the fallback; it forms Tq Tk D numbers for each
// head, which the kernels do not.
#include <fmt/format.h>

#include <cmath>

#include "fovea/graph/attention_links.h"
#include "fovea/graph/gradient.h"
#include "fovea/graph/head_values.h"
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

using Values = std::vector<Value>;

constexpr size_t kOperands = 4;  // q, k, v, w

std::vector<ValueType> infer_pair_attention(const InferContext& c) {
  const auto& a = c.attrs.get<PairAttentionAttrs>();
  const HeadShapes s = infer_heads(c, a.heads, a.kv());
  const ValueType &q = c.inputs[0], &w = c.inputs[3];
  c.expect(w.dtype == q.dtype && w.rank() == 1, "expected weights [H*D] in the type of q");
  c.same(w.shape[0], q.shape[2], "the sizes of q's rows and the weights");
  std::vector<ValueType> types = {{q.dtype, {s.batch, s.tq, Size(a.heads * s.dv)}}};
  if (a.lse) types.push_back({wide_type(q.dtype), {s.batch, a.heads, s.tq}});
  return types;
}

// Of each link: a sum, a function and a weighted sum for each coordinate, and 2 Dv for the values.
Size links_flops(const Graph& g, const Node& n, int64_t of_coordinate, int64_t of_value) {
  const auto& a = n.attrs.get<PairAttentionAttrs>();
  const HeadShapes s = head_shapes(g, n, a.heads, a.kv());
  Size links = s.tq * s.tk;
  if (a.window_left >= 0 || a.window_right >= 0) {
    const Size left = a.window_left >= 0 ? Size(a.window_left) : s.tk;
    const Size right = a.causal ? Size(0) : a.window_right >= 0 ? Size(a.window_right) : s.tk;
    links = s.tq * min(s.tk, left + right + Size(1));
  } else if (a.causal) {
    links = ceildiv(links, 2);
  }
  return Size((of_coordinate * s.d + of_value * s.dv) * a.heads) * s.batch * links;
}
Size pair_attention_flops(const Graph& g, const Node& n) { return links_flops(g, n, 4, 2); }
Size pair_attention_grad_flops(const Graph& g, const Node& n) { return links_flops(g, n, 12, 4); }

Values decompose_pair_attention(Graph& g, std::span<const Value> in, const PairAttentionAttrs& a,
                                bool additive) {
  const DType dtype = g.type(in[0]).dtype, wide = wide_type(dtype);
  const Shape sq = g.shape(in[0]), sk = g.shape(in[1]);
  const int64_t groups = a.kv(), in_group = a.heads / groups, d = sq[2].constant() / a.heads;
  const auto heads = [&](size_t i, int64_t count) {
    return split_heads(g, ops::cast(g, in[i], wide), groups, count);
  };
  // [B,Hkv,G,Tq,1,D] against [B,Hkv,1,1,Tk,D]
  const Value q =
      ops::reshape(g, heads(0, in_group), {sq[0], groups, in_group, sq[1], Size(1), Size(d)});
  const Value k = ops::reshape(g, heads(1, 1), {sq[0], groups, Size(1), Size(1), sk[1], Size(d)});
  const Value w = ops::reshape(g, ops::cast(g, in[3], wide),
                               {Size(1), groups, in_group, Size(1), Size(1), Size(d)});
  const Value terms = additive ? ops::unary(g, "tanh", ops::add(g, q, k))
                               : ops::unary(g, "relu", ops::sub(g, q, k));
  Value s = ops::scaled(g, ops::reduce_sum(g, ops::mul(g, terms, w), {-1}), a.scale);
  const AttentionAttrs links{
      .causal = a.causal, .window_left = a.window_left, .window_right = a.window_right};
  if (const Value visible = attention_links::by_position(g, links, sq[1], sk[1]))
    s = ops::select(g, visible, s, ops::constant(g, -INFINITY, wide));
  const Value o = join_heads(g, ops::matmul(g, ops::softmax(g, s), heads(2, 1)));
  Values out = {ops::cast(g, o, dtype)};
  if (!a.lse) return out;
  // A query that sees no key has -inf, not NaN.
  Value top = g.add("reduce_max", {s}, ReduceAttrs{{-1}, true});
  top = ops::select(g, ops::unary(g, "is_finite", top), top, ops::constant(g, 0, wide));
  const Value e = ops::unary(g, "exp", ops::sub(g, s, top));
  const Value lse = ops::add(g, ops::unary(g, "log", ops::reduce_sum(g, e, {-1}, true)), top);
  out.push_back(ops::reshape(g, lse, {sq[0], a.heads, sq[1]}));
  return out;
}
template <bool kAdditive>
Values decompose(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  return decompose_pair_attention(g, in, attrs.get<PairAttentionAttrs>(), kAdditive);
}

Attrs with_lse(const Attrs& attrs) {
  auto a = attrs.get<PairAttentionAttrs>();
  a.lse = true;
  return a;
}
Attrs without_lse(const Attrs& attrs, const std::vector<bool>& used) {
  auto a = attrs.get<PairAttentionAttrs>();
  a.lse = a.lse && used.size() > 1 && used[1];
  return a;
}

Values pair_attention_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Node node = c.node();
  // The kernels take the gradient of the result alone.
  if (c.output_gradients.size() > 1 && c.output_gradients[1])
    return gradient_through_decomposition(c);
  Value out = c.output();
  if (node.types.size() < 2) out = g.add(node.op->name, node.inputs, with_lse(node.attrs));
  Values inputs = node.inputs;
  inputs.insert(inputs.end(), {out, {out.node, 1}, c.gradient()});
  const Value d =
      g.add(fmt::format("{}_grad", node.op->name), inputs, without_lse(node.attrs, {true}));
  return {d, {d.node, 1}, {d.node, 2}, {d.node, 3}};
}

// q, k, v, w, out, lse, dout -> dq, dk, dv, dw
std::vector<ValueType> infer_pair_attention_grad(const InferContext& c) {
  const auto& a = c.attrs.get<PairAttentionAttrs>();
  const ValueType& q = c.inputs[0];
  const ValueType out = infer_pair_attention(c)[0];
  const ValueType lse{wide_type(q.dtype), {q.shape[0], a.heads, q.shape[1]}};
  c.alike(c.inputs[kOperands], out, "q, k, v and the result");
  c.alike(c.inputs[kOperands + 1], lse, "q and the log-sum-exp [B,H,Tq]");
  c.alike(c.inputs[kOperands + 2], out, "the result and its gradient");
  return {c.inputs.begin(), c.inputs.begin() + kOperands};
}
template <bool kAdditive>
Values decompose_grad(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  Values stand_ins;
  for (Value v : in.first(kOperands)) stand_ins.push_back(ops::reshape(g, v, g.shape(v)));
  const Values outputs = decompose<kAdditive>(g, stand_ins, attrs);
  const std::pair<Value, Value> seeds[] = {{outputs[0], in[kOperands + 2]}};
  return backpropagate(g, seeds, stand_ins);
}

template <bool kAdditive>
void add_rows(std::vector<Op>& rows, std::string_view name, std::string_view grad_name) {
  rows.push_back({.name = name,
                  .defaults = PairAttentionAttrs{},
                  .min_inputs = kOperands,
                  .max_inputs = kOperands,
                  .infer = infer_pair_attention,
                  .flops = pair_attention_flops,
                  .gradient = pair_attention_gradient,
                  .decompose = decompose<kAdditive>,
                  .saving = with_lse,
                  .without_unused = without_lse});
  rows.push_back({.name = grad_name,
                  .defaults = PairAttentionAttrs{},
                  .min_inputs = kOperands + 3,
                  .max_inputs = kOperands + 3,
                  .infer = infer_pair_attention_grad,
                  .flops = pair_attention_grad_flops,
                  .decompose = decompose_grad<kAdditive>,
                  .no_gradient = true});
}

}  // namespace

std::span<const Op> pair_attention_ops() {
  static const std::vector<Op> ops = [] {
    std::vector<Op> rows;
    add_rows<true>(rows, "additive_attention", "additive_attention_grad");
    add_rows<false>(rows, "subtraction_attention", "subtraction_attention_grad");
    return rows;
  }();
  return ops;
}

}  // namespace fovea

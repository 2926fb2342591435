// Linear attention and its gradient (Katharopoulos et al. 2020). The decomposition is the reference
// and the fallback; under a causal mask it forms all Tq Tk links, which the kernels do not.
#include "fovea/graph/attention_links.h"
#include "fovea/graph/gradient.h"
#include "fovea/graph/head_values.h"
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

using Values = std::vector<Value>;

std::vector<ValueType> infer_linear_attention(const InferContext& c) {
  const auto& a = c.attrs.get<LinearAttentionAttrs>();
  const HeadShapes s = infer_heads(c, a.heads, a.kv());
  return {{c.inputs[0].dtype, {s.batch, s.tq, Size(a.heads * s.dv)}}};
}

// The state takes 2 D Dv for each key of each key/value head, a query of each head as many; in
// backward three products with states for each of both. What a causal mask adds within chunks is
// the kernels' choice.
Size products_flops(const Graph& g, const Node& n, int64_t of_key, int64_t of_query) {
  const auto& a = n.attrs.get<LinearAttentionAttrs>();
  const HeadShapes s = head_shapes(g, n, a.heads, a.kv());
  return Size(2 * s.d * s.dv) * s.batch *
         (Size(of_key * a.kv()) * s.tk + Size(of_query * a.heads) * s.tq);
}
Size linear_attention_flops(const Graph& g, const Node& n) { return products_flops(g, n, 1, 1); }
Size linear_attention_grad_flops(const Graph& g, const Node& n) {
  return products_flops(g, n, 3, 2);
}

// elu(x) + 1 = e^min(x, 0) + max(x, 0).
Value feature(Graph& g, Value x) {
  const Value zero = ops::constant(g, 0, g.type(x).dtype);
  return ops::add(g, ops::unary(g, "exp", ops::binary(g, "min", x, zero)),
                  ops::unary(g, "relu", x));
}

Values decompose_linear_attention(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  const auto& a = attrs.get<LinearAttentionAttrs>();
  const DType dtype = g.type(in[0]).dtype, wide = wide_type(dtype);
  const Size tq = g.shape(in[0])[1], tk = g.shape(in[1])[1];
  const auto heads = [&](size_t i, int64_t in_group) {
    return split_heads(g, ops::cast(g, in[i], wide), a.kv(), in_group);
  };
  const Value q = feature(g, heads(0, a.heads / a.kv())), k = feature(g, heads(1, 1));
  const Value v = heads(2, 1), zero = ops::constant(g, 0, wide);
  Value sum, mass;
  if (a.causal) {
    Value links = ops::matmul(g, q, k, {.transpose_b = true});  // [B,Hkv,G,Tq,Tk]
    const Value seen = attention_links::by_position(g, {.causal = true}, tq, tk);
    links = ops::select(g, seen, links, zero);
    sum = ops::matmul(g, links, v);
    mass = ops::reduce_sum(g, links, {-1}, true);
  } else {
    sum = ops::matmul(g, q, ops::matmul(g, k, v, {.transpose_a = true}));
    mass = ops::reduce_sum(g, ops::mul(g, q, ops::reduce_sum(g, k, {3}, true)), {-1}, true);
  }
  // A query without keys gives 0.
  const Value none = ops::binary(g, "equal", mass, zero);
  const Value out = ops::div(g, sum, ops::select(g, none, ops::constant(g, 1, wide), mass));
  return {ops::cast(g, join_heads(g, out), dtype)};
}

Values linear_attention_gradient(GradientContext& c) {
  const Node node = c.node();
  Values inputs = node.inputs;
  inputs.push_back(c.gradient());
  const Value d = c.graph.add("linear_attention_grad", inputs, node.attrs);
  return {d, {d.node, 1}, {d.node, 2}};
}

// q, k, v, dout -> dq, dk, dv
std::vector<ValueType> infer_linear_attention_grad(const InferContext& c) {
  c.alike(c.inputs[3], infer_linear_attention(c)[0], "the result and its gradient");
  return {c.inputs.begin(), c.inputs.begin() + 3};
}
Values decompose_linear_attention_grad(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  Values stand_ins;
  for (Value v : in.first(3)) stand_ins.push_back(ops::reshape(g, v, g.shape(v)));
  const Values outputs = decompose_linear_attention(g, stand_ins, attrs);
  const std::pair<Value, Value> seeds[] = {{outputs[0], in[3]}};
  return backpropagate(g, seeds, stand_ins);
}

}  // namespace

std::span<const Op> linear_attention_ops() {
  static const std::vector<Op> ops = {
      {.name = "linear_attention",
       .defaults = LinearAttentionAttrs{},
       .min_inputs = 3,
       .max_inputs = 3,
       .infer = infer_linear_attention,
       .flops = linear_attention_flops,
       .gradient = linear_attention_gradient,
       .decompose = decompose_linear_attention},
      {.name = "linear_attention_grad",
       .defaults = LinearAttentionAttrs{},
       .min_inputs = 4,
       .max_inputs = 4,
       .infer = infer_linear_attention_grad,
       .flops = linear_attention_grad_flops,
       .decompose = decompose_linear_attention_grad,
       .no_gradient = true},
  };
  return ops;
}

}  // namespace fovea

// Attention and its gradient. The decomposition is the reference, the fallback and the pattern that
// fusion looks for.
#include <fmt/format.h>

#include <cmath>

#include "fovea/graph/attention_links.h"
#include "fovea/graph/attention_rows.h"
#include "fovea/graph/attention_statistics.h"
#include "fovea/graph/gradient.h"
#include "fovea/graph/head_values.h"
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

using Values = std::vector<Value>;

// The sizes of q, k and v, whether they come as one value or as three.
struct AttentionShapes {
  Size batch, tq, tk;
  int64_t d = 0, dv = 0;
};

// The head size of a packed input.
int64_t packed_head_size(const AttentionAttrs& a, const Shape& qkv) {
  return qkv[2].constant() / (a.heads + 2 * a.kv());
}

AttentionShapes attention_shapes(const Graph& g, const Node& n) {
  const auto& a = n.attrs.get<AttentionAttrs>();
  const Shape& q = g.shape(n.inputs[0]);
  if (a.packed) {
    const int64_t d = packed_head_size(a, q);
    return {q[0], q[1], q[1], d, d};
  }
  const Shape &k = g.shape(n.inputs[1]), &v = g.shape(n.inputs[2]);
  return {q[0], q[1], k[1], q[2].constant() / a.heads, v[2].constant() / a.kv()};
}

// With bf16 the log-sum-exp is f32.
DType lse_type(DType t) { return t == DType::bf16 ? DType::f32 : t; }

void check_heads(const InferContext& c, const AttentionAttrs& a) {
  c.expect(a.heads >= 1 && a.kv() >= 1 && a.heads % a.kv() == 0,
           fmt::format("expected heads={} to be a multiple of kv_heads={}", a.heads, a.kv()));
  c.expect(a.heads_kept >= -1 && a.heads_kept <= a.heads,
           fmt::format("expected heads_kept={} between 0 and heads={}", a.heads_kept, a.heads));
}

std::vector<ValueType> attention_results(const InferContext& c, const AttentionAttrs& a,
                                         const Size& width, const Size& tk) {
  const ValueType& q = c.inputs[0];
  std::vector<ValueType> types = {{q.dtype, {q.shape[0], q.shape[1], width}}};
  const Shape rows = {q.shape[0], a.heads, q.shape[1]};
  if (a.lse) types.push_back({lse_type(q.dtype), rows});
  if (a.entropy) types.push_back({lse_type(q.dtype), rows});
  if (a.mass) types.push_back({lse_type(q.dtype), {q.shape[0], a.heads, tk}});
  if (a.top_links > 0) {
    const Shape links = {q.shape[0], a.heads, q.shape[1], a.top_links};
    types.push_back({DType::i32, links});
    types.push_back({lse_type(q.dtype), links});
  }
  return types;
}

std::vector<ValueType> infer_packed(const InferContext& c, const AttentionAttrs& a) {
  const ValueType& qkv = c.inputs[0];
  c.expect(c.inputs.size() == 1 + a.links() && qkv.rank() == 3 && is_floating(qkv.dtype),
           "expected one input [B,T,(H+2Hkv)*D] with packed=true, and those of its links");
  check_heads(c, a);
  attention_links::check(c, a, qkv.shape[0], qkv.shape[1], qkv.shape[1]);
  const int64_t heads = a.heads + 2 * a.kv();
  const Size& width = qkv.shape[2];
  c.expect(width.is_constant() && width.constant() % heads == 0,
           fmt::format("expected a known width that is a multiple of H+2Hkv={}", heads));
  attention_rows::check(c, a, width.constant() / heads, qkv.shape[1], qkv.shape[1]);
  return attention_results(c, a, Size(width.constant() / heads * a.heads), qkv.shape[1]);
}

std::vector<ValueType> infer_attention(const InferContext& c) {
  const auto& a = c.attrs.get<AttentionAttrs>();
  if (a.packed) return infer_packed(c, a);
  c.expect(c.inputs.size() == 3 + a.links(), "expected q, k, v and the inputs of their links");
  const ValueType &q = c.inputs[0], &k = c.inputs[1], &v = c.inputs[2];
  c.expect(is_floating(q.dtype) && k.dtype == q.dtype && v.dtype == q.dtype,
           "expected one floating type");
  c.expect(q.rank() == 3 && k.rank() == 3 && v.rank() == 3,
           "expected q [B,Tq,H*D], k [B,Tk,Hkv*D], v [B,Tk,Hkv*Dv]");
  check_heads(c, a);
  c.same(q.shape[0], k.shape[0], "the batch sizes of q and k");
  c.same(k.shape[0], v.shape[0], "the batch sizes of k and v");
  c.same(k.shape[1], v.shape[1], "the lengths of k and v");
  attention_links::check(c, a, q.shape[0], q.shape[1], k.shape[1]);
  for (int i = 0; i < 3; ++i) {
    const Size& width = c.inputs[static_cast<size_t>(i)].shape[2];
    c.expect(width.is_constant(), "expected a known width");
    const int64_t heads = i == 0 ? a.heads : a.kv();
    c.expect(
        width.constant() % heads == 0,
        fmt::format("expected the width {} to be a multiple of {} heads", width.constant(), heads));
  }
  const int64_t d = q.shape[2].constant() / a.heads;
  c.expect(k.shape[2].constant() / a.kv() == d, "expected q and k to have one head size");
  attention_rows::check(c, a, d, q.shape[1], k.shape[1]);
  return attention_results(c, a, Size(v.shape[2].constant() / a.kv() * a.heads), k.shape[1]);
}

// Two products of 2 Tq Tk D each a head, and Tq Tk D `relative` times with relative keys; a
// causal mask leaves half of the links.
Size attention_links_flops(const Graph& g, const Node& n, int64_t products, int64_t relative) {
  const auto& a = n.attrs.get<AttentionAttrs>();
  const AttentionShapes s = attention_shapes(g, n);
  Size links = s.tq * s.tk;
  if (a.window_left >= 0 || a.window_right >= 0) {
    const Size left = a.window_left >= 0 ? Size(a.window_left) : s.tk;
    const Size right = a.causal ? Size(0) : a.window_right >= 0 ? Size(a.window_right) : s.tk;
    links = s.tq * min(s.tk, left + right + Size(1));
  } else if (a.causal) {
    links = ceildiv(links, 2);
  }
  const int64_t each = products * (s.d + s.dv) + (a.relative_keys ? relative * s.d : 0);
  return Size(each * a.kept()) * s.batch * links;
}
Size attention_flops(const Graph& g, const Node& n) {
  const auto& a = n.attrs.get<AttentionAttrs>();
  // The second sweep is half of a forward where the heads of values are as wide as those of keys.
  const bool twice = a.mass || a.top_links > 0;
  return attention_links_flops(g, n, twice ? 3 : 2, twice ? 4 : 2);
}
Size attention_grad_flops(const Graph& g, const Node& n) {
  return attention_links_flops(g, n, 5, 6);
}

// q, k and v as three values in the type in which sums are formed.
Values wide_operands(Graph& g, std::span<const Value> in, const AttentionAttrs& a) {
  Values qkv(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(a.operands()));
  if (a.packed) {
    const int64_t d = packed_head_size(a, g.shape(in[0]));
    const int64_t q = a.heads * d, kv = a.kv() * d;
    qkv = {ops::slice(g, in[0], 2, 0, q), ops::slice(g, in[0], 2, q, kv),
           ops::slice(g, in[0], 2, q + kv, kv)};
  }
  for (Value& v : qkv) v = ops::cast(g, v, lse_type(g.type(v).dtype));
  return qkv;
}

// qkv: as wide_operands() gives them; in: all inputs.
Values decompose_wide(Graph& g, const Values& qkv, std::span<const Value> in,
                      const AttentionAttrs& a) {
  const Shape sq = g.shape(qkv[0]), sk = g.shape(qkv[1]), sv = g.shape(qkv[2]);
  const int64_t groups = a.kv();
  const int64_t d = sq[2].constant() / a.heads, dv = sv[2].constant() / groups;
  Value s = ops::scaled(g, attention_rows::products(g, qkv[0], qkv[1], in, a), a.scale_of(d));
  const Value v = split_heads(g, qkv[2], groups, 1);
  s = attention_links::scores(g, s, in, a, sq[1], sk[1]);
  const Value probabilities = attention_links::weights(g, s, in, a);
  // [B,Hkv,G,Tq,Dv]
  Value o = ops::matmul(g, attention_links::dropped(g, probabilities, in, a), v);
  o = ops::transpose(g, o, {0, 3, 1, 2, 4});  // [B,Tq,Hkv,G,Dv]
  o = ops::reshape(g, o, {sq[0], sq[1], a.heads * dv});
  const int64_t dropped = a.heads - a.kept();
  if (dropped > 0) {
    o = ops::slice(g, o, 2, 0, a.kept() * dv);
    o = ops::pad(g, o, 2, 0, dropped * dv);
  }
  // Only a softmax of all keys has a log-sum-exp.
  if (a.lse && a.normaliser != Normaliser::softmax)
    return {o, ops::broadcast(g, ops::constant(g, 0, g.type(o).dtype), {sq[0], a.heads, sq[1]})};
  Values results = {o};
  const Values others =
      attention_statistics::of(g, attention_links::with_sink(g, s, in, a), probabilities, a);
  results.insert(results.end(), others.begin(), others.end());
  return results;
}

Values decompose_attention(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  const auto& a = attrs.get<AttentionAttrs>();
  Values out = decompose_wide(g, wide_operands(g, in, a), in, a);
  out[0] = ops::cast(g, out[0], g.type(in[0]).dtype);
  return out;
}

Attrs with_lse(const Attrs& attrs) {
  auto a = attrs.get<AttentionAttrs>();
  a.lse = true;
  return a;
}
// Optional results go from the back, so that those that stay keep their places.
Attrs without_unused_results(const Attrs& attrs, const std::vector<bool>& used) {
  auto a = attrs.get<AttentionAttrs>();
  const auto read = [&](int32_t output) { return used[static_cast<size_t>(output)]; };
  if (a.top_links > 0 && !read(a.top_keys_output()) && !read(a.top_probabilities_output()))
    a.top_links = 0;
  if (a.top_links == 0 && a.mass) a.mass = read(a.mass_output());
  const bool behind = a.top_links > 0 || a.mass;
  if (!behind && a.entropy) a.entropy = read(a.entropy_output());
  if (!behind && !a.entropy && a.lse) a.lse = read(a.lse_output());
  return a;
}

Values attention_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Node node = c.node();
  auto attrs = node.attrs.get<AttentionAttrs>();
  if (attrs.top_links > 0 &&
      c.output_gradients[static_cast<size_t>(attrs.top_probabilities_output())])
    throw Error{ErrorCode::unsupported,
                fmt::format("[attention {}] the strongest links (top_links={}) have no gradient",
                            node.name, attrs.top_links)};
  // The kernels take the gradient of the result; one that reaches the log-sum-exp, the entropy or
  // the mass as well goes through the decomposition.
  for (size_t i = 1; i < c.output_gradients.size(); ++i)
    if (c.output_gradients[i]) return gradient_through_decomposition(c);
  // Statistics have no part in the gradient of the result.
  attrs.entropy = attrs.mass = false;
  attrs.top_links = 0;
  Value out = c.output();
  if (!attrs.lse) out = g.add("attention", node.inputs, with_lse(attrs));
  Values inputs = node.inputs;
  inputs.insert(inputs.end(), {out, {out.node, 1}, c.gradient()});
  attrs.lse = false;
  const std::vector<size_t> links = attention_links::differentiable(attrs);
  attrs.link_gradients = !links.empty();
  const Value d = g.add("attention_grad", inputs, attrs);
  Values gradients(node.inputs.size());
  int32_t output = 0;
  for (size_t i = 0; i < attrs.operands(); ++i) gradients[i] = {d.node, output++};
  for (size_t i : links) gradients[i] = {d.node, output++};
  return gradients;
}

// The gradients of links go where nobody reads one.
Attrs without_link_gradients(const Attrs& attrs, const std::vector<bool>& used) {
  auto a = attrs.get<AttentionAttrs>();
  bool wanted = false;
  for (size_t i = a.operands(); i < used.size(); ++i) wanted = wanted || used[i];
  a.link_gradients = a.link_gradients && wanted;
  return a;
}

// q, k, v (or all three packed), the inputs of links, out, lse, dout -> dq, dk, dv (or packed), and
// with link_gradients those of the links that have gradients.
std::vector<ValueType> infer_attention_grad(const InferContext& c) {
  const auto& a = c.attrs.get<AttentionAttrs>();
  const size_t given = a.operands() + a.links();
  c.expect(c.inputs.size() == given + 3,
           "expected what attention reads, the result, its lse and gradient");
  const ValueType& q = c.inputs[0];
  const ValueType out = infer_attention({c.op, c.attrs, c.inputs.first(given), c.node_name})[0];
  const ValueType lse{lse_type(q.dtype), {q.shape[0], a.heads, q.shape[1]}};
  c.alike(c.inputs[given], out, "q, k, v and the result");
  c.alike(c.inputs[given + 1], lse, "q and the log-sum-exp [B,H,Tq]");
  c.alike(c.inputs[given + 2], out, "the result and its gradient");
  std::vector<ValueType> types(c.inputs.begin(),
                               c.inputs.begin() + static_cast<std::ptrdiff_t>(a.operands()));
  if (a.link_gradients)
    for (size_t i : attention_links::differentiable(a)) types.push_back(c.inputs[i]);
  return types;
}
Values decompose_attention_grad(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  auto a = attrs.get<AttentionAttrs>();
  const size_t given = a.operands() + a.links();
  Values stand_ins;
  for (Value v : in.first(given)) stand_ins.push_back(ops::reshape(g, v, g.shape(v)));
  const Values outputs = decompose_attention(g, stand_ins, attrs);
  const std::pair<Value, Value> seeds[] = {{outputs[0], in[given + 2]}};
  Values wrt(stand_ins.begin(), stand_ins.begin() + static_cast<std::ptrdiff_t>(a.operands()));
  if (a.link_gradients)
    for (size_t i : attention_links::differentiable(a)) wrt.push_back(stand_ins[i]);
  return backpropagate(g, seeds, wrt);
}

}  // namespace

std::span<const Op> attention_ops() {
  static const std::vector<Op> ops = {
      {.name = "attention",
       .defaults = AttentionAttrs{},
       .min_inputs = 1,
       .max_inputs = 16,
       .infer = infer_attention,
       .flops = attention_flops,
       .gradient = attention_gradient,
       .decompose = decompose_attention,
       .saving = with_lse,
       .without_unused = without_unused_results},
      {.name = "attention_grad",
       .defaults = AttentionAttrs{},
       .min_inputs = 4,
       .max_inputs = 19,
       .infer = infer_attention_grad,
       .flops = attention_grad_flops,
       .decompose = decompose_attention_grad,
       .without_unused = without_link_gradients,
       .no_gradient = true},
  };
  return ops;
}

}  // namespace fovea

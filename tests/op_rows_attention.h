// What the rows of attention share: a graph of one attention with links, and the pair of rows for
// the op and its gradient.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "fovea/graph/attention_links.h"
#include "tests/op_harness.h"

namespace fovea::harness {

struct AttentionCase {
  std::string label;
  int64_t batch, tq, tk;
  AttentionAttrs attrs;
  // Which inputs there are, and whether they are whole or repeated over samples, heads, queries.
  bool lengths = false, documents = false, mask = false, bias = false, distances = false,
       sink = false, span = false;
  bool batches = true, heads = true, queries = true;
  bool gradient = true;  // against finite differences

  std::map<std::string, Range> ranges() const {
    return {{"lengths", {0, static_cast<double>(tk), 1}}, {"rng", {0, 1000, 1}}, {"span", {-1, 4}}};
  }
};

// The output of the attention of the case with these attributes. Packed ones have no links.
inline Value build_attention(Graph& g, DType t, const AttentionCase& c, const AttentionAttrs& a) {
  constexpr int64_t kDim = 4;
  const auto plane = [&](std::string_view name, int64_t rows, int64_t columns) {
    return ops::input(
        g, name, t,
        {c.batches ? c.batch : 1, c.heads ? a.heads : 1, c.queries ? rows : 1, columns});
  };
  // Two of three links.
  const auto flags = [&](Value numbers) {
    return ops::binary(g, "less", numbers, ops::constant(g, 0.7, t));
  };
  ops::AttentionLinkValues links;
  if (a.is_random()) links.rng = ops::input(g, "rng", DType::i32, {3});
  if (a.packed) {
    std::vector<Value> in = {
        ops::input(g, "qkv", t, {c.batch, c.tq, (a.heads + 2 * a.kv()) * kDim})};
    if (links.rng) in.push_back(links.rng);
    return g.add("attention", in, a);
  }
  if (c.lengths) links.lengths = ops::input(g, "lengths", DType::i32, {c.batch});
  if (c.documents) {
    std::vector<double> starts;
    for (int64_t b = 0; b < c.batch; ++b) {
      const double last = static_cast<double>(c.tk), first = static_cast<double>(1 + b);
      starts.insert(starts.end(), {0.0, first, first + 2, last});
    }
    links.documents = ops::constant(g, starts, DType::i32, {c.batch, 4});
  }
  if (c.mask) links.mask = flags(plane("mask", c.tq, c.tk));
  if (a.block > 0)
    links.blocks =
        flags(plane("blocks", (c.tq + a.block - 1) / a.block, (c.tk + a.block - 1) / a.block));
  if (c.bias) links.bias = plane("bias", c.tq, c.tk);
  if (c.distances) links.distance_bias = ops::input(g, "distances", t, {a.heads, c.tq + c.tk - 1});
  if (c.sink) links.sink = ops::input(g, "sink", t, {a.heads});
  if (c.span) links.span = ops::input(g, "span", t, {a.heads});
  return ops::attention(g, ops::input(g, "q", t, {c.batch, c.tq, a.heads * kDim}),
                        ops::input(g, "k", t, {c.batch, c.tk, a.kv() * kDim}),
                        ops::input(g, "v", t, {c.batch, c.tk, a.kv() * kDim}), a, links);
}

inline std::vector<Value> all_outputs(const Graph& g, Value of) {
  std::vector<Value> outputs;
  for (size_t i = 0; i < g.node(of).types.size(); ++i)
    outputs.push_back({of.node, static_cast<int32_t>(i)});
  return outputs;
}

// Adds the row, whose graph is that of an attention with the log-sum-exp and gives all its outputs,
// and one for its gradient op. gradient: compare with finite differences for all inputs that have
// one.
inline void add_with_gradient(std::vector<OpRow>& rows, OpRow row, bool gradient) {
  row.tolerance = 2e-5;
  row.seeds = {0};
  if (gradient) {
    Graph g;
    const Node node = g.node(row.build(g, DType::f32)[0]);
    const auto& attrs = node.attrs.get<AttentionAttrs>();
    std::vector<size_t> places = attention_links::differentiable(attrs);
    for (size_t n = attrs.packed ? 1 : 3; n > 0; --n) places.insert(places.begin(), n - 1);
    for (size_t n : places) row.differentiable.push_back(g.node(node.inputs[n]).name);
  }
  rows.push_back(row);
  const auto forward = row.build;
  row.op = "attention_grad";
  row.build = [forward](Graph& g, DType t) {
    const Value out = forward(g, t)[0];
    std::vector<Value> in = g.node(out).inputs;
    auto attrs = g.node(out).attrs.get<AttentionAttrs>();
    attrs.lse = false;
    attrs.link_gradients = !attention_links::differentiable(attrs).empty();
    in.insert(in.end(), {out, {out.node, 1}, ops::input(g, "dout", t, g.shape(out))});
    return all_outputs(g, g.add("attention_grad", in, attrs));
  };
  row.differentiable = {};
  row.seeds = {};
  row.tolerance = 1e-4;
  rows.push_back(row);
}
inline void add_with_gradient(std::vector<OpRow>& rows, const AttentionCase& c) {
  const auto build = [c](Graph& g, DType t) {
    AttentionAttrs a = c.attrs;
    a.lse = true;
    return all_outputs(g, build_attention(g, t, c, a));
  };
  add_with_gradient(rows,
                    {.op = "attention", .label = c.label, .build = build, .ranges = c.ranges()},
                    c.gradient);
}

}  // namespace fovea::harness

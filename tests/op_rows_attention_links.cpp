// Attention with every input and attribute that describes its links, and its gradient.
#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

struct Case {
  std::string label;
  int64_t batch, tq, tk;
  AttentionAttrs attrs;
  // Which inputs there are, and whether they are whole or repeated over samples, heads, queries.
  bool lengths = false, documents = false, mask = false, bias = false, distances = false,
       sink = false;
  bool batches = true, heads = true, queries = true;
  bool gradient = true;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"upper_left", 1, 4, 6, {.heads = 2, .causal = true, .upper_left = true}},
      {"dilated", 1, 9, 9, {.heads = 2, .window_left = 6, .window_right = 4, .dilation = 3}},
      {"dilated_causal", 1, 5, 9, {.causal = true, .window_left = 6, .dilation = 2}},
      {"global", 2, 9, 9, {.heads = 2, .window_left = 1, .window_right = 1, .global_tokens = 2}},
      {"global_causal",
       1,
       8,
       8,
       {.causal = true, .window_left = 1, .window_right = -1, .global_tokens = 3}},
      {"prefix", 1, 7, 7, {.heads = 2, .causal = true, .prefix = 3}},
      {"prefix_window", 1, 7, 7, {.window_left = 1, .window_right = 0, .prefix = 2}},
      {.label = "lengths", .batch = 3, .tq = 4, .tk = 5, .attrs = {.heads = 2}, .lengths = true},
      {.label = "documents",
       .batch = 2,
       .tq = 8,
       .tk = 8,
       .attrs = {.heads = 2, .causal = true},
       .documents = true},
      {.label = "mask", .batch = 2, .tq = 4, .tk = 5, .attrs = {.heads = 2}, .mask = true},
      {.label = "mask_of_keys",
       .batch = 2,
       .tq = 4,
       .tk = 5,
       .attrs = {.heads = 2},
       .mask = true,
       .heads = false,
       .queries = false},
      {.label = "bias", .batch = 2, .tq = 4, .tk = 5, .attrs = {.heads = 2}, .bias = true},
      {.label = "bias_of_heads",
       .batch = 2,
       .tq = 4,
       .tk = 5,
       .attrs = {.heads = 4, .kv_heads = 2},
       .bias = true,
       .batches = false},
      {.label = "bias_for_all",
       .batch = 2,
       .tq = 4,
       .tk = 5,
       .attrs = {.heads = 2},
       .bias = true,
       .batches = false,
       .heads = false},
      {.label = "bias_of_keys",
       .batch = 2,
       .tq = 4,
       .tk = 5,
       .attrs = {.heads = 2},
       .bias = true,
       .heads = false,
       .queries = false},
      {.label = "distances",
       .batch = 2,
       .tq = 4,
       .tk = 6,
       .attrs = {.heads = 2, .causal = true},
       .distances = true},
      {.label = "distances_of_one_query",
       .batch = 1,
       .tq = 1,
       .tk = 6,
       .attrs = {.heads = 2},
       .distances = true},
      {.label = "sink", .batch = 2, .tq = 4, .tk = 5, .attrs = {.heads = 2}, .sink = true},
      {.label = "sink_of_blind_queries",
       .batch = 1,
       .tq = 5,
       .tk = 3,
       .attrs = {.heads = 2, .causal = true},
       .sink = true},
      {"soft_cap", 2, 4, 5, {.heads = 2, .soft_cap = 1.5}},
      {.label = "all_together",
       .batch = 2,
       .tq = 8,
       .tk = 8,
       .attrs = {.heads = 4,
                 .kv_heads = 2,
                 .causal = true,
                 .window_left = 3,
                 .global_tokens = 1,
                 .prefix = 2,
                 .soft_cap = 2},
       .lengths = true,
       .documents = true,
       .mask = true,
       .bias = true,
       .distances = true,
       .sink = true},
      {.label = "blocks_of_links",
       .batch = 2,
       .tq = 40,
       .tk = 70,
       .attrs = {.heads = 2, .block = 16},
       .gradient = false},
      {.label = "long_together",
       .batch = 1,
       .tq = 150,
       .tk = 150,
       .attrs = {.heads = 2, .window_left = 40, .window_right = 9, .prefix = 20, .block = 32},
       .lengths = true,
       .mask = true,
       .bias = true,
       .distances = true,
       .sink = true,
       .batches = false,
       .gradient = false},
  };
  return all;
}

struct Built {
  std::vector<Value> inputs;
  AttentionAttrs attrs;
  Value out;
};

constexpr int64_t kDim = 4;

Built build(Graph& g, DType t, const Case& c, bool lse) {
  AttentionAttrs a = c.attrs;
  a.lse = lse;
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
  const Value out = ops::attention(g, ops::input(g, "q", t, {c.batch, c.tq, a.heads * kDim}),
                                   ops::input(g, "k", t, {c.batch, c.tk, a.kv() * kDim}),
                                   ops::input(g, "v", t, {c.batch, c.tk, a.kv() * kDim}), a, links);
  const Node node = g.node(out);
  return {node.inputs, node.attrs.get<AttentionAttrs>(), out};
}

}  // namespace

std::vector<OpRow> attention_link_rows() {
  std::vector<OpRow> rows;
  for (const Case& c : cases()) {
    const std::map<std::string, Range> ranges = {{"lengths", {0, static_cast<double>(c.tk)}}};
    OpRow row{.op = "attention",
              .label = c.label,
              .build = [c](Graph& g, DType t) -> std::vector<Value> {
                const Value out = build(g, t, c, true).out;
                return {out, {out.node, 1}};
              },
              .ranges = ranges,
              .tolerance = 2e-5,
              .seeds = {0}};
    if (c.gradient) {
      row.differentiable = {"q", "k", "v"};
      if (c.bias) row.differentiable.push_back("bias");
      if (c.distances) row.differentiable.push_back("distances");
      if (c.sink) row.differentiable.push_back("sink");
    }
    rows.push_back(row);
    rows.push_back({.op = "attention_grad",
                    .label = c.label,
                    .build = [c](Graph& g, DType t) -> std::vector<Value> {
                      Built b = build(g, t, c, true);
                      b.attrs.lse = false;
                      b.attrs.link_gradients = c.bias || c.distances || c.sink;
                      b.inputs.insert(
                          b.inputs.end(),
                          {b.out, {b.out.node, 1}, ops::input(g, "dout", t, g.shape(b.out))});
                      const Value d = g.add("attention_grad", b.inputs, b.attrs);
                      std::vector<Value> outputs;
                      for (size_t i = 0; i < g.node(d).types.size(); ++i)
                        outputs.push_back({d.node, static_cast<int32_t>(i)});
                      return outputs;
                    },
                    .ranges = ranges,
                    .tolerance = 1e-4});
  }
  return rows;
}

}  // namespace fovea::harness

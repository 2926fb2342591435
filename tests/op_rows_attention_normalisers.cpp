// Attention with each normaliser, alone and with masks, biases and sinks, and its gradient.
#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

struct Case {
  std::string label;
  int64_t batch, tq, tk;
  AttentionAttrs attrs;
  bool lengths = false, mask = false, bias = false, distances = false, sink = false;
  bool small = true;  // for finite differences
};

constexpr int64_t kDim = 4;

std::vector<Case> cases() {
  const std::pair<std::string, AttentionAttrs> all[] = {
      {"top_k", {.heads = 2, .normaliser = Normaliser::top_k, .top_k = 3}},
      {"sparsemax", {.heads = 2, .normaliser = Normaliser::sparsemax}},
      {"entmax15", {.heads = 2, .normaliser = Normaliser::entmax15}},
      {"hard", {.heads = 2, .normaliser = Normaliser::hard, .softmax_temperature = 0.5}},
      {"gumbel", {.heads = 2, .normaliser = Normaliser::gumbel, .softmax_temperature = 0.8}},
      {"gumbel_hard", {.heads = 2, .normaliser = Normaliser::gumbel_hard}}};
  std::vector<Case> cases;
  for (const auto& [name, attrs] : all) {
    cases.push_back({name, 2, 4, 7, attrs});
    Case linked{name + "_with_links", 2, 6, 6, attrs};
    linked.attrs.heads = 4;
    linked.attrs.kv_heads = 2;
    linked.attrs.causal = true;
    linked.attrs.window_left = 4;
    linked.attrs.prefix = 2;
    linked.attrs.soft_cap = 2;
    linked.attrs.heads_kept = 3;
    linked.lengths = linked.mask = linked.bias = linked.distances = true;
    linked.sink = attrs.normaliser == Normaliser::top_k;
    cases.push_back(linked);
    Case longer{name + "_long", 1, 150, 300, attrs};
    longer.attrs.block = 16;
    longer.attrs.window_left = 120;
    longer.attrs.window_right = 40;
    longer.bias = true;
    longer.small = false;
    if (longer.attrs.top_k > 0) longer.attrs.top_k = 20;
    cases.push_back(longer);
  }
  return cases;
}

struct Built {
  std::vector<Value> inputs;
  AttentionAttrs attrs;
  Value out;
};

Built build(Graph& g, DType t, const Case& c, bool lse) {
  AttentionAttrs a = c.attrs;
  a.lse = lse;
  a.stream = is_random(a.normaliser) ? "sample" : "";
  const auto plane = [&](std::string_view name, int64_t rows, int64_t columns) {
    return ops::input(g, name, t, {c.batch, a.heads, rows, columns});
  };
  // Two of three links.
  const auto flags = [&](Value numbers) {
    return ops::binary(g, "less", numbers, ops::constant(g, 0.7, t));
  };
  ops::AttentionLinkValues links;
  if (c.lengths) links.lengths = ops::input(g, "lengths", DType::i32, {c.batch});
  if (c.mask) links.mask = flags(plane("mask", c.tq, c.tk));
  if (a.block > 0)
    links.blocks =
        flags(plane("blocks", (c.tq + a.block - 1) / a.block, (c.tk + a.block - 1) / a.block));
  if (c.bias) links.bias = plane("bias", c.tq, c.tk);
  if (c.distances) links.distance_bias = ops::input(g, "distances", t, {a.heads, c.tq + c.tk - 1});
  if (c.sink) links.sink = ops::input(g, "sink", t, {a.heads});
  if (is_random(a.normaliser)) links.rng = ops::input(g, "rng", DType::i32, {3});
  const Value out = ops::attention(g, ops::input(g, "q", t, {c.batch, c.tq, a.heads * kDim}),
                                   ops::input(g, "k", t, {c.batch, c.tk, a.kv() * kDim}),
                                   ops::input(g, "v", t, {c.batch, c.tk, a.kv() * kDim}), a, links);
  const Node node = g.node(out);
  return {node.inputs, node.attrs.get<AttentionAttrs>(), out};
}

}  // namespace

std::vector<OpRow> attention_normaliser_rows() {
  std::vector<OpRow> rows;
  for (const Case& c : cases()) {
    const std::map<std::string, Range> ranges = {{"lengths", {0, static_cast<double>(c.tk)}},
                                                 {"rng", {0, 1000, 1}}};
    OpRow row{.op = "attention",
              .label = c.label,
              .build = [c](Graph& g, DType t) -> std::vector<Value> {
                const Value out = build(g, t, c, true).out;
                return {out, {out.node, 1}};
              },
              .ranges = ranges,
              .tolerance = 2e-5,
              .seeds = {0}};
    if (c.small && !is_hard(c.attrs.normaliser)) {
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

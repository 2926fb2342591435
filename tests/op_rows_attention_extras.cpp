// Attention with dropout, whose decomposition has the op dropout with the bits that the kernels
// draw, with statistics and with a learned span of each head; and the gradients.
#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

constexpr int64_t kDim = 4;

struct Case {
  std::string label;
  int64_t batch, tq, tk;
  AttentionAttrs attrs;
  bool lengths = false, bias = false, sink = false;
  bool gradient = true;
  bool span = false;
};

const std::vector<Case>& dropout_cases() {
  static const std::vector<Case> all = {
      {"dropout", 2, 5, 7, {.heads = 2, .dropout = 0.3, .stream = "enc.0.attn"}},
      {"dropout_grouped",
       2,
       6,
       6,
       {.heads = 4, .kv_heads = 2, .causal = true, .dropout = 0.5, .stream = "a"}},
      {"dropout_packed", 2, 6, 6, {.heads = 2, .dropout = 0.2, .stream = "a", .packed = true}},
      {.label = "dropout_together",
       .batch = 2,
       .tq = 8,
       .tk = 9,
       .attrs = {.heads = 4,
                 .kv_heads = 2,
                 .heads_kept = 3,
                 .window_left = 3,
                 .window_right = 4,
                 .global_tokens = 1,
                 .soft_cap = 2,
                 .dropout = 0.25,
                 .stream = "a"},
       .lengths = true,
       .bias = true,
       .sink = true},
      {"dropout_blocks",
       2,
       70,
       133,
       {.heads = 2, .dropout = 0.1, .stream = "b"},
       false,
       false,
       false,
       false},
      {"dropout_long",
       1,
       150,
       150,
       {.heads = 2, .causal = true, .dropout = 0.5, .stream = "b"},
       true,
       true,
       true,
       false},
  };
  return all;
}

struct Built {
  Value out;
  std::vector<Value> inputs;
};

Built build(Graph& g, DType t, const Case& c, AttentionAttrs a) {
  const int64_t kv = a.kv();
  std::vector<Value> in;
  if (a.packed)
    in = {ops::input(g, "qkv", t, {c.batch, c.tq, (a.heads + 2 * kv) * kDim})};
  else
    in = {ops::input(g, "q", t, {c.batch, c.tq, a.heads * kDim}),
          ops::input(g, "k", t, {c.batch, c.tk, kv * kDim}),
          ops::input(g, "v", t, {c.batch, c.tk, kv * kDim})};
  a.lengths = c.lengths;
  a.bias = c.bias;
  a.sink = c.sink;
  a.span = c.span;
  if (c.lengths) in.push_back(ops::input(g, "lengths", DType::i32, {c.batch}));
  if (c.bias) in.push_back(ops::input(g, "bias", t, {1, a.heads, c.tq, c.tk}));
  if (c.sink) in.push_back(ops::input(g, "sink", t, {a.heads}));
  if (a.dropout > 0) in.push_back(ops::input(g, "rng", DType::i32, {3}));
  if (c.span) in.push_back(ops::input(g, "span", t, {a.heads}));
  return {g.add("attention", in, a), in};
}

void add_with_gradient(std::vector<OpRow>& rows, const Case& c) {
  const std::map<std::string, Range> ranges = {
      {"lengths", {0, static_cast<double>(c.tk), 1}}, {"rng", {0, 1000, 1}}, {"span", {-1, 4}}};
  OpRow row{.op = "attention",
            .label = c.label,
            .build = [c](Graph& g, DType t) -> std::vector<Value> {
              AttentionAttrs a = c.attrs;
              a.lse = true;
              const Value out = build(g, t, c, a).out;
              return {out, {out.node, 1}};
            },
            .ranges = ranges,
            .tolerance = 2e-5,
            .seeds = {0}};
  if (c.gradient) {
    row.differentiable = {"q", "k", "v"};
    if (c.attrs.packed) row.differentiable = {"qkv"};
    if (c.bias) row.differentiable.push_back("bias");
    if (c.sink) row.differentiable.push_back("sink");
    if (c.span) row.differentiable.push_back("span");
  }
  rows.push_back(row);
  rows.push_back(
      {.op = "attention_grad",
       .label = c.label,
       .build = [c](Graph& g, DType t) -> std::vector<Value> {
         AttentionAttrs a = c.attrs;
         a.lse = true;
         auto [out, in] = build(g, t, c, a);
         a = g.node(out).attrs.get<AttentionAttrs>();
         a.lse = false;
         a.link_gradients = c.bias || c.sink || c.span;
         in.insert(in.end(), {out, {out.node, 1}, ops::input(g, "dout", t, g.shape(out))});
         const Value d = g.add("attention_grad", in, a);
         std::vector<Value> outputs;
         for (size_t i = 0; i < g.node(d).types.size(); ++i)
           outputs.push_back({d.node, static_cast<int32_t>(i)});
         return outputs;
       },
       .ranges = ranges,
       .tolerance = 1e-4});
}

const std::vector<Case>& span_cases() {
  static const std::vector<Case> all = {
      {.label = "span",
       .batch = 2,
       .tq = 5,
       .tk = 7,
       .attrs = {.heads = 2, .span_ramp = 2},
       .span = true},
      {.label = "span_upper_left",
       .batch = 1,
       .tq = 5,
       .tk = 7,
       .attrs = {.heads = 2, .causal = true, .upper_left = true, .span_ramp = 1.5},
       .span = true},
      {.label = "span_together",
       .batch = 2,
       .tq = 8,
       .tk = 9,
       .attrs = {.heads = 4,
                 .kv_heads = 2,
                 .heads_kept = 3,
                 .window_left = 3,
                 .window_right = 4,
                 .global_tokens = 1,
                 .soft_cap = 2,
                 .span_ramp = 3,
                 .dropout = 0.25,
                 .stream = "a"},
       .lengths = true,
       .bias = true,
       .sink = true,
       .span = true},
      {.label = "span_long",
       .batch = 1,
       .tq = 250,
       .tk = 250,
       .attrs = {.heads = 2, .causal = true, .span_ramp = 40},
       .bias = true,
       .gradient = false,
       .span = true},
  };
  return all;
}

const std::vector<Case>& statistics_cases() {
  const auto attrs = [](AttentionAttrs a) {
    a.entropy = a.mass = true;
    a.top_links = 3;
    return a;
  };
  static const std::vector<Case> all = {
      {"statistics", 2, 5, 7, attrs({.heads = 2})},
      {"entropy", 2, 5, 7, {.heads = 2, .entropy = true}},
      {"mass", 2, 5, 7, {.heads = 2, .mass = true}},
      {"links", 2, 5, 7, {.heads = 2, .top_links = 9}},
      {"statistics_packed", 2, 5, 5, attrs({.heads = 4, .kv_heads = 2, .packed = true})},
      {"statistics_of_blind_queries", 1, 6, 3, attrs({.heads = 2, .causal = true})},
      {"statistics_together", 2, 8, 9,
       attrs({.heads = 4,
              .kv_heads = 2,
              .heads_kept = 3,
              .window_left = 3,
              .window_right = 4,
              .soft_cap = 2,
              .dropout = 0.25,
              .stream = "a"}),
       true, true, true},
      {"statistics_long", 1, 250, 250, attrs({.heads = 2, .causal = true}), true, true, true,
       false},
  };
  return all;
}

// Keys by number, gradients through the log-sum-exp, the entropy and the mass.
void add_statistics(std::vector<OpRow>& rows, const Case& c) {
  for (const bool lse : {false, true}) {
    AttentionAttrs a = c.attrs;
    a.lse = lse;
    OpRow row{.op = "attention",
              .label = c.label + (lse ? "_lse" : ""),
              .build = [c, a](Graph& g, DType t) -> std::vector<Value> {
                const Value out = build(g, t, c, a).out;
                std::vector<Value> outputs;
                for (size_t i = 0; i < g.node(out).types.size(); ++i)
                  outputs.push_back({out.node, static_cast<int32_t>(i)});
                return outputs;
              },
              .ranges = {{"lengths", {0, static_cast<double>(c.tk), 1}}, {"rng", {0, 1000, 1}}},
              .tolerance = 2e-5,
              .seeds = {0}};
    // That of a blind query is -infinity.
    if (lse && c.tq <= c.tk) row.seeds.push_back(1);
    if (a.entropy) row.seeds.push_back(static_cast<size_t>(a.entropy_output()));
    if (a.mass) row.seeds.push_back(static_cast<size_t>(a.mass_output()));
    if (c.gradient) row.differentiable = {a.packed ? "qkv" : "q"};
    rows.push_back(std::move(row));
  }
}

}  // namespace

std::vector<OpRow> attention_extra_rows() {
  std::vector<OpRow> rows;
  for (const Case& c : dropout_cases()) add_with_gradient(rows, c);
  for (const Case& c : span_cases()) add_with_gradient(rows, c);
  for (const Case& c : statistics_cases()) add_statistics(rows, c);
  return rows;
}

}  // namespace fovea::harness

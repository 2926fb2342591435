// Attention with dropout, whose decomposition has the op dropout with the bits that the kernels
// draw, with statistics and with a learned span of each head; and the gradients.
#include "tests/op_rows_attention.h"

namespace fovea::harness {

namespace {

const std::vector<AttentionCase>& dropout_cases() {
  static const std::vector<AttentionCase> all = {
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
       .sink = true,
       .batches = false},
      {.label = "dropout_blocks",
       .batch = 2,
       .tq = 70,
       .tk = 133,
       .attrs = {.heads = 2, .dropout = 0.1, .stream = "b"},
       .gradient = false},
      {.label = "dropout_long",
       .batch = 1,
       .tq = 150,
       .tk = 150,
       .attrs = {.heads = 2, .causal = true, .dropout = 0.5, .stream = "b"},
       .lengths = true,
       .bias = true,
       .sink = true,
       .batches = false,
       .gradient = false},
  };
  return all;
}

const std::vector<AttentionCase>& span_cases() {
  static const std::vector<AttentionCase> all = {
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
       .span = true,
       .batches = false},
      {.label = "span_long",
       .batch = 1,
       .tq = 250,
       .tk = 250,
       .attrs = {.heads = 2, .causal = true, .span_ramp = 40},
       .bias = true,
       .span = true,
       .batches = false,
       .gradient = false},
  };
  return all;
}

const std::vector<AttentionCase>& statistics_cases() {
  const auto attrs = [](AttentionAttrs a) {
    a.entropy = a.mass = true;
    a.top_links = 3;
    return a;
  };
  static const std::vector<AttentionCase> all = {
      {"statistics", 2, 5, 7, attrs({.heads = 2})},
      {"entropy", 2, 5, 7, {.heads = 2, .entropy = true}},
      {"mass", 2, 5, 7, {.heads = 2, .mass = true}},
      {"links", 2, 5, 7, {.heads = 2, .top_links = 9}},
      {"statistics_packed", 2, 5, 5, attrs({.heads = 4, .kv_heads = 2, .packed = true})},
      {"statistics_of_blind_queries", 1, 6, 3, attrs({.heads = 2, .causal = true})},
      {.label = "statistics_together",
       .batch = 2,
       .tq = 8,
       .tk = 9,
       .attrs = attrs({.heads = 4,
                       .kv_heads = 2,
                       .heads_kept = 3,
                       .window_left = 3,
                       .window_right = 4,
                       .soft_cap = 2,
                       .dropout = 0.25,
                       .stream = "a"}),
       .lengths = true,
       .bias = true,
       .sink = true,
       .batches = false},
      {.label = "statistics_long",
       .batch = 1,
       .tq = 250,
       .tk = 250,
       .attrs = attrs({.heads = 2, .causal = true}),
       .lengths = true,
       .bias = true,
       .sink = true,
       .batches = false,
       .gradient = false},
  };
  return all;
}

// Keys by number, gradients through the log-sum-exp, the entropy and the mass.
void add_statistics(std::vector<OpRow>& rows, const AttentionCase& c) {
  for (const bool lse : {false, true}) {
    AttentionAttrs a = c.attrs;
    a.lse = lse;
    OpRow row{
        .op = "attention",
        .label = c.label + (lse ? "_lse" : ""),
        .build = [c, a](Graph& g, DType t) { return all_outputs(g, build_attention(g, t, c, a)); },
        .ranges = c.ranges(),
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
  for (const AttentionCase& c : dropout_cases()) add_with_gradient(rows, c);
  for (const AttentionCase& c : span_cases()) add_with_gradient(rows, c);
  for (const AttentionCase& c : statistics_cases()) add_statistics(rows, c);
  return rows;
}

}  // namespace fovea::harness

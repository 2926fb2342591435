// Attention whose rows of q and k are turned by their positions, divided by their norms or given a
// temperature, and its gradient.
#include "tests/op_rows_attention.h"

namespace fovea::harness {

namespace {

struct Case {
  std::string label;
  int64_t batch, tq, tk, size;
  AttentionAttrs attrs;
  bool gradient = true;
};

const std::vector<Case>& cases() {
  constexpr RotaryLayout kHalves = RotaryLayout::halves;
  static const std::vector<Case> all = {
      {"rotary", 2, 5, 5, 4, {.heads = 2, .causal = true, .rotary = 4}},
      {"rotary_halves", 1, 4, 7, 6, {.heads = 2, .rotary = 6, .rotary_layout = kHalves}},
      {"rotary_in_part", 1, 4, 7, 6, {.heads = 2, .kv_heads = 1, .rotary = 4, .rotary_base = 50}},
      {"rotary_halves_in_part", 2, 6, 3, 6, {.rotary = 2, .rotary_layout = kHalves}},
      {"rotary_upper_left", 1, 4, 7, 4, {.causal = true, .upper_left = true, .rotary = 4}},
      {"rotary_packed", 2, 5, 5, 4, {.heads = 4, .kv_heads = 2, .rotary = 4, .packed = true}},
      {"rotary_long", 1, 150, 300, 16, {.heads = 2, .causal = true, .rotary = 16}, false},
      {"cosine", 2, 4, 5, 4, {.heads = 2, .cosine = true, .cosine_eps = 0.1}},
      {"cosine_scaled", 1, 4, 5, 4, {.heads = 2, .scale = 5, .cosine = true, .cosine_eps = 0.1}},
      {"temperature", 2, 4, 5, 4, {.heads = 4, .kv_heads = 2, .temperature = true}},
      {"cosine_temperature",
       2,
       5,
       5,
       4,
       {.heads = 4, .heads_kept = 3, .cosine = true, .cosine_eps = 0.1, .temperature = true}},
      {"relative_keys", 2, 4, 5, 4, {.heads = 2, .relative_keys = true}},
      {"relative_keys_and_biases",
       2,
       5,
       3,
       4,
       {.heads = 4,
        .kv_heads = 2,
        .heads_kept = 3,
        .temperature = true,
        .relative_keys = true,
        .content_bias = true,
        .position_bias = true}},
      {"relative_keys_packed",
       2,
       6,
       6,
       3,
       {.heads = 2,
        .causal = true,
        .soft_cap = 3,
        .relative_keys = true,
        .position_bias = true,
        .packed = true}},
      {"relative_keys_long",
       1,
       120,
       170,
       20,
       {.heads = 2, .window_left = 50, .relative_keys = true, .content_bias = true},
       false},
      {"all_of_rows",
       2,
       6,
       6,
       6,
       {.heads = 4,
        .kv_heads = 2,
        .causal = true,
        .prefix = 2,
        .soft_cap = 2,
        .cosine = true,
        .cosine_eps = 0.1,
        .rotary = 4,
        .temperature = true,
        .packed = true}},
  };
  return all;
}

// The inputs of links, in the order in which attention takes them.
struct LinkInput {
  std::string name;
  Shape shape;
};
std::vector<LinkInput> link_inputs(const Case& c) {
  const AttentionAttrs& a = c.attrs;
  std::vector<LinkInput> links;
  if (a.temperature) links.push_back({"temperature", {a.heads}});
  if (a.relative_keys) links.push_back({"relative_keys", {a.kv(), c.tq + c.tk - 1, c.size}});
  if (a.content_bias) links.push_back({"content_bias", {a.heads, c.size}});
  if (a.position_bias) links.push_back({"position_bias", {a.heads, c.size}});
  return links;
}

Value build(Graph& g, DType t, const Case& c) {
  AttentionAttrs a = c.attrs;
  a.lse = true;
  std::vector<Value> inputs;
  if (a.packed) {
    inputs = {ops::input(g, "qkv", t, {c.batch, c.tq, (a.heads + 2 * a.kv()) * c.size})};
  } else {
    inputs = {ops::input(g, "q", t, {c.batch, c.tq, a.heads * c.size}),
              ops::input(g, "k", t, {c.batch, c.tk, a.kv() * c.size}),
              ops::input(g, "v", t, {c.batch, c.tk, a.kv() * 3})};
  }
  for (const LinkInput& link : link_inputs(c))
    inputs.push_back(ops::input(g, link.name, t, link.shape));
  return g.add("attention", inputs, a);
}

}  // namespace

std::vector<OpRow> attention_row_rows() {
  std::vector<OpRow> rows;
  for (const Case& c : cases()) {
    add_with_gradient(rows,
                      {.op = "attention",
                       .label = c.label,
                       .build = [c](Graph& g, DType t) { return all_outputs(g, build(g, t, c)); },
                       .gradient_tolerance = 3e-6},
                      c.gradient);
  }
  return rows;
}

}  // namespace fovea::harness

// Linear, additive and subtraction attention and their gradient ops.
#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

struct Sizes {
  std::string label;
  int64_t batch, tq, tk, d, dv;
  bool gradient = true;
  bool bf16 = false;  // all operands, where the row is for f32
};

std::vector<Value> operands(Graph& g, DType t, const Sizes& s, int64_t heads, int64_t kv_heads) {
  std::vector<Value> in = {ops::input(g, "q", t, {s.batch, s.tq, heads * s.d}),
                           ops::input(g, "k", t, {s.batch, s.tk, kv_heads * s.d}),
                           ops::input(g, "v", t, {s.batch, s.tk, kv_heads * s.dv})};
  if (s.bf16 && t == DType::f32)
    for (Value& v : in) v = ops::cast(g, v, DType::bf16);
  return in;
}
Value readable(Graph& g, Value v) {
  return g.type(v).dtype == DType::bf16 ? ops::cast(g, v, DType::f32) : v;
}

struct LinearCase {
  Sizes sizes;
  LinearAttentionAttrs attrs;
};

void add_linear(std::vector<OpRow>& rows) {
  const LinearCase all[] = {
      {{"one_head", 2, 5, 5, 4, 4}, {}},
      {{"heads", 2, 6, 6, 3, 3}, {.heads = 3}},
      {{"other_lengths_and_widths", 1, 3, 7, 4, 2}, {.heads = 2}},
      {{"grouped_heads", 2, 4, 5, 3, 2}, {.heads = 4, .kv_heads = 2}},
      {{"causal", 2, 6, 6, 4, 4}, {.heads = 2, .causal = true}},
      {{"causal_with_a_past", 1, 3, 8, 4, 4}, {.heads = 2, .causal = true}},
      {{"causal_with_blind_queries", 1, 6, 3, 2, 2}, {.heads = 2, .causal = true}},
      {{"causal_grouped_heads", 1, 5, 5, 3, 2}, {.heads = 4, .kv_heads = 1, .causal = true}},
      {{"single_query_and_key", 3, 1, 1, 4, 4}, {.heads = 2}},
      {{"chunks", 2, 130, 210, 16, 24, false}, {.heads = 2}},
      {{"chunks_causal", 1, 150, 150, 32, 32, false}, {.heads = 2, .causal = true}},
      {{"bf16", 1, 60, 70, 16, 16, false, true}, {.heads = 2}},
      {{"bf16_causal", 1, 60, 60, 16, 24, false, true}, {.heads = 2, .causal = true}},
  };
  for (const LinearCase& c : all) {
    const double tolerance = c.sizes.bf16 ? 3e-2 : 2e-5;
    OpRow row{.op = "linear_attention",
              .label = c.sizes.label,
              .build = [c](Graph& g, DType t) -> std::vector<Value> {
                const auto in = operands(g, t, c.sizes, c.attrs.heads, c.attrs.kv());
                return {readable(g, ops::linear_attention(g, in[0], in[1], in[2], c.attrs))};
              },
              .tolerance = tolerance};
    if (c.sizes.gradient) row.differentiable = {"q", "k", "v"};
    rows.push_back(row);
    rows.push_back({.op = "linear_attention_grad",
                    .label = c.sizes.label,
                    .build = [c](Graph& g, DType t) -> std::vector<Value> {
                      auto in = operands(g, t, c.sizes, c.attrs.heads, c.attrs.kv());
                      const Value dout = ops::input(
                          g, "dout", t, {c.sizes.batch, c.sizes.tq, c.attrs.heads * c.sizes.dv});
                      in.push_back(ops::cast(g, dout, g.type(in[0]).dtype));
                      const Value d = g.add("linear_attention_grad", in, c.attrs);
                      return {readable(g, d), readable(g, {d.node, 1}), readable(g, {d.node, 2})};
                    },
                    .ranges = {{"dout", {-0.5, 0.5}}},
                    .tolerance = tolerance});
  }
}

struct PairCase {
  Sizes sizes;
  PairAttentionAttrs attrs;
};

std::vector<Value> pair_operands(Graph& g, DType t, const PairCase& c) {
  auto in = operands(g, t, c.sizes, c.attrs.heads, c.attrs.kv());
  const Value w = ops::input(g, "w", t, {c.attrs.heads * c.sizes.d});
  in.push_back(ops::cast(g, w, g.type(in[0]).dtype));
  return in;
}

// Where q and k are rounded to bf16 they are numbers that bf16 holds: the slope of relu(q - k)
// jumps.
std::map<std::string, Range> pair_ranges(const PairCase& c) {
  std::map<std::string, Range> ranges = {{"w", {-1, 1}}, {"dout", {-0.5, 0.5}}};
  if (c.sizes.bf16) ranges["q"] = ranges["k"] = {-2, 2, 1.0 / 64};
  return ranges;
}

void add_pairs(std::vector<OpRow>& rows, const std::string& op) {
  const PairCase all[] = {
      {{"one_head", 2, 5, 5, 4, 4}, {}},
      {{"heads", 2, 4, 4, 3, 3}, {.heads = 3}},
      {{"other_lengths_and_widths", 1, 3, 7, 4, 2}, {.heads = 2}},
      {{"grouped_heads", 2, 4, 5, 3, 2}, {.heads = 4, .kv_heads = 2}},
      {{"own_scale", 1, 4, 4, 4, 4}, {.heads = 2, .scale = 0.3}},
      {{"causal", 2, 6, 6, 3, 3}, {.heads = 2, .causal = true}},
      {{"causal_with_a_past", 1, 3, 8, 4, 4}, {.heads = 2, .causal = true}},
      {{"causal_with_blind_queries", 1, 6, 3, 2, 2}, {.heads = 2, .causal = true}},
      {{"window", 1, 9, 9, 3, 3}, {.heads = 2, .window_left = 2, .window_right = 1}},
      {{"causal_window", 1, 9, 9, 3, 3}, {.heads = 2, .causal = true, .window_left = 3}},
      {{"single_query_and_key", 3, 1, 1, 4, 4}, {.heads = 2}},
      {{"blocks", 1, 70, 133, 16, 24, false}, {.heads = 2}},
      {{"blocks_causal", 1, 150, 150, 8, 32, false}, {.heads = 2, .kv_heads = 1, .causal = true}},
      {{"bf16", 1, 40, 70, 16, 16, false, true}, {.heads = 2}},
  };
  for (const PairCase& c : all) {
    const double tolerance = c.sizes.bf16 ? 3e-2 : 2e-5;
    OpRow row{.op = op,
              .label = c.sizes.label,
              .build = [c, op](Graph& g, DType t) -> std::vector<Value> {
                return {readable(g, g.add(op, pair_operands(g, t, c), c.attrs))};
              },
              .ranges = pair_ranges(c),
              .tolerance = tolerance};
    if (c.sizes.gradient) row.differentiable = {"q", "k", "v", "w"};
    rows.push_back(row);

    row.label += "_with_log_sum_exp";
    row.build = [c, op](Graph& g, DType t) -> std::vector<Value> {
      PairAttentionAttrs attrs = c.attrs;
      attrs.lse = true;
      const Value out = g.add(op, pair_operands(g, t, c), attrs);
      return {readable(g, out), {out.node, 1}};
    };
    row.seeds = {0};
    rows.push_back(row);
    // Where every query sees a key, the log-sum-exp carries a gradient as well.
    if (c.sizes.label == "grouped_heads" || c.sizes.label == "window") {
      row.label = c.sizes.label + "_through_log_sum_exp";
      row.seeds = {0, 1};
      rows.push_back(row);
    }

    rows.push_back(
        {.op = op + "_grad",
         .label = c.sizes.label,
         .build = [c, op](Graph& g, DType t) -> std::vector<Value> {
           PairAttentionAttrs attrs = c.attrs;
           attrs.lse = true;
           auto in = pair_operands(g, t, c);
           const Value out = g.add(op, in, attrs);
           const Value dout = ops::input(g, "dout", t, g.shape(out));
           in.insert(in.end(), {out, {out.node, 1}, ops::cast(g, dout, g.type(out).dtype)});
           const Value d = g.add(op + "_grad", in, c.attrs);
           std::vector<Value> outputs;
           for (int32_t i = 0; i < 4; ++i) outputs.push_back(readable(g, {d.node, i}));
           return outputs;
         },
         .ranges = pair_ranges(c),
         .tolerance = c.sizes.bf16 ? 6e-2 : 5e-5});
  }
}

}  // namespace

std::vector<OpRow> score_rows() {
  std::vector<OpRow> rows;
  add_linear(rows);
  add_pairs(rows, "additive_attention");
  add_pairs(rows, "subtraction_attention");
  return rows;
}

}  // namespace fovea::harness

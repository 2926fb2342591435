// Attention and its gradient op, over heads, masks and lengths.
#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

struct Case {
  std::string label;
  int64_t batch, tq, tk, d, dv;
  AttentionAttrs attrs;
  bool gradient = true;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"one_head", 2, 5, 5, 4, 4, {}},
      {"heads", 2, 6, 6, 3, 3, {.heads = 3}},
      {"other_lengths_and_widths", 1, 3, 7, 4, 2, {.heads = 2}},
      {"grouped_heads", 2, 4, 5, 3, 2, {.heads = 4, .kv_heads = 2}},
      {"one_key_head", 1, 4, 4, 2, 3, {.heads = 3, .kv_heads = 1}},
      {"own_scale", 1, 4, 4, 4, 4, {.heads = 2, .scale = 0.3}},
      {"causal", 2, 6, 6, 4, 4, {.heads = 2, .causal = true}},
      {"causal_with_a_past", 1, 3, 8, 4, 4, {.heads = 2, .causal = true}},
      {"causal_with_blind_queries", 1, 6, 3, 2, 2, {.heads = 2, .causal = true}},
      {"window", 1, 9, 9, 3, 3, {.heads = 2, .window_left = 2, .window_right = 1}},
      {"window_to_the_right", 1, 7, 7, 3, 3, {.window_right = 2}},
      {"causal_window", 1, 9, 9, 3, 3, {.heads = 2, .causal = true, .window_left = 3}},
      {"heads_kept", 2, 4, 4, 3, 3, {.heads = 4, .heads_kept = 2}},
      {"grouped_heads_kept", 1, 4, 4, 3, 3, {.heads = 4, .kv_heads = 2, .heads_kept = 3}},
      {"no_head_kept", 1, 3, 3, 2, 2, {.heads = 2, .heads_kept = 0}},
      {"single_query_and_key", 3, 1, 1, 4, 4, {.heads = 2}},
      {"blocks", 2, 70, 133, 16, 24, {.heads = 2}, false},
      {"blocks_causal", 1, 150, 150, 32, 32, {.heads = 2, .causal = true}, false},
      {"blocks_window",
       1,
       200,
       200,
       8,
       8,
       {.heads = 2, .window_left = 40, .window_right = 7},
       false},
      {"vision", 4, 49, 49, 16, 16, {.heads = 4}, false},
      {"wide_heads", 1, 33, 65, 64, 64, {.heads = 2, .kv_heads = 1}, false},
      {"decoding", 1, 2, 300, 64, 64, {.heads = 4, .kv_heads = 2}, false},
  };
  return all;
}

Value build(Graph& g, DType t, const Case& c, bool lse) {
  AttentionAttrs attrs = c.attrs;
  attrs.lse = lse;
  const int64_t kv = attrs.kv();
  return ops::attention(g, ops::input(g, "q", t, {c.batch, c.tq, attrs.heads * c.d}),
                        ops::input(g, "k", t, {c.batch, c.tk, kv * c.d}),
                        ops::input(g, "v", t, {c.batch, c.tk, kv * c.dv}), attrs);
}

// q, k and v as one input, or in bf16, or both.
struct Form {
  bool packed = false, bf16 = false;
};

std::vector<Value> operands(Graph& g, DType t, const Case& c, Form form) {
  const int64_t kv = c.attrs.kv();
  std::vector<Value> in;
  if (form.packed)
    in = {ops::input(g, "qkv", t, {c.batch, c.tq, (c.attrs.heads + 2 * kv) * c.d})};
  else
    in = {ops::input(g, "q", t, {c.batch, c.tq, c.attrs.heads * c.d}),
          ops::input(g, "k", t, {c.batch, c.tk, kv * c.d}),
          ops::input(g, "v", t, {c.batch, c.tk, kv * c.dv})};
  if (form.bf16 && t == DType::f32)
    for (Value& v : in) v = ops::cast(g, v, DType::bf16);
  return in;
}

Value readable(Graph& g, Value v) {
  return g.type(v).dtype == DType::bf16 ? ops::cast(g, v, DType::f32) : v;
}

std::string text_of(const Case& c, Form form) {
  return c.label + (form.packed ? "_packed" : "") + (form.bf16 ? "_bf16" : "");
}

// Scores and probabilities in bf16 are off by 2^-8 of themselves, the log-sum-exp by that of a
// score.
double tolerance(Form form, double exact) { return form.bf16 ? 3e-2 : exact; }

OpRow formed_row(const Case& c, Form form, bool lse) {
  OpRow row{.op = "attention",
            .label = text_of(c, form) + (lse ? "_lse" : ""),
            .build = [=](Graph& g, DType t) -> std::vector<Value> {
              AttentionAttrs attrs = c.attrs;
              attrs.packed = form.packed;
              attrs.lse = lse;
              const Value out = g.add("attention", operands(g, t, c, form), attrs);
              if (!lse) return {readable(g, out)};
              return {readable(g, out), {out.node, 1}};
            },
            .tolerance = tolerance(form, 2e-5)};
  if (c.gradient && !form.bf16) {
    row.differentiable = {"qkv"};
    row.seeds = {0};
  }
  return row;
}

OpRow formed_grad_row(const Case& c, Form form) {
  return {.op = "attention_grad",
          .label = text_of(c, form),
          .build = [=](Graph& g, DType t) -> std::vector<Value> {
            AttentionAttrs attrs = c.attrs;
            attrs.packed = form.packed;
            attrs.lse = true;
            std::vector<Value> in = operands(g, t, c, form);
            const size_t count = in.size();
            const Value out = g.add("attention", in, attrs);
            Value dout = ops::input(g, "dout", t, g.shape(out));
            if (g.type(out).dtype == DType::bf16) dout = ops::cast(g, dout, DType::bf16);
            in.insert(in.end(), {out, {out.node, 1}, dout});
            attrs.lse = false;
            const Value d = g.add("attention_grad", in, attrs);
            std::vector<Value> outputs;
            for (size_t i = 0; i < count; ++i)
              outputs.push_back(readable(g, {d.node, static_cast<int32_t>(i)}));
            return outputs;
          },
          .ranges = {{"dout", {-0.5, 0.5}}},
          .tolerance = tolerance(form, 5e-5)};
}

void add_formed(std::vector<OpRow>& rows) {
  const Case all[] = {
      {"one_head", 2, 5, 5, 4, 4, {}},
      {"heads", 2, 6, 6, 3, 3, {.heads = 3}},
      {"grouped_heads", 2, 5, 5, 4, 4, {.heads = 4, .kv_heads = 2}},
      {"grouped_heads_causal", 1, 7, 7, 2, 2, {.heads = 4, .kv_heads = 2, .causal = true}},
      {"one_key_head", 1, 4, 4, 3, 3, {.heads = 3, .kv_heads = 1}},
      {"heads_kept", 2, 4, 4, 3, 3, {.heads = 4, .heads_kept = 2}},
      {"grouped_heads_kept", 1, 4, 4, 3, 3, {.heads = 4, .kv_heads = 2, .heads_kept = 3}},
      {"window", 1, 9, 9, 3, 3, {.heads = 2, .window_left = 2, .window_right = 1}},
      {"single", 3, 1, 1, 4, 4, {.heads = 2}},
      {"vision", 4, 49, 49, 16, 16, {.heads = 4}, false},
      {"vision_causal", 2, 49, 49, 16, 16, {.heads = 4, .kv_heads = 2, .causal = true}, false},
      {"short_odd", 2, 33, 33, 24, 24, {.heads = 2}, false},
      {"long", 1, 150, 150, 32, 32, {.heads = 2, .causal = true}, false},
  };
  for (const Case& c : all)
    for (const Form form : {Form{true, false}, Form{false, true}, Form{true, true}}) {
      rows.push_back(formed_row(c, form, false));
      rows.push_back(formed_row(c, form, true));
      rows.push_back(formed_grad_row(c, form));
    }
  // With lengths and widths of their own.
  const Case apart{"other_lengths_and_widths", 1, 13, 27, 16, 8, {.heads = 2}, false};
  const Case decoding{"decoding", 1, 2, 300, 64, 64, {.heads = 4, .kv_heads = 2}, false};
  rows.push_back(formed_row(decoding, {false, true}, true));
  rows.push_back(formed_row(apart, {false, true}, true));
  rows.push_back(formed_grad_row(apart, {false, true}));
}

}  // namespace

std::vector<OpRow> attention_rows() {
  std::vector<OpRow> rows;
  for (const Case& c : cases()) {
    OpRow row{
        .op = "attention",
        .label = c.label,
        .build = [c](Graph& g, DType t) -> std::vector<Value> { return {build(g, t, c, false)}; },
        .tolerance = 2e-5};
    if (c.gradient) row.differentiable = {"q", "k", "v"};
    rows.push_back(row);

    row.label += "_with_log_sum_exp";
    row.build = [c](Graph& g, DType t) -> std::vector<Value> {
      const Value out = build(g, t, c, true);
      return {out, {out.node, 1}};
    };
    row.seeds = {0};
    rows.push_back(row);

    // Where every query sees a key, the log-sum-exp carries a gradient as well.
    if (c.gradient && c.label != "causal_with_blind_queries") {
      row.label = c.label + "_through_log_sum_exp";
      row.seeds = {0, 1};
      if (c.attrs.kept() == 0) row.seeds = {0};
      rows.push_back(row);
    }

    rows.push_back({.op = "attention_grad",
                    .label = c.label,
                    .build = [c](Graph& g, DType t) -> std::vector<Value> {
                      const Value out = build(g, t, c, true);
                      const Node forward = g.node(out);
                      AttentionAttrs attrs = c.attrs;
                      const Value d = g.add("attention_grad",
                                            {forward.inputs[0],
                                             forward.inputs[1],
                                             forward.inputs[2],
                                             out,
                                             {out.node, 1},
                                             ops::input(g, "dout", t, g.shape(out))},
                                            attrs);
                      return {d, {d.node, 1}, {d.node, 2}};
                    },
                    .tolerance = 5e-5});
  }
  add_formed(rows);
  return rows;
}

}  // namespace fovea::harness

// matmul; linear with what is done to its result, and its gradients; all of them in bf16 too.
#include <cmath>

#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

OpRow matmul_row(std::string label, Shape a, Shape b, MatmulAttrs attrs = {},
                 bool gradient = true) {
  OpRow row{.op = "matmul",
            .label = std::move(label),
            .build = [=](Graph& g, DType t) -> std::vector<Value> {
              return {ops::matmul(g, ops::input(g, "a", t, a), ops::input(g, "b", t, b), attrs)};
            }};
  if (gradient) row.differentiable = {"a", "b"};
  row.tolerance = gradient ? 1e-5 : 1e-4;  // long sums
  return row;
}

OpRow linear_row(std::string label, Shape x, Shape weight, bool bias, bool gradient = true) {
  OpRow row{
      .op = "linear",
      .label = std::move(label),
      .build = [=](Graph& g, DType t) -> std::vector<Value> {
        const Value b = bias ? ops::input(g, "bias", t, {weight[0]}) : Value{};
        return {ops::linear(g, ops::input(g, "x", t, x), ops::input(g, "weight", t, weight), b)};
      }};
  if (gradient) row.differentiable = {"x", "weight"};
  if (gradient && bias) row.differentiable.push_back("bias");
  row.tolerance = gradient ? 1e-5 : 1e-4;
  return row;
}

// The value in bf16, but for the reference, which stays exact: what differs is rounding.
Value rounded(Graph& g, Value v) {
  return g.type(v).dtype == DType::f32 ? ops::cast(g, v, DType::bf16) : v;
}
// A result as the harness reads it.
Value readable(Graph& g, Value v) {
  return g.type(v).dtype == DType::bf16 ? ops::cast(g, v, DType::f32) : v;
}
// bf16 has 8 bits: each factor is off by 2^-9 at most, each result by as much again; sums of
// products in [-4, 4) grow with the root of their length.
constexpr double kBf16 = 2e-2;

// Which of a product's operands and results stand in bf16.
enum class Rounded { none, weight, all };

struct LinearCase {
  std::string label;
  int64_t rows = 1, n = 1, k = 1;
  bool bias = false;
  LinearAttrs attrs = {};
  Rounded rounded = Rounded::none;
  bool gradient = false;
};

std::string text_of(const LinearCase& c) {
  std::string label = c.label + "_" + std::string(enum_name(c.attrs.activation));
  if (c.attrs.residual) label += "_residual";
  if (c.attrs.pre) label += "_pre";
  if (c.bias) label += "_bias";
  if (c.rounded == Rounded::weight) label += "_bf16_weight";
  if (c.rounded == Rounded::all) label += "_bf16";
  return label;
}

// Inputs in [-1, 1) and weights in proportion to 1 / sqrt(K), as layers have them.
std::map<std::string, Range> product_ranges(int64_t length) {
  const double w = 1 / std::sqrt(static_cast<double>(length));
  return {{"x", {-1, 1}},    {"dy", {-1, 1}},       {"weight", {-w, w}},
          {"bias", {-1, 1}}, {"residual", {-1, 1}}, {"before", {-2, 2}}};
}

TypeChoice bf16_if(bool yes, DType t) {
  return yes && t == DType::f32 ? TypeChoice::bf16 : TypeChoice::same;
}

OpRow linear_case_row(const LinearCase& c) {
  const bool all = c.rounded == Rounded::all, none = c.rounded == Rounded::none;
  OpRow row{.op = "linear",
            .label = text_of(c),
            .build = [=](Graph& g, DType t) -> std::vector<Value> {
              Value x = ops::input(g, "x", t, {c.rows, c.k});
              Value w = ops::input(g, "weight", t, {c.n, c.k});
              if (all) x = rounded(g, x);
              if (!none) w = rounded(g, w);
              std::vector<Value> in = {x, w};
              if (c.bias) in.push_back(ops::input(g, "bias", t, {c.n}));
              if (c.attrs.residual) {
                const Value r = ops::input(g, "residual", t, {c.rows, c.n});
                in.push_back(all ? rounded(g, r) : r);
              }
              LinearAttrs attrs = c.attrs;
              attrs.out = bf16_if(all, t);
              const Value y = g.add("linear", in, attrs);
              std::vector<Value> outputs = {readable(g, y)};
              if (attrs.pre) outputs.push_back(readable(g, {y.node, 1}));
              return outputs;
            },
            .ranges = product_ranges(c.k),
            .tolerance = none ? 1e-5 : kBf16};
  if (c.gradient) {
    row.differentiable = {"x", "weight"};
    if (c.bias) row.differentiable.push_back("bias");
    if (c.attrs.residual) row.differentiable.push_back("residual");
    row.seeds = {0};
  }
  return row;
}

void add_linear(std::vector<OpRow>& rows) {
  // relu bends at 0, where finite differences are not those of the gradient: it has no row of them.
  for (const Activation activation :
       {Activation::none, Activation::relu, Activation::silu, Activation::gelu})
    for (const bool residual : {false, true})
      for (const bool bias : {false, true})
        for (const bool pre : {false, true}) {
          if (pre && activation == Activation::none) continue;
          LinearCase c{.label = "odd", .rows = 5, .n = 7, .k = 9, .bias = bias};
          c.attrs = {.activation = activation, .residual = residual, .pre = pre};
          c.gradient = activation != Activation::relu;
          rows.push_back(linear_case_row(c));
          c.gradient = false;
          for (const Rounded rounded : {Rounded::none, Rounded::weight, Rounded::all}) {
            c.rounded = rounded;
            c.label = "one_row";
            c.rows = 1, c.n = 33, c.k = 70;
            rows.push_back(linear_case_row(c));
            // More rows than a block, with a rest; sizes that fill no tile.
            c.label = "many_rows";
            c.rows = 500, c.n = 67, c.k = 50;
            rows.push_back(linear_case_row(c));
          }
        }
  for (const Rounded rounded : {Rounded::none, Rounded::weight, Rounded::all}) {
    LinearCase c{.label = "tiles", .rows = 500, .n = 128, .k = 64, .bias = true};
    c.attrs = {.activation = Activation::gelu, .residual = true, .pre = true};
    c.rounded = rounded;
    rows.push_back(linear_case_row(c));
    rows.push_back(linear_case_row(
        {.label = "one_column", .rows = 37, .n = 1, .k = 31, .bias = true, .rounded = rounded}));
    rows.push_back(linear_case_row(
        {.label = "wide", .rows = 3, .n = 1030, .k = 770, .bias = true, .rounded = rounded}));
  }
}

// dy [rows,n], weight [n,k]
OpRow grad_input_row(const LinearCase& c) {
  const bool all = c.rounded == Rounded::all, none = c.rounded == Rounded::none;
  const LinearGradInputAttrs plain{.activation = c.attrs.activation, .residual = c.attrs.residual};
  OpRow row{.op = "linear_grad_input",
            .label = text_of(c),
            .build = [=](Graph& g, DType t) -> std::vector<Value> {
              Value dy = ops::input(g, "dy", t, {c.rows, c.n});
              Value w = ops::input(g, "weight", t, {c.n, c.k});
              if (all) dy = rounded(g, dy);
              if (!none) w = rounded(g, w);
              std::vector<Value> in = {dy, w};
              const auto beside = [&](const char* name) {
                const Value v = ops::input(g, name, t, {c.rows, c.k});
                in.push_back(all ? rounded(g, v) : v);
              };
              if (plain.activation != Activation::none) beside("before");
              if (plain.residual) beside("residual");
              LinearGradInputAttrs attrs = plain;
              attrs.out = bf16_if(all, t);
              return {readable(g, g.add("linear_grad_input", in, attrs))};
            },
            .ranges = product_ranges(c.n),
            .tolerance = none ? 1e-5 : kBf16};
  if (c.gradient) {
    row.differentiable = {"dy", "weight"};
    if (plain.residual) row.differentiable.push_back("residual");
  }
  return row;
}

// dy [rows,n], x [rows,k]: sums over the rows, so the inputs shrink with their number.
OpRow grad_weight_row(std::string label, int64_t rows, int64_t n, int64_t k, bool bias, bool dy_16,
                      bool x_16, bool gradient = false) {
  const double scale = 1 / std::sqrt(static_cast<double>(rows));
  OpRow row{
      .op = "linear_grad_weight",
      .label = std::move(label) + (bias ? "_bias" : "") + (dy_16 ? "_dy_bf16" : "") +
               (x_16 ? "_x_bf16" : ""),
      .build = [=](Graph& g, DType t) -> std::vector<Value> {
        Value dy = ops::input(g, "dy", t, {rows, n}), x = ops::input(g, "x", t, {rows, k});
        if (dy_16) dy = rounded(g, dy);
        if (x_16) x = rounded(g, x);
        const Value dw = g.add("linear_grad_weight", {dy, x}, LinearGradWeightAttrs{.bias = bias});
        if (!bias) return {dw};
        return {dw, {dw.node, 1}};
      },
      .ranges = {{"dy", {-scale, scale}}, {"x", {-1, 1}}},
      .tolerance = dy_16 || x_16 ? kBf16 : 1e-5};
  if (gradient) row.differentiable = {"dy", "x"};
  return row;
}

void add_linear_gradients(std::vector<OpRow>& rows) {
  for (const Activation activation :
       {Activation::none, Activation::relu, Activation::silu, Activation::gelu})
    for (const bool residual : {false, true}) {
      LinearCase c{.label = "odd", .rows = 5, .n = 9, .k = 7};
      c.attrs = {.activation = activation, .residual = residual};
      c.gradient = activation == Activation::none;
      rows.push_back(grad_input_row(c));
      c.gradient = false;
      for (const Rounded rounded : {Rounded::none, Rounded::weight, Rounded::all}) {
        c.rounded = rounded;
        c.label = "one_row";
        c.rows = 1, c.n = 33, c.k = 70;
        rows.push_back(grad_input_row(c));
        c.label = "many_rows";
        c.rows = 500, c.n = 67, c.k = 50;
        rows.push_back(grad_input_row(c));
      }
    }
  for (const bool bias : {false, true}) {
    rows.push_back(grad_weight_row("odd", 5, 7, 9, bias, false, false, true));
    for (const bool dy : {false, true})
      for (const bool x : {false, true}) {
        rows.push_back(grad_weight_row("one_row", 1, 33, 70, bias, dy, x));
        rows.push_back(grad_weight_row("many_rows", 500, 67, 50, bias, dy, x));
        rows.push_back(grad_weight_row("tiles", 1024, 128, 64, bias, dy, x));
      }
  }
  rows.push_back({.op = "linear_grad_weight",
                  .label = "sequence",
                  .build = [](Graph& g, DType t) -> std::vector<Value> {
                    const Value dw =
                        g.add("linear_grad_weight",
                              {ops::input(g, "dy", t, {2, 3, 4}), ops::input(g, "x", t, {2, 3, 5})},
                              LinearGradWeightAttrs{.bias = true});
                    return {dw, {dw.node, 1}};
                  },
                  .differentiable = {"dy", "x"}});
}

}  // namespace

std::vector<OpRow> product_rows() {
  std::vector<OpRow> rows = {
      matmul_row("plain", {5, 7}, {7, 3}),
      matmul_row("a_transposed", {7, 5}, {7, 3}, {.transpose_a = true}),
      matmul_row("b_transposed", {5, 7}, {3, 7}, {.transpose_b = true}),
      matmul_row("both_transposed", {7, 5}, {3, 7}, {.transpose_a = true, .transpose_b = true}),
      matmul_row("one_row", {1, 9}, {9, 4}),
      matmul_row("one_column", {6, 9}, {9, 1}),
      matmul_row("outer_product", {4, 1}, {1, 5}),
      matmul_row("batched", {3, 4, 5}, {3, 5, 2}),
      matmul_row("batched_b_transposed", {2, 3, 4, 5}, {2, 3, 6, 5}, {.transpose_b = true}),
      matmul_row("one_b_for_all", {3, 4, 5}, {5, 2}),
      matmul_row("one_a_for_all", {4, 5}, {3, 5, 2}),
      matmul_row("one_a_transposed_for_all", {5, 4}, {3, 5, 2}, {.transpose_a = true}),
      matmul_row("batch_broadcast_both_ways", {2, 1, 3, 4}, {3, 4, 2}),
      matmul_row("grouped_heads", {2, 2, 3, 4, 5}, {2, 2, 1, 6, 5}, {.transpose_b = true}),
      matmul_row("no_rows", {0, 4}, {4, 3}, {}, false),
      matmul_row("many_rows", {777, 65}, {65, 33}, {}, false),
      matmul_row("wide", {70, 130}, {130, 1100}, {}, false),
      matmul_row("long_sum", {4100, 24}, {4100, 40}, {.transpose_a = true}, false),
      matmul_row("large_b_transposed", {64, 600}, {600, 600}, {.transpose_b = true}, false),
      matmul_row("many_batches", {37, 49, 16}, {37, 16, 49}, {}, false),
      linear_row("with_bias", {6, 5}, {4, 5}, true),
      linear_row("without_bias", {6, 5}, {4, 5}, false),
      linear_row("sequence", {2, 3, 5}, {4, 5}, true),
      linear_row("one_output", {6, 5}, {1, 5}, true),
      linear_row("large", {300, 3, 64}, {128, 64}, true, false),
      linear_row("few_rows_long_sum", {8, 3000}, {16, 3000}, true, false),
  };
  add_linear(rows);
  add_linear_gradients(rows);
  return rows;
}

}  // namespace fovea::harness

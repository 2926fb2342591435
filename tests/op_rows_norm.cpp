// Softmax and the norms, with their gradient ops.
#include <cmath>

#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

OpRow softmax_row(std::string op, std::string label, Shape shape, Range range,
                  bool gradient = true) {
  OpRow row{.op = op,
            .label = std::move(label),
            .build = [op, shape](Graph& g, DType t) -> std::vector<Value> {
              return {g.add(op, {ops::input(g, "x", t, shape)})};
            },
            .ranges = {{"x", range}}};
  if (gradient) row.differentiable = {"x"};
  return row;
}

// The gradient op on what the forward gave; in f64 it is differentiated once more.
OpRow softmax_grad_row(const std::string& forward, std::string label, Shape shape,
                       bool gradient = true) {
  OpRow row{.op = forward + "_grad",
            .label = std::move(label),
            .build = [forward, shape](Graph& g, DType t) -> std::vector<Value> {
              const Value y = g.add(forward, {ops::input(g, "x", t, shape)});
              return {g.add(forward + "_grad", {y, ops::input(g, "dy", t, shape)})};
            }};
  if (gradient) row.differentiable = {"x", "dy"};
  return row;
}

void add_softmax(std::vector<OpRow>& rows) {
  for (std::string op : {"softmax", "log_softmax"}) {
    rows.push_back(softmax_row(op, "short", {3, 5}, {}));
    rows.push_back(softmax_row(op, "odd", {2, 2, 37}, {-8, 8}));
    rows.push_back(softmax_row(op, "one", {4, 1}, {}));
    rows.push_back(softmax_row(op, "vector", {9}, {}));
    rows.push_back(softmax_row(op, "far_apart", {3, 20}, {-90, 90}, false));
    rows.push_back(softmax_row(op, "large", {500, 197}, {-8, 8}, false));
    rows.push_back(softmax_grad_row(op, "odd", {3, 19}));
    rows.push_back(softmax_grad_row(op, "large", {500, 197}, false));
    // Some of each row is masked away.
    rows.push_back(
        {.op = op, .label = "masked", .build = [op](Graph& g, DType t) -> std::vector<Value> {
           const Value i = ops::iota(g, DType::i32, {6, 7}, 1);
           const Value j = ops::iota(g, DType::i32, {6, 7}, 0);
           const Value x =
               ops::select(g, ops::binary(g, "less_equal", i, j), ops::input(g, "x", t, {6, 7}),
                           ops::constant(g, -INFINITY, t));
           return {g.add(op, {x})};
         }});
  }
  // A row that is wholly masked gives zeros.
  rows.push_back(
      {.op = "softmax",
       .label = "wholly_masked",
       .build = [](Graph& g, DType t) -> std::vector<Value> {
         return {ops::softmax(g, ops::constant(g, -INFINITY, t, {2, 5}))};
       },
       .expected = [](const NumbersByName&) { return std::vector<Numbers>{Numbers(10, 0.0)}; }});
}

struct Case {
  std::string label;
  Shape shape;
  Range range = {};
  double eps = 1e-5;
  bool gradient = true;
};

Value norm(Graph& g, DType t, const std::string& op, const Case& c, bool stats) {
  const Value x = ops::input(g, "x", t, c.shape);
  const Value weight = ops::input(g, "weight", t, {c.shape.back()});
  std::vector<Value> inputs = {x, weight};
  if (op == "layer_norm") inputs.push_back(ops::input(g, "bias", t, {c.shape.back()}));
  return g.add(op, inputs, NormAttrs{c.eps, stats});
}

void add_norms(std::vector<OpRow>& rows) {
  const Case all[] = {
      {"short", {3, 5}},
      {"odd", {2, 3, 37}},
      {"vector", {8}},
      {"coarse_epsilon", {4, 6}, {}, 0.1},
      {"off_centre", {3, 40}, {90, 95}, 1e-5, false},
      {"large", {700, 96}, {}, 1e-5, false},
  };
  for (std::string op : {"layer_norm", "rms_norm"}) {
    const bool layer = op == "layer_norm";
    for (const Case& c : all) {
      OpRow row{.op = op,
                .label = c.label,
                .build = [=](Graph& g, DType t) -> std::vector<Value> {
                  return {norm(g, t, op, c, false)};
                },
                .ranges = {{"x", c.range}},
                .tolerance = c.label == "off_centre" ? 1e-4 : 1e-5};
      if (c.gradient) row.differentiable = {"x", "weight"};
      if (c.gradient && layer) row.differentiable.push_back("bias");
      rows.push_back(row);
      // The statistics too; no gradient flows into them, but saving them leaves the others alone.
      row.label += "_with_statistics";
      row.build = [=](Graph& g, DType t) -> std::vector<Value> {
        const Value y = norm(g, t, op, c, true);
        std::vector<Value> outputs = {y, {y.node, 1}};
        if (layer) outputs.push_back({y.node, 2});
        return outputs;
      };
      row.seeds = {0};
      rows.push_back(row);
      rows.push_back(
          {.op = op + "_grad",
           .label = c.label,
           .build = [=](Graph& g, DType t) -> std::vector<Value> {
             const Value y = norm(g, t, op, c, true);
             std::vector<Value> inputs = {g.node(y).inputs[0], g.node(y).inputs[1], {y.node, 1}};
             if (layer) inputs.push_back({y.node, 2});
             inputs.push_back(ops::input(g, "dy", t, c.shape));
             const Value d = g.add(op + "_grad", inputs);
             std::vector<Value> outputs = {d, {d.node, 1}};
             if (layer) outputs.push_back({d.node, 2});
             return outputs;
           },
           .ranges = {{"x", c.range}},
           .tolerance = c.gradient ? 2e-5 : 2e-4});
    }
  }
}

// What a norm may be asked for besides its result.
struct Asked {
  bool residual = false, stats = false, bf16 = false;
};

Value asked_norm(Graph& g, DType t, const std::string& op, const Case& c, Asked asked) {
  std::vector<Value> in = {ops::input(g, "x", t, c.shape)};
  if (asked.residual) in.push_back(ops::input(g, "residual", t, c.shape));
  in.push_back(ops::input(g, "weight", t, {c.shape.back()}));
  if (op == "layer_norm") in.push_back(ops::input(g, "bias", t, {c.shape.back()}));
  NormAttrs attrs{.eps = c.eps, .stats = asked.stats, .residual = asked.residual};
  if (asked.bf16 && t == DType::f32) attrs.out = TypeChoice::bf16;
  return g.add(op, in, attrs);
}

// All outputs of the node, those in bf16 as f32, which the harness reads.
std::vector<Value> readable_outputs(Graph& g, Value v) {
  std::vector<Value> outputs;
  const size_t count = g.node(v).types.size();
  for (size_t i = 0; i < count; ++i) {
    const Value output{v.node, static_cast<int32_t>(i)};
    outputs.push_back(g.type(output).dtype == DType::bf16 ? ops::cast(g, output, DType::f32)
                                                          : output);
  }
  return outputs;
}

OpRow asked_norm_row(const std::string& op, const Case& c, Asked asked) {
  OpRow row{.op = op,
            .label = c.label + (asked.residual ? "_residual" : "") + (asked.stats ? "_stats" : "") +
                     (asked.bf16 ? "_bf16" : ""),
            .build = [=](Graph& g, DType t) -> std::vector<Value> {
              return readable_outputs(g, asked_norm(g, t, op, c, asked));
            },
            .ranges = {{"x", c.range}},
            .tolerance = asked.bf16 ? 2e-2 : 1e-5};
  if (c.gradient && asked.residual && !asked.bf16) {
    row.differentiable = {"x", "residual", "weight"};
    if (op == "layer_norm") row.differentiable.push_back("bias");
    row.seeds = {0, 1};
  }
  return row;
}

// The gradient on what the forward gave; dy as it comes from a bf16 product, if asked for.
OpRow norm_grad_row(const std::string& op, const Case& c, bool add, bool bf16) {
  const bool layer = op == "layer_norm";
  return {.op = op + "_grad",
          .label = c.label + (add ? "_add" : "") + (bf16 ? "_bf16" : ""),
          .build = [=](Graph& g, DType t) -> std::vector<Value> {
            const Value y = asked_norm(g, t, op, c, {.stats = true});
            std::vector<Value> in = {g.node(y).inputs[0], g.node(y).inputs[1], {y.node, 1}};
            if (layer) in.push_back({y.node, 2});
            Value dy = ops::input(g, "dy", t, c.shape);
            if (bf16 && t == DType::f32) dy = ops::cast(g, dy, DType::bf16);
            in.push_back(dy);
            if (add) in.push_back(ops::input(g, "added", t, c.shape));
            return readable_outputs(g, g.add(op + "_grad", in, NormGradAttrs{.add = add}));
          },
          // The sums over the rows grow with their number, and the rounding with them.
          .ranges = {{"x", c.range}, {"dy", {-0.2, 0.2}}},
          .tolerance = bf16 ? 2e-2 : 2e-5};
}

void add_asked_norms(std::vector<OpRow>& rows) {
  for (const std::string op : {"layer_norm", "rms_norm"}) {
    for (const Case& c : {Case{"one_row", {1, 50}}, Case{"odd", {2, 3, 37}},
                          Case{"many_rows", {500, 64}, {}, 1e-5, false}})
      for (const bool bf16 : {false, true})
        for (const bool stats : {false, true})
          for (const bool residual : {false, true})
            if (bf16 || residual) rows.push_back(asked_norm_row(op, c, {residual, stats, bf16}));
    for (const Case& c :
         {Case{"one_row", {1, 50}}, Case{"odd", {2, 3, 37}}, Case{"many_rows", {500, 64}}})
      for (const bool bf16 : {false, true})
        for (const bool add : {false, true})
          if (bf16 || add) rows.push_back(norm_grad_row(op, c, add, bf16));
  }
}

}  // namespace

std::vector<OpRow> norm_rows() {
  std::vector<OpRow> rows;
  add_softmax(rows);
  add_norms(rows);
  add_asked_norms(rows);
  return rows;
}

}  // namespace fovea::harness

// Functions of one element, of two, select and cast, and chains of them.
#include <cmath>

#include "fovea/graph/elementwise_steps.h"
#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

struct Unary {
  std::string_view op;
  Range range;
  bool gradient = true;
};

void add_unary(std::vector<OpRow>& rows) {
  const Unary all[] = {
      {"neg", {}},
      {"abs", {}},
      {"exp", {-4, 4}},
      {"log", {0.1, 5}},
      {"sqrt", {0.1, 5}},
      {"rsqrt", {0.1, 5}},
      {"tanh", {-4, 4}},
      {"sigmoid", {-6, 6}},
      {"relu", {}},
      {"silu", {-6, 6}},
      {"gelu", {-5, 5}},
      {"square", {}},
      {"reciprocal", {0.3, 3}},
      {"erf", {-3, 3}},
      {"sin", {-4, 4}},
      {"cos", {-4, 4}},
      {"sign", {-2, 2, 0.5}, false},
      {"floor", {-3, 3, 0.25}, false},
  };
  for (const Unary& u : all) {
    OpRow row;
    row.op = u.op;
    row.label = "odd";
    row.build = [op = u.op](Graph& g, DType t) -> std::vector<Value> {
      return {ops::unary(g, op, ops::input(g, "x", t, {3, 37}))};
    };
    if (u.gradient) row.differentiable = {"x"};
    row.ranges = {{"x", u.range}};
    rows.push_back(row);
    row.label = "large";
    row.build = [op = u.op](Graph& g, DType t) -> std::vector<Value> {
      return {ops::unary(g, op, ops::input(g, "x", t, {70, 1001}))};
    };
    row.differentiable.clear();
    rows.push_back(row);
  }
  rows.push_back(
      {.op = "logical_not", .label = "bool", .build = [](Graph& g, DType) -> std::vector<Value> {
         return {ops::unary(g, "logical_not", ops::input(g, "x", DType::boolean, {77}))};
       }});
  // Quotients of -1, 0 and 1 by 0 and 1: numbers, both infinities and NaN.
  rows.push_back({.op = "is_finite",
                  .label = "all_kinds",
                  .build = [](Graph& g, DType t) -> std::vector<Value> {
                    const Value x =
                        ops::div(g, ops::input(g, "a", t, {99}), ops::input(g, "b", t, {99}));
                    return {ops::unary(g, "is_finite", x)};
                  },
                  .ranges = {{"a", {-1, 1, 1}}, {"b", {0, 1, 1}}},
                  .expected = [](const NumbersByName& in) -> std::vector<Numbers> {
                    Numbers y = in.at("b");
                    return {y};
                  }});
}

OpRow binary_row(std::string_view op, std::string label, Shape a, Shape b, Range range_a,
                 Range range_b, bool gradient) {
  OpRow row;
  row.op = op;
  row.label = std::move(label);
  row.build = [op, a, b](Graph& g, DType t) -> std::vector<Value> {
    return {ops::binary(g, op, ops::input(g, "a", t, a), ops::input(g, "b", t, b))};
  };
  if (gradient) row.differentiable = {"a", "b"};
  row.ranges = {{"a", range_a}, {"b", range_b}};
  return row;
}

void add_binary(std::vector<OpRow>& rows) {
  struct Binary {
    std::string_view op;
    Range a, b;
    bool gradient = true;
  };
  const Range grid{-1, 1, 0.5};  // so that equal numbers meet
  const Binary all[] = {
      {"add", {}, {}},
      {"sub", {}, {}},
      {"mul", {}, {}},
      {"div", {}, {0.5, 2}},
      {"max", {}, {}},
      {"min", {}, {}},
      {"pow", {0.3, 2}, {}},
      {"gelu_grad", {-5, 5}, {}, false},
      {"silu_grad", {-6, 6}, {}, false},
      {"tanh_grad", {-0.99, 0.99}, {}, false},
      {"sigmoid_grad", {0.01, 0.99}, {}, false},
      {"relu_grad", {}, {}, false},
      {"equal", grid, grid, false},
      {"not_equal", grid, grid, false},
      {"less", grid, grid, false},
      {"less_equal", grid, grid, false},
      {"greater", grid, grid, false},
      {"greater_equal", grid, grid, false},
  };
  for (const Binary& b : all) {
    rows.push_back(binary_row(b.op, "alike", {3, 37}, {3, 37}, b.a, b.b, b.gradient));
    rows.push_back(binary_row(b.op, "row", {4, 9}, {9}, b.a, b.b, b.gradient));
    rows.push_back(binary_row(b.op, "column", {4, 1}, {4, 9}, b.a, b.b, b.gradient));
    rows.push_back(binary_row(b.op, "both_ways", {2, 1, 5}, {3, 1}, b.a, b.b, b.gradient));
    rows.push_back(binary_row(b.op, "scalar", {}, {2, 17}, b.a, b.b, b.gradient));
    rows.push_back(binary_row(b.op, "large", {90, 701}, {90, 1}, b.a, b.b, false));
  }
  rows.push_back(binary_row("add", "empty", {0, 4}, {4}, {}, {}, false));
  rows.push_back(binary_row("max", "ties", {60}, {60}, grid, grid, false));
  rows.push_back(binary_row("min", "ties", {60}, {60}, grid, grid, false));
  rows.push_back({.op = "add",
                  .label = "to_itself",
                  .build = [](Graph& g, DType t) -> std::vector<Value> {
                    const Value x = ops::input(g, "x", t, {7});
                    return {ops::add(g, x, x)};
                  },
                  .differentiable = {"x"}});
  rows.push_back({.op = "mul",
                  .label = "by_itself",
                  .build = [](Graph& g, DType t) -> std::vector<Value> {
                    const Value x = ops::input(g, "x", t, {7});
                    return {ops::mul(g, x, x)};
                  },
                  .differentiable = {"x"}});
  rows.push_back({.op = "pow",
                  .label = "cube_of_a_negative",
                  .build = [](Graph& g, DType t) -> std::vector<Value> {
                    return {
                        ops::binary(g, "pow", ops::input(g, "x", t, {40}), ops::constant(g, 3, t))};
                  },
                  .differentiable = {"x"}});
  for (std::string_view op : {"add", "sub", "mul", "div", "max", "min", "equal", "less"})
    rows.push_back({.op = std::string(op),
                    .label = "i32",
                    .build = [op](Graph& g, DType) -> std::vector<Value> {
                      return {ops::binary(g, op, ops::input(g, "a", DType::i32, {5, 11}),
                                          ops::input(g, "b", DType::i32, {11}))};
                    },
                    .ranges = {{"a", {-9, 9, 1}}, {"b", {1, 4, 1}}}});
  for (std::string_view op : {"max", "greater"})
    rows.push_back({.op = std::string(op),
                    .label = "u8",
                    .build = [op](Graph& g, DType) -> std::vector<Value> {
                      return {ops::binary(g, op, ops::input(g, "a", DType::u8, {33}),
                                          ops::input(g, "b", DType::u8, {33}))};
                    }});
  for (std::string_view op : {"logical_and", "logical_or"})
    rows.push_back({.op = std::string(op),
                    .label = "broadcast",
                    .build = [op](Graph& g, DType) -> std::vector<Value> {
                      return {ops::binary(g, op, ops::input(g, "a", DType::boolean, {6, 1}),
                                          ops::input(g, "b", DType::boolean, {7}))};
                    }});
}

void add_select(std::vector<OpRow>& rows) {
  struct Shapes {
    std::string label;
    Shape condition, a, b;
    bool gradient = true;
  };
  const Shapes all[] = {
      {"alike", {3, 11}, {3, 11}, {3, 11}},
      {"condition_broadcast", {3, 1}, {3, 4}, {4}},
      {"scalars", {2, 9}, {}, {}},
      {"wide_condition", {2, 3, 4}, {3, 1}, {1, 4}},
      {"large", {300, 301}, {301}, {}, false},
  };
  for (const Shapes& s : all) {
    OpRow row{
        .op = "select", .label = s.label, .build = [s](Graph& g, DType t) -> std::vector<Value> {
          return {ops::select(g, ops::input(g, "condition", DType::boolean, s.condition),
                              ops::input(g, "a", t, s.a), ops::input(g, "b", t, s.b))};
        }};
    if (s.gradient) row.differentiable = {"a", "b"};
    rows.push_back(std::move(row));
  }
  rows.push_back(
      {.op = "select", .label = "i32", .build = [](Graph& g, DType) -> std::vector<Value> {
         return {ops::select(g, ops::input(g, "condition", DType::boolean, {40}),
                             ops::input(g, "a", DType::i32, {40}),
                             ops::constant(g, -7, DType::i32))};
       }});
  // What is not chosen does not spoil what is, not even as infinity.
  rows.push_back(
      {.op = "select", .label = "masking", .build = [](Graph& g, DType t) -> std::vector<Value> {
         return {ops::select(g, ops::input(g, "condition", DType::boolean, {40}),
                             ops::input(g, "a", t, {40}), ops::constant(g, -INFINITY, t))};
       }});
}

void add_cast(std::vector<OpRow>& rows) {
  const auto cast = [](std::string label, DType from, DType to, Range range,
                       std::vector<int64_t> shape = {9, 13}) {
    return OpRow{.op = "cast",
                 .label = std::move(label),
                 .build = [=](Graph& g, DType t) -> std::vector<Value> {
                   const DType source = from == DType::f32 ? t : from;
                   Shape s;
                   for (int64_t n : shape) s.emplace_back(n);
                   Value y = g.add("cast", {ops::input(g, "x", source, s)}, CastAttrs{to});
                   if (to == DType::bf16) y = g.add("cast", {y}, CastAttrs{DType::f32});
                   return {y};
                 },
                 .ranges = {{"x", range}}};
  };
  rows.push_back(cast("to_f32", DType::f32, DType::f32, {}));
  rows.push_back(cast("to_f64", DType::f32, DType::f64, {}));
  rows.push_back(cast("to_i32", DType::f32, DType::i32, {-5, 5, 0.25}));
  rows.push_back(cast("to_u8_beyond_its_range", DType::f32, DType::u8, {-300, 300, 0.5}));
  rows.push_back(cast("to_i8_beyond_its_range", DType::f32, DType::i8, {-300, 300, 0.5}));
  rows.push_back(cast("to_bool", DType::f32, DType::boolean, {-1, 1, 0.5}));
  rows.push_back(cast("to_bf16_and_back", DType::f32, DType::bf16, {}));
  rows.push_back(cast("from_i32", DType::i32, DType::f32, {-99, 99, 1}));
  rows.push_back(cast("from_u8", DType::u8, DType::f32, {0, 255, 1}));
  rows.push_back(cast("from_bool", DType::boolean, DType::f32, {0, 1, 1}));
  rows.push_back(cast("large", DType::f32, DType::i32, {-99, 99}, {300, 301}));
  rows.push_back({.op = "cast",
                  .label = "gradient",
                  .build = [](Graph& g, DType t) -> std::vector<Value> {
                    const Value x = ops::input(g, "x", t, {9});
                    return {g.add("cast", {ops::unary(g, "exp", x)}, CastAttrs{DType::f64})};
                  },
                  .differentiable = {"x"}});
}

struct ChainInput {
  std::string name;
  DType dtype = DType::f32;  // bf16: given in f32 and rounded before
  Shape shape;
  Range range = {};
};

// A chain in one node. The op computes in f32 alone, so the reference is its decomposition in f64,
// which is also what the gradient goes through.
OpRow chain_row(std::string label, std::vector<ChainInput> inputs, std::vector<std::string> steps,
                bool bf16 = false) {
  OpRow row{
      .op = "elementwise",
      .label = std::move(label),
      .build = [=](Graph& g, DType t) -> std::vector<Value> {
        const bool reference = t == DType::f64;
        std::vector<Value> registers;
        for (const ChainInput& i : inputs) {
          const bool narrow = i.dtype == DType::bf16;
          Value v = ops::input(g, i.name, narrow || i.dtype == DType::f32 ? t : i.dtype, i.shape);
          if (narrow && !reference) v = ops::cast(g, v, DType::bf16);
          if (reference && i.dtype != DType::boolean) v = ops::cast(g, v, t);
          registers.push_back(v);
        }
        if (!reference) {
          const Value y = g.add("elementwise", registers,
                                ElementwiseAttrs{steps, bf16 ? TypeChoice::bf16 : TypeChoice::f32});
          return {ops::cast(g, y, t)};
        }
        for (const auto& step : parse_steps(steps, static_cast<int>(inputs.size()))) {
          std::vector<Value> operands;
          for (const int r : step.operands) operands.push_back(registers[static_cast<size_t>(r)]);
          registers.push_back(g.add(step.op->name, operands));
        }
        return {registers.back()};
      },
      .tolerance = bf16 ? 2e-2 : 1e-5};
  for (const ChainInput& i : inputs) {
    if (i.dtype == DType::bf16) row.tolerance = 2e-2;
    if (i.dtype == DType::bf16) row.ranges[i.name] = {-1, 1};
    if (i.range.low != Range{}.low || i.range.high != Range{}.high) row.ranges[i.name] = i.range;
  }
  return row;
}

void add_chains(std::vector<OpRow>& rows) {
  const auto f32 = [](std::string name, Shape shape, Range range = {}) {
    return ChainInput{std::move(name), DType::f32, std::move(shape), range};
  };
  rows.push_back(chain_row("one_step", {f32("x", {3, 37})}, {"gelu 0"}));
  rows.push_back(chain_row("short", {f32("x", {3, 37}), f32("y", {3, 37})},
                           {"mul 0 1", "add 2 0", "tanh 3", "sub 4 1"}));
  rows.back().differentiable = {"x", "y"};
  rows.push_back(chain_row("large", {f32("x", {90, 701}), f32("y", {90, 701})},
                           {"mul 0 1", "exp 2", "sigmoid 3", "sub 4 1"}));
  rows.push_back(chain_row("scalars", {f32("x", {}, {0.1, 4}), f32("y", {})},
                           {"sqrt 0", "mul 2 1", "max 3 0"}));
  rows.push_back(
      chain_row("row_and_column", {f32("x", {1, 37}), f32("y", {5, 1})}, {"mul 0 1", "silu 2"}));
  rows.push_back(chain_row(
      "broadcast", {f32("x", {2, 3, 5}), f32("row", {5}), f32("column", {3, 1}), f32("one", {})},
      {"mul 0 1", "add 4 2", "max 5 3", "square 6"}));
  rows.push_back(chain_row("broadcast_large",
                           {f32("x", {33, 49, 64}), f32("row", {64}), f32("sample", {33, 1, 1})},
                           {"sub 0 1", "mul 3 2", "gelu 4"}));
  rows.push_back(chain_row("select",
                           {f32("x", {4, 33}), f32("y", {33}), f32("zero", {}, {0, 0.5, 1})},
                           {"greater 0 1", "is_finite 0", "logical_and 3 4", "select 5 0 2"}));
  rows.push_back(chain_row("select_by_input",
                           {{"mask", DType::boolean, {4, 1}}, f32("x", {4, 33}), f32("y", {33})},
                           {"logical_not 0", "select 3 1 2", "mul 4 4"}));
  rows.push_back(chain_row("comparisons",
                           {f32("x", {99}, {-1, 1, 0.5}), f32("y", {99}, {-1, 1, 0.5})},
                           {"equal 0 1", "less 0 1", "logical_or 2 3", "greater_equal 0 1",
                            "not_equal 0 1", "logical_and 5 6", "logical_or 4 7", "select 8 0 1"}));
  rows.push_back(chain_row("pixels",
                           {{"x", DType::u8, {7, 29}}, f32("mean", {29}), f32("scale", {})},
                           {"sub 0 1", "mul 3 2"}));
  rows.push_back(chain_row("counts", {{"x", DType::i32, {51}, {-999, 999, 1}}, f32("y", {51})},
                           {"mul 0 1", "add 2 0"}));
  rows.push_back(chain_row("bf16_in", {{"x", DType::bf16, {5, 77}}, {"y", DType::bf16, {77}}},
                           {"mul 0 1", "exp 2", "neg 3"}));
  rows.push_back(
      chain_row("bf16_out", {f32("x", {5, 77}), f32("y", {5, 1})}, {"mul 0 1", "tanh 2"}, true));
  rows.push_back(chain_row("bf16_all_large",
                           {{"x", DType::bf16, {90, 701}}, {"y", DType::bf16, {701}}},
                           {"add 0 1", "gelu 2", "mul 3 0"}, true));
  rows.push_back(chain_row("gradients", {f32("x", {3, 41}), f32("dy", {3, 41})},
                           {"gelu_grad 0 1", "silu_grad 0 2", "relu_grad 0 3"}));
  rows.push_back(
      chain_row("one_input_often", {f32("x", {45})}, {"add 0 0", "mul 1 1", "sub 2 0", "mul 3 0"}));
  rows.push_back(chain_row("empty", {f32("x", {0, 5}), f32("y", {5})}, {"add 0 1", "exp 2"}));
  // As many inputs and steps as fuse_elementwise makes.
  std::vector<ChainInput> inputs;
  std::vector<std::string> steps;
  for (int i = 0; i < 12; ++i) inputs.push_back(f32("x" + std::to_string(i), {3, i % 2 ? 1 : 19}));
  for (int i = 0; i < 24; ++i)
    steps.push_back(i < 11 ? "add " + std::to_string(i ? 11 + i : 0) + " " + std::to_string(i + 1)
                           : "sin " + std::to_string(11 + i));
  rows.push_back(chain_row("long", inputs, steps));
  // Every function there is, each on the input.
  for (std::string_view op :
       {"neg", "abs", "exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "relu", "silu", "gelu",
        "square", "reciprocal", "erf", "sin", "cos", "sign", "floor"})
    rows.push_back(chain_row("step_" + std::string(op), {f32("x", {3, 37}, {0.3, 4})},
                             {std::string(op) + " 0", "neg 1"}));
  for (std::string_view op : {"add", "sub", "mul", "div", "max", "min", "pow"})
    rows.push_back(chain_row("step_" + std::string(op),
                             {f32("x", {3, 37}, {0.3, 3}), f32("y", {37}, {0.3, 3})},
                             {std::string(op) + " 0 1", "neg 2"}));
}

}  // namespace

std::vector<OpRow> elementwise_rows() {
  std::vector<OpRow> rows;
  add_unary(rows);
  add_binary(rows);
  add_select(rows);
  add_cast(rows);
  add_chains(rows);
  return rows;
}

}  // namespace fovea::harness

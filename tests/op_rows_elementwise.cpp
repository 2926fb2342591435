// Functions of one element, of two, select and cast.
#include <cmath>

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

}  // namespace

std::vector<OpRow> elementwise_rows() {
  std::vector<OpRow> rows;
  add_unary(rows);
  add_binary(rows);
  add_select(rows);
  add_cast(rows);
  return rows;
}

}  // namespace fovea::harness

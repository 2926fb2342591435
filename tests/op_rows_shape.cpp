// Ops that move elements, patches and reductions.
#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

// A row of one input x of the given shape, and one output.
OpRow of_x(std::string op, std::string label, Shape shape,
           std::function<Value(Graph&, Value)> build, bool gradient = true) {
  OpRow row;
  row.op = std::move(op);
  row.label = std::move(label);
  row.build = [shape = std::move(shape), build = std::move(build)](Graph& g,
                                                                   DType t) -> std::vector<Value> {
    return {build(g, ops::input(g, "x", t, shape))};
  };
  if (gradient) row.differentiable = {"x"};
  return row;
}

void add_moves(std::vector<OpRow>& rows) {
  const auto broadcast = [&](std::string label, Shape from, Shape to, bool gradient = true) {
    rows.push_back(of_x(
        "broadcast", std::move(label), std::move(from),
        [to](Graph& g, Value x) { return ops::broadcast(g, x, to); }, gradient));
  };
  broadcast("rows", {5}, {3, 5});
  broadcast("columns", {3, 1}, {3, 5});
  broadcast("middle", {2, 1, 3}, {2, 4, 3});
  broadcast("scalar", {}, {2, 3});
  broadcast("large", {1, 300}, {301, 300}, false);

  const auto reshape = [&](std::string label, Shape from, Shape to) {
    rows.push_back(of_x("reshape", std::move(label), std::move(from), [to](Graph& g, Value x) {
      return ops::unary(g, "exp", ops::reshape(g, ops::unary(g, "neg", x), to));
    }));
  };
  reshape("flatten", {2, 3, 4}, {24});
  reshape("split", {12}, {3, 4});
  reshape("to_scalar", {1, 1}, {});

  const auto transpose = [&](std::string label, Shape from, std::vector<int64_t> order,
                             bool gradient = true) {
    rows.push_back(of_x(
        "transpose", std::move(label), std::move(from),
        [order](Graph& g, Value x) { return ops::transpose(g, x, order); }, gradient));
  };
  transpose("matrix", {5, 7}, {1, 0});
  transpose("heads", {2, 5, 3, 4}, {0, 2, 1, 3});
  transpose("cycle", {2, 3, 4}, {2, 0, 1});
  transpose("nothing", {2, 3}, {0, 1});
  transpose("large", {310, 290}, {1, 0}, false);
  transpose("large_heads", {3, 65, 4, 96}, {0, 2, 1, 3}, false);

  const auto concat = [&](std::string label, std::vector<Shape> shapes, int64_t axis) {
    OpRow row;
    row.op = "concat";
    row.label = std::move(label);
    for (size_t i = 0; i < shapes.size(); ++i)
      row.differentiable.push_back("x" + std::to_string(i));
    row.build = [shapes, axis](Graph& g, DType t) -> std::vector<Value> {
      std::vector<Value> parts;
      for (size_t i = 0; i < shapes.size(); ++i)
        parts.push_back(ops::input(g, "x" + std::to_string(i), t, shapes[i]));
      return {ops::concat(g, parts, axis)};
    };
    rows.push_back(std::move(row));
  };
  concat("first_axis", {{2, 3}, {1, 3}, {4, 3}}, 0);
  concat("last_axis", {{2, 3}, {2, 5}}, -1);
  concat("middle_axis", {{2, 1, 3}, {2, 4, 3}}, 1);
  concat("one", {{2, 3}}, 0);
  concat("with_an_empty_one", {{2, 3}, {0, 3}, {1, 3}}, 0);
  rows.push_back(of_x("concat", "twice_the_same", {2, 3}, [](Graph& g, Value x) {
    return ops::concat(g, {x, x}, 1);
  }));

  const auto slice = [&](std::string label, Shape from, int64_t axis, int64_t start,
                         int64_t length) {
    rows.push_back(of_x("slice", std::move(label), std::move(from),
                        [=](Graph& g, Value x) { return ops::slice(g, x, axis, start, length); }));
  };
  slice("first_axis", {5, 4}, 0, 1, 3);
  slice("last_axis", {5, 9}, -1, 4, 5);
  slice("middle_axis", {2, 6, 3}, 1, 2, 1);
  slice("all", {3, 4}, 0, 0, 3);
  slice("nothing", {3, 4}, 1, 2, 0);

  const auto pad = [&](std::string label, Shape from, int64_t axis, int64_t before, int64_t after) {
    rows.push_back(of_x("pad", std::move(label), std::move(from),
                        [=](Graph& g, Value x) { return ops::pad(g, x, axis, before, after); }));
  };
  pad("first_axis", {2, 4}, 0, 1, 2);
  pad("last_axis", {2, 5}, -1, 3, 0);
  pad("middle_axis", {2, 3, 2}, 1, 0, 2);
  pad("nothing", {2, 3}, 0, 0, 0);

  const auto iota = [&](std::string label, DType dtype, std::vector<int64_t> shape, int64_t axis,
                        Numbers expected) {
    rows.push_back(
        {.op = "iota",
         .label = std::move(label),
         .build = [=](Graph& g, DType t) -> std::vector<Value> {
           Shape s;
           for (int64_t n : shape) s.emplace_back(n);
           return {ops::iota(g, dtype == DType::f32 ? t : dtype, s, axis)};
         },
         .expected = [=](const NumbersByName&) { return std::vector<Numbers>{expected}; }});
  };
  iota("i32", DType::i32, {5}, 0, {0, 1, 2, 3, 4});
  iota("float", DType::f32, {2, 3}, 1, {0, 1, 2, 0, 1, 2});
  iota("first_axis", DType::i32, {3, 2}, -2, {0, 0, 1, 1, 2, 2});
}

void add_patches(std::vector<OpRow>& rows) {
  struct Image {
    std::string label;
    int64_t b, h, w, c, s;
  };
  for (const Image& i : {Image{"two_channels", 2, 4, 6, 2, 2}, Image{"whole", 1, 3, 3, 1, 3},
                         Image{"single_pixels", 1, 2, 3, 2, 1}}) {
    OpRow row = of_x("patches", i.label, {i.b, i.h, i.w, i.c},
                     [s = i.s](Graph& g, Value x) { return ops::patches(g, x, s); });
    row.expected = [i](const NumbersByName& in) -> std::vector<Numbers> {
      const Numbers& x = in.at("x");
      Numbers y;
      for (int64_t b = 0; b < i.b; ++b)
        for (int64_t r = 0; r < i.h; r += i.s)
          for (int64_t c = 0; c < i.w; c += i.s)
            for (int64_t u = r; u < r + i.s; ++u)
              for (int64_t v = c; v < c + i.s; ++v)
                for (int64_t k = 0; k < i.c; ++k)
                  y.push_back(x[static_cast<size_t>(((b * i.h + u) * i.w + v) * i.c + k)]);
      return {y};
    };
    rows.push_back(std::move(row));
  }
}

void add_reductions(std::vector<OpRow>& rows) {
  struct Case {
    std::string label;
    Shape shape;
    std::vector<int64_t> axes;
    bool keep = false;
    bool gradient = true;
  };
  const Case all[] = {
      {"last", {5, 23}, {-1}},
      {"first", {5, 7}, {0}},
      {"middle_kept", {2, 5, 3}, {1}, true},
      {"outer", {2, 3, 4}, {0, 2}},
      {"all", {3, 4, 2}, {0, 1, 2}},
      {"none", {2, 3}, {}},
      {"of_size_one", {4, 1}, {1}},
      {"large_last", {40, 3001}, {1}, false, false},
      {"large_first", {3001, 40}, {0}, false, false},
      {"large_all", {301, 303}, {0, 1}, false, false},
  };
  for (std::string_view op : {"reduce_sum", "reduce_mean", "reduce_max", "reduce_min"})
    for (const Case& c : all)
      rows.push_back(of_x(
          std::string(op), c.label, c.shape,
          [op, c](Graph& g, Value x) {
            return g.add(op, {x}, ReduceAttrs{c.axes, c.keep});
          },
          c.gradient));
  for (std::string_view op : {"reduce_sum", "reduce_max", "reduce_min"})
    rows.push_back(
        {.op = std::string(op),
         .label = "i32",
         .build = [op](Graph& g, DType) -> std::vector<Value> {
           return {g.add(op, {ops::input(g, "x", DType::i32, {6, 9})}, ReduceAttrs{{1}, false})};
         },
         .ranges = {{"x", {-99, 99, 1}}}});
  // Over no elements the sum is 0.
  OpRow empty = of_x(
      "reduce_sum", "of_nothing", {0, 3},
      [](Graph& g, Value x) { return ops::reduce_sum(g, x, {0}); }, false);
  empty.expected = [](const NumbersByName&) { return std::vector<Numbers>{Numbers{0, 0, 0}}; };
  rows.push_back(std::move(empty));
  // Equal extrema share the gradient; the sum over them is what the loss sees when all move.
  rows.push_back(of_x("reduce_max", "of_a_doubled_input", {3, 4}, [](Graph& g, Value x) {
    return g.add("reduce_max", {ops::concat(g, {x, x}, 1)}, ReduceAttrs{{1}, false});
  }));
}

}  // namespace

std::vector<OpRow> shape_rows() {
  std::vector<OpRow> rows;
  add_moves(rows);
  add_patches(rows);
  add_reductions(rows);
  return rows;
}

}  // namespace fovea::harness

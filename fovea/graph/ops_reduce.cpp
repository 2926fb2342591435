// Sums, means and extrema over axes.
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

using Values = std::vector<Value>;

std::vector<bool> reduced_axes(const ReduceAttrs& a, size_t rank) {
  std::vector<bool> reduced(rank);
  for (int64_t axis : a.axes) reduced[axis_index(axis, rank)] = true;
  return reduced;
}

std::vector<ValueType> infer_reduce(const InferContext& c) {
  const auto& a = c.attrs.get<ReduceAttrs>();
  const ValueType& x = c.inputs[0];
  c.expect(is_floating(x.dtype) || x.dtype == DType::i32, "expected a floating type or i32");
  std::vector<bool> reduced(x.rank());
  for (int64_t axis : a.axes) {
    const size_t i = c.axis(axis, x.rank());
    c.expect(!reduced[i], "an axis is named twice");
    reduced[i] = true;
  }
  ValueType out{x.dtype, {}};
  for (size_t i = 0; i < x.rank(); ++i)
    if (!reduced[i])
      out.shape.push_back(x.shape[i]);
    else if (a.keep)
      out.shape.push_back(1);
  return {out};
}

Size reduce_flops(const Graph& g, const Node& n) { return element_count(g.shape(n.inputs[0])); }

// The value with reduced axes standing as 1, so that it broadcasts against the input.
Value kept(Graph& g, Value v, const ReduceAttrs& a, const Shape& input) {
  Shape shape = input;
  const auto reduced = reduced_axes(a, input.size());
  for (size_t i = 0; i < shape.size(); ++i)
    if (reduced[i]) shape[i] = 1;
  return ops::reshape(g, v, shape);
}

Values sum_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Shape shape = g.shape(c.input(0));
  const auto a = c.node().attrs.get<ReduceAttrs>();
  return {ops::broadcast(g, kept(g, c.gradient(), a, shape), shape)};
}

// 1 / n as a value: n is a size that may be known only when the plan is made, so it is counted.
Value reciprocal_count(Graph& g, const ReduceAttrs& a, const Shape& shape, DType dtype) {
  Size n = 1;
  const auto reduced = reduced_axes(a, shape.size());
  for (size_t i = 0; i < shape.size(); ++i)
    if (reduced[i]) n = n * shape[i];
  if (n.is_constant()) return ops::constant(g, 1.0 / static_cast<double>(n.constant()), dtype);
  const Value ones = ops::broadcast(g, ops::constant(g, 1, dtype), {n});
  return ops::unary(g, "reciprocal", ops::reduce_sum(g, ones, {0}));
}

Values mean_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Shape shape = g.shape(c.input(0));
  const auto a = c.node().attrs.get<ReduceAttrs>();
  const Value share =
      ops::mul(g, c.gradient(), reciprocal_count(g, a, shape, g.type(c.input(0)).dtype));
  return {ops::broadcast(g, kept(g, share, a, shape), shape)};
}

// Shared equally among the elements that are the extremum.
Values extremum_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Shape shape = g.shape(c.input(0));
  const DType dtype = g.type(c.input(0)).dtype;
  const auto a = c.node().attrs.get<ReduceAttrs>();
  const Value hit =
      ops::cast(g, ops::binary(g, "equal", c.input(0), kept(g, c.output(), a, shape)), dtype);
  const Value count = ops::reduce_sum(g, hit, a.axes, true);
  const Value share = ops::div(g, kept(g, c.gradient(), a, shape), count);
  return {ops::mul(g, hit, share)};
}

// Any number of values -> the sum of the squares of all their elements, a scalar.
std::vector<ValueType> infer_sum_squares(const InferContext& c) {
  for (const ValueType& x : c.inputs)
    c.expect(is_floating(x.dtype) && x.dtype == c.inputs[0].dtype, "expected one floating type");
  return {{c.inputs[0].dtype, {}}};
}
Size sum_squares_flops(const Graph& g, const Node& n) {
  Size elements = 0;
  for (Value v : n.inputs) elements = elements + element_count(g.shape(v));
  return Size(2) * elements;
}
Values decompose_sum_squares(Graph& g, std::span<const Value> in, const Attrs&) {
  Value sum;
  for (Value v : in) {
    Value part = ops::unary(g, "square", v);
    std::vector<int64_t> axes;
    for (size_t i = 0; i < g.shape(v).size(); ++i) axes.push_back(static_cast<int64_t>(i));
    if (!axes.empty()) part = ops::reduce_sum(g, part, axes);
    sum = sum ? ops::add(g, sum, part) : part;
  }
  return {sum};
}

}  // namespace

std::span<const Op> reduce_ops() {
  static const std::vector<Op> ops = {
      {.name = "reduce_sum",
       .defaults = ReduceAttrs{},
       .infer = infer_reduce,
       .flops = reduce_flops,
       .gradient = sum_gradient},
      {.name = "reduce_mean",
       .defaults = ReduceAttrs{},
       .infer = infer_reduce,
       .flops = reduce_flops,
       .gradient = mean_gradient},
      {.name = "reduce_max",
       .defaults = ReduceAttrs{},
       .infer = infer_reduce,
       .flops = reduce_flops,
       .gradient = extremum_gradient},
      {.name = "reduce_min",
       .defaults = ReduceAttrs{},
       .infer = infer_reduce,
       .flops = reduce_flops,
       .gradient = extremum_gradient},
      {.name = "sum_squares",
       .max_inputs = -1,
       .infer = infer_sum_squares,
       .flops = sum_squares_flops,
       .decompose = decompose_sum_squares},
  };
  return ops;
}

}  // namespace fovea

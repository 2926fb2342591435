// Rows of tables by index, and dropout.
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

using Values = std::vector<Value>;

std::vector<ValueType> infer_gather(const InferContext& c) {
  const ValueType &table = c.inputs[0], &indices = c.inputs[1];
  c.expect(table.rank() == 2 && is_floating(table.dtype),
           "expected a table [V,C] of a floating type");
  c.expect(indices.dtype == DType::i32, "expected i32 indices");
  ValueType out{table.dtype, indices.shape};
  out.shape.push_back(table.shape[1]);
  return {out};
}
Values gather_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Shape table = g.shape(c.input(0));
  return {ops::scatter_add(g, c.gradient(), c.input(1), table[0]), {}};
}

std::vector<ValueType> infer_scatter_add(const InferContext& c) {
  const ValueType &updates = c.inputs[0], &indices = c.inputs[1];
  c.expect(indices.dtype == DType::i32, "expected i32 indices");
  c.expect(is_floating(updates.dtype) && updates.rank() == indices.rank() + 1,
           "expected updates [..,C] for indices [..]");
  for (size_t i = 0; i < indices.rank(); ++i)
    c.same(updates.shape[i], indices.shape[i], "the sizes of updates and indices");
  return {{updates.dtype, {c.attrs.get<ScatterAddAttrs>().rows, updates.shape.back()}}};
}
Size scatter_add_flops(const Graph& g, const Node& n) {
  return element_count(g.shape(n.inputs[0]));
}
Values scatter_add_gradient(GradientContext& c) {
  return {ops::gather(c.graph, c.gradient(), c.input(1)), {}};
}

std::vector<ValueType> infer_dropout(const InferContext& c) {
  const double rate = c.attrs.get<DropoutAttrs>().rate;
  c.expect(rate >= 0 && rate < 1, "expected a rate from 0 up to, not including, 1");
  c.expect(is_floating(c.inputs[0].dtype) && c.inputs[0].rank() >= 1,
           "expected a floating type with the batch first");
  c.expect(c.inputs[1].dtype == DType::i32 && c.inputs[1].shape == Shape{3},
           "expected rng i32[3]: seed, step, first sample");
  return {c.inputs[0]};
}
// The same mask on the way back.
Values dropout_gradient(GradientContext& c) {
  auto a = c.node().attrs.get<DropoutAttrs>();
  if (a.stream.empty()) a.stream = c.node().name;
  const Value rng = c.input(1);
  return {c.graph.add("dropout", {c.gradient(), rng}, a), {}};
}

}  // namespace

std::span<const Op> index_ops() {
  static const std::vector<Op> ops = {
      {.name = "gather",
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_gather,
       .flops = [](const Graph&, const Node&) { return Size(0); },
       .gradient = gather_gradient},
      {.name = "scatter_add",
       .defaults = ScatterAddAttrs{},
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_scatter_add,
       .flops = scatter_add_flops,
       .gradient = scatter_add_gradient},
      {.name = "dropout",
       .defaults = DropoutAttrs{},
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_dropout,
       .gradient = dropout_gradient,
       .random = true,
       .in_place = true},
  };
  return ops;
}

}  // namespace fovea

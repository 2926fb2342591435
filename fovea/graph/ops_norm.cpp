// Softmax and the norms, over the last axis.
#include "fovea/graph/gradient.h"
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

using Values = std::vector<Value>;

std::vector<ValueType> infer_softmax(const InferContext& c) {
  c.expect(is_floating(c.inputs[0].dtype) && c.inputs[0].rank() >= 1,
           "expected a floating type with at least one axis");
  return {c.inputs[0]};
}
std::vector<ValueType> infer_softmax_grad(const InferContext& c) {
  c.alike(c.inputs[1], c.inputs[0], "the result and its gradient");
  return infer_softmax(c);
}
Size five_flops(const Graph&, const Node& n) { return Size(5) * element_count(n.types[0].shape); }

// A row that is wholly -inf gives zeros, so the decomposition shifts by a finite maximum.
Values decompose_softmax(Graph& g, std::span<const Value> in, const Attrs&) {
  const DType dtype = g.type(in[0]).dtype;
  const Value zero = ops::constant(g, 0, dtype);
  Value top = g.add("reduce_max", {in[0]}, ReduceAttrs{{-1}, true});
  top = ops::select(g, ops::unary(g, "is_finite", top), top, zero);
  const Value e = ops::unary(g, "exp", ops::sub(g, in[0], top));
  const Value sum = ops::reduce_sum(g, e, {-1}, true);
  const Value empty = ops::binary(g, "equal", sum, zero);
  return {ops::div(g, e, ops::select(g, empty, ops::constant(g, 1, dtype), sum))};
}
Values decompose_log_softmax(Graph& g, std::span<const Value> in, const Attrs&) {
  Value top = g.add("reduce_max", {in[0]}, ReduceAttrs{{-1}, true});
  top =
      ops::select(g, ops::unary(g, "is_finite", top), top, ops::constant(g, 0, g.type(top).dtype));
  const Value x = ops::sub(g, in[0], top);
  return {ops::sub(g, x,
                   ops::unary(g, "log", ops::reduce_sum(g, ops::unary(g, "exp", x), {-1}, true)))};
}
// dx = y (dy - sum(y dy))
Values decompose_softmax_grad(Graph& g, std::span<const Value> in, const Attrs&) {
  const Value dot = ops::reduce_sum(g, ops::mul(g, in[0], in[1]), {-1}, true);
  return {ops::mul(g, in[0], ops::sub(g, in[1], dot))};
}
// dx = dy - exp(y) sum(dy)
Values decompose_log_softmax_grad(Graph& g, std::span<const Value> in, const Attrs&) {
  const Value sum = ops::reduce_sum(g, in[1], {-1}, true);
  return {ops::sub(g, in[1], ops::mul(g, ops::unary(g, "exp", in[0]), sum))};
}
Values softmax_gradient(GradientContext& c) {
  return {c.graph.add("softmax_grad", {c.output(), c.gradient()})};
}
Values log_softmax_gradient(GradientContext& c) {
  return {c.graph.add("log_softmax_grad", {c.output(), c.gradient()})};
}

// x [..,C] and each of the weights [C].
void expect_rows(const InferContext& c, std::span<const ValueType> weights) {
  const ValueType& x = c.inputs[0];
  c.expect(is_floating(x.dtype) && x.rank() >= 1,
           "expected a floating type with at least one axis");
  for (const ValueType& w : weights) {
    c.expect(w.rank() == 1 && w.dtype == x.dtype, "expected a weight and a bias [C]");
    c.same(w.shape[0], x.shape.back(), "the sizes of rows and weights");
  }
}
// One statistic of each row of x.
ValueType statistic_type(const ValueType& x) {
  return {x.dtype, Shape(x.shape.begin(), x.shape.end() - 1)};
}

// x [..,C], weight [C] (and bias [C]) -> y, and on request mean and reciprocal deviation of each
// row.
std::vector<ValueType> infer_norm(const InferContext& c) {
  const ValueType& x = c.inputs[0];
  expect_rows(c, c.inputs.subspan(1));
  std::vector<ValueType> out = {x};
  if (c.attrs.get<NormAttrs>().stats) {
    const ValueType row = statistic_type(x);
    if (c.op.name == "layer_norm") out.push_back(row);
    out.push_back(row);
  }
  return out;
}
Size norm_flops(const Graph&, const Node& n) { return Size(8) * element_count(n.types[0].shape); }

Attrs with_stats(const Attrs& attrs) {
  auto a = attrs.get<NormAttrs>();
  a.stats = true;
  return a;
}
Attrs without_stats(const Attrs& attrs, const std::vector<bool>& used) {
  auto a = attrs.get<NormAttrs>();
  for (size_t i = 1; i < used.size(); ++i)
    if (used[i]) return attrs;
  a.stats = false;
  return a;
}

// The outputs y and its row statistics from x - mean and the reciprocal deviation.
Values decompose_layer_norm(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  const auto& a = attrs.get<NormAttrs>();
  const DType dtype = g.type(in[0]).dtype;
  const Shape x = g.shape(in[0]);
  const Value mean = ops::reduce_mean(g, in[0], {-1}, true);
  const Value centred = ops::sub(g, in[0], mean);
  const Value variance = ops::reduce_mean(g, ops::unary(g, "square", centred), {-1}, true);
  const Value rstd = ops::unary(g, "rsqrt", ops::add(g, variance, ops::constant(g, a.eps, dtype)));
  const Value y = ops::add(g, ops::mul(g, ops::mul(g, centred, rstd), in[1]), in[2]);
  if (!a.stats) return {y};
  const Shape rows(x.begin(), x.end() - 1);
  return {y, ops::reshape(g, mean, rows), ops::reshape(g, rstd, rows)};
}
Values decompose_rms_norm(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  const auto& a = attrs.get<NormAttrs>();
  const Shape x = g.shape(in[0]);
  const Value power = ops::reduce_mean(g, ops::unary(g, "square", in[0]), {-1}, true);
  const Value rstd =
      ops::unary(g, "rsqrt", ops::add(g, power, ops::constant(g, a.eps, g.type(in[0]).dtype)));
  const Value y = ops::mul(g, ops::mul(g, in[0], rstd), in[1]);
  if (!a.stats) return {y};
  return {y, ops::reshape(g, rstd, Shape(x.begin(), x.end() - 1))};
}

// What a training pass asked to be saved, or the same computed again.
Value statistic(GradientContext& c, int output) {
  if (c.node().types.size() > 1) return c.output(output);
  const auto node = c.node();
  const Value again = c.graph.add(node.op->name, node.inputs, with_stats(node.attrs));
  return {again.node, output};
}

// Whether a gradient reaches the statistics: the kernels take that of y only.
bool through_statistics(const GradientContext& c) {
  for (size_t i = 1; i < c.output_gradients.size(); ++i)
    if (c.output_gradients[i]) return true;
  return false;
}

Values layer_norm_gradient(GradientContext& c) {
  if (through_statistics(c)) return gradient_through_decomposition(c);
  const Value mean = statistic(c, 1), rstd = statistic(c, 2);
  const Value d =
      c.graph.add("layer_norm_grad", {c.input(0), c.input(1), mean, rstd, c.gradient()});
  return {{d.node, 0}, {d.node, 1}, {d.node, 2}};
}
Values rms_norm_gradient(GradientContext& c) {
  if (through_statistics(c)) return gradient_through_decomposition(c);
  const Value rstd = statistic(c, 1);
  const Value d = c.graph.add("rms_norm_grad", {c.input(0), c.input(1), rstd, c.gradient()});
  return {{d.node, 0}, {d.node, 1}};
}

// x, weight, statistics.., dy -> dx, dweight (, dbias)
std::vector<ValueType> infer_norm_grad(const InferContext& c) {
  const ValueType& x = c.inputs[0];
  expect_rows(c, c.inputs.subspan(1, 1));
  c.alike(c.inputs.back(), x, "x and its gradient");
  const ValueType row = statistic_type(x);
  for (size_t i = 2; i + 1 < c.inputs.size(); ++i)
    c.alike(c.inputs[i], row, "rows and their statistics");
  std::vector<ValueType> out = {x, c.inputs[1]};
  if (c.op.name == "layer_norm_grad") out.push_back(c.inputs[1]);
  return out;
}
Size norm_grad_flops(const Graph&, const Node& n) {
  return Size(14) * element_count(n.types[0].shape);
}

}  // namespace

std::span<const Op> norm_ops() {
  static const std::vector<Op> ops = {
      {.name = "softmax",
       .infer = infer_softmax,
       .flops = five_flops,
       .gradient = softmax_gradient,
       .decompose = decompose_softmax},
      {.name = "softmax_grad",
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_softmax_grad,
       .flops = five_flops,
       .decompose = decompose_softmax_grad},
      {.name = "log_softmax",
       .infer = infer_softmax,
       .flops = five_flops,
       .gradient = log_softmax_gradient,
       .decompose = decompose_log_softmax},
      {.name = "log_softmax_grad",
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_softmax_grad,
       .flops = five_flops,
       .decompose = decompose_log_softmax_grad},
      {.name = "layer_norm",
       .defaults = NormAttrs{},
       .min_inputs = 3,
       .max_inputs = 3,
       .infer = infer_norm,
       .flops = norm_flops,
       .gradient = layer_norm_gradient,
       .decompose = decompose_layer_norm,
       .saving = with_stats,
       .without_unused = without_stats},
      {.name = "layer_norm_grad",
       .min_inputs = 5,
       .max_inputs = 5,
       .infer = infer_norm_grad,
       .flops = norm_grad_flops,
       .no_gradient = true},
      {.name = "rms_norm",
       .defaults = NormAttrs{},
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_norm,
       .flops = norm_flops,
       .gradient = rms_norm_gradient,
       .decompose = decompose_rms_norm,
       .saving = with_stats,
       .without_unused = without_stats},
      {.name = "rms_norm_grad",
       .min_inputs = 4,
       .max_inputs = 4,
       .infer = infer_norm_grad,
       .flops = norm_grad_flops,
       .no_gradient = true},
  };
  return ops;
}

}  // namespace fovea

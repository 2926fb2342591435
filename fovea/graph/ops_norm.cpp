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

// x [..,C], perhaps a residual [..,C], weight [C] (and bias [C]) -> y, the sum if there is a
// residual, and on request mean and reciprocal deviation of each row.
std::vector<ValueType> infer_norm(const InferContext& c) {
  const ValueType& x = c.inputs[0];
  const auto& a = c.attrs.get<NormAttrs>();
  const size_t wanted = (c.op.name == "layer_norm" ? 3u : 2u) + (a.residual ? 1u : 0u);
  c.expect(c.inputs.size() == wanted,
           "expected x, a residual if the attribute says so, and weights");
  expect_rows(c, c.inputs.subspan(a.residual ? 2 : 1));
  c.expect(a.out == TypeChoice::same || x.dtype == DType::f32,
           "expected f32 where the result is to have another type");
  std::vector<ValueType> out = {{chosen_type(a.out, x.dtype), x.shape}};
  if (a.residual) {
    c.alike(c.inputs[1], x, "x and its residual");
    out.push_back(x);
  }
  if (a.stats) {
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
  for (size_t i = a.residual ? 2 : 1; i < used.size(); ++i)
    if (used[i]) return attrs;
  a.stats = false;
  return a;
}

// What the norm is of, where a residual comes first.
Value norm_input(Graph& g, std::span<const Value> in, bool residual) {
  return residual ? ops::add(g, in[0], in[1]) : in[0];
}
// y (in the type that is asked for), the sum, the statistics.
Values norm_outputs(Graph& g, const NormAttrs& a, Value y, Value x, const Values& statistics) {
  const Shape shape = g.shape(x);
  Values out = {ops::cast(g, y, chosen_type(a.out, g.type(x).dtype))};
  if (a.residual) out.push_back(x);
  if (a.stats)
    for (Value v : statistics)
      out.push_back(ops::reshape(g, v, Shape(shape.begin(), shape.end() - 1)));
  return out;
}
Values decompose_layer_norm(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  const auto& a = attrs.get<NormAttrs>();
  const Value x = norm_input(g, in, a.residual);
  const Value weight = in[in.size() - 2], bias = in.back();
  const Value mean = ops::reduce_mean(g, x, {-1}, true);
  const Value centred = ops::sub(g, x, mean);
  const Value variance = ops::reduce_mean(g, ops::unary(g, "square", centred), {-1}, true);
  const Value eps = ops::constant(g, a.eps, g.type(x).dtype);
  const Value rstd = ops::unary(g, "rsqrt", ops::add(g, variance, eps));
  const Value y = ops::add(g, ops::mul(g, ops::mul(g, centred, rstd), weight), bias);
  return norm_outputs(g, a, y, x, {mean, rstd});
}
Values decompose_rms_norm(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  const auto& a = attrs.get<NormAttrs>();
  const Value x = norm_input(g, in, a.residual);
  const Value power = ops::reduce_mean(g, ops::unary(g, "square", x), {-1}, true);
  const Value eps = ops::constant(g, a.eps, g.type(x).dtype);
  const Value rstd = ops::unary(g, "rsqrt", ops::add(g, power, eps));
  return norm_outputs(g, a, ops::mul(g, ops::mul(g, x, rstd), in.back()), x, {rstd});
}

// The gradient of a norm with one output or more: of y through the kernels' op, of the sum as it
// is; that of the statistics goes through the decomposition.
Values norm_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Node node = c.node();
  const auto a = node.attrs.get<NormAttrs>();
  const bool layer = node.op->name == "layer_norm";
  const size_t first_statistic = a.residual ? 2 : 1;
  bool through_statistics = false;
  for (size_t i = first_statistic; i < c.output_gradients.size(); ++i)
    through_statistics = through_statistics || c.output_gradients[i];
  if (through_statistics) return gradient_through_decomposition(c);

  Values out(node.inputs.size());
  const Value d_sum = a.residual ? c.gradient(1) : Value{};
  Value dx = d_sum;
  if (c.gradient()) {
    // What a training pass asked to be saved, or the same computed again.
    const Value saved =
        a.stats ? c.output() : g.add(node.op->name, node.inputs, with_stats(node.attrs));
    const Value x = a.residual ? Value{saved.node, 1} : node.inputs[0];
    const size_t weight = a.residual ? 2 : 1;
    Values inputs = {x, node.inputs[weight]};
    for (int i = 0; i < (layer ? 2 : 1); ++i)
      inputs.push_back({saved.node, static_cast<int32_t>(first_statistic) + i});
    inputs.push_back(c.gradient());
    if (d_sum) inputs.push_back(d_sum);
    const Value d = g.add(layer ? "layer_norm_grad" : "rms_norm_grad", inputs,
                          NormGradAttrs{.add = static_cast<bool>(d_sum)});
    dx = d;
    out[weight] = {d.node, 1};
    if (layer) out[weight + 1] = {d.node, 2};
  }
  out[0] = dx;
  if (a.residual) out[1] = dx;
  return out;
}

// x, weight, statistics.., dy (, what is added to dx) -> dx, dweight (, dbias)
std::vector<ValueType> infer_norm_grad(const InferContext& c) {
  const ValueType& x = c.inputs[0];
  expect_rows(c, c.inputs.subspan(1, 1));
  const bool add = c.attrs.get<NormGradAttrs>().add;
  const size_t statistics = c.op.name == "layer_norm_grad" ? 2 : 1;
  c.expect(c.inputs.size() == 3 + statistics + (add ? 1u : 0u),
           "expected x, a weight, statistics, dy, and what is added if the attribute says so");
  const ValueType& dy = c.inputs[2 + statistics];
  c.expect(dy.dtype == x.dtype || (x.dtype == DType::f32 && dy.dtype == DType::bf16),
           "expected dy in the type of x, or in bf16");
  c.alike({x.dtype, dy.shape}, x, "x and its gradient");
  const ValueType row = statistic_type(x);
  for (size_t i = 2; i < 2 + statistics; ++i)
    c.alike(c.inputs[i], row, "rows and their statistics");
  if (add) c.alike(c.inputs.back(), x, "x and what is added to its gradient");
  std::vector<ValueType> out = {x, c.inputs[1]};
  if (c.op.name == "layer_norm_grad") out.push_back(c.inputs[1]);
  return out;
}
Size norm_grad_flops(const Graph&, const Node& n) {
  return Size(14) * element_count(n.types[0].shape);
}
// dx may stand where the gradient stands that is added to it, or else dy.
int norm_grad_writes_over(const Node& n, int output) {
  return output == 0 ? static_cast<int>(n.inputs.size()) - 1 : -1;
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
       .max_inputs = 4,
       .infer = infer_norm,
       .flops = norm_flops,
       .gradient = norm_gradient,
       .decompose = decompose_layer_norm,
       .saving = with_stats,
       .without_unused = without_stats},
      {.name = "layer_norm_grad",
       .defaults = NormGradAttrs{},
       .min_inputs = 5,
       .max_inputs = 6,
       .infer = infer_norm_grad,
       .flops = norm_grad_flops,
       .writes_over = norm_grad_writes_over,
       .no_gradient = true},
      {.name = "rms_norm",
       .defaults = NormAttrs{},
       .min_inputs = 2,
       .max_inputs = 3,
       .infer = infer_norm,
       .flops = norm_flops,
       .gradient = norm_gradient,
       .decompose = decompose_rms_norm,
       .saving = with_stats,
       .without_unused = without_stats},
      {.name = "rms_norm_grad",
       .defaults = NormGradAttrs{},
       .min_inputs = 4,
       .max_inputs = 5,
       .infer = infer_norm_grad,
       .flops = norm_grad_flops,
       .writes_over = norm_grad_writes_over,
       .no_gradient = true},
  };
  return ops;
}

}  // namespace fovea

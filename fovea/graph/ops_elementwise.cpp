// Broadcasting arithmetic, comparisons, unary functions, select and cast, with their gradients.
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

Size broadcast_size(const InferContext& c, const Size& a, const Size& b) {
  if (a == Size(1)) return b;
  if (b == Size(1)) return a;
  c.same(a, b, "broadcast sizes");
  return a.is_constant() ? a : b;
}

Shape broadcast_shape(const InferContext& c, const Shape& a, const Shape& b) {
  Shape out(std::max(a.size(), b.size()), Size(1));
  for (size_t i = 0; i < out.size(); ++i) {
    const Size x = i < out.size() - a.size() ? Size(1) : a[i - (out.size() - a.size())];
    const Size y = i < out.size() - b.size() ? Size(1) : b[i - (out.size() - b.size())];
    out[i] = broadcast_size(c, x, y);
  }
  return out;
}

std::vector<ValueType> infer_unary(const InferContext& c) {
  c.expect(is_floating(c.inputs[0].dtype), "expected a floating type");
  return {c.inputs[0]};
}
std::vector<ValueType> infer_to_bool(const InferContext& c) {
  return {{DType::boolean, c.inputs[0].shape}};
}
std::vector<ValueType> infer_not(const InferContext& c) {
  c.expect(c.inputs[0].dtype == DType::boolean, "expected bool");
  return {c.inputs[0]};
}
std::vector<ValueType> infer_binary(const InferContext& c) {
  c.expect(c.inputs[0].dtype == c.inputs[1].dtype, "expected two inputs of one type");
  c.expect(c.inputs[0].dtype != DType::boolean, "expected numbers, not bool");
  return {{c.inputs[0].dtype, broadcast_shape(c, c.inputs[0].shape, c.inputs[1].shape)}};
}
std::vector<ValueType> infer_compare(const InferContext& c) {
  return {{DType::boolean, infer_binary(c)[0].shape}};
}
std::vector<ValueType> infer_logical(const InferContext& c) {
  c.expect(c.inputs[0].dtype == DType::boolean && c.inputs[1].dtype == DType::boolean,
           "expected two bool inputs");
  return {{DType::boolean, broadcast_shape(c, c.inputs[0].shape, c.inputs[1].shape)}};
}
std::vector<ValueType> infer_select(const InferContext& c) {
  c.expect(c.inputs[0].dtype == DType::boolean, "expected a bool condition first");
  c.expect(c.inputs[1].dtype == c.inputs[2].dtype, "expected two values of one type");
  return {{c.inputs[1].dtype,
           broadcast_shape(c, c.inputs[0].shape,
                           broadcast_shape(c, c.inputs[1].shape, c.inputs[2].shape))}};
}
std::vector<ValueType> infer_cast(const InferContext& c) {
  return {{c.attrs.get<CastAttrs>().dtype, c.inputs[0].shape}};
}

// Gradients. Each helper names the mathematics where it is not plain.
using Values = std::vector<Value>;

Values add_gradient(GradientContext& c) {
  Graph& g = c.graph;
  return {ops::sum_to(g, c.gradient(), g.shape(c.input(0))),
          ops::sum_to(g, c.gradient(), g.shape(c.input(1)))};
}
Values sub_gradient(GradientContext& c) {
  Graph& g = c.graph;
  return {ops::sum_to(g, c.gradient(), g.shape(c.input(0))),
          ops::sum_to(g, ops::unary(g, "neg", c.gradient()), g.shape(c.input(1)))};
}
Values mul_gradient(GradientContext& c) {
  Graph& g = c.graph;
  return {ops::sum_to(g, ops::mul(g, c.gradient(), c.input(1)), g.shape(c.input(0))),
          ops::sum_to(g, ops::mul(g, c.gradient(), c.input(0)), g.shape(c.input(1)))};
}
Values div_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Value over = ops::div(g, c.gradient(), c.input(1));
  const Value b = ops::unary(g, "neg", ops::mul(g, over, c.output()));
  return {ops::sum_to(g, over, g.shape(c.input(0))), ops::sum_to(g, b, g.shape(c.input(1)))};
}
// The gradient goes to the operand that was taken; to the first where they are equal.
Values extremum_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Value first = ops::binary(g, "equal", c.output(), c.input(0));
  const Value zero = ops::constant(g, 0, g.type(c.gradient()).dtype);
  return {ops::sum_to(g, ops::select(g, first, c.gradient(), zero), g.shape(c.input(0))),
          ops::sum_to(g, ops::select(g, first, zero, c.gradient()), g.shape(c.input(1)))};
}
// d(a^b) = b a^(b-1) da + a^b log(a) db; the second term is only built for a varying exponent.
Values pow_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Value a = c.input(0), b = c.input(1);
  const Value one = ops::constant(g, 1, g.type(b).dtype);
  const Value less = ops::binary(g, "pow", a, ops::sub(g, b, one));
  const Value da = ops::mul(g, c.gradient(), ops::mul(g, b, less));
  Value db;
  if (g.node(b).op->name != "constant") {
    db = ops::mul(g, c.gradient(), ops::mul(g, c.output(), ops::unary(g, "log", a)));
    db = ops::sum_to(g, db, g.shape(b));
  }
  return {ops::sum_to(g, da, g.shape(a)), db};
}
Values select_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Value zero = ops::constant(g, 0, g.type(c.gradient()).dtype);
  return {{},
          ops::sum_to(g, ops::select(g, c.input(0), c.gradient(), zero), g.shape(c.input(1))),
          ops::sum_to(g, ops::select(g, c.input(0), zero, c.gradient()), g.shape(c.input(2)))};
}
Values cast_gradient(GradientContext& c) {
  const DType from = c.graph.type(c.input(0)).dtype;
  if (!is_floating(from)) return {Value{}};
  return {ops::cast(c.graph, c.gradient(), from)};
}
Values neg_gradient(GradientContext& c) { return {ops::unary(c.graph, "neg", c.gradient())}; }
Values abs_gradient(GradientContext& c) {
  return {ops::mul(c.graph, c.gradient(), ops::unary(c.graph, "sign", c.input(0)))};
}
Values exp_gradient(GradientContext& c) { return {ops::mul(c.graph, c.gradient(), c.output())}; }
Values log_gradient(GradientContext& c) { return {ops::div(c.graph, c.gradient(), c.input(0))}; }
Values sqrt_gradient(GradientContext& c) {
  return {ops::scaled(c.graph, ops::div(c.graph, c.gradient(), c.output()), 0.5)};
}
// d x^(-1/2) = -1/2 y / x
Values rsqrt_gradient(GradientContext& c) {
  const Value slope = ops::div(c.graph, c.output(), c.input(0));
  return {ops::scaled(c.graph, ops::mul(c.graph, c.gradient(), slope), -0.5)};
}
Values square_gradient(GradientContext& c) {
  return {ops::scaled(c.graph, ops::mul(c.graph, c.gradient(), c.input(0)), 2)};
}
Values reciprocal_gradient(GradientContext& c) {
  const Value y2 = ops::unary(c.graph, "square", c.output());
  return {ops::unary(c.graph, "neg", ops::mul(c.graph, c.gradient(), y2))};
}
Values erf_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Value e = ops::unary(g, "exp", ops::unary(g, "neg", ops::unary(g, "square", c.input(0))));
  return {ops::scaled(g, ops::mul(g, c.gradient(), e), 1.1283791670955126)};  // 2 / sqrt(pi)
}
Values sin_gradient(GradientContext& c) {
  return {ops::mul(c.graph, c.gradient(), ops::unary(c.graph, "cos", c.input(0)))};
}
Values cos_gradient(GradientContext& c) {
  const Value s = ops::unary(c.graph, "sin", c.input(0));
  return {ops::unary(c.graph, "neg", ops::mul(c.graph, c.gradient(), s))};
}
// One op each, reading what the forward read (gelu, silu, relu) or gave (tanh, sigmoid).
Values gelu_gradient(GradientContext& c) {
  return {ops::binary(c.graph, "gelu_grad", c.input(0), c.gradient())};
}
Values silu_gradient(GradientContext& c) {
  return {ops::binary(c.graph, "silu_grad", c.input(0), c.gradient())};
}
Values relu_gradient(GradientContext& c) {
  return {ops::binary(c.graph, "relu_grad", c.input(0), c.gradient())};
}
Values tanh_gradient(GradientContext& c) {
  return {ops::binary(c.graph, "tanh_grad", c.output(), c.gradient())};
}
Values sigmoid_gradient(GradientContext& c) {
  return {ops::binary(c.graph, "sigmoid_grad", c.output(), c.gradient())};
}

}  // namespace

std::span<const Op> elementwise_ops() {
  static const std::vector<Op> ops = [] {
    std::vector<Op> rows;
    const auto unary = [&](std::string_view name, Values (*gradient)(GradientContext&)) {
      rows.push_back({.name = name,
                      .infer = infer_unary,
                      .gradient = gradient,
                      .in_place = true,
                      .no_gradient = gradient == nullptr});
    };
    unary("neg", neg_gradient);
    unary("abs", abs_gradient);
    unary("exp", exp_gradient);
    unary("log", log_gradient);
    unary("sqrt", sqrt_gradient);
    unary("rsqrt", rsqrt_gradient);
    unary("tanh", tanh_gradient);
    unary("sigmoid", sigmoid_gradient);
    unary("relu", relu_gradient);
    unary("silu", silu_gradient);
    unary("gelu", gelu_gradient);
    unary("square", square_gradient);
    unary("reciprocal", reciprocal_gradient);
    unary("erf", erf_gradient);
    unary("sin", sin_gradient);
    unary("cos", cos_gradient);
    unary("sign", nullptr);
    unary("floor", nullptr);
    rows.push_back({.name = "is_finite", .infer = infer_to_bool, .no_gradient = true});
    rows.push_back(
        {.name = "logical_not", .infer = infer_not, .in_place = true, .no_gradient = true});

    const auto binary = [&](std::string_view name, bool commutative,
                            Values (*gradient)(GradientContext&)) {
      rows.push_back({.name = name,
                      .min_inputs = 2,
                      .max_inputs = 2,
                      .infer = infer_binary,
                      .gradient = gradient,
                      .commutative = commutative,
                      .in_place = true,
                      .no_gradient = gradient == nullptr});
    };
    binary("add", true, add_gradient);
    binary("sub", false, sub_gradient);
    binary("mul", true, mul_gradient);
    binary("div", false, div_gradient);
    binary("max", true, extremum_gradient);
    binary("min", true, extremum_gradient);
    binary("pow", false, pow_gradient);
    for (std::string_view name :
         {"gelu_grad", "silu_grad", "tanh_grad", "sigmoid_grad", "relu_grad"})
      binary(name, false, nullptr);
    for (std::string_view name :
         {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"})
      rows.push_back({.name = name,
                      .min_inputs = 2,
                      .max_inputs = 2,
                      .infer = infer_compare,
                      .commutative = name == "equal" || name == "not_equal",
                      .no_gradient = true});
    for (std::string_view name : {"logical_and", "logical_or"})
      rows.push_back({.name = name,
                      .min_inputs = 2,
                      .max_inputs = 2,
                      .infer = infer_logical,
                      .commutative = true,
                      .in_place = true,
                      .no_gradient = true});
    rows.push_back({.name = "select",
                    .min_inputs = 3,
                    .max_inputs = 3,
                    .infer = infer_select,
                    .gradient = select_gradient,
                    .in_place = true});
    rows.push_back(
        {.name = "cast", .defaults = CastAttrs{}, .infer = infer_cast, .gradient = cast_gradient});
    return rows;
  }();
  return ops;
}

}  // namespace fovea

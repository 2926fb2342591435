// matmul; linear with what is done to its result, and its gradients.
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

using Values = std::vector<Value>;

std::vector<ValueType> infer_matmul(const InferContext& c) {
  const auto& attrs = c.attrs.get<MatmulAttrs>();
  const ValueType &a = c.inputs[0], &b = c.inputs[1];
  c.expect(a.dtype == b.dtype && is_floating(a.dtype), "expected two inputs of one floating type");
  c.expect(a.rank() >= 2 && b.rank() >= 2, "expected at least two axes each");
  const size_t ra = a.rank(), rb = b.rank();
  const Size m = a.shape[ra - (attrs.transpose_a ? 1 : 2)];
  const Size ka = a.shape[ra - (attrs.transpose_a ? 2 : 1)];
  const Size kb = b.shape[rb - (attrs.transpose_b ? 1 : 2)];
  const Size n = b.shape[rb - (attrs.transpose_b ? 2 : 1)];
  c.same(ka, kb, "the inner sizes");
  const size_t batch = std::max(ra, rb) - 2;
  Shape out(batch, Size(1));
  for (size_t i = 0; i < batch; ++i) {
    const Size x = i + ra - 2 < batch ? Size(1) : a.shape[i + ra - 2 - batch];
    const Size y = i + rb - 2 < batch ? Size(1) : b.shape[i + rb - 2 - batch];
    if (!(x == Size(1)) && !(y == Size(1))) c.same(x, y, "the leading sizes");
    out[i] = x == Size(1) ? y : x;
  }
  out.push_back(m);
  out.push_back(n);
  return {{a.dtype, out}};
}

Size matmul_flops(const Graph& g, const Node& n) {
  const Shape& a = g.shape(n.inputs[0]);
  const Size k = a[a.size() - (n.attrs.get<MatmulAttrs>().transpose_a ? 2 : 1)];
  return Size(2) * element_count(n.types[0].shape) * k;
}

Values matmul_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const auto t = c.node().attrs.get<MatmulAttrs>();
  const Value a = c.input(0), b = c.input(1), dy = c.gradient();
  const Value da = t.transpose_a
                       ? ops::matmul(g, b, dy, {.transpose_a = t.transpose_b, .transpose_b = true})
                       : ops::matmul(g, dy, b, {.transpose_b = !t.transpose_b});
  const Value db = t.transpose_b
                       ? ops::matmul(g, dy, a, {.transpose_a = true, .transpose_b = t.transpose_a})
                       : ops::matmul(g, a, dy, {.transpose_a = !t.transpose_a});
  return {ops::sum_to(g, da, g.shape(a)), ops::sum_to(g, db, g.shape(b))};
}

// What a product computes in: bf16 if its weight is, else the one type of all operands.
void expect_product_types(const InferContext& c, DType x, DType w) {
  const bool mixed = w == DType::bf16 && (x == DType::f32 || x == DType::bf16);
  c.expect(is_floating(x) && (x == w || mixed),
           "expected one floating type, or f32 with a weight in bf16");
}

// The type in which a product's neighbours (bias, sums) stand.
DType wide(DType t) { return t == DType::bf16 ? DType::f32 : t; }

bool linear_has_bias(const Node& n, bool residual) {
  return n.inputs.size() == (residual ? size_t{4} : size_t{3});
}

void expect_result_type(const InferContext& c, TypeChoice out, DType w) {
  c.expect(out == TypeChoice::same || w == DType::bf16,
           "expected a weight in bf16 where the result is to have another type than x");
}

// x [..,K], weight [N,K], then perhaps bias [N] and a residual [..,N].
std::vector<ValueType> infer_linear(const InferContext& c) {
  const auto& a = c.attrs.get<LinearAttrs>();
  const ValueType &x = c.inputs[0], &w = c.inputs[1];
  expect_product_types(c, x.dtype, w.dtype);
  expect_result_type(c, a.out, w.dtype);
  c.expect(x.rank() >= 2 && w.rank() == 2, "expected x [..,K] and a weight [N,K]");
  c.same(x.shape.back(), w.shape[1], "the inner sizes");
  const size_t least = a.residual ? 3 : 2;
  c.expect(c.inputs.size() >= least && c.inputs.size() <= least + 1,
           "expected x, a weight, perhaps a bias, and a residual if the attribute says so");
  if (c.inputs.size() > least) {
    const ValueType& bias = c.inputs[2];
    c.expect(bias.rank() == 1 && bias.dtype == wide(w.dtype), "expected a bias [N]");
    c.same(bias.shape[0], w.shape[0], "the sizes of weight and bias");
  }
  ValueType out{chosen_type(a.out, x.dtype), x.shape};
  out.shape.back() = w.shape[0];
  if (a.residual) c.alike(c.inputs.back(), out, "the result and its residual");
  c.expect(!a.pre || a.activation != Activation::none, "expected an activation with pre=true");
  return a.pre ? std::vector<ValueType>{out, out} : std::vector<ValueType>{out};
}

Size linear_flops(const Graph& g, const Node& n) {
  const auto& a = n.attrs.get<LinearAttrs>();
  const Size products = Size(2) * g.shape(n.inputs[1])[1];
  const int64_t more = linear_has_bias(n, a.residual) + a.residual;
  return element_count(n.types[0].shape) * (products + Size(more));
}

Value as_type(Graph& g, Value v, DType dtype) { return ops::cast(g, v, dtype); }

// The operands as a bf16 product reads them, in the type of its sums.
std::pair<Value, Value> operands(Graph& g, Value x, Value w) {
  if (g.type(w).dtype != DType::bf16 && g.type(x).dtype != DType::bf16) return {x, w};
  const Value rounded = as_type(g, x, DType::bf16), weight = as_type(g, w, DType::bf16);
  return {as_type(g, rounded, DType::f32), as_type(g, weight, DType::f32)};
}

Values decompose_linear(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  const auto& a = attrs.get<LinearAttrs>();
  const auto [x, w] = operands(g, in[0], in[1]);
  const DType sums = g.type(x).dtype, out = chosen_type(a.out, g.type(in[0]).dtype);
  Value y = ops::matmul(g, x, w, {.transpose_b = true});
  if (in.size() == (a.residual ? size_t{4} : size_t{3})) y = ops::add(g, y, in[2]);
  const Value pre = y;
  if (a.activation != Activation::none) y = ops::unary(g, enum_name(a.activation), y);
  if (a.residual) y = ops::add(g, y, as_type(g, in.back(), sums));
  Values outputs = {as_type(g, y, out)};
  if (a.pre) outputs.push_back(as_type(g, pre, out));
  return outputs;
}

Attrs linear_saving(const Attrs& attrs) {
  auto a = attrs.get<LinearAttrs>();
  a.pre = a.activation != Activation::none;
  return a;
}
Attrs linear_without_unused(const Attrs& attrs, const std::vector<bool>& used) {
  auto a = attrs.get<LinearAttrs>();
  a.pre = a.pre && used.size() > 1 && used[1];
  return a;
}

std::string slope_name(Activation a) { return std::string(enum_name(a)) + "_grad"; }

Values linear_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Node node = c.node();
  const auto a = node.attrs.get<LinearAttrs>();
  const bool bias = linear_has_bias(node, a.residual);
  const Value dy = c.gradient();
  Value dh = dy;
  if (dy && a.activation != Activation::none) {
    Value pre;
    if (a.pre) {
      pre = c.output(1);
    } else {
      std::vector<Value> inputs = node.inputs;
      if (a.residual) inputs.pop_back();
      LinearAttrs plain = a;
      plain.activation = Activation::none;
      plain.residual = false;
      pre = g.add("linear", inputs, plain);
    }
    dh = ops::binary(g, slope_name(a.activation), pre, dy);
  }
  if (c.output_gradients.size() > 1 && c.gradient(1))
    dh = dh ? ops::add(g, dh, c.gradient(1)) : c.gradient(1);
  const LinearGradInputAttrs to_input{.compute = a.compute};
  const LinearGradWeightAttrs to_weight{.bias = bias, .compute = a.compute};
  const Value dx = g.add("linear_grad_input", {dh, node.inputs[1]}, to_input);
  const Value dw = g.add("linear_grad_weight", {dh, node.inputs[0]}, to_weight);
  Values out = {dx, dw};
  if (bias) out.push_back({dw.node, 1});
  if (a.residual) out.push_back(dy);
  return out;
}

// dy [..,N], weight [N,K], then perhaps what went into the activation before x [..,K], and a
// residual [..,K] -> dx [..,K]
std::vector<ValueType> infer_linear_grad_input(const InferContext& c) {
  const auto& a = c.attrs.get<LinearGradInputAttrs>();
  const ValueType &dy = c.inputs[0], &w = c.inputs[1];
  expect_product_types(c, dy.dtype, w.dtype);
  expect_result_type(c, a.out, w.dtype);
  c.expect(dy.rank() >= 2 && w.rank() == 2, "expected dy [..,N] and a weight [N,K]");
  c.same(dy.shape.back(), w.shape[0], "the sizes of dy and the weight");
  const bool activation = a.activation != Activation::none;
  c.expect(c.inputs.size() == 2 + static_cast<size_t>(activation) + static_cast<size_t>(a.residual),
           "expected dy, a weight, and what the attributes name");
  ValueType dx{chosen_type(a.out, dy.dtype), dy.shape};
  dx.shape.back() = w.shape[1];
  if (activation) {
    const ValueType& pre = c.inputs[2];
    c.expect(pre.dtype == dx.dtype || w.dtype == DType::bf16, "expected one floating type");
    c.alike({dx.dtype, pre.shape}, dx, "dx and what went into the activation");
  }
  if (a.residual) c.alike(c.inputs.back(), dx, "dx and its residual");
  return {dx};
}
Size linear_grad_input_flops(const Graph& g, const Node& n) {
  return Size(2) * element_count(n.types[0].shape) * g.shape(n.inputs[1])[0];
}
Values decompose_linear_grad_input(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  const auto& a = attrs.get<LinearGradInputAttrs>();
  const auto [dy, w] = operands(g, in[0], in[1]);
  const DType sums = g.type(dy).dtype, out = chosen_type(a.out, g.type(in[0]).dtype);
  Value dx = ops::matmul(g, dy, w);
  if (a.activation != Activation::none)
    dx = ops::binary(g, slope_name(a.activation), as_type(g, in[2], sums), dx);
  if (a.residual) dx = ops::add(g, dx, as_type(g, in.back(), sums));
  return {as_type(g, dx, out)};
}

// dy [..,N], x [..,K] -> dweight [N,K] (, dbias [N])
std::vector<ValueType> infer_linear_grad_weight(const InferContext& c) {
  const ValueType &dy = c.inputs[0], &x = c.inputs[1];
  const bool mixed = (dy.dtype == DType::bf16 && x.dtype == DType::f32) ||
                     (dy.dtype == DType::f32 && x.dtype == DType::bf16);
  c.expect(is_floating(dy.dtype) && (dy.dtype == x.dtype || mixed),
           "expected one floating type, or f32 with bf16");
  c.expect(dy.rank() >= 2 && dy.rank() == x.rank(), "expected dy [..,N] and x [..,K]");
  for (size_t i = 0; i + 1 < dy.rank(); ++i)
    c.same(dy.shape[i], x.shape[i], "the sizes of dy and x");
  const DType out = mixed ? DType::f32 : wide(dy.dtype);
  std::vector<ValueType> types = {{out, {dy.shape.back(), x.shape.back()}}};
  if (c.attrs.get<LinearGradWeightAttrs>().bias) types.push_back({out, {dy.shape.back()}});
  return types;
}
Size linear_grad_weight_flops(const Graph& g, const Node& n) {
  return Size(2) * element_count(g.shape(n.inputs[0])) * g.shape(n.inputs[1]).back();
}
Values decompose_linear_grad_weight(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  const Shape sy = g.shape(in[0]), sx = g.shape(in[1]);
  const Size rows = element_count(Shape(sy.begin(), sy.end() - 1));
  const auto [dy, x] = operands(g, in[0], in[1]);
  const Value flat = ops::reshape(g, dy, {rows, sy.back()});
  Values out = {ops::matmul(g, flat, ops::reshape(g, x, {rows, sx.back()}), {.transpose_a = true})};
  if (attrs.get<LinearGradWeightAttrs>().bias) {
    const Value exact = as_type(g, in[0], wide(g.type(in[0]).dtype));
    out.push_back(ops::reduce_sum(g, ops::reshape(g, exact, {rows, sy.back()}), {0}));
  }
  return out;
}

// A result may stand where its residual stands.
int residual_of(const Node& n, int output) {
  if (output != 0) return -1;
  const bool residual = n.attrs.holds<LinearAttrs>() ? n.attrs.get<LinearAttrs>().residual
                                                     : n.attrs.get<LinearGradInputAttrs>().residual;
  return residual ? static_cast<int>(n.inputs.size()) - 1 : -1;
}

}  // namespace

std::span<const Op> product_ops() {
  static const std::vector<Op> ops = {
      {.name = "matmul",
       .defaults = MatmulAttrs{},
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_matmul,
       .flops = matmul_flops,
       .gradient = matmul_gradient},
      {.name = "linear",
       .defaults = LinearAttrs{},
       .min_inputs = 2,
       .max_inputs = 4,
       .infer = infer_linear,
       .flops = linear_flops,
       .gradient = linear_gradient,
       .decompose = decompose_linear,
       .saving = linear_saving,
       .without_unused = linear_without_unused,
       .writes_over = residual_of},
      {.name = "linear_grad_input",
       .defaults = LinearGradInputAttrs{},
       .min_inputs = 2,
       .max_inputs = 4,
       .infer = infer_linear_grad_input,
       .flops = linear_grad_input_flops,
       .decompose = decompose_linear_grad_input,
       .writes_over = residual_of},
      {.name = "linear_grad_weight",
       .defaults = LinearGradWeightAttrs{},
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_linear_grad_weight,
       .flops = linear_grad_weight_flops,
       .decompose = decompose_linear_grad_weight},
  };
  return ops;
}

}  // namespace fovea

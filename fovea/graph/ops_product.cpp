// matmul and linear.
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

std::vector<ValueType> infer_linear(const InferContext& c) {
  const ValueType &x = c.inputs[0], &w = c.inputs[1];
  c.expect(is_floating(x.dtype) && x.dtype == w.dtype, "expected one floating type");
  c.expect(x.rank() >= 2 && w.rank() == 2, "expected x [..,K] and a weight [N,K]");
  c.same(x.shape.back(), w.shape[1], "the inner sizes");
  if (c.inputs.size() == 3) {
    c.expect(c.inputs[2].rank() == 1 && c.inputs[2].dtype == x.dtype, "expected a bias [N]");
    c.same(c.inputs[2].shape[0], w.shape[0], "the sizes of weight and bias");
  }
  ValueType out = x;
  out.shape.back() = w.shape[0];
  return {out};
}

Size linear_flops(const Graph& g, const Node& n) {
  const Size bias = n.inputs.size() == 3 ? element_count(n.types[0].shape) : Size(0);
  return Size(2) * element_count(n.types[0].shape) * g.shape(n.inputs[1])[1] + bias;
}

Values decompose_linear(Graph& g, std::span<const Value> in, const Attrs&) {
  const Value y = ops::matmul(g, in[0], in[1], {.transpose_b = true});
  return {in.size() == 3 ? ops::add(g, y, in[2]) : y};
}

Values linear_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const Shape x = g.shape(c.input(0)), w = g.shape(c.input(1));
  const Size rows = element_count(Shape(x.begin(), x.end() - 1));
  const bool bias = c.node().inputs.size() == 3;
  const Value dy = ops::reshape(g, c.gradient(), {rows, w[0]});
  const Value flat = ops::reshape(g, c.input(0), {rows, w[1]});
  Values out = {ops::reshape(g, ops::matmul(g, dy, c.input(1)), x),
                ops::matmul(g, dy, flat, {.transpose_a = true})};
  if (bias) out.push_back(ops::reduce_sum(g, dy, {0}));
  return out;
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
       .min_inputs = 2,
       .max_inputs = 3,
       .infer = infer_linear,
       .flops = linear_flops,
       .gradient = linear_gradient,
       .decompose = decompose_linear},
  };
  return ops;
}

}  // namespace fovea

// Convolution and pooling of images [B,H,W,C], with their gradients.
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

using Values = std::vector<Value>;

// Places of a window of `size` in a padded line: floor((n + 2 pad - size) / stride) + 1.
Size places(const InferContext& c, const Size& n, int64_t size, int64_t stride, int64_t pad) {
  c.expect(size >= 1 && stride >= 1 && pad >= 0 && pad < size,
           "expected size and stride of at least 1 and padding below the size");
  const Size room = n + Size(2 * pad - size + 1);
  if (room.is_constant())
    c.expect(room.constant() >= 1, "expected an image at least as large as the window");
  return ceildiv(room, stride);
}

std::vector<ValueType> infer_conv2d(const InferContext& c) {
  const auto& a = c.attrs.get<Conv2dAttrs>();
  const ValueType &x = c.inputs[0], &w = c.inputs[1];
  c.expect(is_floating(x.dtype) && x.dtype == w.dtype, "expected one floating type");
  c.expect(x.rank() == 4 && w.rank() == 4, "expected x [B,H,W,C] and a weight [O,KH,KW,C]");
  c.expect(w.shape[1].is_constant() && w.shape[2].is_constant(), "expected a known kernel size");
  c.same(x.shape[3], w.shape[3], "the channels");
  if (c.inputs.size() == 3) {
    c.expect(c.inputs[2].rank() == 1, "expected a bias [O]");
    c.same(c.inputs[2].shape[0], w.shape[0], "the sizes of weight and bias");
  }
  return {{x.dtype,
           {x.shape[0], places(c, x.shape[1], w.shape[1].constant(), a.stride_h, a.pad_h),
            places(c, x.shape[2], w.shape[2].constant(), a.stride_w, a.pad_w), w.shape[0]}}};
}
Size conv2d_flops(const Graph& g, const Node& n) {
  const Shape& w = g.shape(n.inputs[1]);
  return Size(2) * element_count(n.types[0].shape) * w[1] * w[2] * w[3];
}
Values conv2d_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const auto& a = c.node().attrs.get<Conv2dAttrs>();
  const bool bias = c.node().inputs.size() == 3;
  const Value dy = c.gradient();
  Conv2dGradAttrs to_x, to_w;
  static_cast<Conv2dAttrs&>(to_x) = a;
  static_cast<Conv2dAttrs&>(to_w) = a;
  to_x.shape = g.shape(c.input(0));
  to_w.shape = g.shape(c.input(1));
  const Value x = c.input(0), w = c.input(1);
  Values out = {g.add("conv2d_grad_input", {dy, w}, to_x),
                g.add("conv2d_grad_weight", {dy, x}, to_w)};
  if (bias) out.push_back(ops::reduce_sum(g, dy, {0, 1, 2}));
  return out;
}
std::vector<ValueType> infer_conv2d_grad(const InferContext& c) {
  const auto& a = c.attrs.get<Conv2dGradAttrs>();
  c.expect(a.shape.size() == 4 && c.inputs[0].rank() == 4 && c.inputs[1].rank() == 4,
           "expected four axes everywhere");
  return {{c.inputs[0].dtype, a.shape}};
}
// As many products as the forward: one for each output element, tap and channel.
Size conv2d_grad_input_flops(const Graph& g, const Node& n) {
  const Shape &dy = g.shape(n.inputs[0]), &w = g.shape(n.inputs[1]);
  return Size(2) * element_count(dy) * w[1] * w[2] * w[3];
}
Size conv2d_grad_weight_flops(const Graph& g, const Node& n) {
  const Shape &dy = g.shape(n.inputs[0]), &w = n.types[0].shape;
  return Size(2) * element_count(dy) * w[1] * w[2] * w[3];
}

std::vector<ValueType> infer_pool(const InferContext& c) {
  const auto& a = c.attrs.get<PoolAttrs>();
  const ValueType& x = c.inputs[0];
  c.expect(is_floating(x.dtype) && x.rank() == 4, "expected an image [B,H,W,C] of a floating type");
  c.expect(!a.indices || c.op.name == "max_pool", "only max_pool has indices");
  const Shape out = {x.shape[0], places(c, x.shape[1], a.size_h, a.stride_h, a.pad_h),
                     places(c, x.shape[2], a.size_w, a.stride_w, a.pad_w), x.shape[3]};
  std::vector<ValueType> types = {{x.dtype, out}};
  if (a.indices) types.push_back({DType::i32, out});
  return types;
}
Size pool_flops(const Graph&, const Node& n) {
  const auto& a = n.attrs.get<PoolAttrs>();
  return element_count(n.types[0].shape) * Size(a.size_h * a.size_w);
}
Attrs with_indices(const Attrs& attrs) {
  auto a = attrs.get<PoolAttrs>();
  a.indices = true;
  return a;
}
Attrs without_indices(const Attrs& attrs, const std::vector<bool>& used) {
  auto a = attrs.get<PoolAttrs>();
  a.indices = a.indices && used.size() > 1 && used[1];
  return a;
}
PoolGradAttrs grad_attrs(GradientContext& c) {
  PoolGradAttrs a;
  static_cast<PoolAttrs&>(a) = c.node().attrs.get<PoolAttrs>();
  a.indices = false;
  a.shape = c.graph.shape(c.input(0));
  return a;
}
Values max_pool_gradient(GradientContext& c) {
  const Node node = c.node();
  Value out = c.output();
  if (node.types.size() < 2) out = c.graph.add("max_pool", node.inputs, with_indices(node.attrs));
  return {c.graph.add("max_pool_grad", {c.gradient(), {out.node, 1}}, grad_attrs(c))};
}
Values avg_pool_gradient(GradientContext& c) {
  return {c.graph.add("avg_pool_grad", {c.gradient()}, grad_attrs(c))};
}
std::vector<ValueType> infer_pool_grad(const InferContext& c) {
  c.expect(c.inputs[0].rank() == 4 && c.attrs.get<PoolGradAttrs>().shape.size() == 4,
           "expected an image [B,H,W,C]");
  return {{c.inputs[0].dtype, c.attrs.get<PoolGradAttrs>().shape}};
}

}  // namespace

std::span<const Op> conv_ops() {
  static const std::vector<Op> ops = {
      {.name = "conv2d",
       .defaults = Conv2dAttrs{},
       .min_inputs = 2,
       .max_inputs = 3,
       .infer = infer_conv2d,
       .flops = conv2d_flops,
       .gradient = conv2d_gradient},
      {.name = "conv2d_grad_input",
       .defaults = Conv2dGradAttrs{},
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_conv2d_grad,
       .flops = conv2d_grad_input_flops,
       .no_gradient = true},
      {.name = "conv2d_grad_weight",
       .defaults = Conv2dGradAttrs{},
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_conv2d_grad,
       .flops = conv2d_grad_weight_flops,
       .no_gradient = true},
      {.name = "max_pool",
       .defaults = PoolAttrs{},
       .infer = infer_pool,
       .flops = pool_flops,
       .gradient = max_pool_gradient,
       .saving = with_indices,
       .without_unused = without_indices},
      {.name = "max_pool_grad",
       .defaults = PoolGradAttrs{},
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_pool_grad,
       .no_gradient = true},
      {.name = "avg_pool",
       .defaults = PoolAttrs{},
       .infer = infer_pool,
       .flops = pool_flops,
       .gradient = avg_pool_gradient},
      {.name = "avg_pool_grad",
       .defaults = PoolGradAttrs{},
       .infer = infer_pool_grad,
       .no_gradient = true},
  };
  return ops;
}

}  // namespace fovea

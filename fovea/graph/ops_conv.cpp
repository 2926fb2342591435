// Convolution and pooling of images [B,H,W,C], with their gradients.
#include <limits>

#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

using Values = std::vector<Value>;

// Places of a window of `size` in a padded line: floor((n + 2 pad - size) / stride) + 1.
Size places(const InferContext& c, const Size& n, int64_t size, int64_t stride, int64_t pad) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();  // 2 pad must not overflow
  c.expect(size >= 1 && stride >= 1 && pad >= 0 && pad < size && size <= kMost,
           "expected size and stride of at least 1 and padding below the size");
  const Size room = n + Size(2 * pad - size + 1);
  if (room.is_constant())
    c.expect(room.constant() >= 1, "expected an image at least as large as the window");
  return ceildiv(room, stride);
}

// x [B,H,W,C], weight [O,KH,KW,C] -> y [B,OH,OW,O]
ValueType convolved(const InferContext& c, const Conv2dAttrs& a, const ValueType& x,
                    const ValueType& w) {
  c.expect(is_floating(x.dtype) && x.dtype == w.dtype, "expected one floating type");
  c.expect(x.rank() == 4 && w.rank() == 4, "expected x [B,H,W,C] and a weight [O,KH,KW,C]");
  c.expect(w.shape[1].is_constant() && w.shape[2].is_constant(), "expected a known kernel size");
  c.same(x.shape[3], w.shape[3], "the channels");
  return {x.dtype,
          {x.shape[0], places(c, x.shape[1], w.shape[1].constant(), a.stride_h, a.pad_h),
           places(c, x.shape[2], w.shape[2].constant(), a.stride_w, a.pad_w), w.shape[0]}};
}

std::vector<ValueType> infer_conv2d(const InferContext& c) {
  const ValueType &x = c.inputs[0], &w = c.inputs[1];
  const ValueType y = convolved(c, c.attrs.get<Conv2dAttrs>(), x, w);
  if (c.inputs.size() == 3) {
    c.expect(c.inputs[2].rank() == 1 && c.inputs[2].dtype == w.dtype, "expected a bias [O]");
    c.same(c.inputs[2].shape[0], w.shape[0], "the sizes of weight and bias");
  }
  return {y};
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
// dy, weight -> dx
std::vector<ValueType> infer_conv2d_grad_input(const InferContext& c) {
  const auto& a = c.attrs.get<Conv2dGradAttrs>();
  const ValueType dx{c.inputs[0].dtype, a.shape};
  c.alike(c.inputs[0], convolved(c, a, dx, c.inputs[1]), "the result and its gradient");
  return {dx};
}
// dy, x -> dweight
std::vector<ValueType> infer_conv2d_grad_weight(const InferContext& c) {
  const auto& a = c.attrs.get<Conv2dGradAttrs>();
  const ValueType dw{c.inputs[0].dtype, a.shape};
  c.alike(c.inputs[0], convolved(c, a, c.inputs[1], dw), "the result and its gradient");
  return {dw};
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

// x [B,H,W,C] -> y [B,OH,OW,C]
ValueType pooled(const InferContext& c, const PoolAttrs& a, const ValueType& x) {
  c.expect(is_floating(x.dtype) && x.rank() == 4, "expected an image [B,H,W,C] of a floating type");
  return {x.dtype,
          {x.shape[0], places(c, x.shape[1], a.size_h, a.stride_h, a.pad_h),
           places(c, x.shape[2], a.size_w, a.stride_w, a.pad_w), x.shape[3]}};
}

std::vector<ValueType> infer_pool(const InferContext& c) {
  const auto& a = c.attrs.get<PoolAttrs>();
  c.expect(!a.indices || c.op.name == "max_pool", "only max_pool has indices");
  std::vector<ValueType> types = {pooled(c, a, c.inputs[0])};
  if (a.indices) types.push_back({DType::i32, types[0].shape});
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
// dy (, indices) -> dx
std::vector<ValueType> infer_pool_grad(const InferContext& c) {
  const auto& a = c.attrs.get<PoolGradAttrs>();
  const ValueType &dy = c.inputs[0], dx{dy.dtype, a.shape};
  c.alike(dy, pooled(c, a, dx), "the result and its gradient");
  if (c.inputs.size() == 2)
    c.alike(c.inputs[1], {DType::i32, dy.shape}, "i32 indices and the gradient");
  return {dx};
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
       .infer = infer_conv2d_grad_input,
       .flops = conv2d_grad_input_flops,
       .no_gradient = true},
      {.name = "conv2d_grad_weight",
       .defaults = Conv2dGradAttrs{},
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_conv2d_grad_weight,
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

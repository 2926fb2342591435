// Losses.
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

using Values = std::vector<Value>;

std::vector<ValueType> infer_cross_entropy(const InferContext& c) {
  const ValueType &logits = c.inputs[0], &labels = c.inputs[1];
  const double s = c.attrs.get<CrossEntropyAttrs>().smoothing;
  c.expect(s >= 0 && s < 1, "expected a smoothing from 0 up to, not including, 1");
  c.expect(is_floating(logits.dtype) && logits.rank() == labels.rank() + 1,
           "expected logits [..,C] for labels [..]");
  c.expect(labels.dtype == DType::i32, "expected i32 labels");
  for (size_t i = 0; i < labels.rank(); ++i)
    c.same(logits.shape[i], labels.shape[i], "the sizes of logits and labels");
  return {{logits.dtype, labels.shape}};
}
Size cross_entropy_flops(const Graph& g, const Node& n) {
  return Size(6) * element_count(g.shape(n.inputs[0]));
}
Values cross_entropy_gradient(GradientContext& c) {
  const auto a = c.node().attrs.get<CrossEntropyAttrs>();
  const Value logits = c.input(0), labels = c.input(1);
  return {c.graph.add("cross_entropy_grad", {logits, labels, c.gradient()}, a), {}};
}
// logits, labels, dloss -> dlogits
std::vector<ValueType> infer_cross_entropy_grad(const InferContext& c) {
  const ValueType loss = infer_cross_entropy(c)[0], &dloss = c.inputs[2];
  c.expect(dloss.dtype == loss.dtype && dloss.rank() == loss.rank(),
           "expected the loss and its gradient alike");
  for (size_t i = 0; i < loss.rank(); ++i)
    c.same(dloss.shape[i], loss.shape[i], "the sizes of the loss and its gradient");
  return {c.inputs[0]};
}

std::vector<ValueType> infer_mean_squared_error(const InferContext& c) {
  c.expect(c.inputs[0].dtype == c.inputs[1].dtype && is_floating(c.inputs[0].dtype),
           "expected one floating type");
  c.expect(c.inputs[0].rank() >= 1 && c.inputs[0].rank() == c.inputs[1].rank(),
           "expected prediction and target [B,..]");
  for (size_t i = 0; i < c.inputs[0].rank(); ++i)
    c.same(c.inputs[0].shape[i], c.inputs[1].shape[i], "the sizes of prediction and target");
  return {{c.inputs[0].dtype, {c.inputs[0].shape[0]}}};
}
Values decompose_mean_squared_error(Graph& g, std::span<const Value> in, const Attrs&) {
  const Value e = ops::unary(g, "square", ops::sub(g, in[0], in[1]));
  std::vector<int64_t> axes;
  for (size_t i = 1; i < g.shape(e).size(); ++i) axes.push_back(static_cast<int64_t>(i));
  return {axes.empty() ? e : ops::reduce_mean(g, e, axes)};
}

}  // namespace

std::span<const Op> loss_ops() {
  static const std::vector<Op> ops = {
      {.name = "cross_entropy",
       .defaults = CrossEntropyAttrs{},
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_cross_entropy,
       .flops = cross_entropy_flops,
       .gradient = cross_entropy_gradient},
      {.name = "cross_entropy_grad",
       .defaults = CrossEntropyAttrs{},
       .min_inputs = 3,
       .max_inputs = 3,
       .infer = infer_cross_entropy_grad,
       .flops = cross_entropy_flops,
       .no_gradient = true},
      {.name = "mean_squared_error",
       .min_inputs = 2,
       .max_inputs = 2,
       .infer = infer_mean_squared_error,
       .decompose = decompose_mean_squared_error},
  };
  return ops;
}

}  // namespace fovea

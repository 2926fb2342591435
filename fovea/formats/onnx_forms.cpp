#include "fovea/formats/onnx_forms.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fovea/graph/op.h"
#include "fovea/graph/op_attrs.h"

namespace fovea {

namespace {

using Refs = std::vector<OnnxRef>;

DType floats_of(const OnnxCall& c) { return c.type(0).dtype; }

// --- Element by element

Refs rsqrt(const OnnxCall& c) { return {c.add("Reciprocal", {c.add("Sqrt", c.inputs)})}; }
Refs square(const OnnxCall& c) { return {c.add("Mul", {c.inputs[0], c.inputs[0]})}; }
Refs silu(const OnnxCall& c) { return {c.add("Mul", {c.inputs[0], c.add("Sigmoid", c.inputs)})}; }
// x (1 + erf(x / sqrt 2)) / 2, in the order in which runtimes look for it.
Refs gelu(const OnnxCall& c) {
  const DType t = floats_of(c);
  const OnnxRef x = c.inputs[0];
  const OnnxRef scaled = c.add("Div", {x, c.to.scalar(t, std::sqrt(2.0))});
  const OnnxRef share = c.add("Add", {c.add("Erf", {scaled}), c.to.scalar(t, 1)});
  return {c.add("Mul", {c.add("Mul", {x, share}), c.to.scalar(t, 0.5)})};
}
// False for a NaN too, which is less than nothing.
Refs is_finite(const OnnxCall& c) {
  const double infinity = std::numeric_limits<double>::infinity();
  return {c.add("Less", {c.add("Abs", c.inputs), c.to.scalar(floats_of(c), infinity)})};
}
Refs not_equal(const OnnxCall& c) { return {c.add("Not", {c.add("Equal", c.inputs)})}; }
Refs cast(const OnnxCall& c) {
  const DType to = c.node.attrs.get<CastAttrs>().dtype;
  if (to == c.type(0).dtype) return c.inputs;
  return {c.add("Cast", c.inputs, {{"to", int64_t{onnx_type(to)}}})};
}

// --- Shapes

// Axes that have the input's size stand as 1, which Expand leaves as it is.
Refs broadcast(const OnnxCall& c) {
  Shape to = c.node.attrs.get<ShapeAttrs>().shape;
  const Shape& from = c.type(0).shape;
  if (to == from) return c.inputs;
  for (size_t i = 0; i < from.size(); ++i) {
    Size& size = to[to.size() - from.size() + i];
    if (size == from[i]) size = 1;
  }
  return {c.add("Expand", {c.inputs[0], c.to.shape(to)})};
}

// A symbolic size is 0 where the input has it at the same place, and one of the others is -1; only
// where more are left are they computed.
Refs reshape(const OnnxCall& c) {
  const Shape& from = c.type(0).shape;
  const Shape& to = c.node.attrs.get<ShapeAttrs>().shape;
  if (from == to) return c.inputs;
  std::vector<int64_t> numbers;
  int unknown = 0;
  bool empty = false;
  for (size_t i = 0; i < to.size(); ++i) {
    if (to[i].is_constant()) {
      numbers.push_back(to[i].constant());
      empty = empty || to[i].constant() == 0;
    } else if (i < from.size() && from[i] == to[i]) {
      numbers.push_back(0);
    } else {
      numbers.push_back(-1);
      ++unknown;
    }
  }
  if (empty || unknown > 1)
    return {c.add("Reshape", {c.inputs[0], c.to.shape(to)}, {{"allowzero", int64_t{1}}})};
  return {c.add("Reshape", {c.inputs[0], c.to.integers(numbers)})};
}

Refs transpose(const OnnxCall& c) {
  return {c.to.permuted(c.inputs[0], c.node.attrs.get<TransposeAttrs>().order)};
}

Refs concat(const OnnxCall& c) {
  return {c.add("Concat", c.inputs, {{"axis", c.node.attrs.get<ConcatAttrs>().axis}})};
}

Refs slice(const OnnxCall& c) {
  const auto& a = c.node.attrs.get<SliceAttrs>();
  const OnnxRef axes = c.to.integers({a.axis});
  return {c.add("Slice", {c.inputs[0], c.to.size(a.start), c.to.size(a.start + a.length), axes})};
}

Refs pad(const OnnxCall& c) {
  const auto& a = c.node.attrs.get<PadAttrs>();
  const size_t rank = c.type(0).rank(), axis = axis_index(a.axis, rank);
  std::vector<Size> pads(2 * rank, Size(0));
  pads[axis] = a.before;
  pads[rank + axis] = a.after;
  return {c.add("Pad", {c.inputs[0], c.to.sizes(pads)})};
}

// A size as a scalar of the type.
OnnxRef size_as(const OnnxCall& c, const Size& size, DType dtype) {
  if (size.is_constant()) return c.to.scalar(dtype, static_cast<double>(size.constant()));
  const OnnxRef scalar = c.add("Squeeze", {c.to.size(size)});
  return c.add("Cast", {scalar}, {{"to", int64_t{onnx_type(dtype)}}});
}

// A range along the axis, the same everywhere else.
Refs iota(const OnnxCall& c) {
  const auto& a = c.node.attrs.get<IotaAttrs>();
  const DType t = a.type.dtype;
  const size_t axis = axis_index(a.axis, a.type.rank());
  const OnnxRef end = size_as(c, a.type.shape[axis], t);
  OnnxRef x = c.add("Range", {c.to.scalar(t, 0), end, c.to.scalar(t, 1)});
  Shape elsewhere = a.type.shape;
  elsewhere[axis] = 1;
  if (a.type.rank() == 1) return {x};
  std::vector<int64_t> column(a.type.rank(), 1);
  column[axis] = -1;
  x = c.add("Reshape", {x, c.to.integers(column)});
  if (element_count(elsewhere) == Size(1)) return {x};
  return {c.add("Expand", {x, c.to.shape(elsewhere)})};
}

// Rows that the table does not have are zeros here, but an error in ONNX, or counted from the end.
Refs gather(const OnnxCall& c) {
  const OnnxRef table = c.inputs[0], index = c.inputs[1];
  const OnnxRef zero = c.to.scalar(DType::i32, 0);
  const OnnxRef rows = size_as(c, c.type(0).shape[0], DType::i32);
  const OnnxRef there =
      c.add("And", {c.add("GreaterOrEqual", {index, zero}), c.add("Less", {index, rows})});
  const OnnxRef found = c.add("Gather", {table, c.add("Where", {there, index, zero})});
  const OnnxRef column = c.add("Unsqueeze", {there, c.to.integers({-1})});
  return {c.add("Where", {column, found, c.to.scalar(c.type(0).dtype, 0)})};
}

// --- Sums, products, rows

// Where no axis is named, nothing is reduced here, but everything in ONNX.
Refs reduce(const OnnxCall& c, std::string_view op) {
  const auto& a = c.node.attrs.get<ReduceAttrs>();
  if (a.axes.empty()) return c.inputs;
  const OnnxAttribute keep{"keepdims", int64_t{a.keep}};
  // Of the reductions, operator set 17 has moved the axes of the sum alone to an input.
  if (op == "ReduceSum") return {c.add(op, {c.inputs[0], c.to.integers(a.axes)}, {keep})};
  return {c.add(op, c.inputs, {{"axes", a.axes}, keep})};
}
Refs reduce_sum(const OnnxCall& c) { return reduce(c, "ReduceSum"); }
Refs reduce_mean(const OnnxCall& c) { return reduce(c, "ReduceMean"); }
Refs reduce_max(const OnnxCall& c) { return reduce(c, "ReduceMax"); }
Refs reduce_min(const OnnxCall& c) { return reduce(c, "ReduceMin"); }

OnnxRef matrix(const OnnxCall& c, size_t input, bool transpose) {
  if (!transpose) return c.inputs[input];
  std::vector<int64_t> order(c.type(input).rank());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  std::swap(order[order.size() - 1], order[order.size() - 2]);
  return c.to.permuted(c.inputs[input], order);
}
Refs matmul(const OnnxCall& c) {
  const auto& a = c.node.attrs.get<MatmulAttrs>();
  return {c.add("MatMul", {matrix(c, 0, a.transpose_a), matrix(c, 1, a.transpose_b)})};
}

// A row that is wholly -inf gives zeros here and NaN in ONNX. Such rows come from masks, which the
// decomposition knows to handle.
Refs softmax(const OnnxCall& c) {
  const Op& from = *c.graph.node(c.node.inputs[0]).op;
  if (from.name == "select") return {};
  return {c.add("Softmax", c.inputs, {{"axis", int64_t{-1}}})};
}
Refs log_softmax(const OnnxCall& c) {
  return {c.add("LogSoftmax", c.inputs, {{"axis", int64_t{-1}}})};
}
Refs layer_norm(const OnnxCall& c) {
  const auto& a = c.node.attrs.get<NormAttrs>();
  if (a.stats || a.residual || c.node.types[0].dtype != c.type(0).dtype) return {};
  return {c.add("LayerNormalization", c.inputs, {{"axis", int64_t{-1}}, {"epsilon", a.eps}})};
}

// --- Images: [B,H,W,C] here, [B,C,H,W] in ONNX

const std::vector<int64_t> kChannelsFirst = {0, 3, 1, 2};
const std::vector<int64_t> kChannelsLast = {0, 2, 3, 1};

Refs conv2d(const OnnxCall& c) {
  const auto& a = c.node.attrs.get<Conv2dAttrs>();
  Refs inputs = c.inputs;
  inputs[0] = c.to.permuted(inputs[0], kChannelsFirst);
  inputs[1] = c.to.permuted(inputs[1], kChannelsFirst);
  const Shape& w = c.type(1).shape;
  using Numbers = std::vector<int64_t>;
  const OnnxRef y = c.add("Conv", inputs,
                          {{"kernel_shape", Numbers{w[1].constant(), w[2].constant()}},
                           {"strides", Numbers{a.stride_h, a.stride_w}},
                           {"pads", Numbers{a.pad_h, a.pad_w, a.pad_h, a.pad_w}}});
  return {c.to.permuted(y, kChannelsLast)};
}
// Neither a maximum nor a mean counts what lies outside the image.
Refs pool(const OnnxCall& c, std::string_view op) {
  const auto& a = c.node.attrs.get<PoolAttrs>();
  if (a.indices) return {};
  using Numbers = std::vector<int64_t>;
  const OnnxRef y = c.add(op, {c.to.permuted(c.inputs[0], kChannelsFirst)},
                          {{"kernel_shape", Numbers{a.size_h, a.size_w}},
                           {"strides", Numbers{a.stride_h, a.stride_w}},
                           {"pads", Numbers{a.pad_h, a.pad_w, a.pad_h, a.pad_w}}});
  return {c.to.permuted(y, kChannelsLast)};
}
Refs max_pool(const OnnxCall& c) { return pool(c, "MaxPool"); }
Refs avg_pool(const OnnxCall& c) { return pool(c, "AveragePool"); }

}  // namespace

const OnnxForm* find_onnx_form(std::string_view op) {
  static const std::vector<OnnxForm> forms = {
      {"neg", "Neg"},
      {"abs", "Abs"},
      {"exp", "Exp"},
      {"log", "Log"},
      {"sqrt", "Sqrt"},
      {"rsqrt", "", rsqrt},
      {"tanh", "Tanh"},
      {"sigmoid", "Sigmoid"},
      {"relu", "Relu"},
      {"silu", "", silu},
      {"gelu", "", gelu},
      {"square", "", square},
      {"reciprocal", "Reciprocal"},
      {"erf", "Erf"},
      {"sin", "Sin"},
      {"cos", "Cos"},
      {"sign", "Sign"},
      {"floor", "Floor"},
      {"is_finite", "", is_finite},
      {"logical_not", "Not"},
      {"add", "Add"},
      {"sub", "Sub"},
      {"mul", "Mul"},
      {"div", "Div"},
      {"max", "Max"},
      {"min", "Min"},
      {"pow", "Pow"},
      {"equal", "Equal"},
      {"not_equal", "", not_equal},
      {"less", "Less"},
      {"less_equal", "LessOrEqual"},
      {"greater", "Greater"},
      {"greater_equal", "GreaterOrEqual"},
      {"logical_and", "And"},
      {"logical_or", "Or"},
      {"select", "Where"},
      {"cast", "", cast},
      {"broadcast", "", broadcast},
      {"reshape", "", reshape},
      {"transpose", "", transpose},
      {"concat", "", concat},
      {"slice", "", slice},
      {"pad", "", pad},
      {"iota", "", iota},
      {"gather", "", gather},
      {"reduce_sum", "", reduce_sum},
      {"reduce_mean", "", reduce_mean},
      {"reduce_max", "", reduce_max},
      {"reduce_min", "", reduce_min},
      {"matmul", "", matmul},
      {"softmax", "", softmax},
      {"log_softmax", "", log_softmax},
      {"layer_norm", "", layer_norm},
      {"conv2d", "", conv2d},
      {"max_pool", "", max_pool},
      {"avg_pool", "", avg_pool},
  };
  const auto it = std::find_if(forms.begin(), forms.end(), [&](auto& f) { return f.op == op; });
  return it == forms.end() ? nullptr : &*it;
}

}  // namespace fovea

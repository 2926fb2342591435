// Reshape, transpose, broadcast, concat, slice, pad, patches, iota.
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

using Values = std::vector<Value>;

std::vector<ValueType> infer_broadcast(const InferContext& c) {
  const Shape& to = c.attrs.get<ShapeAttrs>().shape;
  const Shape& from = c.inputs[0].shape;
  c.expect(to.size() >= from.size(), "expected a shape of at least as many axes");
  for (size_t i = 0; i < from.size(); ++i)
    if (!(from[i] == Size(1))) c.same(from[i], to[to.size() - from.size() + i], "broadcast sizes");
  return {{c.inputs[0].dtype, to}};
}
Values broadcast_gradient(GradientContext& c) {
  return {ops::sum_to(c.graph, c.gradient(), c.graph.shape(c.input(0)))};
}

std::vector<ValueType> infer_reshape(const InferContext& c) {
  const Shape& to = c.attrs.get<ShapeAttrs>().shape;
  c.same(element_count(c.inputs[0].shape), element_count(to), "the numbers of elements");
  return {{c.inputs[0].dtype, to}};
}
Values reshape_gradient(GradientContext& c) {
  return {ops::reshape(c.graph, c.gradient(), c.graph.shape(c.input(0)))};
}

std::vector<ValueType> infer_transpose(const InferContext& c) {
  const auto& order = c.attrs.get<TransposeAttrs>().order;
  const Shape& from = c.inputs[0].shape;
  c.expect(order.size() == from.size(), "expected an order of all axes");
  std::vector<bool> seen(from.size());
  Shape to;
  for (int64_t a : order) {
    c.expect(a >= 0 && a < static_cast<int64_t>(from.size()) && !seen[static_cast<size_t>(a)],
             "expected each axis once in the order");
    seen[static_cast<size_t>(a)] = true;
    to.push_back(from[static_cast<size_t>(a)]);
  }
  return {{c.inputs[0].dtype, to}};
}
Values transpose_gradient(GradientContext& c) {
  const auto& order = c.node().attrs.get<TransposeAttrs>().order;
  std::vector<int64_t> back(order.size());
  for (size_t i = 0; i < order.size(); ++i)
    back[static_cast<size_t>(order[i])] = static_cast<int64_t>(i);
  return {ops::transpose(c.graph, c.gradient(), back)};
}

std::vector<ValueType> infer_concat(const InferContext& c) {
  ValueType out = c.inputs[0];
  const size_t axis = c.axis(c.attrs.get<ConcatAttrs>().axis, out.rank());
  for (size_t i = 1; i < c.inputs.size(); ++i) {
    const ValueType& t = c.inputs[i];
    c.expect(t.dtype == out.dtype && t.rank() == out.rank(), "expected one type and rank");
    for (size_t a = 0; a < out.rank(); ++a)
      if (a != axis) c.same(out.shape[a], t.shape[a], "the sizes beside the axis");
    out.shape[axis] = out.shape[axis] + t.shape[axis];
  }
  return {out};
}
Values concat_gradient(GradientContext& c) {
  Graph& g = c.graph;
  const int64_t axis = c.node().attrs.get<ConcatAttrs>().axis;
  const auto inputs = c.node().inputs;
  Values out;
  Size start = 0;
  for (Value v : inputs) {
    const Shape shape = g.shape(v);
    const Size length = shape[axis_index(axis, shape.size())];
    out.push_back(ops::slice(g, c.gradient(), axis, start, length));
    start = start + length;
  }
  return out;
}

std::vector<ValueType> infer_slice(const InferContext& c) {
  const auto& a = c.attrs.get<SliceAttrs>();
  ValueType out = c.inputs[0];
  const size_t axis = c.axis(a.axis, out.rank());
  const Size end = a.start + a.length;
  if (a.start.is_constant()) c.expect(a.start.constant() >= 0, "expected a start of at least 0");
  if (a.length.is_constant()) c.expect(a.length.constant() >= 0, "expected a length of at least 0");
  if (end.is_constant() && out.shape[axis].is_constant())
    c.expect(end.constant() <= out.shape[axis].constant(),
             "expected the slice to end within the axis, it ends at " + end.text());
  out.shape[axis] = a.length;
  return {out};
}
Values slice_gradient(GradientContext& c) {
  const auto& a = c.node().attrs.get<SliceAttrs>();
  const Shape& shape = c.graph.shape(c.input(0));
  const auto axis = axis_index(a.axis, shape.size());
  const Size after = shape[axis] - a.start - a.length;
  return {ops::pad(c.graph, c.gradient(), a.axis, a.start, after)};
}

std::vector<ValueType> infer_pad(const InferContext& c) {
  const auto& a = c.attrs.get<PadAttrs>();
  ValueType out = c.inputs[0];
  for (const Size* s : {&a.before, &a.after})
    if (s->is_constant()) c.expect(s->constant() >= 0, "expected padding of at least 0");
  const size_t axis = c.axis(a.axis, out.rank());
  out.shape[axis] = out.shape[axis] + a.before + a.after;
  return {out};
}
Values pad_gradient(GradientContext& c) {
  const auto& a = c.node().attrs.get<PadAttrs>();
  const Shape& shape = c.graph.shape(c.input(0));
  const auto axis = axis_index(a.axis, shape.size());
  return {ops::slice(c.graph, c.gradient(), a.axis, a.before, shape[axis])};
}

std::vector<ValueType> infer_iota(const InferContext& c) {
  const auto& a = c.attrs.get<IotaAttrs>();
  c.axis(a.axis, a.type.rank());
  c.expect(a.type.dtype == DType::i32 || a.type.dtype == DType::f32 || a.type.dtype == DType::f64,
           "expected i32, f32 or f64");
  return {a.type};
}

std::vector<ValueType> infer_patches(const InferContext& c) {
  const int64_t s = c.attrs.get<PatchesAttrs>().size;
  const Shape& x = c.inputs[0].shape;
  c.expect(x.size() == 4, "expected an image [B,H,W,C]");
  c.expect(s > 0 && s < (1 << 20), "expected a patch size from 1 to 1048575");
  for (size_t axis : {1, 2})
    if (x[axis].is_constant())
      c.expect(x[axis].constant() % s == 0,
               "expected height and width to be multiples of the patch size");
  return {
      {c.inputs[0].dtype, {x[0], ceildiv(x[1], s) * ceildiv(x[2], s), Size(s) * Size(s) * x[3]}}};
}
Values decompose_patches(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  const int64_t s = attrs.get<PatchesAttrs>().size;
  const Shape x = g.shape(in[0]);
  const Size rows = ceildiv(x[1], s), columns = ceildiv(x[2], s);
  Value v = ops::reshape(g, in[0], {x[0], rows, s, columns, Size(s) * x[3]});
  v = ops::transpose(g, v, {0, 1, 3, 2, 4});
  return {ops::reshape(g, v, {x[0], rows * columns, Size(s * s) * x[3]})};
}
Size no_flops(const Graph&, const Node&) { return 0; }

}  // namespace

std::span<const Op> shape_ops() {
  static const std::vector<Op> ops = {
      {.name = "broadcast",
       .defaults = ShapeAttrs{},
       .infer = infer_broadcast,
       .flops = no_flops,
       .gradient = broadcast_gradient},
      {.name = "reshape",
       .defaults = ShapeAttrs{},
       .infer = infer_reshape,
       .flops = no_flops,
       .gradient = reshape_gradient,
       .view = true},
      {.name = "transpose",
       .defaults = TransposeAttrs{},
       .infer = infer_transpose,
       .flops = no_flops,
       .gradient = transpose_gradient},
      {.name = "concat",
       .defaults = ConcatAttrs{},
       .min_inputs = 1,
       .max_inputs = -1,
       .infer = infer_concat,
       .flops = no_flops,
       .gradient = concat_gradient},
      {.name = "slice",
       .defaults = SliceAttrs{},
       .infer = infer_slice,
       .flops = no_flops,
       .gradient = slice_gradient},
      {.name = "pad",
       .defaults = PadAttrs{},
       .infer = infer_pad,
       .flops = no_flops,
       .gradient = pad_gradient},
      {.name = "iota",
       .defaults = IotaAttrs{},
       .min_inputs = 0,
       .max_inputs = 0,
       .infer = infer_iota,
       .flops = no_flops,
       .no_gradient = true},
      {.name = "patches",
       .defaults = PatchesAttrs{},
       .infer = infer_patches,
       .flops = no_flops,
       .decompose = decompose_patches},
  };
  return ops;
}

}  // namespace fovea

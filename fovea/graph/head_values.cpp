#include "fovea/graph/head_values.h"

#include <fmt/format.h>

#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"

namespace fovea {

HeadShapes infer_heads(const InferContext& c, int64_t heads, int64_t kv_heads) {
  const ValueType &q = c.inputs[0], &k = c.inputs[1], &v = c.inputs[2];
  c.expect(is_floating(q.dtype) && k.dtype == q.dtype && v.dtype == q.dtype,
           "expected one floating type");
  c.expect(q.rank() == 3 && k.rank() == 3 && v.rank() == 3,
           "expected q [B,Tq,H*D], k [B,Tk,Hkv*D], v [B,Tk,Hkv*Dv]");
  c.expect(heads >= 1 && kv_heads >= 1 && heads % kv_heads == 0,
           fmt::format("expected heads={} to be a multiple of kv_heads={}", heads, kv_heads));
  c.same(q.shape[0], k.shape[0], "the batch sizes of q and k");
  c.same(k.shape[0], v.shape[0], "the batch sizes of k and v");
  c.same(k.shape[1], v.shape[1], "the lengths of k and v");
  for (size_t i = 0; i < 3; ++i) {
    const Size& width = c.inputs[i].shape[2];
    const int64_t count = i == 0 ? heads : kv_heads;
    c.expect(width.is_constant(), "expected a known width");
    c.expect(
        width.constant() > 0 && width.constant() % count == 0,
        fmt::format("expected the width {} to be a multiple of {} heads", width.constant(), count));
  }
  const int64_t d = q.shape[2].constant() / heads;
  c.expect(k.shape[2].constant() / kv_heads == d, "expected q and k to have one head size");
  return {q.shape[0], q.shape[1], k.shape[1], d, v.shape[2].constant() / kv_heads};
}

HeadShapes head_shapes(const Graph& g, const Node& n, int64_t heads, int64_t kv_heads) {
  const Shape &q = g.shape(n.inputs[0]), &k = g.shape(n.inputs[1]), &v = g.shape(n.inputs[2]);
  return {q[0], q[1], k[1], q[2].constant() / heads, v[2].constant() / kv_heads};
}

DType wide_type(DType t) { return t == DType::bf16 ? DType::f32 : t; }

Value split_heads(Graph& g, Value x, int64_t groups, int64_t in_group) {
  const Shape s = g.shape(x);
  const Size d = s[2].constant() / (groups * in_group);
  const Value v = ops::reshape(g, x, {s[0], s[1], groups, in_group, d});
  return ops::transpose(g, v, {0, 2, 3, 1, 4});
}

Value join_heads(Graph& g, Value x) {
  const Shape s = g.shape(x);
  const Value v = ops::transpose(g, x, {0, 3, 1, 2, 4});
  return ops::reshape(g, v, {s[0], s[3], s[1] * s[2] * s[4]});
}

}  // namespace fovea

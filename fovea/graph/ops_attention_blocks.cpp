// The list of blocks that carry the attention, made from q and k (kernels/attention_blocks.h).
#include <fmt/format.h>

#include "fovea/graph/op.h"
#include "fovea/graph/op_attrs.h"

namespace fovea {

namespace {

std::vector<ValueType> infer_attention_blocks(const InferContext& c) {
  const auto& a = c.attrs.get<AttentionBlocksAttrs>();
  c.expect(c.inputs.size() == size_t{2} + a.lengths, "expected q, k and, with lengths, these");
  const ValueType &q = c.inputs[0], &k = c.inputs[1];
  c.expect(is_floating(q.dtype) && k.dtype == q.dtype && q.rank() == 3 && k.rank() == 3,
           "expected q [B,Tq,H*D] and k [B,Tk,Hkv*D] of one floating type");
  c.expect(a.heads >= 1 && a.kv() >= 1 && a.heads % a.kv() == 0,
           fmt::format("expected heads={} to be a multiple of kv_heads={}", a.heads, a.kv()));
  c.same(q.shape[0], k.shape[0], "the batch sizes of q and k");
  const Size &wide = q.shape[2], &narrow = k.shape[2];
  c.expect(wide.is_constant() && narrow.is_constant() && wide.constant() % a.heads == 0 &&
               narrow.constant() * a.heads == wide.constant() * a.kv(),
           "expected known widths that are heads of one size");
  c.expect(a.block > 0 && a.block % 16 == 0,
           fmt::format("expected block={} to be a multiple of 16", a.block));
  c.expect(a.mass > 0 && a.mass <= 1, fmt::format("expected mass={} above 0, at most 1", a.mass));
  if (a.lengths)
    c.expect(c.inputs[2] == ValueType{DType::i32, {q.shape[0]}},
             "expected lengths i32 [B], got " + to_text(c.inputs[2]));
  return {{DType::boolean,
           {q.shape[0], a.heads, ceildiv(q.shape[1], a.block), ceildiv(k.shape[1], a.block)}}};
}

// Of the products of means of 16 tokens; and the means.
Size attention_blocks_flops(const Graph& g, const Node& n) {
  const Shape &q = g.shape(n.inputs[0]), &k = g.shape(n.inputs[1]);
  const Size means = ceildiv(q[1], 16) * ceildiv(k[1], 16);
  return q[0] * (Size(2) * q[2] * means + q[1] * q[2] + k[1] * k[2]);
}

}  // namespace

std::span<const Op> attention_block_ops() {
  static const std::vector<Op> ops = {{.name = "attention_blocks",
                                       .defaults = AttentionBlocksAttrs{},
                                       .min_inputs = 2,
                                       .max_inputs = 3,
                                       .infer = infer_attention_blocks,
                                       .flops = attention_blocks_flops,
                                       .no_gradient = true}};
  return ops;
}

}  // namespace fovea

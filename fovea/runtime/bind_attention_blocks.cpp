#include <cmath>

#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/attention_blocks.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

AttentionBlocksProblem problem_of(const NodeProblem& n) {
  const auto& a = n.attrs<AttentionBlocksAttrs>();
  const auto q = n.input_dims(0), k = n.input_dims(1), blocks = n.output_dims();
  AttentionProblem p;
  p.dtype = n.input(0).dtype;
  p.batch = q[0];
  p.tq = q[1];
  p.tk = k[1];
  p.heads = p.heads_kept = a.heads;
  p.kv_heads = a.kv();
  p.head_dim = p.value_dim = q[2] / a.heads;
  p.scale = a.scale != 0 ? a.scale : 1 / std::sqrt(static_cast<double>(p.head_dim));
  p.causal = a.causal;
  p.window_left = a.window_left;
  p.window_right = a.window_right;
  p.align = a.upper_left ? AttentionAlign::upper_left : AttentionAlign::lower_right;
  p.global_tokens = a.global_tokens;
  p.prefix = a.prefix;
  p.block = a.block;
  p.block_plane = {.batch = blocks[1] * blocks[2] * blocks[3],
                   .head = blocks[2] * blocks[3],
                   .query = blocks[3]};
  set_dense_strides(p, /*packed=*/true);
  return {.attention = p, .mass = a.mass};
}

std::unique_ptr<NodePlan> bind(const NodeProblem& n, const KernelChoice& choice) {
  return bind_kernel(
      n, "attention_blocks", attention_blocks_kernels(), problem_of(n), choice,
      [lengths = n.attrs<AttentionBlocksAttrs>().lengths](const void* const* in, void* const* out) {
        return AttentionBlocksArgs{
            .q = in[0],
            .k = in[1],
            .links = {.key_lengths = lengths ? static_cast<const int32_t*>(in[2]) : nullptr},
            .blocks = static_cast<uint8_t*>(out[0])};
      });
}

}  // namespace

BindingGroup attention_block_bindings() {
  return {{{"attention_blocks", bind}},
          {family_of("attention_blocks", attention_blocks_kernels())}};
}

}  // namespace fovea

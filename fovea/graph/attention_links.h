// The links of attention in the graph: the shapes of the inputs that describe them, and what they
// do to scores, written with simpler ops.
#pragma once

#include <vector>

#include "fovea/graph/graph.h"
#include "fovea/graph/op.h"
#include "fovea/graph/op_attrs.h"

namespace fovea::attention_links {

// Throws Error for attributes that do not go together (naming both) and inputs of a wrong shape.
// tq, tk: queries and keys.
void check(const InferContext& c, const AttentionAttrs& a, const Size& batch, const Size& tq,
           const Size& tk);

// bool [Tq,Tk]: the links that positions leave (causal, window, dilation, global tokens, prefix);
// empty when all.
Value by_position(Graph& g, const AttentionAttrs& a, const Size& tq, const Size& tk);

// scores [B,Hkv,G,Tq,Tk] of scale q . k -> what the softmax is taken of. `in`: all inputs of
// attention.
Value scores(Graph& g, Value scores, std::span<const Value> in, const AttentionAttrs& a,
             const Size& tq, const Size& tk);

// [B,Hkv,G,Tq,Tk] -> [..,Tk+1]: the sink behind the keys; the scores as they are where there is
// none.
Value with_sink(Graph& g, Value scores, std::span<const Value> in, const AttentionAttrs& a);

// What the normaliser makes of scores [B,Hkv,G,Tq,Tk].
Value weights(Graph& g, Value scores, std::span<const Value> in, const AttentionAttrs& a);
// What dropout leaves of [B,Hkv,G,Tq,Tk]: the op has the bits that the kernels of attention have,
// since these count links as it counts elements.
Value dropped(Graph& g, Value probabilities, std::span<const Value> in, const AttentionAttrs& a);

// Those inputs that have gradients, by their places among all inputs: bias, distance_bias, sink,
// temperature, relative_keys, content_bias, position_bias, span.
std::vector<size_t> differentiable(const AttentionAttrs& a);

}  // namespace fovea::attention_links

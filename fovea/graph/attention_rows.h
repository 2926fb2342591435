// What attention makes of rows of q and k before their products: division by their norms, rotation
// by their positions, the temperature; checked, and written with simpler ops.
#pragma once

#include <span>

#include "fovea/graph/graph.h"
#include "fovea/graph/op.h"
#include "fovea/graph/op_attrs.h"

namespace fovea::attention_rows {

// Fails for rotations, norms and relative keys that heads of this size do not have.
void check(const InferContext& c, const AttentionAttrs& a, int64_t head_size, const Size& tq,
           const Size& tk);

// The products [B,Hkv,G,Tq,Tk] of q [B,Tq,H*D] and k [B,Tk,Hkv*D], before the scale. in: all inputs
// of the op.
Value products(Graph& g, Value q, Value k, std::span<const Value> in, const AttentionAttrs& a);

}  // namespace fovea::attention_rows

// What the decompositions of the attention ops share: heads taken apart.
#pragma once

#include "fovea/graph/graph.h"
#include "fovea/graph/op.h"

namespace fovea {

// q [B,Tq,H*D], k [B,Tk,Hkv*D] and v [B,Tk,Hkv*Dv].
struct HeadShapes {
  Size batch, tq, tk;
  int64_t d = 0, dv = 0;
};

// Fails unless the first three inputs are q, k and v as above, of one floating type.
HeadShapes infer_heads(const InferContext& c, int64_t heads, int64_t kv_heads);
HeadShapes head_shapes(const Graph& g, const Node& n, int64_t heads, int64_t kv_heads);

// The type in which sums are formed: f32 for bf16.
DType wide_type(DType t);

// [B,T,G*N*D] -> [B,G,N,T,D], and back.
Value split_heads(Graph& g, Value x, int64_t groups, int64_t in_group);
Value join_heads(Graph& g, Value x);

}  // namespace fovea

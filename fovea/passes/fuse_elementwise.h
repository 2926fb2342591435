// Chains of elementwise ops as one node, which runs block by block in the first cache.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// Elementwise ops in f32 (with the bools between them), each read by the next one alone, become one
// node `elementwise`; casts to f32 at the beginning, a cast to bf16 at the end and broadcasts go
// with them. The new node has the name of the last one that it replaces.
Graph fuse_elementwise(const Graph& graph, const PassContext& context);

}  // namespace fovea

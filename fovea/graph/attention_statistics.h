// The optional results of attention written with simpler ops.
#pragma once

#include <vector>

#include "fovea/graph/graph.h"
#include "fovea/graph/op_attrs.h"

namespace fovea::attention_statistics {

// Those that the attributes ask for, in their order. scores [B,Hkv,G,Tq,Tk], or with a sink behind
// the keys; probabilities [B,Hkv,G,Tq,Tk] before dropout. Heads that are not kept have 0, and keys
// of -1.
std::vector<Value> of(Graph& g, Value scores, Value probabilities, const AttentionAttrs& a);

}  // namespace fovea::attention_statistics

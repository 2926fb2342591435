// One product in place of three: the projections to queries, keys and values.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// attention on three linears of one value that nothing else reads becomes a linear with the three
// weights below each other and attention with packed=true. Weights stay the variables that they
// are: a concat joins them, and its gradient parts them. Queries, keys and values must have one
// head size. A projection without bias gets zeros where another has one. Runs before differentiate,
// so that the gradients are joined as well.
Graph join_projections(const Graph& graph, const PassContext& context);

}  // namespace fovea

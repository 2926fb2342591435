// Weights that will not change any more, as constants.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// Every variable for which the context has numbers becomes a constant of the same name. What is
// computed from constants alone (weights joined, rounded, cut) is then folded, and kernels pack
// their weights once. For inference only: throws Error where the graph updates such a variable, and
// where the numbers are not of its type.
Graph freeze(const Graph& graph, const PassContext& context);

}  // namespace fovea

// Writes ops that have no kernel with ops that have one.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// Replaces each node whose op has no kernel by its decomposition, and so on within it; the new
// nodes stand below the name of the node. Sources and views need no kernel. Throws Error
// (unsupported) that names the node where there is neither kernel nor decomposition.
Graph lower(const Graph& graph, const PassContext& context);

}  // namespace fovea

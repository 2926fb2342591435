// Leaves out what nobody reads.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// Keeps what outputs and updates need, and every input: the inputs are what a caller is told to
// give. Optional outputs that nobody reads are no longer asked for, and stored constants without a
// reader go. A variable from which a kept one takes its initial value stays.
Graph dead_nodes(const Graph& graph, const PassContext& context);

}  // namespace fovea

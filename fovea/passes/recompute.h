// Keeps a training step within its memory: what the backward part reads late is not kept but
// computed again (Chen et al. 2016, "Training deep nets with sublinear memory cost"; the choice is
// greedy, by what each value costs to compute again for each byte that it frees).
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// Where the context states a budget (memory_bytes, for the given sizes): values of the forward part
// that only the backward part still needs are computed again just before it reads them, from values
// that live there anyway, until the arena of the plan fits. Clones are named "<name>.again" and
// draw the same random numbers. Throws Error with what could be reached where the budget cannot be
// met.
Graph recompute(const Graph& graph, const PassContext& context);

}  // namespace fovea

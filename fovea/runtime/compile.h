// The passes with what only the runtime knows: which ops have kernels, and how to evaluate
// constants.
#pragma once

#include "fovea/passes/pipeline.h"

namespace fovea {

// Runs all passes on the graph, for this processor. `context` may name a level, an output to
// differentiate and an optimiser. Throws what the passes throw.
Graph compile(const Graph& graph, PassContext context = {},
              std::span<const std::string> disabled = {},
              std::vector<PassReport>* reports = nullptr);

}  // namespace fovea

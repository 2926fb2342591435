// Adds the gradients of a scalar output with respect to all weights.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// For the output that context.differentiate_output names (none: the graph is left as it is): saves
// what the gradient rules read, and adds one output "grad.<variable>" for each variable of the kind
// weight that the output depends on. Throws Error when the output is no scalar of a floating type,
// or an op on the way has no gradient.
Graph differentiate(const Graph& graph, const PassContext& context);

// The prefix of the outputs that `differentiate` adds.
inline constexpr std::string_view kGradientPrefix = "grad.";

}  // namespace fovea

// The first pass: sets the attributes that a level overrides.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// The graph with the overrides of context.level; unchanged where there is no level. Throws Error
// that names the level and the node where there is no such node or attribute, where the text does
// not fit the attribute, and where a shape rule does not hold any more.
Graph apply_level(const Graph& graph, const PassContext& context);

}  // namespace fovea

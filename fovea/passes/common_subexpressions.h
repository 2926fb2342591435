// Computes equal things once.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// Of nodes with equal op, attributes and inputs (in any order where the op is commutative) the
// first stays and serves the readers of all. Constants merge by content. Random ops, variables and
// inputs are never merged.
Graph common_subexpressions(const Graph& graph, const PassContext& context);

}  // namespace fovea

// Leaves out work whose result is known: identities, and nodes that read only constants.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// Identities: x*1, x/1, x+0 (where -0 may keep its sign), x-0, neg(neg x), cast to the own type,
// reshape, broadcast and slice to the own shape, pad by nothing, transpose in the given order,
// reshape of reshape, transpose of transpose, select with a constant condition, dropout at rate 0.
// Each fires only where the type of the result stays and no check of sizes is lost.
// A node of one known result of at most 65536 elements that reads only constants (or nothing: iota)
// becomes a constant of the same name, evaluated by context.evaluate.
Graph fold(const Graph& graph, const PassContext& context);

}  // namespace fovea

// Makes fewer heads cost less: the projections around them shrink as well.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// attention with heads_kept=n < heads, whose q, k and v come from linears of their own and whose
// result goes into one linear: becomes attention of n heads, on the first rows of the three weights
// and the first columns of the fourth. Weights stay as they are; slices cut them. Grouped heads
// are cut where whole groups stay. What does not fit is left to the kernels, which give zeros.
Graph narrow_heads(const Graph& graph, const PassContext& context);

}  // namespace fovea

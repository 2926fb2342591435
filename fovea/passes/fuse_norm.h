// One node for a residual and the norm that follows it.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// layer_norm or rms_norm of add(a, b), both of one type, becomes the norm with residual=true, whose
// second output is the sum for everybody else who reads it. Left alone where somebody reads the sum
// before the norm stands.
Graph fuse_norm(const Graph& graph, const PassContext& context);

}  // namespace fovea

// Products in bf16 with sums, weights and norms in f32 (Micikevicius et al. 2018, without loss
// scaling: bf16 has the range of f32).
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// Every linear, its gradients and attention that has compute=bf16, or all of them where the context
// asks for it: weights are rounded by cast nodes, and values that only such products read are
// stored in bf16. Everything else stays f32; casts stand where the types meet. An f32 operand of a
// linear needs no cast: its kernels round while they read.
Graph mixed_precision(const Graph& graph, const PassContext& context);

}  // namespace fovea

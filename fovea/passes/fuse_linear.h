// Gives products what is done to their results: bias and activation, residuals, slopes of
// activations, sums of gradients. What is fused is written while the product's block is in cache.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// linear, then relu, silu or gelu, then the addition of a value of the same shape, becomes one
// linear. Runs before differentiate: the gradient of the fused op asks for what it needs. Nothing
// is fused where something else reads what stands in between. The new node has the name of the last
// one that it replaces.
Graph fuse_linear(const Graph& graph, const PassContext& context);

// The same for what differentiate made: linear_grad_input, then the slope of an activation, then an
// addition; and layer_norm_grad or rms_norm_grad, then an addition.
Graph fuse_gradients(const Graph& graph, const PassContext& context);

}  // namespace fovea

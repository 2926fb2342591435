// Reverse-mode differentiation of a graph, by the gradient rules of the op table.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "fovea/graph/op.h"

namespace fovea {

// Appends to `graph` the nodes that carry gradients back from `seeds` (a value, and the gradient
// that flows into it), and returns the gradient of each value in `wrt`; an empty Value where none
// arrives. New nodes are named "grad." and the name of the node they differentiate. An op without a
// gradient rule is differentiated through its decomposition.
std::vector<Value> backpropagate(Graph& graph, std::span<const std::pair<Value, Value>> seeds,
                                 std::span<const Value> wrt);

// The gradient rule of every op that has a decomposition and no rule of its own.
std::vector<Value> gradient_through_decomposition(GradientContext& context);

}  // namespace fovea

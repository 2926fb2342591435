// Finds the loss of a classifier that is written out and makes one node of it, which never stores
// the probabilities.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// Looks for -sum(select(classes == label, log p, 0)) over the last axis, where log p is
// log_softmax(logits) or log(softmax(logits)), classes an iota along that axis and label i32
// [..,1]; the selection may also be a product with the comparison as numbers. Nothing is fused
// where something else reads the log-probabilities or what follows them. The new node has the name
// of the node that it replaces, the last of the pattern. The numbers are the same but where the
// written-out form is fragile: a label beyond the classes gives NaN in place of 0 (a negative one
// gives 0 in both), and probabilities that vanish give their true logarithm where log(softmax)
// gives infinity or, in a product, NaN.
Graph fuse_cross_entropy(const Graph& graph, const PassContext& context);

}  // namespace fovea

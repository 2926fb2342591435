// Finds attention that is written out and makes one node of it, whose kernels store no T x T
// matrix.
#pragma once

#include "fovea/passes/pass.h"

namespace fovea {

// Looks for softmax(scale q k^T, masked) v (Vaswani et al. 2017, equation 1) on heads that are
// split from packed [B,T,H*D] by reshape and transpose and joined again in the same way; this
// includes what the decomposition of the op attention builds (but for its log-sum-exp, which reads
// the scores too). The scale is a positive constant and may stand at the scores, at q or at k. The
// mask is a causal one or a window, computed from iotas, and set by select with -inf or by adding 0
// or -inf. Nothing is fused where something else reads the scores or what follows them. The new
// node has the name of the node that it replaces, the last of the pattern.
Graph fuse_attention(const Graph& graph, const PassContext& context);

}  // namespace fovea

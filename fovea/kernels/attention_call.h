// Attention on plain memory in one call, without a graph: the description is AttentionProblem, the
// memory AttentionArgs. Who calls often plans once instead (attention_kernels(), planned.h).
#pragma once

#include "fovea/kernels/attention.h"

namespace fovea {

// Softmax attention of q, k and v, written to args.out (and args.lse, if problem.want_lse). Throws
// Error: invalid_argument for a problem that makes no sense and for memory that it names and that
// is not given (naming both), unsupported for types that no kernel takes. Without a pool: on the
// calling thread.
void attention(const AttentionProblem& problem, const AttentionArgs& args,
               ThreadPool* pool = nullptr);

// Its gradients, written to args.dq, dk and dv, and to those of biases and sinks that are given.
// args.out and args.lse are what attention() wrote, with want_lse.
void attention_backward(const AttentionProblem& problem, const AttentionBackwardArgs& args,
                        ThreadPool* pool = nullptr);

}  // namespace fovea

// Linear attention (Katharopoulos et al. 2020, "Transformers are RNNs", equations 5 and 7 to 12)
// and its gradient on raw memory, with the feature map phi(x) = elu(x) + 1:
//   S_i = sum_j phi(k_j) v_j^T,  z_i = sum_j phi(k_j),  out_i = phi(q_i) S_i / (phi(q_i) z_i)
// over the keys j that query i sees. Work grows with tq + tk, not with tq tk: causal sums are
// formed in chunks, as products within a chunk and a running state (algorithm 1 of the paper, by
// chunks). Backward runs over the chunks forwards and then backwards and computes each state again;
// it keeps O(tq + tk) numbers, never a state for each token.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "fovea/kernels/head_arrays.h"

namespace fovea {

// Query i sees the keys j with j < key_lengths[b], and j <= i + tk - tq if causal. A query that
// sees no key, or whose phi(q_i) z_i is 0, gives output 0 and gradient 0. With bf16, sums are
// formed in f32.
struct LinearAttentionProblem : HeadArrays {
  bool causal = false;
};

struct LinearAttentionArgs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  void* out = nullptr;
  const int32_t* key_lengths = nullptr;  // [batch]; null: all tk
};

// Nothing of forward but its operands is read.
struct LinearAttentionBackwardArgs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const void* dout = nullptr;
  void* dq = nullptr;  // all three are overwritten
  void* dk = nullptr;
  void* dv = nullptr;
  const int32_t* key_lengths = nullptr;  // as in forward
};

using LinearAttentionKernel = Kernel<LinearAttentionProblem, LinearAttentionArgs>;
using LinearAttentionBackwardKernel = Kernel<LinearAttentionProblem, LinearAttentionBackwardArgs>;

// Best first, "ref" last. A key/value head of a sample is one block of work. Planning throws Error
// (invalid_argument) for sizes and strides that make no sense.
std::span<const LinearAttentionKernel> linear_attention_kernels();
std::span<const LinearAttentionBackwardKernel> linear_attention_backward_kernels();

// What the kernels of this family share; not for callers.
namespace linear_attention_detail {

void append_hwy(std::vector<LinearAttentionKernel>& list);
void append_backward_hwy(std::vector<LinearAttentionBackwardKernel>& list);

}  // namespace linear_attention_detail
}  // namespace fovea

// Attention whose score looks at each pair of coordinates of a query and a key before it sums, and
// its gradient on raw memory:
//   additive     s_ij = scale sum_d w_d tanh(q_id + k_jd)     (Bahdanau et al. 2015, section A.1.2)
//   subtraction  s_ij = scale sum_d w_d relu(q_id - k_jd)     (Zhao et al. 2020, section 3.1)
//   out_i = sum_j softmax_j(s_ij) v_j
// Zhao et al.'s pairwise attention weighs by gamma(phi(x_i) - psi(x_j)), gamma = linear, relu,
// linear, and gives all channels of a group one weight. The first linear map of gamma goes into the
// projections that make q and k; the second is w, and a group of channels is a head. (Without
// gamma's relu the query would cancel in the softmax.) No kernel stores tq x tk x d or tq x tk
// numbers: forward uses the online softmax, backward computes scores again from the log-sum-exp.
#pragma once

#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "fovea/kernels/head_arrays.h"

namespace fovea {

enum class PairScore { additive, subtraction };

// Query i stands at key position p = i + tk - tq and sees the keys j with j < key_lengths[b];
// j <= p if causal; p - window_left <= j <= p + window_right, each if not -1. A query that sees no
// key gives output 0, log-sum-exp -infinity and gradient 0. With bf16 the log-sum-exp is f32, and
// sums are formed in f32.
struct PairAttentionProblem : HeadArrays {
  PairScore score = PairScore::additive;
  double scale = 1;
  bool causal = false;
  int64_t window_left = -1;   // -1: no limit
  int64_t window_right = -1;  // -1: no limit
  bool want_lse = false;      // write the log-sum-exp (backward needs it)
};

struct PairAttentionArgs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const void* w = nullptr;  // dense [heads, head_dim]
  void* out = nullptr;
  void* lse = nullptr;                   // dense [batch, heads, tq]; may be null: not written
  const int32_t* key_lengths = nullptr;  // [batch]; null: all tk
};

struct PairAttentionBackwardArgs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const void* w = nullptr;
  const void* out = nullptr;
  const void* lse = nullptr;  // natural logarithm, as forward wrote it
  const void* dout = nullptr;
  void* dq = nullptr;  // all four are overwritten
  void* dk = nullptr;
  void* dv = nullptr;
  void* dw = nullptr;
  const int32_t* key_lengths = nullptr;  // as in forward
};

using PairAttentionKernel = Kernel<PairAttentionProblem, PairAttentionArgs>;
using PairAttentionBackwardKernel = Kernel<PairAttentionProblem, PairAttentionBackwardArgs>;

// Best first, "ref" last. Planning throws Error (invalid_argument) for sizes, strides, windows or a
// scale that make no sense.
std::span<const PairAttentionKernel> pair_attention_kernels();
std::span<const PairAttentionBackwardKernel> pair_attention_backward_kernels();

// What the kernels of this family share; not for callers.
namespace pair_attention_detail {

void check(const PairAttentionProblem& problem, bool backward);

// The keys that one query sees: [begin, end), empty if end <= begin. Both ends grow with the query.
struct KeyRange {
  int64_t begin = 0;
  int64_t end = 0;
};
inline KeyRange visible_keys(const PairAttentionProblem& p, int64_t query, int64_t length) {
  const int64_t position = query + p.tk - p.tq;
  const int64_t right = p.causal ? 0 : p.window_right;
  KeyRange r{0, length};
  if (right >= 0 && right < length - position) r.end = std::max<int64_t>(0, position + right + 1);
  if (p.window_left >= 0 && position > p.window_left) r.begin = position - p.window_left;
  return r;
}

void append_hwy(std::vector<PairAttentionKernel>& list);
void append_backward_hwy(std::vector<PairAttentionBackwardKernel>& list);

}  // namespace pair_attention_detail
}  // namespace fovea

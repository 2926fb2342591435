// What the Highway kernels of additive and subtraction attention share outside SIMD: their units of
// work, and where one worker's scratch holds what.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fovea/kernels/pair_attention.h"

namespace fovea::pair_attention_detail {

constexpr int64_t kQueryBlock = 128;
constexpr int64_t kKeyBlock = 64;
// Beyond it e^2q or a product of two leaves the range of floats: tanh is taken itself.
constexpr float kLargest = 21.0f;

template <class Args>
struct Task {
  const PairAttentionProblem& problem;
  const Args& args;
  int64_t batch, head;  // head: of queries in forward, of keys in backward
  int64_t block;        // of queries, in forward
  double* dw;           // of the sample, [heads][head_dim], in backward
};
using ForwardTask = Task<PairAttentionArgs>;
using BackwardTask = Task<PairAttentionBackwardArgs>;

// Where one worker's scratch holds what, in floats. Rows are padded to whole vectors.
struct Layout {
  Layout(const PairAttentionProblem& p, int64_t lanes, bool backward) {
    const auto round = [&](int64_t n) { return (n + lanes - 1) / lanes * lanes; };
    width = std::min(kQueryBlock, round(p.tq));
    keys = std::min(kKeyBlock, p.tk);
    dim = round(p.head_dim);
    value_dim = round(p.value_dim);
    attention_detail::ScratchPieces scratch;
    w = scratch.take(dim);
    rows = scratch.take(width * std::max(dim, value_dim));
    qt = scratch.take(p.head_dim * width);
    at = scratch.take(p.score == PairScore::additive ? p.head_dim * width : 0);
    k = scratch.take(keys * dim);
    v = scratch.take(keys * value_dim);
    scores = scratch.take(keys * width);
    outt = scratch.take(p.value_dim * width);
    max = scratch.take(width);
    sum = scratch.take(width);
    rescale = scratch.take(width);
    begin = scratch.take(width);
    end = scratch.take(width);
    if (backward) {
      dscores = scratch.take(keys * width);
      dqt = scratch.take(p.head_dim * width);
      dw = scratch.take(p.head_dim * lanes);
      const int64_t blocks = (p.tk + kKeyBlock - 1) / kKeyBlock;
      dkt = scratch.take(blocks * p.head_dim * kKeyBlock);
      dv = scratch.take(blocks * kKeyBlock * value_dim);
      dk_rows = scratch.take(kKeyBlock * dim);
    }
    total = scratch.used();
  }

  int64_t width, keys, dim, value_dim;
  int64_t w;       // times scale
  int64_t rows;    // of queries, or of the result or its gradient
  int64_t qt, at;  // Q^T and e^2Q^T [head_dim][width]
  int64_t k, v;    // of a block of keys; k as e^2K where that is used
  int64_t scores;  // S^T, then P^T [keys][width]
  int64_t outt;    // O^T before the division by the sum, or dO^T [value_dim][width]
  int64_t max, sum, rescale, begin, end;  // one a query; in backward max is the log-sum-exp, sum is
                                          // rowsum(dO * O)
  int64_t dscores = 0;                    // dP^T, then dS^T
  int64_t dqt = 0, dw = 0;                // sums without the factors that the weights give
  int64_t dkt = 0;                        // [blocks of keys][head_dim][kKeyBlock]
  int64_t dv = 0, dk_rows = 0;
  int64_t total = 0;
};

}  // namespace fovea::pair_attention_detail

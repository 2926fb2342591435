// Tiled attention, backward: what a task gets and where its scratch holds what. Shared by the plan
// (attention_backward_blocks.cpp) and the SIMD of each target (attention_backward_blocks-inl.h),
// not for callers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "fovea/kernels/attention.h"
#include "fovea/kernels/attention_dropout.h"
#include "fovea/kernels/attention_rows.h"
#include "fovea/kernels/attention_seen.h"
#include "fovea/kernels/attention_shared_sums.h"

namespace fovea::attention_detail {

constexpr int64_t kBackwardKeys = 64;   // of the products
constexpr int64_t kBackwardSpan = 512;  // keys whose gradients stand in scratch (in L2) at a time
// Where there are blocks of links few of them may be seen: the longer the span, the less often are
// queries loaded. [A tenth of blocks of 64 at 4096 tokens, beside 512: 0.91 of the time with 1024,
// 0.84 with 2048, 0.82 with 4096.]
constexpr int64_t kBackwardBlocksSpan = 2048;
constexpr int64_t kBackwardQueries = 48;  // about; a multiple of the lanes

// Relative keys and gradients of what meets them, of all heads, where they lie in scratch: each
// key/value head has relative_room() floats of each, each query head biases_room() of sums.
struct RelativeScratch {
  float* transposed = nullptr;  // relative keys, [head_dim][relative_width]
  float* rows = nullptr;        // [relative_width][head_dim in whole vectors]
  float* drows = nullptr;       // likewise, before the scale
  // Of the queries' gradients, before the temperature: for keys, and behind them for relative keys.
  float* bias_sums = nullptr;
};
inline int64_t relative_room(const AttentionProblem& p) {
  return relative_width(p) * padded(p.head_dim);
}
inline int64_t biases_room(const AttentionProblem& p) { return 2 * padded(p.head_dim); }

struct BackwardTask : HeadBackwardTask {
  const RelativeScratch& relative;
};

// Queries in a block; they lie in one block of links.
inline int64_t query_block(const AttentionProblem& p) {
  for (int64_t width : {64, 48, 32})
    if (p.block > 0 && p.block % width == 0) return width;
  return p.block > 0 ? 16 : kBackwardQueries;
}

// The pieces of one worker's scratch, in floats, each aligned to a vector of any target.
struct BackwardLayout {
  BackwardLayout(const AttentionProblem& p, int64_t lanes) {
    const auto round = [](int64_t n, int64_t to) { return (n + to - 1) / to * to; };
    width = std::min(round(query_block(p), lanes), round(p.tq, lanes));
    dim = round(p.head_dim, lanes);
    value_dim = round(p.value_dim, lanes);
    span = std::min(p.block > 0 ? kBackwardBlocksSpan : kBackwardSpan, p.tk);
    const int64_t keys = std::min(kBackwardKeys, p.tk);
    ScratchPieces scratch;
    qt = scratch.take(p.head_dim * width);
    dot = scratch.take(p.value_dim * width);
    q = scratch.take(width * dim);
    dout = scratch.take(width * value_dim);
    dqt = scratch.take(p.head_dim * width);
    p_block = scratch.take(keys * width);
    ds_block = scratch.take(keys * width);
    dk = scratch.take(span * dim);
    dv = scratch.take(span * value_dim);
    const bool converted = p.dtype != DType::f32;
    k = scratch.take(converted || changes_rows(p) || scattered(p.k, p.head_dim) ? span * dim : 0);
    v = scratch.take(converted || scattered(p.v, p.value_dim) ? span * value_dim : 0);
    dq = scratch.take(converted ? p.heads / p.kv_heads * p.tq * p.head_dim : 0);
    lse = scratch.take(width);
    delta = scratch.take(width);
    lane_keys = scratch.take(kLaneRows * width);
    slopes = scratch.take(p.soft_cap > 0 ? keys * width : 0);
    relative_q = scratch.take(p.relative_keys ? width * dim : 0);
    relative_qt = scratch.take(p.relative_keys ? p.head_dim * width : 0);
    relative_dq = scratch.take(p.relative_keys ? width * dim : 0);
    relative_block = scratch.take(p.relative_keys ? relative_block_room(width, keys) : 0);
    words = scratch.take(p.dropout > 0 ? word_rows(keys) * width : 0);
    deltas = scratch.take(p.heads / p.kv_heads * p.tq);
    total = scratch.used();
  }

  int64_t width;           // queries in a block
  int64_t dim, value_dim;  // rounded up to whole vectors
  int64_t span;
  int64_t qt, dot;            // Q^T times scale log2(e), dO^T: [dim][width]
  int64_t q, dout;            // [width][dim]
  int64_t dqt;                // [dim][width]
  int64_t p_block, ds_block;  // [keys][width]
  int64_t dk, dv;             // [span][dim]
  int64_t k, v;               // the same, of keys and values that are scattered or converted
  int64_t dq;                 // of every query of the group, where it is converted
  int64_t lse, delta;         // one a query of the block
  int64_t lane_keys;          // rows of int32
  int64_t slopes;             // of the cap, [keys][width]
  // For relative keys: queries [width][dim], transposed, their gradients, and products.
  int64_t relative_q, relative_qt, relative_dq, relative_block;
  int64_t words;   // bits of dropout, uint32
  int64_t deltas;  // rowsum(dO * O) of every query of the group
  int64_t total;
};

// What a target gives.
struct BackwardTarget {
  void (*backward)(const BackwardTask&, float*);
  DistancesFunction distances;
  void (*relative)(const AttentionProblem&, const float*, float*, float*);
  int64_t (*lanes)();
};

// A plan that runs the target's functions; nullptr: they do not support the problem.
std::unique_ptr<KernelPlan<AttentionBackwardArgs>> plan_backward_blocks(
    const AttentionProblem& problem, const BackwardTarget& target);

}  // namespace fovea::attention_detail

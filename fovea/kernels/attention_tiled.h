// Attention for long sequences in low precision, forward: the parts that a format of numbers brings
// (pairs of bf16, fours of i8) behind plain functions, so that one driver with all masks serves all
// of them (attention_tiled_avx3.cpp). The lanes run over queries, as in attention_hwy.cpp. Not for
// callers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string_view>

#include "fovea/kernels/attention_cache.h"
#include "fovea/kernels/attention_decode.h"
#include "fovea/kernels/attention_seen.h"

namespace fovea::attention_detail {

constexpr int64_t kTiledKeys = 128;  // whose scores are kept at once
constexpr int64_t kTiledLanes = 64;  // queries of a panel, at most
// Panels of a task, which share the operands made from K and V: as many as leave tasks enough for
// many threads. [Rows of 8 packed heads lie 1 KB apart and fall into few sets of the second cache:
// with 4 panels making these operands took 8 % of the time.]
constexpr int64_t kLeastTiledPanels = 4, kMostTiledPanels = 8;
constexpr int64_t kTiledTasks = 32;
constexpr int64_t kTiledColumns = 64;  // to which rows of operands are filled up

// A panel of queries, and what is kept of it from one block of keys to the next. Rows of one number
// a query have `width` of them.
struct TiledPanel {
  int64_t first, queries, width;
  uint32_t* q;     // Q^T, [steps][width], each step as many numbers as fit 4 bytes
  float* ot;       // O^T before the division by sum, [value_dim][width]
  float* factor;   // what makes scores of what the product gives
  float* max;      // of the scores so far, times log2(e)
  float* sum;      // of exp2(score - max)
  float* rescale;  // from the previous maximum to this one
  float* new_max;  // of the block
  float* weight;   // of what the second product gives
  int32_t* start;  // of the sums of the first product
};

// The operands made from a block of keys, with a scale for each row where there are scales.
struct TiledBlock {
  std::byte* k;    // [keys][columns]
  uint32_t* v;     // [steps][value columns], each step one number of as many keys as fit 4 bytes
  float* k_scale;  // [keys]
  float* v_scale;  // [keys], relative to the largest one
  float largest_scale;  // of the values
};

// Rows of a block, and their scales (null: none).
struct TiledRows {
  const std::byte* const* rows;
  const float* scales;
  int64_t count, dim;
};

// Rows of a panel's queries in f32 or bf16, `token` elements apart.
struct TiledQueries {
  const void* rows;
  DType dtype;
  int64_t token, dim;
  float factor;  // of the products, times log2(e)
};

struct TiledFormat {
  std::string_view name;
  int64_t in_step;  // numbers in 4 bytes: 2 or 4
  // Makes panel.q, factor (not below 0) and start.
  void (*load_queries)(const TiledQueries& from, const TiledPanel& panel);
  void (*load_keys)(const TiledRows& from, const TiledBlock& to);
  void (*load_values)(const TiledRows& from, TiledBlock& to);
  // Scores of the keys from row `key` of the block on, [keys][width]. With their factors, or
  // without them and the maxima in panel.new_max.
  void (*scores)(const AttentionProblem& p, const TiledPanel& panel, const TiledBlock& block,
                 int64_t key, int64_t keys, bool with_factor, float* scores);
  // Scores become powers of two, the right operand of the next product; maximum, sum, rescale and
  // weight follow. factor: by which scores are still to be multiplied.
  void (*softmax)(const AttentionProblem& p, const TiledPanel& panel, const TiledBlock& block,
                  int64_t key, int64_t keys, const float* factor, float* scores);
  // O^T = rescale O^T + V^T P^T; key: a whole number of steps.
  void (*values)(const AttentionProblem& p, const TiledPanel& panel, const TiledBlock& block,
                 int64_t key, int64_t keys, const float* scores);
};

// Operands have whole steps, and what lies in the first step of a range before it must be unseen:
// ranges nearer to each other than a step are one, whose gap is masked.
inline TouchedKeys in_steps(TouchedKeys keys, int64_t step) {
  if (!keys.low.empty() && !keys.high.empty() && keys.high.begin - keys.low.end < step) {
    keys.high.begin = keys.low.begin;
    keys.low = {};
  }
  return keys;
}

constexpr int64_t tiled_columns(int64_t n) {
  return (n + kTiledColumns - 1) / kTiledColumns * kTiledColumns;
}

// Whether all that the problem has beside masks, biases, sinks, the cap, temperatures and changed
// rows is plain. What is not known here is not taken.
inline bool tiled_links(AttentionProblem p) {
  p.dilation = 1;
  p.global_tokens = p.prefix = p.documents = p.block = 0;
  p.mask = p.bias = p.distance_bias = p.sink = false;
  p.soft_cap = 0;
  p.cosine = p.temperature = false;
  p.rotary = 0;
  return is_plain(p);
}

// Whether distance biases are all that changes scores beside their factor: where a block has no
// mask, they are then added in a step that is taken anyway.
inline bool adds_distances_alone(const AttentionProblem& p) {
  return p.distance_bias && !p.mask && !p.bias && p.soft_cap == 0;
}

// Plans a problem that the format supports.
std::unique_ptr<KernelPlan<AttentionArgs>> plan_tiled(const AttentionProblem& problem,
                                                      const TiledFormat& format);
// Whether the driver is compiled in, and takes the problem apart from its types. It changes rows
// (attention_rows.h) of bf16 alone.
bool tiled(const AttentionProblem& problem);
// So few that lanes over queries stay empty, for the kernels for decoding and for short sequences.
// [4096 keys of 64, 2 key/value heads, with a sink or biases: with 8 queries 2.5 times as long as
// decoding, with 1 query 17 times. With rotary positions, of which decoding knows nothing, 1 to 8
// queries of 32 heads take 0.66 times as long as by the f32 kernels.]
inline bool few_queries(const AttentionProblem& p) {
  return p.tq <= kDecodeQueries && (is_plain(p) || decodes(p));
}

// bf16 with vdpbf16ps, keys and values in pages or not; nullptr for others.
std::unique_ptr<KernelPlan<AttentionArgs>> plan_tiled_avx512bf16(const AttentionProblem& problem);
// Keys and values in i8 (AttentionProblem::kv_dtype) with vpdpbusd; nullptr for others.
std::unique_ptr<KernelPlan<AttentionArgs>> plan_tiled_avx512vnni(const AttentionProblem& problem);

}  // namespace fovea::attention_detail

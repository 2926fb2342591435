// Tiled attention, forward: how the queries of a head are cut into panels and tasks, what a task
// gets and where its scratch holds what. Shared by the plan (attention_panels.cpp) and the SIMD of
// each target (attention_panels-inl.h), not for callers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "fovea/kernels/attention.h"
#include "fovea/kernels/attention_dropout.h"
#include "fovea/kernels/attention_rows.h"
#include "fovea/kernels/attention_seen.h"

namespace fovea::attention_detail {

constexpr int64_t kForwardKeys = 128;
// Keys whose rows are gathered at a time: whole blocks of links, or a part of one.
inline int64_t forward_keys(const AttentionProblem& p) {
  if (p.block == 0 || p.block > kForwardKeys) return kForwardKeys;
  return kForwardKeys / p.block * p.block;
}
// Panels of a task, which share rows of keys gathered once: as many as leave tasks enough for many
// threads. [16 in place of 4: plain attention at 4096 tokens takes 0.97 of the time, blocks of
// links 0.94.]
constexpr int64_t kMostPanels = 16;
constexpr int64_t kForwardTasks = 32;

// Sums of what keys receive, of runs of queries, that are added up in order.
constexpr int64_t kMassParts = 8;
// More strongest links than this are found without a bound from the first sweep.
constexpr int64_t kMostBounds = 32;
inline int64_t bounds(const AttentionProblem& p) {
  return p.top_links <= kMostBounds ? p.top_links : 0;
}
// Queries of one head are cut into panels of at most three vectors, of nearly equal width. Where
// there are blocks of links, a panel lies in one block and has up to four.
struct Panels {
  Panels(const AttentionProblem& p, int64_t lane_count)
      : lanes(lane_count),
        unit(p.block > 0 ? p.block / lanes : (p.tq + lanes - 1) / lanes),
        most(p.block > 0 ? 4 : 3),
        in_unit((unit + most - 1) / most),
        count((p.tq + unit * lanes - 1) / (unit * lanes) * in_unit),
        per_task(std::clamp(p.batch * p.heads * count / kForwardTasks,
                            std::max<int64_t>(1, 192 / (most * lanes)), kMostPanels)),
        tasks((count + per_task - 1) / per_task) {}

  int64_t width_vecs(int64_t panel) const {
    return unit / in_unit + (panel % in_unit < unit % in_unit);
  }
  int64_t first_query(int64_t panel) const {
    const int64_t n = panel % in_unit;
    return lanes * (panel / in_unit * unit + n * (unit / in_unit) + std::min(n, unit % in_unit));
  }

  int64_t lanes, unit, most, in_unit, count, per_task, tasks;
};

// The most keys that `queries` neighbouring queries see through a window with two sides; tk if
// there is none.
inline int64_t window_keys(const AttentionProblem& p, int64_t queries) {
  if (p.window_left < 0 || (p.window_right < 0 && !p.causal)) return p.tk;
  const int64_t left = std::min(p.window_left, p.tk), right = std::min(p.window_right, p.tk);
  return std::min(p.tk, left + std::max<int64_t>(right, 0) + queries);
}
// Whether a task's heads should follow one another before the next queries: their rows lie in the
// same pages. [A window of 256 at 16384 tokens and 8 packed heads takes 0.92 of the time; where all
// keys are seen, 1.04, since the rows of one head no longer stay in the caches.]
inline bool heads_together(const AttentionProblem& p, const Panels& panels) {
  return window_keys(p, panels.per_task * panels.most * panels.lanes) <= p.tk / 2;
}
// Whether enough panels of a task read the same keys that rows of K should be copied if they are
// scattered. [A window of 256 and a tenth of blocks of 64 take 0.98 of the time without copies, all
// keys 1.01.]
inline bool many_read_keys(const AttentionProblem& p, const Panels& panels) {
  constexpr int64_t kMany = 8;
  const int64_t width = panels.most * panels.lanes;
  return p.block == 0 && window_keys(p, width) >= kMany * width;
}

struct ForwardTask {
  const AttentionProblem& problem;
  const AttentionArgs& args;
  const Panels& panels;
  const float* distances;  // of all heads, reversed
  const RotaryTable<float>& rotary;
  const float* relative;  // keys of all heads, transposed
  float* mass;            // what these queries give to each key is added to it
  int64_t batch, head, first_panel, end_panel;
};

// No links yet, for rows of queries.
inline void clear_top(const AttentionProblem& p, const AttentionArgs& args, int64_t first_row,
                      int64_t rows) {
  std::fill_n(args.top_keys + first_row * p.top_links, rows * p.top_links, -1);
  std::fill_n(static_cast<float*>(args.top_probabilities) + first_row * p.top_links,
              rows * p.top_links, 0.0f);
}

// Where one worker's scratch holds what, in floats.
struct ForwardLayout {
  ForwardLayout(const AttentionProblem& p, const Panels& panels) {
    const int64_t keys = std::min(kForwardKeys, p.tk);
    const auto round = [&](int64_t n) {
      return (n + panels.lanes - 1) / panels.lanes * panels.lanes;
    };
    width = panels.most * panels.lanes;
    panel =
        width * ((p.relative_keys ? 2 : 1) * p.head_dim + p.value_dim + 5 + kLaneRows + bounds(p));
    scores = std::min(panels.per_task, panels.count) * panel;
    const bool converted = p.dtype != DType::f32;
    const bool rearranged = converted || changes_rows(p) || p.relative_keys ||
                            scattered(p.q, p.head_dim) || scattered(p.out, p.value_dim);
    copies_k =
        converted || changes_rows(p) || (scattered(p.k, p.head_dim) && many_read_keys(p, panels));
    copies_v = converted || scattered(p.v, p.value_dim);
    k = scores + width * keys;
    v = k + (copies_k ? keys * round(p.head_dim) : 0);
    rows = v + (copies_v ? keys * round(p.value_dim) : 0);
    relative = rows + (rearranged ? width * round(std::max(p.head_dim, p.value_dim)) : 0);
    words = relative + (p.relative_keys ? relative_block_room(width, keys) : 0);
    received = words + (p.dropout > 0 ? word_rows(keys) * width : 0);
    total = received + (p.want_mass ? keys * panels.lanes : 0);
  }

  int64_t width;   // of the widest panel
  int64_t panel;   // of each panel: Q^T, O^T and rows of one number a query
  int64_t scores;  // S^T of one panel and block of keys
  bool copies_k, copies_v;
  int64_t k, v;      // the block's rows, where they are scattered in memory or converted
  int64_t rows;      // the panel's Q or O in f32, where they are converted or changed
  int64_t relative;  // products with relative keys
  int64_t words;     // bits of dropout for one panel and block of keys
  int64_t received;  // [keys][lanes]
  int64_t total;
};

// What a target gives.
struct ForwardTarget {
  void (*forward)(const ForwardTask&, float*);
  void (*distances)(const AttentionProblem&, const AttentionLinks&, int64_t, float*);
  void (*relative)(const AttentionProblem&, const float*, float*);
  int64_t (*lanes)();
};

// A plan that runs the target's functions; nullptr: they do not support the problem.
std::unique_ptr<KernelPlan<AttentionArgs>> plan_panels(const AttentionProblem& problem,
                                                       const ForwardTarget& target);

}  // namespace fovea::attention_detail

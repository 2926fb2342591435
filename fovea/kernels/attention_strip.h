// Attention by other normalisers than softmax, whose thresholds need all scores of a query: for
// sixteen queries at a time the scores of the keys that they see stand side by side in a worker's
// scratch, a strip [keys][16]. Memory is O(16 Tk) a worker, never Tq Tk. Shared by the kernels
// forward and backward, not for callers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "fovea/kernels/attention_rows.h"
#include "fovea/kernels/attention_seen.h"

namespace fovea::attention_detail {

constexpr int64_t kStripQueries = 16;  // of a panel
constexpr int64_t kStripKeys = 128;    // of a product

inline bool takes_strips(const AttentionProblem& p) {
  return !by_softmax(p) && !reads_cache(p) && !p.relative_keys && !p.span &&
         (p.dtype == DType::f32 || p.dtype == DType::bf16) && p.head_dim <= 256 &&
         p.value_dim <= 256;
}

// The most keys that sixteen queries see together.
inline int64_t strip_rows(const AttentionProblem& p) {
  const bool right = p.causal || p.window_right >= 0;
  if (p.window_left < 0 || !right || p.global_tokens > 0 || p.prefix > 0) return p.tk;
  // Both limits hold where both are given; the larger one bounds them.
  const int64_t ahead = std::min(std::max<int64_t>(p.window_right, 0), p.tk);
  return std::min(p.tk, std::min(p.window_left, p.tk) + ahead + kStripQueries);
}

inline int64_t strip_panels(const AttentionProblem& p) {
  return (p.tq + kStripQueries - 1) / kStripQueries;
}
// Panels that go together, so that keys are read once for them; their strips should stay in the
// second cache.
inline int64_t panels_together(const AttentionProblem& p) {
  return std::clamp<int64_t>(8192 / strip_rows(p), 1, 4);
}

constexpr std::string_view strip_name(std::string_view target_name) {
  return target_name == "hwy_avx3"   ? "strip_avx3"
         : target_name == "hwy_avx2" ? "strip_avx2"
                                     : "strip_sse4";
}

void append_strip(std::vector<AttentionKernel>& list);
void append_backward_strip(std::vector<AttentionBackwardKernel>& list);

}  // namespace fovea::attention_detail

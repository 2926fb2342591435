// What the kernels for short sequences share outside their SIMD parts; not for callers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "fovea/kernels/attention.h"

namespace fovea::attention_detail {

// Longest sequence and largest head that they take.
constexpr int64_t kShortTokens = 128;
constexpr int64_t kShortDim = 128;

// Masks that depend on the position let the tiled kernels skip blocks of keys. [Causal, 0.71 to
// 0.93 of their speed at 64 to 128 tokens, 1.18 to 1.3 times it at 49.]
constexpr int64_t kShortMaskedTokens = 56;

inline bool short_enough(const AttentionProblem& p) {
  const bool masked = p.causal || p.window_left >= 0 || p.window_right >= 0;
  const int64_t tokens = masked ? kShortMaskedTokens : kShortTokens;
  return (p.dtype == DType::f32 || p.dtype == DType::bf16) && std::max(p.tq, p.tk) <= tokens &&
         std::max(p.head_dim, p.value_dim) <= kShortDim;
}

// One task is one key/value head of one sample, or all of them where there are samples enough for
// the threads: heads of a sample lie side by side in memory.
struct ShortTasks {
  explicit ShortTasks(const AttentionProblem& p)
      : heads(p.batch >= 16 ? p.kv_heads : 1), count(p.batch * (p.kv_heads / heads)) {}
  int64_t heads;  // key/value heads of a task
  int64_t count;
};

// Hands out pieces of a worker's scratch, in floats, aligned to 64 bytes.
class ShortScratch {
 public:
  int64_t take(int64_t floats) {
    const int64_t at = used_;
    used_ += (floats + 15) / 16 * 16;
    return at;
  }
  int64_t used() const { return used_; }

 private:
  int64_t used_ = 0;
};

// "short_avx3" for "hwy_avx3".
constexpr std::string_view short_name(std::string_view target_name) {
  return target_name == "hwy_avx3"   ? "short_avx3"
         : target_name == "hwy_avx2" ? "short_avx2"
                                     : "short_sse4";
}

void append_short(std::vector<AttentionKernel>& list);
void append_backward_short(std::vector<AttentionBackwardKernel>& list);

}  // namespace fovea::attention_detail

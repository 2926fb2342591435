// What the kernels for short sequences share outside their SIMD parts; not for callers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string_view>
#include <type_traits>
#include <vector>

#include "fovea/base/error.h"
#include "fovea/kernels/attention_seen.h"

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
  return is_plain(p) && !reads_cache(p) && (p.dtype == DType::f32 || p.dtype == DType::bf16) &&
         std::max(p.tq, p.tk) <= tokens && std::max(p.head_dim, p.value_dim) <= kShortDim;
}

// One task is one key/value head of one sample, or all of them where there are samples enough for
// the threads: heads of a sample lie side by side in memory.
template <class Args>
struct ShortTask {
  const AttentionProblem& problem;
  const Args& args;
  int64_t batch, first_kv_head, end_kv_head;
};

template <class Args>
using ShortFunction = void (*)(const ShortTask<Args>&, float* scratch);

// Layout: where one worker's scratch holds what.
template <class Args, class Layout>
class ShortPlan final : public KernelPlan<Args> {
 public:
  ShortPlan(const AttentionProblem& problem, ShortFunction<Args> function)
      : p_(problem), function_(function) {
    this->worker_scratch_bytes = static_cast<size_t>(Layout(p_).total) * sizeof(float);
  }

  void run(const Args& args, const KernelContext& context) const noexcept override {
    if constexpr (std::is_same_v<Args, AttentionBackwardArgs>) FOVEA_ASSERT(args.lse != nullptr);
    const int64_t heads = p_.batch >= 16 ? p_.kv_heads : 1;  // of a task
    const int64_t tasks = p_.kv_heads / heads;               // of a sample
    context.pool->parallel_for(p_.batch * tasks, [&](int64_t task, int worker) {
      const int64_t first = task % tasks * heads;
      function_({.problem = p_,
                 .args = args,
                 .batch = task / tasks,
                 .first_kv_head = first,
                 .end_kv_head = first + heads},
                context.worker<float>(worker));
    });
  }

 private:
  AttentionProblem p_;
  ShortFunction<Args> function_;
};

template <class Args, class Layout, ShortFunction<Args> kFunction>
std::unique_ptr<KernelPlan<Args>> plan_short(const AttentionProblem& problem) {
  check(problem, std::is_same_v<Args, AttentionBackwardArgs>);
  if (!short_enough(problem)) return nullptr;
  return std::make_unique<ShortPlan<Args, Layout>>(problem, kFunction);
}

// "short_avx3" for "hwy_avx3".
constexpr std::string_view short_name(std::string_view target_name) {
  return target_name == "hwy_avx3"   ? "short_avx3"
         : target_name == "hwy_avx2" ? "short_avx2"
                                     : "short_sse4";
}

void append_short(std::vector<AttentionKernel>& list);
void append_backward_short(std::vector<AttentionBackwardKernel>& list);

}  // namespace fovea::attention_detail

// What the Highway kernels of linear attention share outside SIMD: their units of work, where one
// worker's scratch holds what, and their plan.
#pragma once

#include <cstdint>
#include <memory>

#include "fovea/kernels/linear_attention.h"

namespace fovea::linear_attention_detail {

// Steps of the triangle that a causal mask leaves of a chunk; a multiple of the lanes.
constexpr int64_t kStep = 16;

template <class Args>
struct Task {
  const LinearAttentionProblem& problem;
  const Args& args;
  int64_t batch, kv_head;
};
using ForwardTask = Task<LinearAttentionArgs>;
using BackwardTask = Task<LinearAttentionBackwardArgs>;

// Where one worker's scratch holds what, in floats. Rows are padded to whole vectors.
struct Layout {
  Layout(const LinearAttentionProblem& p, int64_t lanes, bool backward) {
    const auto round = [&](int64_t n) { return (n + lanes - 1) / lanes * lanes; };
    // Within a chunk causal work grows with its square.
    chunk = p.causal ? 48 : 96;
    dim = round(p.head_dim);
    value_dim = round(p.value_dim);
    attention_detail::ScratchPieces scratch;
    state = scratch.take(p.head_dim * value_dim);
    mass = scratch.take(dim);
    k = scratch.take(chunk * dim);
    v = scratch.take(chunk * value_dim);
    q = scratch.take(chunk * dim);
    qt = scratch.take(p.head_dim * chunk);
    links = scratch.take(p.causal ? chunk * chunk : 0);
    norm = scratch.take(chunk);
    out = scratch.take(chunk * value_dim);
    if (backward) {
      later = scratch.take(p.head_dim * value_dim);
      later_mass = scratch.take(dim);
      later_t = scratch.take(p.value_dim * dim);
      doutt = scratch.take(p.value_dim * chunk);
      y = scratch.take(p.head_dim * chunk);
      dlinks = scratch.take(p.causal ? chunk * chunk : 0);
      dot = scratch.take(chunk);
      // What a chunk's own queries give its keys waits for the way back.
      const int64_t waiting = p.causal ? (p.tk + chunk - 1) / chunk * chunk : chunk;
      dk = scratch.take(waiting * dim);
      dv = scratch.take(waiting * value_dim);
      inverses = scratch.take(p.group() * p.tq);
      weights = scratch.take(p.group() * p.tq);
    }
    total = scratch.used();
  }

  int64_t chunk, dim, value_dim;
  int64_t state, mass;                // S [head_dim][value_dim] and z
  int64_t k, v, q, qt;                // phi(K), V and phi(Q) of a chunk; phi(Q)^T [head_dim][chunk]
  int64_t links, norm;                // phi(K) phi(Q)^T [chunk][chunk]; phi(q) z of each query
  int64_t out;                        // rows of the result, or of its gradient
  int64_t later = 0, later_mass = 0;  // sums over the queries of later chunks: R and r
  int64_t later_t = 0;                // R^T [value_dim][dim]
  int64_t doutt = 0, y = 0;           // dO^T and dphi(Q)^T, lanes over queries
  int64_t dlinks = 0, dot = 0;        // V dO^T [chunk][chunk]; phi(q) y of each query
  int64_t dk = 0, dv = 0;             // rows of tokens
  int64_t inverses = 0, weights = 0;  // n and w of each query of the group
  int64_t total = 0;
};

template <class Args>
class HwyPlan final : public KernelPlan<Args> {
 public:
  using Function = void (*)(const Task<Args>&, float*);

  HwyPlan(const LinearAttentionProblem& problem, Function function, int64_t lanes, bool backward)
      : p_(problem), function_(function) {
    this->worker_scratch_bytes =
        static_cast<size_t>(Layout(p_, lanes, backward).total) * sizeof(float);
  }

  void run(const Args& args, const KernelContext& context) const noexcept override {
    context.pool->parallel_for(p_.batch * p_.kv_heads, [&](int64_t block, int worker) {
      function_({p_, args, block / p_.kv_heads, block % p_.kv_heads},
                context.worker<float>(worker));
    });
  }

 private:
  LinearAttentionProblem p_;
  Function function_;
};

template <class Args, bool kBackward, void (*kFunction)(const Task<Args>&, float*),
          int64_t (*kLanesOf)()>
std::unique_ptr<KernelPlan<Args>> plan_hwy(const LinearAttentionProblem& problem) {
  check(problem, kBackward);
  if (problem.dtype != DType::f32 && problem.dtype != DType::bf16) return nullptr;
  return std::make_unique<HwyPlan<Args>>(problem, kFunction, kLanesOf(), kBackward);
}

}  // namespace fovea::linear_attention_detail

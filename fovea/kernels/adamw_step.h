// What the AdamW kernels share: the sweep over all weights, for one function of a run of elements.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "fovea/kernels/adamw.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/tensor_blocks.h"

namespace fovea {

// The numbers of one step, computed once for all weights.
template <class T>
struct AdamWFactors {
  T beta1, rest1, beta2, rest2;  // rest: 1 - beta
  T correct1, correct2;          // 1 / (1 - beta^t)
  T epsilon, decay, lr, scale;
};

template <class T>
struct AdamWArrays {
  const T* w;
  const T* g;
  const T* m;
  const T* v;
  T* w_out;
  T* m_out;
  T* v_out;
};

template <class T>
using AdamWUpdate = void (*)(const AdamWFactors<T>&, const AdamWArrays<T>&, int64_t n);

inline bool adamw_makes_sense(const AdamWProblem& p) {
  const auto share = [](double beta) { return beta >= 0 && beta < 1; };
  for (int64_t size : p.sizes)
    if (size < 0) return false;
  return share(p.beta1) && share(p.beta2);
}

template <class T>
class AdamWPlan final : public KernelPlan<AdamWArgs> {
 public:
  AdamWPlan(const AdamWProblem& p, AdamWUpdate<T> update)
      : p_(p), blocks_(p.sizes), update_(update) {}

  void run(const AdamWArgs& args, const KernelContext& context) const noexcept override {
    const T scale = args.grad_scale ? static_cast<T>(*args.grad_scale) : T{1};
    const bool usable = std::isfinite(scale);
    const double t = *args.step;
    const AdamWFactors<T> factors{.beta1 = static_cast<T>(p_.beta1),
                                  .rest1 = static_cast<T>(1 - p_.beta1),
                                  .beta2 = static_cast<T>(p_.beta2),
                                  .rest2 = static_cast<T>(1 - p_.beta2),
                                  .correct1 = static_cast<T>(1 / (1 - std::pow(p_.beta1, t))),
                                  .correct2 = static_cast<T>(1 / (1 - std::pow(p_.beta2, t))),
                                  .epsilon = static_cast<T>(p_.epsilon),
                                  .decay = static_cast<T>(p_.weight_decay),
                                  .lr = static_cast<T>(*args.lr),
                                  .scale = scale};
    context.pool->parallel_for(blocks_.blocks(), [&](int64_t block, int) {
      blocks_.for_block(block, [&](size_t i, int64_t start, int64_t n) {
        const auto in = [&](size_t k) {
          return static_cast<const T*>(args.inputs[4 * i + k]) + start;
        };
        const auto out = [&](size_t k) { return static_cast<T*>(args.outputs[3 * i + k]) + start; };
        const AdamWArrays<T> a{in(0), in(1), in(2), in(3), out(0), out(1), out(2)};
        if (usable) return update_(factors, a, n);
        lanes::keep(n, a.w, a.w_out, sizeof(T));
        lanes::keep(n, a.m, a.m_out, sizeof(T));
        lanes::keep(n, a.v, a.v_out, sizeof(T));
      });
    });
  }

 private:
  AdamWProblem p_;
  TensorBlocks blocks_;
  AdamWUpdate<T> update_;
};

}  // namespace fovea

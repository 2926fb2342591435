// One AdamW update (Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm
// 2) of any number of weights in one sweep.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

// Weights of sizes[i] elements, f32 or f64.
struct AdamWProblem {
  DType dtype = DType::f32;
  std::vector<int64_t> sizes;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
};

// With s = grad_scale g and t = step: m' = beta1 m + (1 - beta1) s, v' = beta2 v + (1 - beta2) s^2,
// w' = w - lr ((m' / (1 - beta1^t)) / (sqrt(v' / (1 - beta2^t)) + epsilon) + weight_decay w).
// Each output may lie where its input lies.
// A grad_scale that is not finite (a step whose gradients are not) leaves everything as it was.
struct AdamWArgs {
  const void* const* inputs = nullptr;  // w, g, m, v of the first weight, then of the next
  const float* lr = nullptr;
  const int32_t* step = nullptr;      // 1 at the first update
  const float* grad_scale = nullptr;  // null: 1; for clipping and averaging
  void* const* outputs = nullptr;     // w, m, v of the first weight, then of the next
};
std::span<const Kernel<AdamWProblem, AdamWArgs>> adamw_kernels();

}  // namespace fovea

// One update of stochastic gradient descent with momentum and decoupled weight decay (SGDW:
// Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 1).
#pragma once

#include <cstdint>
#include <span>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

// n elements of f32 or f64.
struct SgdProblem {
  DType dtype = DType::f32;
  int64_t n = 0;
  double momentum = 0;  // in [0, 1); 0: m_out, where given, is a copy of m
  double weight_decay = 0;
};

// m' = momentum m + grad_scale g, w' = w - lr (m' + weight_decay w). The learning rate stands
// outside the momentum, so that a schedule acts at once. Each output may lie where its input lies.
// A grad_scale that is not finite (a step whose gradients are not) leaves everything as it was.
struct SgdArgs {
  const void* w = nullptr;
  const void* g = nullptr;
  const void* m = nullptr;
  const float* lr = nullptr;
  const float* grad_scale = nullptr;  // null: 1
  void* w_out = nullptr;
  void* m_out = nullptr;
};
std::span<const Kernel<SgdProblem, SgdArgs>> sgd_kernels();

}  // namespace fovea

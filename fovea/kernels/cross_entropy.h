// Cross-entropy of logits with class labels, with label smoothing (Szegedy et al. 2016), and its
// gradient.
#pragma once

#include <cstdint>
#include <span>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

// logits and dlogits are dense [rows, classes], f32 or f64; labels i32 [rows]; loss and dloss
// [rows]. The target is (1 - s) onehot(label) + s / classes with s = label_smoothing in [0, 1]. A
// negative label means that the row is ignored: loss and gradient 0. A label >= classes makes both
// NaN.
struct CrossEntropyProblem {
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t classes = 0;
  double label_smoothing = 0;
};

// loss = -sum_c target_c log softmax(logits)_c, in nats.
struct CrossEntropyArgs {
  const void* logits = nullptr;
  const int32_t* labels = nullptr;
  void* loss = nullptr;
};
std::span<const Kernel<CrossEntropyProblem, CrossEntropyArgs>> cross_entropy_kernels();

// dlogits = dloss (softmax(logits) - target); it may lie where the logits lie.
struct CrossEntropyGradArgs {
  const void* logits = nullptr;
  const int32_t* labels = nullptr;
  const void* dloss = nullptr;
  void* dlogits = nullptr;
};
std::span<const Kernel<CrossEntropyProblem, CrossEntropyGradArgs>> cross_entropy_grad_kernels();

}  // namespace fovea

// softmax and log_softmax over the last axis, and their gradients from the output.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

enum class SoftmaxOp { softmax, log_softmax };
inline std::span<const std::string_view> enum_names(SoftmaxOp) {
  static constexpr std::array<std::string_view, 2> kNames = {"softmax", "log_softmax"};
  return kNames;
}

// Everything is dense [rows, cols], f32 or f64. A row that is wholly -infinity (an emptied mask)
// gives zeros for softmax and -infinity for log_softmax, never NaN. y may lie where x lies.
struct SoftmaxProblem {
  SoftmaxOp op = SoftmaxOp::softmax;
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t cols = 0;
};
struct SoftmaxArgs {
  const void* x = nullptr;
  void* y = nullptr;
};
std::span<const Kernel<SoftmaxProblem, SoftmaxArgs>> softmax_kernels();

// softmax: dx = y (dy - sum(y dy)); log_softmax: dx = dy - exp(y) sum(dy). y is the output of the
// forward kernel; dx may lie where dy lies.
struct SoftmaxGradArgs {
  const void* y = nullptr;
  const void* dy = nullptr;
  void* dx = nullptr;
};
std::span<const Kernel<SoftmaxProblem, SoftmaxGradArgs>> softmax_grad_kernels();

}  // namespace fovea

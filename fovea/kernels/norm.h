// layer_norm (Ba, Kiros and Hinton 2016) and rms_norm (Zhang and Sennrich 2019) over the last axis,
// and their gradients.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

enum class NormOp { layer_norm, rms_norm };
inline std::span<const std::string_view> enum_names(NormOp) {
  static constexpr std::array<std::string_view, 2> kNames = {"layer_norm", "rms_norm"};
  return kNames;
}

// x, y, dx and dy are dense [rows, cols], weight and bias [cols], mean and rstd [rows]; f32 or f64,
// but y (forward) and dy (gradient) may be bf16 where the others are f32.
struct NormProblem {
  NormOp op = NormOp::layer_norm;
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  double epsilon = 1e-5;  // added to the variance, or to the mean square
  DType y = DType::f32;   // of y, or of dy: dtype, or bf16
};

// layer_norm: y = (x - mean) rstd weight + bias, rstd = 1 / sqrt(variance + epsilon), the variance
// over cols. rms_norm: y = x rstd weight, rstd = 1 / sqrt(mean(x^2) + epsilon). With a residual, x
// + residual stands for x and is written to sum. y (of x's type) and sum may lie where x or
// residual lies.
struct NormArgs {
  const void* x = nullptr;
  const void* weight = nullptr;  // null: ones
  const void* bias = nullptr;    // null: zeros; rms_norm does not read it
  void* y = nullptr;
  void* mean = nullptr;            // null: not wanted; rms_norm does not write it
  void* rstd = nullptr;            // null: not wanted
  const void* residual = nullptr;  // [rows, cols] of x's type, or null
  void* sum = nullptr;             // written if there is a residual
};
std::span<const Kernel<NormProblem, NormArgs>> norm_kernels();

// With h = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - h mean(g h)), for rms_norm
// without mean(g); dweight = sum over rows of dy h; dbias = sum over rows of dy. With `add`, dx has
// it added: the gradient that reaches x by another way. dx may lie where dy (of its type), x or add
// lies.
struct NormGradArgs {
  const void* x = nullptr;
  const void* weight = nullptr;  // null: ones
  const void* mean = nullptr;    // rms_norm does not read it
  const void* rstd = nullptr;
  const void* dy = nullptr;
  void* dx = nullptr;         // null: not wanted, as are the two below
  void* dweight = nullptr;    // [cols]
  void* dbias = nullptr;      // [cols]; rms_norm does not write it
  const void* add = nullptr;  // [rows, cols] of x's type, or null
};
std::span<const Kernel<NormProblem, NormGradArgs>> norm_grad_kernels();

}  // namespace fovea

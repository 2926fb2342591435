// Maximum and average over windows of images, channels last, and their gradients.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

enum class PoolKind { max, average };
inline std::span<const std::string_view> enum_names(PoolKind) {
  static constexpr std::array<std::string_view, 2> kNames = {"max", "average"};
  return kNames;
}

// x [batch,h,w,c], y [batch,out_h,out_w,c], dense. The window of y[b,i,j] begins at row i stride_h
// - pad_h and column j stride_w - pad_w; only its elements inside the image count, in the average
// too.
struct PoolProblem {
  DType dtype = DType::f32;
  PoolKind kind = PoolKind::max;
  int64_t batch = 0, h = 0, w = 0, c = 0;
  int64_t size_h = 1, size_w = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_h = 0, pad_w = 0;  // on both sides; less than the size

  int64_t out_h() const { return (h + 2 * pad_h - size_h) / stride_h + 1; }
  int64_t out_w() const { return (w + 2 * pad_w - size_w) / stride_w + 1; }
};

struct PoolArgs {
  const void* x = nullptr;
  void* y = nullptr;
  // [batch,out_h,out_w,c]: row * w + column of each maximum, the first of equal ones; a NaN counts
  // as the greatest. nullptr: not wanted. The average writes none.
  int32_t* indices = nullptr;
};

struct PoolGradArgs {
  const void* dy = nullptr;
  const int32_t* indices = nullptr;  // what the forward wrote; read for the maximum only
  void* dx = nullptr;
};

// "ref" (f32, f64). Planning throws invalid_argument for a size or stride below 1, a padding that
// is negative or not less than the window, a window larger than the padded image, and images of
// 2^31 places.
std::span<const Kernel<PoolProblem, PoolArgs>> pool_kernels();
std::span<const Kernel<PoolProblem, PoolGradArgs>> pool_grad_kernels();

}  // namespace fovea

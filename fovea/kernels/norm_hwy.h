// What norm_hwy.cpp and norm_grad_hwy.cpp share outside their SIMD parts; not for callers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fovea/kernels/lanes.h"
#include "fovea/kernels/norm.h"

namespace fovea::norm_detail {

inline bool hwy_supports(const NormProblem& p) {
  return p.rows >= 0 && p.cols >= 1 && p.epsilon >= 0 && p.dtype == DType::f32 &&
         (p.y == DType::f32 || p.y == DType::bf16);
}

// cols, rounded up to vectors of any target.
inline int64_t padded_cols(int64_t cols) {
  return lanes::ceil_div(cols, lanes::kLanes) * lanes::kLanes;
}

// A row of weights in whole vectors, with zeros behind the last column: as it lies if it has them,
// else in `room`. Without `from`, every weight is `otherwise`.
inline const float* padded_row(const void* from, int64_t cols, float otherwise, float* room) {
  const float* p = static_cast<const float*>(from);
  const int64_t padded = padded_cols(cols);
  if (p && padded == cols) return p;
  if (p)
    std::copy_n(p, cols, room);
  else
    std::fill_n(room, cols, otherwise);
  std::fill_n(room + cols, padded - cols, 0.0f);
  return room;
}

}  // namespace fovea::norm_detail

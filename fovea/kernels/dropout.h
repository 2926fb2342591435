// Dropout (Srivastava et al. 2014) whose mask is a function of names and coordinates, not of the
// order of the work.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

// x and y are dense [samples, per_sample], f32 or f64.
struct DropoutProblem {
  DType dtype = DType::f32;
  int64_t samples = 0;
  int64_t per_sample = 0;  // product of the sizes beyond the first
  double rate = 0;         // share of the elements set to zero, in [0, 1]
  uint64_t stream = 0;     // stream_id() of the node's name
};

// y = x mask / (1 - rate), all zero for rate 1; applied to dy it is the gradient. Element e of the
// global batch, e = (first_sample + sample) per_sample + i, is kept where philox_unit(block[e % 4])
// >= rate, with block = philox4x32({low e/4, high e/4, low stream, high stream}, seed, step).
struct DropoutArgs {
  const void* x = nullptr;
  const int32_t* rng = nullptr;  // {seed, step, first_sample}
  void* y = nullptr;             // may lie where x lies
};
std::span<const Kernel<DropoutProblem, DropoutArgs>> dropout_kernels();

// Kept are random bits with bits >> 8 >= this, which says philox_unit(bits) >= rate without
// conversions.
inline int32_t dropout_threshold(double rate) {
  return static_cast<int32_t>(std::ceil(double{static_cast<float>(rate)} * 0x1p24));
}

}  // namespace fovea

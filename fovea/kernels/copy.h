// Moving elements: strided copies (transpose, slice, concat, flip, the gradients of slices),
// filling with one value, and counting along an axis.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

// y at out_strides = x at in_strides, over dims. Strides are in elements, one for each dimension (0
// repeats an input, negative walks backwards); empty strides mean dense. The caller has moved the
// pointers to the first element (the offset of a slice, say). Places of the output must differ; x
// and y must not overlap.
struct CopyProblem {
  int64_t element_size = 4;  // bytes: 1, 2, 4 or 8
  std::vector<int64_t> dims;
  std::vector<int64_t> in_strides;
  std::vector<int64_t> out_strides;
};
struct CopyArgs {
  const void* x = nullptr;
  void* y = nullptr;
};
std::span<const Kernel<CopyProblem, CopyArgs>> copy_kernels();

// y[0, count) = value, for all types but f16. Whole numbers take the value towards zero, held at
// the ends of their range, NaN as 0; bool whether it differs from 0.
struct FillProblem {
  DType dtype = DType::f32;
  int64_t count = 0;
  double value = 0;
};
struct FillArgs {
  void* y = nullptr;
};
std::span<const Kernel<FillProblem, FillArgs>> fill_kernels();

// y[..., i, ...] = i, the coordinate along `axis`; dense, i32, f32 or f64.
struct IotaProblem {
  DType dtype = DType::i32;
  std::vector<int64_t> dims;
  int64_t axis = 0;
};
struct IotaArgs {
  void* y = nullptr;
};
std::span<const Kernel<IotaProblem, IotaArgs>> iota_kernels();

}  // namespace fovea

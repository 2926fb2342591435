// Sum, mean, maximum and minimum over any set of axes.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

enum class ReduceOp { sum, mean, max, min };
inline std::span<const std::string_view> enum_names(ReduceOp) {
  static constexpr std::array<std::string_view, 4> kNames = {"sum", "mean", "max", "min"};
  return kNames;
}

// x is dense with shape dims; y is dense over the axes that are not reduced, in their order. f32
// and f64 add up in f64; i32 (all but mean) wraps around. A NaN makes max and min NaN. Over no
// elements: sum 0, mean NaN, max and min the lowest and highest value of the type.
struct ReduceProblem {
  DType dtype = DType::f32;
  ReduceOp op = ReduceOp::sum;
  std::vector<int64_t> dims;
  std::vector<bool> reduced;  // one for each axis
};
struct ReduceArgs {
  const void* x = nullptr;
  void* y = nullptr;  // not where x lies
};
std::span<const Kernel<ReduceProblem, ReduceArgs>> reduce_kernels();

// y = the sum of the squares of all elements of all arrays, in f64, rounded to dtype at the end:
// the square of a global gradient norm in one sweep. f32 or f64.
struct SumSquaresProblem {
  DType dtype = DType::f32;
  std::vector<int64_t> sizes;  // elements of each array
};
struct SumSquaresArgs {
  const void* const* x = nullptr;  // one pointer for each size
  void* y = nullptr;               // one element
};
std::span<const Kernel<SumSquaresProblem, SumSquaresArgs>> sum_squares_kernels();

}  // namespace fovea

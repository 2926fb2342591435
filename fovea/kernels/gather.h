// Rows of a table by number (embedding), and its gradient: rows added into a table.
#pragma once

#include <cstdint>
#include <span>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

// table is dense [rows, cols], indices i32 [count].
struct GatherProblem {
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t count = 0;
};

// y[i] = table[indices[i]], [count, cols], of any type; zeros where the index is not in [0, rows).
struct GatherArgs {
  const void* table = nullptr;
  const int32_t* indices = nullptr;
  void* y = nullptr;
};
std::span<const Kernel<GatherProblem, GatherArgs>> gather_kernels();

// table = zeros, then table[indices[i]] += updates[i] in the order of i, for f32, f64 and i32;
// updates is [count, cols]. An index that is not in [0, rows) is skipped.
struct ScatterAddArgs {
  const void* updates = nullptr;
  const int32_t* indices = nullptr;
  void* table = nullptr;
};
std::span<const Kernel<GatherProblem, ScatterAddArgs>> scatter_add_kernels();

}  // namespace fovea

// What the kernels of linear and of its weight's gradient share, beside linear.h: products found in
// the cache of primitives, ways to cut a problem, and passes over rows in SIMD. Includes oneDNN:
// private to the linear_*.cpp files and their test.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "fovea/kernels/dnnl_support.h"
#include "fovea/kernels/linear.h"

namespace fovea::linear_detail {

using dnnl_support::ceil_div;
using dnnl_support::Cut;

// c[m, n] = a[m, k] b[k, n] (+ bias[n]): a and b both f32 or both bf16, c and bias f32. ld is the
// distance of rows; a transposed operand lies in memory as [k, m] or [n, k].
struct Product {
  int64_t m = 0, n = 0, k = 0;
  bool is_bf16 = false;
  bool a_transposed = false;
  int64_t a_ld = 0;
  bool b_packed = false;  // in the layout that oneDNN prefers for products of packed_m rows
  bool b_transposed = false;
  int64_t b_ld = 0;
  int64_t c_ld = 0;
  bool bias = false;
  int64_t packed_m = 0;
};

// Operands in the order a, b, c, bias. nullptr: oneDNN has nothing fast.
dnnl_support::PrimitivePtr find(const Product& product);
// From b as it lies (b_transposed, b_ld) to the packed b of `product`.
dnnl_support::PrimitivePtr find_packing(const Product& product);
constexpr size_t kOperandB = 1;

// Whether an activation, where there is one, is relu, silu or gelu.
bool has_function(const LinearProblem& problem);

// Passes over rows that lie `stride` elements apart, in the SIMD of one target.
struct RowPasses {
  std::string_view name;
  Epilogue epilogue;
  // to[r, c] = from[r, c] rounded; `to` is dense.
  void (*round)(const float* from, int64_t stride, int64_t rows, int64_t columns, bf16* to);
  // sums[c] = the sum of from[r, c] over the rows, in order; from is f32 or bf16.
  void (*sum)(const void* from, DType type, int64_t stride, int64_t rows, int64_t columns,
              float* sums);
  // to[i] += from[i].
  void (*add)(const float* from, int64_t count, float* to);
};
// Those that this processor can run, best first; the last one is plain code.
std::span<const RowPasses> row_passes();
void plain_epilogue(const LinearProblem& problem, const LinearArgs& args,
                    const EpilogueBlock& block);

// "hwy_<target>", best first: f32, n and k of at most 256, whole vectors in k.
void append_grad_weight_hwy(
    std::vector<Kernel<LinearGradWeightProblem, LinearGradWeightArgs>>& list);

}  // namespace fovea::linear_detail

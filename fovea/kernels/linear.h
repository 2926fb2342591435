// A product with a weight matrix and what is done to its result before it leaves the cache: bias,
// activation or its gradient, residual, conversion. Serves the op linear and the gradient of its
// input; the gradient of its weight is a family of its own.
#pragma once

#include <cstdint>
#include <span>

#include "fovea/base/dtype.h"
#include "fovea/kernels/elementwise.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

// How the product's result goes through an activation (relu, silu or gelu).
enum class LinearActivation {
  none,
  forward,   // y = f(h); h is written to `pre` if `save_pre`
  gradient,  // y = h f'(pre): pre is read
};

// h[rows, n] = x[rows, k] W (+ bias[n]), then the activation, then + residual[rows, n].
// W is [n, k] (the weight of a linear layer) or, if transposed, [k, n] (the same weight, for the
// gradient of the input: k runs over the layer's outputs). All arrays are dense, row by row.
// Types: all f64; all f32; or w bf16, where the product is computed in bf16 with f32 sums, and
// x, y, pre and residual are each f32 or bf16 (x is rounded to bf16), bias f32.
struct LinearProblem {
  DType x = DType::f32;
  DType w = DType::f32;
  DType y = DType::f32;
  DType pre = DType::f32;  // of the array `pre`, read or written
  DType residual_type = DType::f32;
  int64_t rows = 0, n = 0, k = 0;
  bool transposed = false;
  bool bias = false;
  bool residual = false;
  LinearActivation activation = LinearActivation::none;
  UnaryOp function = UnaryOp::gelu;  // relu, silu or gelu
  bool save_pre = false;             // forward only
};

struct LinearArgs {
  const void* x = nullptr;
  const void* w = nullptr;
  const void* bias = nullptr;
  const void* residual = nullptr;  // may be y
  const void* pre = nullptr;       // for LinearActivation::gradient
  void* y = nullptr;               // overlaps none of the other inputs
  void* pre_out = nullptr;         // for save_pre
};

// "amx" and "avx512bf16" (w bf16; where the processor has the instructions and they pay), "dnnl"
// (f32, bf16), "ref" (all types). W can be packed ahead (KernelPlan::pack reads args.w and
// args.bias only). Rows are cut into blocks that depend on the problem alone.
// Planning throws invalid_argument for sizes below 0 and for types that do not go together.
std::span<const Kernel<LinearProblem, LinearArgs>> linear_kernels();

// dw[n, k] = dy[rows, n]^T x[rows, k] and, if bias, db[n] = the sum of dy over the rows.
// Types: all f64; all f32; or dy and x each f32 or bf16, not both f32: then the product is computed
// in bf16 with f32 sums, db from dy as it is, and dw and db are f32. The same bits for any number
// of threads: the rows are cut into pieces by the problem alone, whose results are added in order.
struct LinearGradWeightProblem {
  DType dy = DType::f32;
  DType x = DType::f32;
  int64_t rows = 0, n = 0, k = 0;
  bool bias = false;
};

struct LinearGradWeightArgs {
  const void* dy = nullptr;
  const void* x = nullptr;
  void* dw = nullptr;
  void* db = nullptr;
};

// "amx" and "avx512bf16" (dy or x bf16), "hwy_<target>" (f32, n and k of at most 256), "dnnl" (f32,
// bf16), "ref" (all types).
std::span<const Kernel<LinearGradWeightProblem, LinearGradWeightArgs>> linear_grad_weight_kernels();

// What the kernels of these families share; not for callers.
namespace linear_detail {

void check(const LinearProblem& problem);
void check(const LinearGradWeightProblem& problem);

// The rows of one block of results, finished in place of the product: h is [rows, n] with the
// given stride, row 0 being row `first_row` of the problem's arrays, column 0 their column
// `first_column`. Adds bias (unless the product has it already), then activation, residual and
// conversion, and writes y (and pre_out). h may be y itself where y is f32.
struct EpilogueBlock {
  const float* h = nullptr;
  int64_t stride = 0;
  int64_t first_row = 0, rows = 0;
  int64_t first_column = 0, columns = 0;
  bool add_bias = false;
};
// The best there is for this processor; f32 and bf16 problems only.
using Epilogue = void (*)(const LinearProblem&, const LinearArgs&, const EpilogueBlock&);
Epilogue epilogue();

std::unique_ptr<KernelPlan<LinearArgs>> plan_amx(const LinearProblem& problem);
std::unique_ptr<KernelPlan<LinearArgs>> plan_avx512bf16(const LinearProblem& problem);
std::unique_ptr<KernelPlan<LinearArgs>> plan_dnnl(const LinearProblem& problem);
std::unique_ptr<KernelPlan<LinearArgs>> plan_ref(const LinearProblem& problem);
std::unique_ptr<KernelPlan<LinearGradWeightArgs>> plan_grad_weight_amx(
    const LinearGradWeightProblem& problem);
std::unique_ptr<KernelPlan<LinearGradWeightArgs>> plan_grad_weight_avx512bf16(
    const LinearGradWeightProblem& problem);
std::unique_ptr<KernelPlan<LinearGradWeightArgs>> plan_grad_weight_dnnl(
    const LinearGradWeightProblem& problem);
std::unique_ptr<KernelPlan<LinearGradWeightArgs>> plan_grad_weight_ref(
    const LinearGradWeightProblem& problem);

}  // namespace linear_detail

}  // namespace fovea

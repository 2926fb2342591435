// Products of matrices, with strides, batches and a bias: matmul, linear, and the gradients of
// both.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

// c[batch..., m, n] = a[batch..., m, k] b[batch..., k, n] (+ bias[n]). c is dense row-major.
// Strides count elements, so a transpose is a pair of strides, and 0 in a_batch or b_batch
// broadcasts:
//   linear   y[M,N]  = x[M,K] W[N,K]^T + bias    b_row = 1, b_col = K
//   its      dx[M,K] = dy[M,N] W[N,K]            dense
//            dW[N,K] = dy[M,N]^T x[M,K]          a_row = 1, a_col = N
struct MatmulProblem {
  DType dtype = DType::f32;
  int64_t m = 0, n = 0, k = 0;
  std::vector<int64_t> batch = {};                  // may be empty
  std::vector<int64_t> a_batch = {}, b_batch = {};  // one stride for each dimension of batch
  int64_t a_row = 0, a_col = 0;                     // a[i,l] lies at i a_row + l a_col
  int64_t b_row = 0, b_col = 0;                     // b[l,j] lies at l b_row + j b_col
  bool bias = false;
};

struct MatmulArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  const void* bias = nullptr;  // [n], read if the problem has one
  void* c = nullptr;           // overlaps none of the inputs
};

// The strides of dense a [batch..., m, k] (or [batch..., k, m] if transpose_a) and b [batch..., k,
// n] (or [batch..., n, k]).
void set_dense_strides(MatmulProblem& problem, bool transpose_a = false, bool transpose_b = false);

// "dnnl" (f32; a and b each with a unit stride), then "ref" (f32, f64; any strides). Planning
// throws invalid_argument for a negative size or stride and for batch strides of another rank than
// batch.
std::span<const Kernel<MatmulProblem, MatmulArgs>> matmul_kernels();

namespace matmul_detail {
void check(const MatmulProblem& problem);
std::unique_ptr<KernelPlan<MatmulArgs>> plan_dnnl(const MatmulProblem& problem);
std::unique_ptr<KernelPlan<MatmulArgs>> plan_ref(const MatmulProblem& problem);
}  // namespace matmul_detail

}  // namespace fovea

// Convolution over images, channels last, and its two gradients.
#pragma once

#include <cstdint>
#include <span>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

// y[b,i,j,o] = bias[o] + sum over u, v, c of x[b, i stride_h + u - pad_h, j stride_w + v - pad_w,
// c] weight[o,u,v,c] with x zero outside the image (a correlation, as deep learning's convolution
// is). All dense: x [batch,h,w,c], weight [o,kh,kw,c], bias [o], y [batch,out_h,out_w,o].
struct Conv2dProblem {
  DType dtype = DType::f32;
  int64_t batch = 0, h = 0, w = 0, c = 0;
  int64_t o = 0, kh = 0, kw = 0;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_h = 0, pad_w = 0;  // on both sides
  bool bias = false;

  int64_t out_h() const { return (h + 2 * pad_h - kh) / stride_h + 1; }
  int64_t out_w() const { return (w + 2 * pad_w - kw) / stride_w + 1; }
};

struct Conv2dArgs {
  const void* x = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;  // read if the problem has one
  void* y = nullptr;
};

struct Conv2dGradInputArgs {
  const void* dy = nullptr;
  const void* weight = nullptr;
  void* dx = nullptr;
};

struct Conv2dGradWeightArgs {
  const void* dy = nullptr;
  const void* x = nullptr;
  void* dweight = nullptr;
  void* dbias = nullptr;  // [o], the sum of dy over batch, rows and columns; written if the problem
                          // has a bias
};

// "dnnl" (f32), then "ref" (f32, f64). Planning throws invalid_argument for a size or stride below
// 1, a negative padding, or a weight larger than the padded image.
std::span<const Kernel<Conv2dProblem, Conv2dArgs>> conv2d_kernels();
std::span<const Kernel<Conv2dProblem, Conv2dGradInputArgs>> conv2d_grad_input_kernels();
std::span<const Kernel<Conv2dProblem, Conv2dGradWeightArgs>> conv2d_grad_weight_kernels();

namespace conv2d_detail {
void check(const Conv2dProblem& problem);
std::unique_ptr<KernelPlan<Conv2dArgs>> plan_dnnl(const Conv2dProblem& problem);
std::unique_ptr<KernelPlan<Conv2dGradInputArgs>> plan_grad_input_dnnl(const Conv2dProblem& problem);
std::unique_ptr<KernelPlan<Conv2dGradWeightArgs>> plan_grad_weight_dnnl(
    const Conv2dProblem& problem);
}  // namespace conv2d_detail

}  // namespace fovea

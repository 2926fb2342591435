#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/matmul.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

// The strides of the leading axes of an operand, 0 where it is broadcast.
std::vector<int64_t> batch_strides(const std::vector<int64_t>& dims,
                                   const std::vector<int64_t>& batch) {
  std::vector<int64_t> to = batch;
  to.insert(to.end(), dims.end() - 2, dims.end());
  std::vector<int64_t> s = broadcast_strides(dims, to);
  s.resize(batch.size());
  return s;
}

std::unique_ptr<NodePlan> bind_matmul(const NodeProblem& n, const KernelChoice& choice) {
  const auto& attrs = n.attrs<MatmulAttrs>();
  const auto a = n.input_dims(0), b = n.input_dims(1), c = n.output_dims();
  MatmulProblem p;
  p.dtype = n.input(0).dtype;
  p.m = c[c.size() - 2];
  p.n = c.back();
  p.k = attrs.transpose_a ? a[a.size() - 2] : a.back();
  p.batch.assign(c.begin(), c.end() - 2);
  p.a_batch = batch_strides(a, p.batch);
  p.b_batch = batch_strides(b, p.batch);
  p.a_row = attrs.transpose_a ? 1 : p.k;
  p.a_col = attrs.transpose_a ? p.m : 1;
  p.b_row = attrs.transpose_b ? 1 : p.n;
  p.b_col = attrs.transpose_b ? p.k : 1;
  // [B,T,K] by one [K,N] is one tall product.
  const bool one_b = product(b, 0, b.size() - 2) == 1;
  if (!p.batch.empty() && one_b && !attrs.transpose_a &&
      product(a) == product(p.batch) * p.m * p.k) {
    p.m *= product(p.batch);
    p.batch.clear();
    p.a_batch.clear();
    p.b_batch.clear();
  }
  return bind_kernel(n, "matmul", matmul_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return MatmulArgs{.a = in[0], .b = in[1], .c = out[0]};
                     });
}

std::unique_ptr<NodePlan> bind_linear(const NodeProblem& n, const KernelChoice& choice) {
  const auto x = n.input_dims(0), w = n.input_dims(1);
  MatmulProblem p;
  p.dtype = n.input(0).dtype;
  p.m = product(x, 0, x.size() - 1);
  p.n = w[0];
  p.k = w[1];
  p.a_row = p.k;
  p.a_col = 1;
  p.b_row = 1;
  p.b_col = p.k;
  p.bias = n.node.inputs.size() == 3;
  return bind_kernel(n, "matmul", matmul_kernels(), p, choice,
                     [bias = p.bias](const void* const* in, void* const* out) {
                       return MatmulArgs{
                           .a = in[0], .b = in[1], .bias = bias ? in[2] : nullptr, .c = out[0]};
                     });
}

}  // namespace

BindingGroup product_bindings() {
  return {{{"matmul", bind_matmul}, {"linear", bind_linear}},
          {family_of("matmul", matmul_kernels())}};
}

}  // namespace fovea

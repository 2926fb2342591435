// One step of an optimiser on one weight. Inputs: weight, gradient, moments, learning rate f32 [],
// step i32 [] (adamw; counted from 1), and a factor f32 [] for the gradient (averaging, clipping).
// With a factor that is not finite the weight and its moments stay as they are.
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

std::vector<ValueType> infer_update(const InferContext& c, size_t moments) {
  const ValueType& w = c.inputs[0];
  c.expect(is_floating(w.dtype), "expected a floating type");
  for (size_t i = 1; i < 2 + moments; ++i) {
    c.expect(c.inputs[i].dtype == w.dtype && c.inputs[i].rank() == w.rank(),
             "expected weight, gradient and moments alike");
    for (size_t axis = 0; axis < w.rank(); ++axis)
      c.same(c.inputs[i].shape[axis], w.shape[axis], "the sizes of weight, gradient and moments");
  }
  // The kernels read each of them as exactly this type.
  const auto expect_scalar = [&](size_t i, DType dtype, const char* what) {
    c.expect(c.inputs[i].rank() == 0 && c.inputs[i].dtype == dtype, what);
  };
  expect_scalar(2 + moments, DType::f32, "expected a learning rate f32[]");
  if (c.inputs.size() == 5 + moments)
    expect_scalar(3 + moments, DType::i32, "expected a step i32[]");
  expect_scalar(c.inputs.size() - 1, DType::f32, "expected a factor f32[]");
  return std::vector<ValueType>(1 + moments, w);
}
// weight, gradient, m, v, learning rate, step, factor -> weight, m, v (Loshchilov and Hutter 2019)
std::vector<ValueType> infer_adamw(const InferContext& c) { return infer_update(c, 2); }
// weight, gradient, momentum, learning rate, factor -> weight, momentum
std::vector<ValueType> infer_sgd(const InferContext& c) { return infer_update(c, 1); }

Size adamw_flops(const Graph&, const Node& n) { return Size(14) * element_count(n.types[0].shape); }
Size sgd_flops(const Graph&, const Node& n) { return Size(6) * element_count(n.types[0].shape); }

}  // namespace

std::span<const Op> optimiser_ops() {
  static const std::vector<Op> ops = {
      {.name = "adamw",
       .defaults = AdamwAttrs{},
       .min_inputs = 7,
       .max_inputs = 7,
       .infer = infer_adamw,
       .flops = adamw_flops,
       .in_place = true,
       .no_gradient = true},
      {.name = "sgd",
       .defaults = SgdAttrs{},
       .min_inputs = 5,
       .max_inputs = 5,
       .infer = infer_sgd,
       .flops = sgd_flops,
       .in_place = true,
       .no_gradient = true},
  };
  return ops;
}

}  // namespace fovea

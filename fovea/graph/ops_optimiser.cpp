// One step of an optimiser on any number of weights. Inputs: weight, gradient and moments of each,
// then learning rate f32 [], step i32 [] (adamw; counted from 1), and a factor f32 [] for the
// gradients (averaging, clipping). With a factor that is not finite the weights and their moments
// stay as they are. Outputs: weight and moments of each.
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

std::vector<ValueType> infer_update(const InferContext& c, size_t moments, size_t scalars) {
  const size_t each = 2 + moments;
  c.expect(c.inputs.size() > scalars && (c.inputs.size() - scalars) % each == 0,
           "expected weight, gradient and moments of each weight, then the scalars");
  const size_t count = (c.inputs.size() - scalars) / each;
  std::vector<ValueType> out;
  for (size_t n = 0; n < count; ++n) {
    const ValueType& w = c.inputs[n * each];
    c.expect(is_floating(w.dtype) && w.dtype == c.inputs[0].dtype, "expected one floating type");
    for (size_t i = 1; i < each; ++i)
      c.alike(c.inputs[n * each + i], w, "weight, gradient and moments");
    out.insert(out.end(), 1 + moments, w);
  }
  // The kernels read each of them as exactly this type.
  const auto expect_scalar = [&](size_t i, DType dtype, const char* what) {
    c.expect(c.inputs[i].rank() == 0 && c.inputs[i].dtype == dtype, what);
  };
  expect_scalar(count * each, DType::f32, "expected a learning rate f32[]");
  if (scalars == 3) expect_scalar(count * each + 1, DType::i32, "expected a step i32[]");
  expect_scalar(c.inputs.size() - 1, DType::f32, "expected a factor f32[]");
  return out;
}
// (weight, gradient, m, v)*, learning rate, step, factor -> (weight, m, v)* (Loshchilov and Hutter
// 2019)
std::vector<ValueType> infer_adamw(const InferContext& c) { return infer_update(c, 2, 3); }
// weight, gradient, momentum, learning rate, factor -> weight, momentum
std::vector<ValueType> infer_sgd(const InferContext& c) { return infer_update(c, 1, 2); }

// Weights and moments are written where they were read.
int adamw_writes_over(const Node&, int output) {
  const int weight = output / 3, part = output % 3;
  return 4 * weight + (part == 0 ? 0 : part + 1);
}
int sgd_writes_over(const Node&, int output) { return output == 0 ? 0 : 2; }

Size update_flops(const Node& n, size_t outputs, int64_t each) {
  Size elements = 0;
  for (size_t i = 0; i < n.types.size(); i += outputs)
    elements = elements + element_count(n.types[i].shape);
  return Size(each) * elements;
}
Size adamw_flops(const Graph&, const Node& n) { return update_flops(n, 3, 14); }
Size sgd_flops(const Graph&, const Node& n) { return update_flops(n, 2, 6); }

}  // namespace

std::span<const Op> optimiser_ops() {
  static const std::vector<Op> ops = {
      {.name = "adamw",
       .defaults = AdamwAttrs{},
       .min_inputs = 7,
       .max_inputs = -1,
       .infer = infer_adamw,
       .flops = adamw_flops,
       .writes_over = adamw_writes_over,
       .no_gradient = true},
      {.name = "sgd",
       .defaults = SgdAttrs{},
       .min_inputs = 5,
       .max_inputs = 5,
       .infer = infer_sgd,
       .flops = sgd_flops,
       .writes_over = sgd_writes_over,
       .no_gradient = true},
  };
  return ops;
}

}  // namespace fovea

// The normalisers over the last axis (base/normaliser.h), and their gradient, which is made from
// the scores.
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

using Values = std::vector<Value>;

void check_normaliser(const InferContext& c, size_t values) {
  const auto& a = c.attrs.get<NormaliseAttrs>();
  if (const auto fault = fault_of(a.normaliser, a.top_k, a.softmax_temperature)) c.fail(*fault);
  const ValueType& x = c.inputs[0];
  c.expect(is_floating(x.dtype) && x.rank() >= 1,
           "expected a floating type with at least one axis");
  const bool random = is_random(a.normaliser);
  const std::string name(enum_name(a.normaliser));
  c.expect(c.inputs.size() == values + random,
           std::string(random ? "expected rng" : "expected no rng") + " with normaliser=" + name);
  if (!random) return;
  c.expect(x.rank() >= 2, "expected the batch before the last axis with normaliser=" + name);
  c.expect(c.inputs.back().dtype == DType::i32 && c.inputs.back().shape == Shape{3},
           "expected rng i32[3]: seed, step, first sample");
}
std::vector<ValueType> infer_normalise(const InferContext& c) {
  check_normaliser(c, 1);
  return {c.inputs[0]};
}
std::vector<ValueType> infer_normalise_grad(const InferContext& c) {
  check_normaliser(c, 2);
  c.alike(c.inputs[1], c.inputs[0], "the scores and the gradient");
  return {c.inputs[0]};
}

// The same noise on the way back.
Values normalise_gradient(GradientContext& c) {
  auto a = c.node().attrs.get<NormaliseAttrs>();
  Values inputs = {c.input(0), c.gradient()};
  if (is_random(a.normaliser)) {
    if (a.stream.empty()) a.stream = c.node().name;
    inputs.push_back(c.input(1));
  }
  Values gradients(c.node().inputs.size());
  gradients[0] = c.graph.add("normalise_grad", std::move(inputs), a);
  return gradients;
}

Size ten_flops(const Graph&, const Node& n) { return Size(10) * element_count(n.types[0].shape); }

}  // namespace

std::span<const Op> normaliser_ops() {
  static const std::vector<Op> ops = {
      {.name = "normalise",
       .defaults = NormaliseAttrs{},
       .min_inputs = 1,
       .max_inputs = 2,
       .infer = infer_normalise,
       .flops = ten_flops,
       .gradient = normalise_gradient,
       .random = true},
      {.name = "normalise_grad",
       .defaults = NormaliseAttrs{},
       .min_inputs = 2,
       .max_inputs = 3,
       .infer = infer_normalise_grad,
       .flops = ten_flops,
       .random = true,
       .no_gradient = true},
  };
  return ops;
}

}  // namespace fovea

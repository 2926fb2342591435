// Inputs, variables and constants: declared, not run.
#include "fovea/graph/op.h"
#include "fovea/graph/op_attrs.h"

namespace fovea {

namespace {

void check_declared(const InferContext& c, const ValueType& type) {
  c.expect(type.shape.size() <= 8, "expected at most 8 axes");
  for (auto& s : type.shape)
    c.expect(!s.is_constant() || s.constant() >= 0, "a size is negative: " + to_text(type));
}

std::vector<ValueType> infer_input(const InferContext& c) {
  check_declared(c, c.attrs.get<InputAttrs>().type);
  return {c.attrs.get<InputAttrs>().type};
}

std::vector<ValueType> infer_variable(const InferContext& c) {
  const auto& a = c.attrs.get<VariableAttrs>();
  check_declared(c, a.type);
  c.expect(a.init != Init::copy || !a.source.empty(), "init=copy wants the name of a source");
  return {a.type};
}

std::vector<ValueType> infer_constant(const InferContext& c) {
  const auto& a = c.attrs.get<ConstantAttrs>();
  check_declared(c, a.type);
  c.expect(a.values.size() <= 64, "expected at most 64 values inline");
  c.expect(a.values.empty() != a.hash.empty(),
           "expected either values or the hash of a stored constant");
  if (a.values.size() > 1 || !a.hash.empty()) {
    const Size n = element_count(a.type.shape);
    c.expect(n.is_constant(), "expected a size that is known");
    if (a.hash.empty())
      c.same(n, Size(static_cast<int64_t>(a.values.size())), "the number of values");
  }
  return {a.type};
}

}  // namespace

std::span<const Op> source_ops() {
  static const std::vector<Op> ops = {
      {.name = "input",
       .defaults = InputAttrs{},
       .min_inputs = 0,
       .max_inputs = 0,
       .infer = infer_input,
       .source = true},
      {.name = "variable",
       .defaults = VariableAttrs{},
       .min_inputs = 0,
       .max_inputs = 0,
       .infer = infer_variable,
       .source = true},
      {.name = "constant",
       .defaults = ConstantAttrs{},
       .min_inputs = 0,
       .max_inputs = 0,
       .infer = infer_constant,
       .source = true},
  };
  return ops;
}

}  // namespace fovea

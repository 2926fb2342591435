// Several elementwise ops in one node, which the pass fuse_elementwise makes.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "fovea/base/text.h"
#include "fovea/graph/elementwise_steps.h"
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

[[noreturn]] void bad_step(std::string_view step, const std::string& expected) {
  throw Error(ErrorCode::invalid_argument,
              fmt::format("[elementwise] step '{}': expected {}", step, expected));
}

int operand_count(const Op& op) { return op.min_inputs; }

}  // namespace

bool is_chain_op(const Op& op) {
  const auto family = elementwise_ops();
  const bool member = std::any_of(family.begin(), family.end(), [&](auto& o) { return &o == &op; });
  return member && op.name != "cast";
}

std::vector<ElementwiseStep> parse_steps(const std::vector<std::string>& texts, int inputs) {
  std::vector<ElementwiseStep> steps;
  for (const std::string& text : texts) {
    ElementwiseStep step;
    std::string_view rest = text;
    const auto word = [&] {
      const size_t end = std::min(rest.find(' '), rest.size());
      const std::string_view w = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      return w;
    };
    const std::string_view name = word();
    step.op = find_op(name);
    if (!step.op || !is_chain_op(*step.op)) bad_step(text, "an elementwise op first");
    while (!rest.empty()) {
      const std::string_view w = word();
      int index = -1;
      const auto [end, error] = std::from_chars(w.data(), w.data() + w.size(), index);
      if (error != std::errc() || end != w.data() + w.size() || index < 0 ||
          index >= inputs + static_cast<int>(steps.size()))
        bad_step(text, "registers that stand before it");
      step.operands.push_back(index);
    }
    if (static_cast<int>(step.operands.size()) != operand_count(*step.op))
      bad_step(text, fmt::format("{} registers", operand_count(*step.op)));
    steps.push_back(std::move(step));
  }
  if (steps.empty()) throw Error(ErrorCode::invalid_argument, "[elementwise] expected a step");
  return steps;
}

namespace {

using Values = std::vector<Value>;

// Inputs f32, bf16, u8, i32 or bool -> f32 or bf16, everything in between f32.
std::vector<ValueType> infer_elementwise(const InferContext& c) {
  const auto& a = c.attrs.get<ElementwiseAttrs>();
  try {
    parse_steps(a.steps, static_cast<int>(c.inputs.size()));
  } catch (const Error& e) {
    c.fail(e.what());
  }
  Shape shape;
  for (const ValueType& x : c.inputs) {
    c.expect(x.dtype == DType::f32 || x.dtype == DType::bf16 || x.dtype == DType::u8 ||
                 x.dtype == DType::i32 || x.dtype == DType::boolean,
             "expected f32, bf16, u8, i32 or bool");
    Shape wide(std::max(shape.size(), x.rank()), Size(1));
    for (size_t i = 0; i < wide.size(); ++i) {
      const size_t lead_s = wide.size() - shape.size(), lead_x = wide.size() - x.rank();
      const Size s = i < lead_s ? Size(1) : shape[i - lead_s];
      const Size y = i < lead_x ? Size(1) : x.shape[i - lead_x];
      if (!(s == Size(1)) && !(y == Size(1))) c.same(s, y, "broadcast sizes");
      wide[i] = s == Size(1) ? y : s;
    }
    shape = wide;
  }
  c.expect(a.out != TypeChoice::same, "expected out=f32 or out=bf16");
  return {{chosen_type(a.out, DType::f32), shape}};
}

Size elementwise_flops(const Graph&, const Node& n) {
  const auto steps = static_cast<int64_t>(n.attrs.get<ElementwiseAttrs>().steps.size());
  return Size(steps) * element_count(n.types[0].shape);
}

Values decompose_elementwise(Graph& g, std::span<const Value> in, const Attrs& attrs) {
  const auto& a = attrs.get<ElementwiseAttrs>();
  Values registers;
  for (Value v : in)
    registers.push_back(g.type(v).dtype == DType::boolean ? v : ops::cast(g, v, DType::f32));
  for (const ElementwiseStep& step : parse_steps(a.steps, static_cast<int>(in.size()))) {
    Values operands;
    for (int r : step.operands) operands.push_back(registers[static_cast<size_t>(r)]);
    registers.push_back(g.add(step.op->name, operands, step.op->defaults));
  }
  const Value y = ops::cast(g, registers.back(), DType::f32);
  return {ops::cast(g, y, chosen_type(a.out, DType::f32))};
}

}  // namespace

std::span<const Op> chain_ops() {
  static const std::vector<Op> ops = {
      {.name = "elementwise",
       .defaults = ElementwiseAttrs{},
       .max_inputs = -1,
       .infer = infer_elementwise,
       .flops = elementwise_flops,
       .decompose = decompose_elementwise,
       .in_place = true},
  };
  return ops;
}

}  // namespace fovea

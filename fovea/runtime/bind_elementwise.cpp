#include "fovea/graph/elementwise_steps.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/elementwise_chain.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

// The value of E that bears the op's name: graph and kernels use the same words.
template <class E>
E kind_of(std::string_view op) {
  const auto names = enum_names(E{});
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i] == op) return static_cast<E>(i);
  FOVEA_ASSERT(!"an elementwise op without a kernel of its name");
  return E{};
}

std::unique_ptr<NodePlan> bind_unary(const NodeProblem& n, const KernelChoice& choice) {
  const UnaryProblem p{kind_of<UnaryOp>(n.node.op->name), n.input(0).dtype, n.output_dims(), {}};
  return bind_kernel(n, "unary", unary_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return UnaryArgs{in[0], out[0]};
                     });
}

std::unique_ptr<NodePlan> bind_binary(const NodeProblem& n, const KernelChoice& choice) {
  const auto out = n.output_dims();
  const BinaryProblem p{kind_of<BinaryOp>(n.node.op->name), n.input(0).dtype, out,
                        broadcast_strides(n.input_dims(0), out),
                        broadcast_strides(n.input_dims(1), out)};
  return bind_kernel(n, "binary", binary_kernels(), p, choice,
                     [](const void* const* in, void* const* o) {
                       return BinaryArgs{in[0], in[1], o[0]};
                     });
}

std::unique_ptr<NodePlan> bind_select(const NodeProblem& n, const KernelChoice& choice) {
  const auto out = n.output_dims();
  const SelectProblem p{n.output().dtype, out, broadcast_strides(n.input_dims(0), out),
                        broadcast_strides(n.input_dims(1), out),
                        broadcast_strides(n.input_dims(2), out)};
  return bind_kernel(n, "select", select_kernels(), p, choice,
                     [](const void* const* in, void* const* o) {
                       return SelectArgs{in[0], in[1], in[2], o[0]};
                     });
}

std::unique_ptr<NodePlan> bind_cast(const NodeProblem& n, const KernelChoice& choice) {
  const CastProblem p{n.input(0).dtype, n.output().dtype, n.output_dims(), {}};
  return bind_kernel(n, "cast", cast_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return CastArgs{in[0], out[0]};
                     });
}

std::unique_ptr<NodePlan> bind_chain(const NodeProblem& n, const KernelChoice& choice) {
  ChainProblem p;
  p.dims = n.output_dims();
  p.y = n.output().dtype;
  for (size_t i = 0; i < n.node.inputs.size(); ++i)
    p.inputs.push_back({n.input(i).dtype, broadcast_strides(n.input_dims(i), p.dims)});
  const auto& texts = n.attrs<ElementwiseAttrs>().steps;
  for (const ElementwiseStep& from : parse_steps(texts, static_cast<int>(p.inputs.size()))) {
    ChainStep step;
    step.a = from.operands[0];
    if (from.operands.size() > 1) step.b = from.operands[1];
    if (from.operands.size() > 2) step.c = from.operands[2];
    if (from.operands.size() == 1) {
      step.kind = ChainStep::Kind::unary;
      step.unary = kind_of<UnaryOp>(from.op->name);
    } else if (from.operands.size() == 2) {
      step.kind = ChainStep::Kind::binary;
      step.binary = kind_of<BinaryOp>(from.op->name);
    } else {
      step.kind = ChainStep::Kind::select;
    }
    p.steps.push_back(step);
  }
  return bind_kernel(n, "elementwise", chain_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return ChainArgs{in, out[0]};
                     });
}

}  // namespace

BindingGroup elementwise_bindings() {
  BindingGroup g;
  for (std::string_view name : enum_names(UnaryOp{})) g.bindings.push_back({name, bind_unary});
  for (std::string_view name : enum_names(BinaryOp{})) g.bindings.push_back({name, bind_binary});
  g.bindings.push_back({"select", bind_select});
  g.bindings.push_back({"cast", bind_cast});
  g.bindings.push_back({"elementwise", bind_chain});
  g.families = {family_of("unary", unary_kernels()), family_of("binary", binary_kernels()),
                family_of("select", select_kernels()), family_of("cast", cast_kernels()),
                family_of("elementwise", chain_kernels())};
  return g;
}

}  // namespace fovea

#include "fovea/passes/differentiate.h"

#include <fmt/format.h>

#include "fovea/graph/gradient.h"
#include "fovea/graph/op.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"

namespace fovea {

Graph differentiate(const Graph& graph, const PassContext& context) {
  if (context.differentiate_output.empty()) return graph;
  const Value old_loss = graph.output(context.differentiate_output);
  const ValueType& type = graph.type(old_loss);
  if (!is_floating(type.dtype) || !type.shape.empty())
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[differentiate {}] expected a scalar of a floating type, got {}",
                            context.differentiate_output, to_text(type)));

  std::vector<int> weights;
  std::vector<bool> depends(static_cast<size_t>(graph.size()));
  for (int id = 0; id < graph.size(); ++id) {
    const Node& n = graph.node(id);
    if (n.op->name == "variable" && n.attrs.get<VariableAttrs>().kind == VariableKind::weight &&
        is_floating(n.types[0].dtype)) {
      weights.push_back(id);
      depends[static_cast<size_t>(id)] = true;
    }
    for (Value v : n.inputs)
      if (depends[static_cast<size_t>(v.node)]) depends[static_cast<size_t>(id)] = true;
  }

  Graph result;
  GraphRewriter rewriter(graph, result);
  for (int id = 0; id < graph.size(); ++id) {
    const Node& n = graph.node(id);
    const bool save = n.op->saving && depends[static_cast<size_t>(id)];
    rewriter.copy(id, save ? n.op->saving(n.attrs) : n.attrs);
  }
  rewriter.finish();

  std::vector<Value> wrt;
  for (int id : weights) wrt.push_back(rewriter[{id, 0}]);
  const Value loss = rewriter[old_loss];
  Value one;
  {
    const Graph::Scope scope(result, "grad");
    one = ops::constant(result, 1, type.dtype);
  }
  const std::pair<Value, Value> seeds[] = {{loss, one}};
  const std::vector<Value> gradients = backpropagate(result, seeds, wrt);
  for (size_t i = 0; i < wrt.size(); ++i)
    if (gradients[i])
      result.set_output(std::string(kGradientPrefix) + result.node(wrt[i]).name, gradients[i]);
  return result;
}

}  // namespace fovea

#include "fovea/passes/freeze.h"

#include <fmt/format.h>

#include "fovea/graph/ops.h"

namespace fovea {

namespace {

ValueType type_of(const HostTensor& tensor) {
  ValueType type{tensor.dtype, {}};
  for (int64_t n : tensor.shape) type.shape.push_back(n);
  return type;
}

}  // namespace

Graph freeze(const Graph& graph, const PassContext& context) {
  if (!context.weights) return graph;
  for (auto& update : graph.updates())
    if (const std::string& name = graph.node(update.first).name; context.weights(name))
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[freeze {}] expected a graph that does not update it (freeze the "
                              "graph for inference, or leave its numbers out)",
                              name));
  Graph result;
  GraphRewriter rewriter(graph, result);
  for (int id = 0; id < graph.size(); ++id) {
    const Node& n = graph.node(id);
    const HostTensorPtr numbers =
        n.attrs.holds<VariableAttrs>() ? context.weights(n.name) : nullptr;
    if (!numbers) {
      rewriter.copy(id);
      continue;
    }
    if (type_of(*numbers) != n.types[0])
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[freeze {}] expected {}, got {} (the weights are those of another "
                              "model)",
                              n.name, to_text(n.types[0]), to_text(type_of(*numbers))));
    rewriter.map({id, 0}, ops::constant(result, numbers, n.name));
  }
  rewriter.finish();
  return result;
}

}  // namespace fovea

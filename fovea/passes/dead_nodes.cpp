#include "fovea/passes/dead_nodes.h"

#include <vector>

namespace fovea {

namespace {

// For each node and output, whether something that stays reads it. A node without any is dead.
using Used = std::vector<std::vector<bool>>;

Used used_outputs(const Graph& graph) {
  Used used;
  for (int id = 0; id < graph.size(); ++id) used.emplace_back(graph.node(id).types.size());
  const auto read = [&](Value v) {
    used[static_cast<size_t>(v.node)][static_cast<size_t>(v.output)] = true;
  };
  for (auto& [name, v] : graph.outputs()) read(v);
  for (auto& [variable, v] : graph.updates()) {
    read(variable);
    read(v);
  }
  for (int id = graph.size() - 1; id >= 0; --id) {
    const Node& n = graph.node(id);
    if (n.attrs.holds<InputAttrs>()) used[static_cast<size_t>(id)][0] = true;
    const auto& mine = used[static_cast<size_t>(id)];
    if (std::find(mine.begin(), mine.end(), true) != mine.end())
      for (Value v : n.inputs) read(v);
  }
  // A source of initial values may stand before or after its users, and have a source itself.
  for (int id = 0; id < graph.size(); ++id) {
    int at = id;
    while (used[static_cast<size_t>(at)][0] && graph.node(at).attrs.holds<VariableAttrs>()) {
      at = graph.find(graph.node(at).attrs.get<VariableAttrs>().source);
      if (at < 0 || used[static_cast<size_t>(at)][0]) break;
      read({at, 0});
    }
  }
  return used;
}

}  // namespace

Graph dead_nodes(const Graph& graph, const PassContext&) {
  const Used used = used_outputs(graph);
  Graph result;
  GraphRewriter rewriter(graph, result);
  for (int id = 0; id < graph.size(); ++id) {
    const Node& n = graph.node(id);
    const auto& mine = used[static_cast<size_t>(id)];
    if (std::find(mine.begin(), mine.end(), true) == mine.end()) continue;
    const bool shrinks = n.op->without_unused && n.types.size() > 1;
    const Value now = rewriter.copy(id, shrinks ? n.op->without_unused(n.attrs, mine) : n.attrs);
    // Optional outputs go from the back, so those that stay keep their places.
    const auto& types = result.node(now).types;
    for (size_t i = 0; i < mine.size(); ++i)
      FOVEA_ASSERT(!mine[i] || (i < types.size() && types[i] == n.types[i]));
    if (n.attrs.holds<ConstantAttrs>())
      if (const auto it = graph.constants().find(n.attrs.get<ConstantAttrs>().hash);
          it != graph.constants().end())
        result.store_constant(it->first, it->second);
  }
  // Not rewriter.finish(), which copies the whole store.
  for (auto& [name, v] : graph.outputs()) result.set_output(name, rewriter[v]);
  for (auto& [variable, v] : graph.updates()) result.update(rewriter[variable], rewriter[v]);
  return result;
}

}  // namespace fovea

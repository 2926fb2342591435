#include "fovea/passes/common_subexpressions.h"

#include <fmt/format.h>

#include <unordered_map>
#include <vector>

namespace fovea {

namespace {

bool mergeable(const Node& n) {
  return !n.op->random && (!n.op->source || n.attrs.holds<ConstantAttrs>());
}

// Equal for nodes that compute the same.
std::string key_of(const Graph& graph, int id, std::vector<Value> inputs) {
  const Node& n = graph.node(id);
  Attrs attrs = n.attrs;
  if (attrs.holds<ConstantAttrs>()) {
    // [1,1,1] and one 1 for every element are the same content.
    auto a = attrs.get<ConstantAttrs>();
    if (uniform_constant(graph, {id, 0})) a.values.resize(1);
    attrs = a;
  }
  if (n.op->commutative) std::sort(inputs.begin(), inputs.end());
  std::string key = fmt::format("{}({})", n.op->name, attrs.text(n.op->defaults));
  for (Value v : inputs) key += fmt::format(" {}:{}", v.node, v.output);
  return key;
}

}  // namespace

Graph common_subexpressions(const Graph& graph, const PassContext&) {
  Graph result;
  GraphRewriter rewriter(graph, result);
  std::unordered_map<std::string, int> first;  // by key: the node in the result
  for (int id = 0; id < graph.size(); ++id) {
    const Node& n = graph.node(id);
    if (!mergeable(n)) {
      rewriter.copy(id);
      continue;
    }
    const auto [it, is_new] =
        first.try_emplace(key_of(graph, id, rewriter.mapped(n.inputs)), result.size());
    if (is_new) {
      rewriter.copy(id);
      continue;
    }
    for (int i = 0; i < static_cast<int>(n.types.size()); ++i)
      rewriter.map({id, i}, {it->second, i});
  }
  rewriter.finish();
  return result;
}

}  // namespace fovea

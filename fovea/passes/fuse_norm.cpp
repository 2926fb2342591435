#include "fovea/passes/fuse_norm.h"

#include <vector>

#include "fovea/passes/uses.h"

namespace fovea {

namespace {

// The addition that the norm `id` reads and may take over, or -1.
int addition_of(const Graph& graph, const Uses& uses, int id) {
  const Node& n = graph.node(id);
  if (n.op->name != "layer_norm" && n.op->name != "rms_norm") return -1;
  if (n.attrs.get<NormAttrs>().residual) return -1;
  const int add = n.inputs[0].node;
  const Node& sum = graph.node(add);
  if (sum.op->name != "add") return -1;
  for (Value v : sum.inputs)
    if (graph.type(v) != sum.types[0]) return -1;
  bool first = true;
  for (auto& use : uses[n.inputs[0]]) {
    if (use.node >= 0 && use.node < id) return -1;
    first = first && (use.node != id || use.slot == 0);
  }
  return first ? add : -1;
}

}  // namespace

Graph fuse_norm(const Graph& graph, const PassContext&) {
  const Uses uses(graph);
  std::vector<int> taken_by(static_cast<size_t>(graph.size()), -1);
  for (int id = 0; id < graph.size(); ++id)
    if (const int add = addition_of(graph, uses, id);
        add >= 0 && taken_by[static_cast<size_t>(add)] < 0)
      taken_by[static_cast<size_t>(add)] = id;

  Graph result;
  GraphRewriter rewriter(graph, result);
  for (int id = 0; id < graph.size(); ++id) {
    const Node& n = graph.node(id);
    if (taken_by[static_cast<size_t>(id)] >= 0) continue;
    const int add = n.attrs.holds<NormAttrs>() ? n.inputs[0].node : -1;
    if (add < 0 || taken_by[static_cast<size_t>(add)] != id) {
      rewriter.copy(id);
      continue;
    }
    auto a = n.attrs.get<NormAttrs>();
    a.residual = true;
    std::vector<Value> inputs = rewriter.mapped(graph.node(add).inputs);
    for (size_t i = 1; i < n.inputs.size(); ++i) inputs.push_back(rewriter[n.inputs[i]]);
    const Value v = result.add_named(*n.op, inputs, a, n.name);
    rewriter.map({add, 0}, {v.node, 1});
    for (size_t i = 0; i < n.types.size(); ++i) {
      const auto output = static_cast<int32_t>(i);
      rewriter.map({id, output}, {v.node, output == 0 ? 0 : output + 1});
    }
  }
  rewriter.finish();
  return result;
}

}  // namespace fovea

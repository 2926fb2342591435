#include "fovea/graph/gradient.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

// Which nodes up to `last` depend on a value in `wrt`.
std::vector<bool> reachable(const Graph& graph, std::span<const Value> wrt, int last) {
  std::vector<bool> depends(static_cast<size_t>(last) + 1);
  for (Value v : wrt)
    if (v.node <= last) depends[static_cast<size_t>(v.node)] = true;
  for (int id = 0; id <= last; ++id)
    for (Value v : graph.node(id).inputs)
      if (depends[static_cast<size_t>(v.node)]) depends[static_cast<size_t>(id)] = true;
  return depends;
}

}  // namespace

std::vector<Value> gradient_through_decomposition(GradientContext& c) {
  Graph& g = c.graph;
  const Node node = c.node();
  // Gradients are taken with respect to the inputs as this node reads them, so that a value that
  // feeds the node twice is not counted twice.
  std::vector<Value> stand_ins;
  for (Value v : node.inputs) stand_ins.push_back(ops::reshape(g, v, g.shape(v)));
  const std::vector<Value> outputs = node.op->decompose(g, stand_ins, node.attrs);
  std::vector<std::pair<Value, Value>> seeds;
  for (size_t i = 0; i < outputs.size(); ++i)
    if (c.output_gradients[i]) seeds.emplace_back(outputs[i], c.output_gradients[i]);
  return backpropagate(g, seeds, stand_ins);
}

std::vector<Value> backpropagate(Graph& graph, std::span<const std::pair<Value, Value>> seeds,
                                 std::span<const Value> wrt) {
  int last = -1;
  std::map<Value, Value> gradients;
  const auto receive = [&](Value to, Value gradient) {
    if (!gradient) return;
    auto [it, first] = gradients.try_emplace(to, gradient);
    if (!first) it->second = ops::add(graph, it->second, gradient);
  };
  for (auto& [value, gradient] : seeds) {
    last = std::max(last, value.node);
    receive(value, gradient);
  }
  const std::vector<bool> depends = reachable(graph, wrt, last);

  for (int id = last; id >= 0; --id) {
    if (!depends[static_cast<size_t>(id)] || graph.node(id).op->no_gradient ||
        graph.node(id).op->source)
      continue;
    std::vector<Value> arrived(graph.node(id).types.size());
    bool any = false;
    for (size_t i = 0; i < arrived.size(); ++i)
      if (const auto it = gradients.find({id, static_cast<int32_t>(i)}); it != gradients.end()) {
        arrived[i] = it->second;
        any = true;
      }
    if (!any) continue;
    const Op& op = *graph.node(id).op;
    const Graph::Scope scope(graph, "grad." + graph.node(id).name);
    GradientContext context{graph, id, arrived};
    if (!op.gradient && !op.decompose)
      throw Error(ErrorCode::unsupported, fmt::format("[gradient {}] the op {} has no gradient",
                                                      graph.node(id).name, op.name));
    const std::vector<Value> given =
        op.gradient ? op.gradient(context) : gradient_through_decomposition(context);
    const std::vector<Value> inputs = graph.node(id).inputs;
    FOVEA_ASSERT(given.size() == inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i)
      if (given[i] && depends[static_cast<size_t>(inputs[i].node)]) receive(inputs[i], given[i]);
  }
  std::vector<Value> out;
  for (Value v : wrt) {
    const auto it = gradients.find(v);
    out.push_back(it == gradients.end() ? Value{} : it->second);
  }
  return out;
}

}  // namespace fovea

// What a pass is: a named function from graph to graph. Passes never change the graph that they are
// given; nodes that they keep, keep their names.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "fovea/graph/graph.h"
#include "fovea/graph/level.h"
#include "fovea/graph/op.h"
#include "fovea/graph/op_attrs.h"

namespace fovea {

// What passes may ask of their surroundings. Whatever is empty is not done.
struct PassContext {
  const Level* level = nullptr;  // the overrides that apply_level makes
  // Runs a graph without inputs and gives its output "value"; nullptr where it cannot. Empty: no
  // constants are evaluated.
  std::function<HostTensorPtr(const Graph&)> evaluate;
  // Empty: every op counts as having a kernel.
  std::function<bool(const Op&)> has_kernel;
  // The name of the scalar output to differentiate; empty for inference.
  std::string differentiate_output;
  // Adds the optimiser's updates to a differentiated graph.
  std::function<Graph(const Graph&)> optimiser;
  // The numbers of a variable that will not change any more, by name; nullptr for others. Empty:
  // nothing is frozen.
  std::function<HostTensorPtr(const std::string&)> weights;
  bool bf16 = false;        // all products in bf16, not only those that say so
  size_t memory_bytes = 0;  // what the arena may take for these sizes; 0: whatever it needs
  SizeBindings sizes;
};

struct Pass {
  std::string_view name;
  // Throws Error where the graph or the context cannot be followed.
  Graph (*run)(const Graph&, const PassContext&);
};

// The number that every element of an inline constant is; nothing for any other node.
inline std::optional<double> uniform_constant(const Graph& graph, Value value) {
  const Node& node = graph.node(value);
  if (!node.attrs.holds<ConstantAttrs>()) return std::nullopt;
  const auto& values = node.attrs.get<ConstantAttrs>().values;
  if (values.empty()) return std::nullopt;
  const bool same =
      std::all_of(values.begin(), values.end(), [&](double v) { return v == values[0]; });
  return same ? std::optional(values[0]) : std::nullopt;
}

}  // namespace fovea

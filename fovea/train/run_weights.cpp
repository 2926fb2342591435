#include "fovea/train/run_weights.h"

#include <memory>

#include "fovea/train/step_graph.h"

namespace fovea {

int64_t take_weights(const Bundle& bundle, VariableStore& variables) {
  int64_t taken = 0;
  for (auto& [name, tensor] : bundle.weights) {
    if (!variables.has(name)) continue;
    auto& v = variables.get(name);
    if (v.dtype != tensor->dtype || v.shape != tensor->shape) continue;
    variables.set(name, tensor->dtype, tensor->shape, tensor->bytes);
    const std::string average = std::string(kAveragePrefix) + name;
    if (variables.has(average)) variables.set(average, tensor->dtype, tensor->shape, tensor->bytes);
    ++taken;
  }
  return taken;
}

std::map<std::string, HostTensorPtr> current_weights(const VariableStore& variables) {
  std::map<std::string, HostTensorPtr> out;
  for (auto& [name, v] : variables.all()) {
    if (v.kind != VariableKind::weight) continue;
    const std::string average = std::string(kAveragePrefix) + name;
    const auto& from = variables.has(average) ? variables.get(average) : v;
    auto t = std::make_shared<HostTensor>();
    t->dtype = from.dtype;
    t->shape = from.shape;
    t->bytes.assign(from.data.bytes().begin(), from.data.bytes().end());
    out[name] = std::move(t);
  }
  return out;
}

}  // namespace fovea

// What passes ask before they take a node away or put one in: who reads a value, which name is
// free.
#pragma once

#include <string>
#include <vector>

#include "fovea/graph/graph.h"

namespace fovea {

// The name, or with a number the next one that no node of either graph has. Nodes that a pass has
// yet to copy keep their names (variables are found by them), so these are not free either.
inline std::string free_name(const Graph& from, const Graph& to, const std::string& name) {
  std::string free = name;
  for (int i = 2; from.find(free) >= 0 || to.find(free) >= 0; ++i)
    free = name + "_" + std::to_string(i);
  return free;
}

class Uses {
 public:
  struct Use {
    int node = -1;    // -1: an output or an update of the graph
    size_t slot = 0;  // which input of the node
  };

  explicit Uses(const Graph& graph) : uses_(static_cast<size_t>(graph.size())) {
    for (int id = 0; id < graph.size(); ++id)
      uses_[static_cast<size_t>(id)].resize(graph.node(id).types.size());
    for (int id = 0; id < graph.size(); ++id)
      for (size_t i = 0; i < graph.node(id).inputs.size(); ++i)
        of(graph.node(id).inputs[i]).push_back({id, i});
    for (auto& output : graph.outputs()) of(output.second).push_back({});
    for (auto& [variable, value] : graph.updates()) {
      of(variable).push_back({});
      of(value).push_back({});
    }
  }

  const std::vector<Use>& operator[](Value v) const {
    return uses_[static_cast<size_t>(v.node)][static_cast<size_t>(v.output)];
  }
  // The one node that reads the value, once; -1 where there is none or more than one reader.
  int only_reader(Value v) const {
    const auto& all = (*this)[v];
    return all.size() == 1 ? all[0].node : -1;
  }

 private:
  std::vector<Use>& of(Value v) {
    return uses_[static_cast<size_t>(v.node)][static_cast<size_t>(v.output)];
  }

  std::vector<std::vector<std::vector<Use>>> uses_;
};

}  // namespace fovea

// A level of a model: one set of weights with some attributes of named nodes set to other values
// (fewer heads, shorter windows, bf16).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "fovea/graph/graph.h"

namespace fovea {

struct Level {
  std::string name;
  // By node name, then by attribute: the value as text, as the text form of a graph writes it.
  std::map<std::string, std::map<std::string, std::string>> overrides;
};

// A level as a recipe describes it.
struct LevelOptions {
  std::string name;
  double share = 0;              // of the training steps that are made at this level
  std::vector<std::string> set;  // "NODE.ATTRIBUTE=VALUE"; '*' in NODE stands for any text

  template <class V>
  void visit(V& v) {
    v("name", name);
    v("share", share);
    v("set", set);
  }
};

// The overrides for the nodes of this graph. Throws Error where the text is no assignment, or no
// node has such a name (with the nearest one).
Level make_level(const LevelOptions& options, const Graph& graph);

}  // namespace fovea

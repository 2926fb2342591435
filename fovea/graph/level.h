// A level of a model: one set of weights with some attributes of named nodes set to other values
// (fewer heads, shorter windows).
#pragma once

#include <map>
#include <string>

namespace fovea {

struct Level {
  std::string name;
  // By node name, then by attribute: the value as text, as the text form of a graph writes it.
  std::map<std::string, std::map<std::string, std::string>> overrides;
};

}  // namespace fovea

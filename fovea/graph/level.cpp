#include "fovea/graph/level.h"

#include <fmt/format.h>

#include "fovea/base/error.h"
#include "fovea/base/text.h"

namespace fovea {

namespace {

// Whether '*' in the pattern can stand for texts that make it the name.
bool matches(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = std::string_view::npos, after = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      after = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++after;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace

Level make_level(const LevelOptions& options, const Graph& graph) {
  Level level;
  level.name = options.name;
  for (const std::string& text : options.set) {
    const size_t equals = text.find('=');
    const size_t dot = text.rfind('.', equals);
    if (equals == std::string::npos || dot == std::string::npos || dot == 0 || dot + 1 >= equals ||
        equals + 1 == text.size())
      throw Error(
          ErrorCode::invalid_argument,
          fmt::format("[level {}] expected NODE.ATTRIBUTE=VALUE, got '{}'", options.name, text));
    const std::string pattern = text.substr(0, dot);
    bool any = false;
    for (int id = 0; id < graph.size(); ++id) {
      if (!matches(pattern, graph.node(id).name)) continue;
      any = true;
      level.overrides[graph.node(id).name][text.substr(dot + 1, equals - dot - 1)] =
          text.substr(equals + 1);
    }
    if (!any) {
      std::vector<std::string> names;
      for (int id = 0; id < graph.size(); ++id) names.push_back(graph.node(id).name);
      throw Error(ErrorCode::not_found,
                  fmt::format("[level {}] no node is named '{}'{}", options.name, pattern,
                              did_you_mean(pattern, names)));
    }
  }
  return level;
}

}  // namespace fovea

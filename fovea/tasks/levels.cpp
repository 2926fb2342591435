#include "fovea/tasks/levels.h"

#include <fmt/format.h>

#include <algorithm>

#include "fovea/base/text.h"

namespace fovea {

std::vector<LevelOptions> read_levels(RecipeTable& recipe) {
  std::vector<LevelOptions> levels;
  double shares = 0;
  for (int64_t i = 0; i < recipe.items("levels"); ++i) {
    const std::string path = fmt::format("levels[{}]", i);
    LevelOptions level;
    recipe.bind(path, level);
    const auto fail = [&](const std::string& key, const std::string& what) {
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[recipe] {}: [[levels]] {}: {}",
                              recipe.place(recipe.has(path + "." + key) ? path + "." + key : path),
                              key, what));
    };
    if (level.name.empty()) fail("name", "expected a name, got none (name = \"half\")");
    const bool taken = level.name == kFullLevel ||
                       std::any_of(levels.begin(), levels.end(),
                                   [&](auto& other) { return other.name == level.name; });
    if (taken)
      fail("name", fmt::format("there is a level '{}' already (take another name)", level.name));
    if (level.set.empty())
      fail("set",
           "expected at least one \"NODE.ATTRIBUTE=VALUE\", got none (`fovea graph RECIPE` shows "
           "the nodes)");
    if (!(level.share >= 0)) fail("share", fmt::format("expected at least 0, got {}", level.share));
    shares += level.share;
    if (shares > 1)
      fail("share", fmt::format("expected shares that add up to 1 at most, got {} (what is left "
                                "trains the whole model)",
                                shares));
    levels.push_back(std::move(level));
  }
  return levels;
}

std::string levels_text(const std::vector<LevelOptions>& levels) {
  std::string text;
  for (const LevelOptions& level : levels) text += recipe_section("[[levels]]", level);
  return text;
}

const LevelOptions& level_named(const std::vector<LevelOptions>& levels, const std::string& name) {
  std::vector<std::string> names = {std::string(kFullLevel)};
  for (const LevelOptions& level : levels) {
    if (level.name == name) return level;
    names.push_back(level.name);
  }
  throw Error(ErrorCode::not_found,
              fmt::format("[level] there is no level '{}'{} (levels: {})", name,
                          did_you_mean(name, names), fmt::join(names, ", ")));
}

}  // namespace fovea

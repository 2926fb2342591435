// The levels that a recipe names: [[levels]] with name, share and set.
#pragma once

#include <string>
#include <vector>

#include "fovea/formats/recipe.h"
#include "fovea/graph/level.h"

namespace fovea {

// The model as it stands, which every recipe has.
inline constexpr std::string_view kFullLevel = "full";

// In the recipe's order, without "full". Throws Error naming the place of a level without a name,
// with a name that is taken, or with shares that are negative or add up to more than 1.
std::vector<LevelOptions> read_levels(RecipeTable& recipe);

// As [[levels]] of a recipe.
std::string levels_text(const std::vector<LevelOptions>& levels);

// Throws Error with the nearest name when there is none.
const LevelOptions& level_named(const std::vector<LevelOptions>& levels, const std::string& name);

}  // namespace fovea

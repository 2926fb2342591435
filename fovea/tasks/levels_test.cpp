#include "fovea/tasks/levels.h"

#include <gtest/gtest.h>

#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

std::vector<LevelOptions> read(const std::string& text) {
  RecipeTable recipe = RecipeTable::parse(text, "r.toml");
  std::vector<LevelOptions> levels = read_levels(recipe);
  recipe.check_all_read();
  return levels;
}

const std::string kHalf = "[[levels]]\nname = \"half\"\nshare = 0.5\nset = [\"a.heads=2\"]\n";

TEST(Levels, AreReadInTheOrderOfTheRecipe) {
  EXPECT_TRUE(read("").empty());
  const auto levels =
      read(kHalf + "[[levels]]\nname = \"less\"\nset = [\"a.heads=1\", \"b.c=2\"]\n");
  ASSERT_EQ(levels.size(), 2u);
  EXPECT_EQ(levels[0].name, "half");
  EXPECT_EQ(levels[0].share, 0.5);
  EXPECT_EQ(levels[1].share, 0);
  EXPECT_EQ(levels[1].set, (std::vector<std::string>{"a.heads=1", "b.c=2"}));
  EXPECT_EQ(&level_named(levels, "less"), &levels[1]);
}

TEST(Levels, AMissingOneIsNamedWithTheNearest) {
  const auto levels = read(kHalf);
  expect_error(ErrorCode::not_found, "did you mean 'half'? (levels: full, half)",
               [&] { level_named(levels, "hafl"); });
}

TEST(Levels, WhatCannotBeNamesItsPlace) {
  const auto wrong = [](const std::string& text, const std::string& part) {
    expect_error(ErrorCode::invalid_argument, part, [&] { read(text); });
  };
  wrong("[[levels]]\nshare = 0.5\nset = [\"a.b=1\"]\n",
        "r.toml:1: [[levels]] name: expected a name");
  wrong(kHalf + kHalf, "r.toml:6: [[levels]] name: there is a level 'half' already");
  wrong("[[levels]]\nname = \"full\"\nset = [\"a.b=1\"]\n", "there is a level 'full' already");
  wrong("[[levels]]\nname = \"x\"\n", "set: expected at least one");
  wrong("[[levels]]\nname = \"x\"\nset = [\"a.b=1\"]\nshare = -1\n", "r.toml:4: [[levels]] share");
  wrong(kHalf + "[[levels]]\nname = \"x\"\nset = [\"a.b=1\"]\nshare = 0.6\n",
        "shares that add up to 1 at most, got 1.1");
  wrong("[[levels]]\nname = \"x\"\nset = [\"a.b=1\"]\nshrae = 1\n", "shrae");
}

}  // namespace
}  // namespace fovea

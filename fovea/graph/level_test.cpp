#include "fovea/graph/level.h"

#include <gtest/gtest.h>

#include "fovea/base/error.h"
#include "fovea/graph/ops.h"

namespace fovea {
namespace {

Graph three_nodes() {
  Graph g;
  const Value x = ops::input(g, "x", DType::f32, {4, 8});
  ops::unary(g, "exp", x);
  const Graph::Scope scope(g, "enc");
  for (const char* name : {"0", "1"}) {
    const Graph::Scope layer(g, name);
    ops::softmax(g, x);
  }
  return g;
}

std::string error_of(const LevelOptions& options) {
  try {
    make_level(options, three_nodes());
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Level, AStarStandsForAnyText) {
  const Level level = make_level(
      {.name = "small", .set = {"enc.*.softmax.a=1", "enc.1.softmax.b=[2,3]"}}, three_nodes());
  EXPECT_EQ(level.name, "small");
  ASSERT_EQ(level.overrides.size(), 2u);
  EXPECT_EQ(level.overrides.at("enc.0.softmax"), (std::map<std::string, std::string>{{"a", "1"}}));
  EXPECT_EQ(level.overrides.at("enc.1.softmax"),
            (std::map<std::string, std::string>{{"a", "1"}, {"b", "[2,3]"}}));
}

TEST(Level, StarsMatchAtBothEndsAndNothingToo) {
  EXPECT_EQ(make_level({.name = "l", .set = {"*.a=1"}}, three_nodes()).overrides.size(), 4u);
  EXPECT_EQ(make_level({.name = "l", .set = {"*softmax*.a=1"}}, three_nodes()).overrides.size(),
            2u);
  EXPECT_EQ(make_level({.name = "l", .set = {"e*xp.a=1"}}, three_nodes()).overrides.size(), 1u);
}

TEST(Level, ANameThatNoNodeHasIsAnErrorWithTheNearest) {
  EXPECT_EQ(error_of({.name = "small", .set = {"enc.0.sofmax.a=1"}}),
            "[level small] no node is named 'enc.0.sofmax'; did you mean 'enc.0.softmax'?");
  EXPECT_NE(error_of({.name = "small", .set = {"dec.*.a=1"}}).find("'dec.*'"), std::string::npos);
}

TEST(Level, WhatIsNoAssignmentIsAnError) {
  for (const char* text : {"exp", "exp.a", "exp.a=", "exp=1", ".a=1", "exp.=1", ""})
    EXPECT_EQ(error_of({.name = "l", .set = {text}}),
              std::string("[level l] expected NODE.ATTRIBUTE=VALUE, got '") + text + "'");
}

}  // namespace
}  // namespace fovea

#include "fovea/passes/apply_level.h"

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

const std::string kModel =
    "x = input(type=f32[B,7,8])\n"
    "attn = attention(%x, %x, %x, heads=4) : f32[B,7,8]\n"
    "y = layer_norm(%attn, %w, %b, stats=true) : f32[B,7,8], f32[B,7], f32[B,7]\n"
    "output y = %y\n";

Graph model() {
  return graph_of("w = variable(type=f32[8])\nb = variable(type=f32[8])\n" + kModel);
}

Graph at_level(const Graph& graph, const Level& level) {
  PassContext context;
  context.level = &level;
  return apply_level(graph, context);
}

TEST(ApplyLevel, SetsTheAttributesOfNamedNodes) {
  const Level level{"fast", {{"attn", {{"heads_kept", "2"}, {"window_left", "3"}}}}};
  expect_graph(at_level(model(), level),
               "w = variable(type=f32[8])\n"
               "b = variable(type=f32[8])\n"
               "x = input(type=f32[B,7,8])\n"
               "attn = attention(%x, %x, %x, heads=4, heads_kept=2, window_left=3) : f32[B,7,8]\n"
               "y = layer_norm(%attn, %w, %b, stats=true) : f32[B,7,8], f32[B,7], f32[B,7]\n"
               "output y = %y\n");
}

TEST(ApplyLevel, LeavesTheGraphWithoutALevelAndTheGraphThatItIsGiven) {
  const Graph graph = model();
  EXPECT_EQ(print_graph(apply_level(graph, {})), print_graph(graph));
  const std::string before = print_graph(graph);
  at_level(graph, {"fast", {{"attn", {{"heads_kept", "2"}}}}});
  EXPECT_EQ(print_graph(graph), before);
}

TEST(ApplyLevel, KeepsStoredConstants) {
  Graph graph = graph_of("c = constant(type=f32[100], hash=\"abc\")\noutput y = %c\n");
  graph.store_constant("abc", std::make_shared<HostTensor>());
  EXPECT_EQ(at_level(graph, {"fast", {}}).constants().count("abc"), 1u);
}

TEST(ApplyLevel, AnUnknownNodeIsAnErrorWithTheNearestName) {
  EXPECT_EQ(error_of([] {
              at_level(model(), {"fast", {{"atn", {{"heads_kept", "2"}}}}});
            }),
            "[level fast] atn: there is no such node; did you mean 'attn'?");
}

TEST(ApplyLevel, AnUnknownAttributeOrABadValueIsAnErrorThatNamesTheNode) {
  const auto error = [](const std::string& attribute, const std::string& text) {
    return error_of([&] { at_level(model(), {"fast", {{"attn", {{attribute, text}}}}}); });
  };
  EXPECT_EQ(error("heads_keep", "2"),
            "[level fast] attn: [attribute] there is no 'heads_keep'; did you mean 'heads_kept'?");
  EXPECT_EQ(error("heads_kept", "two"),
            "[level fast] attn: [attribute] heads_kept: expected an integer, got 'two'");
}

TEST(ApplyLevel, AValueThatBreaksAShapeRuleIsAnErrorThatNamesLevelAndNode) {
  const std::string message = error_of([] {
    at_level(model(), {"fast", {{"attn", {{"heads_kept", "9"}}}}});
  });
  EXPECT_EQ(message.substr(0, 73),
            "[level fast] attn: [attention attn] expected heads_kept=9 between 0 and h");
}

TEST(ApplyLevel, TakingAwayAnOutputThatIsReadIsAnError) {
  const Level level{"fast", {{"y", {{"stats", "false"}}}}};
  EXPECT_NO_THROW(at_level(model(), level));
  Graph graph = model();
  graph.set_output("mean", {graph.find("y"), 1});
  EXPECT_EQ(error_of([&] { at_level(graph, level); }),
            "[level fast] y: expected to keep output 1, which output mean reads");
  graph.set_output("mean", graph.add("neg", {{graph.find("y"), 1}}));
  EXPECT_EQ(error_of([&] { at_level(graph, level); }),
            "[level fast] y: expected to keep output 1, which neg reads");
}

TEST(ApplyLevel, AnOverrideThatDoesNotFitAnUpdateIsAnError) {
  const Graph graph =
      graph_of("x = input(type=f32[4])\nv = variable(type=f32[4])\nupdate %v = %x\n");
  EXPECT_EQ(error_of([&] {
              at_level(graph, {"fast", {{"v", {{"type", "f32[5]"}}}}});
            }),
            "[level fast] updates: [update v] expected f32[5], got f32[4]");
}

}  // namespace
}  // namespace fovea

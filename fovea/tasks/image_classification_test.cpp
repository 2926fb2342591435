#include "fovea/tasks/image_classification.h"

#include <gtest/gtest.h>

#include "fovea/formats/test_data.h"
#include "fovea/graph/graph_text.h"
#include "fovea/graph/op_attrs.h"

namespace fovea {
namespace {

Task make(const std::string& text, int64_t side = 8) {
  RecipeTable recipe = RecipeTable::parse(text, "test.toml");
  Task task = make_task(recipe, {side, side, 1, {"a", "b", "c"}});
  recipe.check_all_read();
  return task;
}

const std::string kModel =
    "[model]\nstem = [8]\npatch = 2\nlayers = 2\nwidth = 16\nheads = 2\nmlp = 16\ndropout = 0.1\n";

TEST(ImageClassification, GivesGraphsForInferenceAndTraining) {
  const Task task = make(kModel);
  EXPECT_EQ(to_text(task.infer.type(task.infer.output(kLogits))), "f32[B,3]");
  EXPECT_TRUE(task.infer.has_output(kProbabilities));
  EXPECT_EQ(print_graph(task.infer).find("dropout"), std::string::npos);
  EXPECT_NE(print_graph(task.train).find("dropout"), std::string::npos);
  for (const char* output : {"loss.sum", "loss.count", "correct.sum"})
    EXPECT_TRUE(task.train.has_output(output)) << output;
  EXPECT_EQ(print_graph(parse_graph(print_graph(task.train))), print_graph(task.train));
}

TEST(ImageClassification, AttentionDropsProbabilitiesWhenItTrains) {
  const Task task = make(kModel + "[model.attention]\ndropout = 0.2\n");
  const auto attention = [](const Graph& g) {
    return g.node(g.find("vit.enc.1.attn")).attrs.get<AttentionAttrs>();
  };
  EXPECT_EQ(attention(task.train).dropout, 0.2);
  EXPECT_EQ(attention(task.train).stream, "vit.enc.1.attn");
  EXPECT_EQ(attention(task.infer).dropout, 0);
  expect_error(ErrorCode::invalid_argument,
               "[model.attention] dropout: expected a share from 0 up to",
               [] { make(kModel + "[model.attention]\ndropout = 1.5\n"); });
}

TEST(ImageClassification, AttentionNodesHaveStableNamesAndTheRecipesAttributes) {
  const Task task = make(kModel + "[model.attention]\nkv_heads = 1\nwindow_left = 3\n");
  const int id = task.infer.find("vit.enc.1.attn");
  ASSERT_GE(id, 0);
  const auto& a = task.infer.node(id).attrs.get<AttentionAttrs>();
  EXPECT_EQ(a.kv_heads, 1);
  EXPECT_EQ(a.window_left, 3);
}

TEST(ImageClassification, TheRecipesAttentionIsRefusedWithItsLine) {
  const auto code = ErrorCode::invalid_argument;
  expect_error(code, "test.toml:10: [model.attention] kv_heads: expected a divisor of heads=2",
               [] { make(kModel + "[model.attention]\nkv_heads = 3\n"); });
  expect_error(code, "test.toml:9: [model.attention] expected a window",
               [] { make(kModel + "[model.attention]\ncausal = true\ndilation = 2\n"); });
  expect_error(code, "expected one of dot, additive, subtraction, linear",
               [] { make(kModel + "[model.attention]\nscore = \"cosine\"\n"); });
}

TEST(ImageClassification, BuildersMakeNoKeyBias) {
  const Task task = make(kModel);
  EXPECT_GE(task.infer.find("vit.enc.0.q.bias"), 0);
  EXPECT_LT(task.infer.find("vit.enc.0.k.bias"), 0);
}

TEST(ImageClassification, BalanceAddsTheLogarithmOfTheFrequenciesToTheLossAlone) {
  RecipeTable recipe = RecipeTable::parse(kModel + "[task]\nbalance = 2.0\n", "test.toml");
  const DataInfo data = {8, 8, 1, {"a", "b", "c"}, {5, 1, 0}};
  const Task task = make_task(recipe, data);
  // 2 log(6/9), 2 log(2/9), 2 log(1/9)
  EXPECT_NE(print_graph(task.train).find("-0.81093"), std::string::npos) << print_graph(task.train);
  EXPECT_NE(print_graph(task.train).find("-3.00815"), std::string::npos);
  EXPECT_NE(print_graph(task.train).find("-4.39444"), std::string::npos);
  EXPECT_EQ(print_graph(task.infer), print_graph(make(kModel).infer));
  EXPECT_EQ(print_graph(make(kModel).train).find("balance"), std::string::npos);
}

TEST(ImageClassification, OptionsThatDoNotFitAreErrors) {
  const auto code = ErrorCode::invalid_argument;
  expect_error(code, "no multiple of patch=3", [] { make("[model]\nstem = []\npatch = 3\n"); });
  expect_error(code, "test.toml:2: [model] heads: expected a divisor",
               [] { make("[model]\nheads = 5\n", 16); });
  expect_error(code, "test.toml:2: [model] width: expected 1 to",
               [] { make("[model]\nwidth = -1\n", 16); });
  expect_error(code, "layers: expected 1 to 1000", [] { make("[model]\nlayers = 100000\n", 16); });
  expect_error(code, "smoothing", [] { make("[task]\nlabel_smoothing = 1.5\n", 16); });
  expect_error(code, "balance: expected 0 to 10, got -1",
               [] { make("[task]\nbalance = -1\n", 16); });
  expect_error(code, "did you mean 'image_classification'",
               [] { make("[task]\nkind = \"image_clasification\"\n"); });
  expect_error(code, "did you mean 'model.attention.causal'",
               [] { make("[model.attention]\ncasual = true\n", 16); });
}

}  // namespace
}  // namespace fovea

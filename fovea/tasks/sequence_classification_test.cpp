#include "fovea/tasks/sequence_classification.h"

#include <gtest/gtest.h>

#include "fovea/formats/test_data.h"
#include "fovea/graph/graph_text.h"
#include "fovea/graph/op_attrs.h"

namespace fovea {
namespace {

DataInfo info(int64_t steps, int64_t features, bool ragged = false) {
  const auto n = static_cast<size_t>(features);
  return {.class_names = {"a", "b", "c"},
          .series = {steps, features, ragged, false, std::vector<double>(n, 2.5),
                     std::vector<double>(n, 4)}};
}

Task make(const std::string& text, const DataInfo& data) {
  RecipeTable recipe =
      RecipeTable::parse("[task]\nkind = \"sequence_classification\"\n" + text, "test.toml");
  Task task = make_task(recipe, data);
  recipe.check_all_read();
  return task;
}

TEST(SequenceClassification, ManyLayoutsOfNumbersGiveLogits) {
  for (const std::string options : {"", "patch = 3\n", "position = \"sinusoidal\"\n"})
    for (const bool ragged : {false, true}) {
      const Task task = make("[model]\n" + options, info(7, 5, ragged));
      EXPECT_EQ(to_text(task.infer.type(task.infer.output(kLogits))), "f32[B,3]");
      EXPECT_EQ(task.infer.find(kLengthInput) >= 0, ragged);
      const int attention = task.infer.find("seq.enc.0.attn");
      ASSERT_GE(attention, 0);
      EXPECT_EQ(task.infer.node(attention).attrs.get<AttentionAttrs>().lengths, ragged);
      EXPECT_EQ(print_graph(parse_graph(print_graph(task.train))), print_graph(task.train));
    }
}

TEST(SequenceClassification, TheColumnsOfARowAreTheTokens) {
  const Task task = make("", info(1, 5));
  const int weight = task.infer.find("seq.embed.weight");
  ASSERT_GE(weight, 0);
  EXPECT_EQ(to_text(task.infer.type({weight, 0})), "f32[5,64]");
  EXPECT_LT(task.infer.find("seq.position"), 0);
  EXPECT_GE(make("[model]\ntokens = \"steps\"\n", info(1, 5)).infer.find("seq.position"), 0);
}

TEST(SequenceClassification, MeansAndDeviationsAreReadBackFromTheGraph) {
  // More than 64 numbers stand in the graph's store.
  for (const int64_t features : {int64_t{2}, int64_t{70}}) {
    DataInfo data = info(4, features, true);
    data.series.mean[1] = 7;
    data.series.deviation[0] = 0;
    const SeriesInfo read = series_info(make("", data).infer);
    EXPECT_EQ(read.steps, 4);
    EXPECT_EQ(read.features, features);
    EXPECT_TRUE(read.ragged);
    EXPECT_EQ(read.mean, data.series.mean);
    EXPECT_EQ(read.deviation[0], 1);  // a column that never changes
    EXPECT_EQ(read.deviation[1], 4);
  }
  expect_error(ErrorCode::corrupt, "expected an input 'series'", [] { series_info(Graph()); });
}

TEST(SequenceClassification, OptionsThatDoNotFitAreErrors) {
  const auto code = ErrorCode::invalid_argument;
  const auto fails = [&](const std::string& what, const std::string& text, const DataInfo& data) {
    expect_error(code, what, [&] { make(text, data); });
  };
  fails("test.toml:4: [model] patch: expected 1 to the 7 steps", "[model]\npatch = 8\n",
        info(7, 2));
  fails("features is for single rows, these samples have 7 steps",
        "[model]\ntokens = \"features\"\n", info(7, 2));
  fails("[model] width: expected 1 to", "[model]\nwidth = 0\n", info(7, 2));
  fails("heads: expected a divisor", "[model]\nheads = 7\n", info(7, 2));
  fails("did you mean 'model.patch'", "[model]\npach = 2\n", info(7, 2));
  fails("score: expected \"dot\" for sequences that differ in length, got \"linear\"",
        "[model.attention]\nscore = \"linear\"\n", info(7, 2, true));
  fails("needs tables or sequences of numbers", "", {8, 8, 1, {"a", "b"}});
  RecipeTable recipe = RecipeTable::parse("[task]\nkind = \"image_classification\"\n", "test.toml");
  expect_error(code, "needs images, the data are tables", [&] { make_task(recipe, info(7, 2)); });
}

}  // namespace
}  // namespace fovea

// What [model.attention] learns beside the weights of the projections, or draws in training alone:
// trained from a recipe, kept in a bundle, predicted with.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "fovea/data/test_images.h"
#include "fovea/formats/bundle.h"
#include "fovea/formats/test_data.h"
#include "fovea/graph/graph_text.h"
#include "fovea/infer/attention_maps.h"
#include "fovea/infer/predictor.h"
#include "fovea/runtime/compile.h"
#include "fovea/tasks/image_classification.h"
#include "fovea/train/trainer.h"

namespace fovea {
namespace {

class AttentionTraining : public ::testing::Test {
 protected:
  AttentionTraining() { write_small_images(folder_ / "data", 120, 40); }

  RecipeTable recipe(const std::string& attention, const std::string& rate = "5e-3") {
    std::string text = small_recipe(folder_ / "data", "[model.attention]\n" + attention);
    const std::string_view usual = "learning_rate = 5e-3";
    return RecipeTable::parse(
        text.replace(text.find(usual), usual.size(), "learning_rate = " + rate), "small.toml");
  }
  TrainResult run(const std::string& out, const std::string& attention, int threads = 2,
                  const std::string& rate = "5e-3") {
    RecipeTable table = recipe(attention, rate);
    TrainRequest request;
    request.out = folder_ / out;
    request.pool = std::make_shared<ThreadPool>(threads);
    return train(table, request);
  }
  // The share of the test images that the bundle names rightly, one by one.
  double accuracy_of(const std::string& out) {
    DataOptions data;
    RecipeTable table = recipe("");
    table.bind("data", data);
    const Dataset test = load_dataset(data, Split::test);
    Predictor predictor(load_bundle(folder_ / out), std::make_shared<ThreadPool>(1));
    const auto first = predictor.predict(test), again = predictor.predict(test);
    int64_t right = 0;
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_EQ(first[i][0].probability, again[i][0].probability) << "no noise";
      right += first[i][0].label == test.class_names[static_cast<size_t>(test.labels[i])];
    }
    return static_cast<double>(right) / static_cast<double>(first.size());
  }
  std::vector<float> spans_of(const std::string& out) {
    const Bundle bundle = load_bundle(folder_ / out);
    AttentionReader reader(compile(expose_attention(bundle.graph)), make_variables(bundle),
                           std::make_shared<ThreadPool>(1));
    const std::vector<uint8_t> image(64);
    const AttentionMaps maps = reader.read(image);
    EXPECT_EQ(maps.nodes.size(), 1u);
    return maps.nodes.at(0).spans;
  }

  TemporaryFolder folder_;
};

TEST_F(AttentionTraining, SpansAreLearnedAndShrinkUnderTheirPenalty) {
  const std::string span = "span = true\nspan_most = 4\nspan_ramp = 2\nspan_penalty = ";
  // At a higher rate, so that spans move far in 21 steps.
  const TrainResult free = run("free", span + "0\n", 2, "2e-2"),
                    dear = run("dear", span + "2\n", 2, "2e-2");
  EXPECT_GT(free.test.at("accuracy"), 0.9);
  EXPECT_EQ(accuracy_of("free"), free.test.at("accuracy"));
  EXPECT_EQ(accuracy_of("dear"), dear.test.at("accuracy"));
  const std::vector<float> all = spans_of("free"), few = spans_of("dear");
  ASSERT_EQ(all.size(), 2u);
  ASSERT_EQ(few.size(), 2u);
  for (size_t head = 0; head < 2; ++head) {
    EXPECT_NE(all[head], 2) << "the loss has a gradient of the span";
    EXPECT_LT(few[head], all[head] - 0.1f);
    EXPECT_GT(few[head], 0);
  }
  // What the loss is reported as is that of the answers.
  EXPECT_LT(dear.test.at("loss"), 1);
}

// The gradient of the penalty is lambda / heads, times that of the span.
TEST_F(AttentionTraining, ThePenaltyJoinsTheObjectiveOnceForEachExample) {
  const std::string span = "span = true\nspan_most = 4\nspan_penalty = 3\n";
  RecipeTable table = recipe(span);
  const Task task =
      make_task(table, {.height = 8, .width = 8, .channels = 1, .class_names = {"upper", "left"}});
  ASSERT_EQ(task.losses.size(), 2u);
  EXPECT_EQ(task.losses[1].name, "penalty");
  EXPECT_FALSE(task.infer.has_output("penalty.sum"));
  Session session(compile(task.train), std::make_shared<VariableStore>(),
                  std::make_shared<ThreadPool>(1));
  Execution& e = session.prepare({{"B", 5}});
  for (const char* name : {"image", "label", "train.rng"}) {
    const auto bytes = e.input(name);
    std::memset(bytes.data(), 0, bytes.size());
  }
  const int32_t ignored = -1;  // a label that is not counted
  std::memcpy(e.input("label").data(), &ignored, sizeof ignored);
  e.run();
  EXPECT_FLOAT_EQ(e.output_f32("loss.count")[0], 4);
  // Two heads of one layer begin at half of 4 tokens.
  EXPECT_FLOAT_EQ(e.output_f32("penalty.sum")[0] / e.output_f32("penalty.count")[0], 3.0f / 2 * 4);
}

TEST_F(AttentionTraining, GumbelNoiseIsDrawnInTrainingAndNotInPredictions) {
  for (const std::string kind : {"gumbel", "gumbel_hard"}) {
    const std::string attention = "normaliser = \"" + kind + "\"\nsoftmax_temperature = 0.7\n";
    const TrainResult result = run(kind, attention);
    EXPECT_GT(result.test.at("accuracy"), 0.85) << kind;
    EXPECT_EQ(accuracy_of(kind), result.test.at("accuracy"));
    const std::string graph = print_graph(load_bundle(folder_ / kind).graph);
    EXPECT_EQ(graph.find("gumbel"), std::string::npos);
    EXPECT_EQ(graph.find("rng"), std::string::npos);
    EXPECT_EQ(graph.find("normaliser=hard") != std::string::npos, kind == "gumbel_hard") << graph;
  }
  // Any number of threads draws the same noise.
  run("one", "normaliser = \"gumbel\"\n", 1);
  run("two", "normaliser = \"gumbel\"\n", 2);
  run("none", "", 1);
  const auto weights = [&](const std::string& out) {
    return load_bundle(folder_ / out).weights.at("vit.enc.0.q.weight")->bytes;
  };
  EXPECT_EQ(weights("one"), weights("two"));
  EXPECT_NE(weights("one"), weights("none"));
}

}  // namespace
}  // namespace fovea

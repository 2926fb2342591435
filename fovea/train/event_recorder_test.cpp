#include "fovea/train/event_recorder.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fovea/data/test_images.h"
#include "fovea/formats/test_data.h"
#include "fovea/formats/test_events.h"
#include "fovea/train/attention_watch.h"
#include "fovea/train/trainer.h"

namespace fovea {
namespace {

using Reader = EventReader;

class EventRecorderTest : public ::testing::Test {
 protected:
  EventRecorderTest() { write_small_images(folder_ / "data", 120, 40); }

  // `record` stands under [record].
  TrainResult run(const std::string& out, const std::string& record = "every = 2\n",
                  const std::function<void(TrainRequest&)>& change = {}) {
    RecipeTable recipe =
        RecipeTable::parse(small_recipe(folder_ / "data", "[record]\n" + record), "small.toml");
    TrainRequest request;
    request.out = folder_ / out;
    request.pool = std::make_shared<ThreadPool>(2);
    request.warn = [&](const std::string& text) { warnings_.push_back(text); };
    if (change) change(request);
    return train(recipe, request);
  }
  auto events(const std::string& out) { return reader_.read_folder(folder_ / out / kEventsFolder); }
  // Values of a scalar by step; each step once.
  std::map<int64_t, float> curve(const std::string& out, const std::string& tag) {
    const auto read = events(out);
    std::map<int64_t, float> points;
    for (auto& p : Reader::series(read, tag)) {
      if (!Reader::has(*p.value, "simple_value")) continue;
      EXPECT_TRUE(points.emplace(p.step, Reader::real(*p.value, "simple_value")).second)
          << tag << " has step " << p.step << " twice";
    }
    return points;
  }

  TemporaryFolder folder_;
  EventReader reader_;
  std::vector<std::string> warnings_;
};

TEST_F(EventRecorderTest, ATrainingWritesItsCurvesHistogramsPicturesGraphAndRecipe) {
  const TrainResult result = run("out");
  const auto read = events("out");
  // 104 of the images train, in 6 batches of 16, 3 epochs.
  for (const char* tag : {"train/loss", "train/accuracy", "train/learning_rate",
                          "train/gradient_norm", "train/examples_per_second"}) {
    const auto points = curve("out", tag);
    ASSERT_EQ(points.size(), 9u) << tag;
    for (int64_t step = 2; step <= 18; step += 2) EXPECT_TRUE(points.contains(step)) << tag;
    if (std::string_view(tag) == "train/accuracy") continue;
    for (auto& [step, value] : points) EXPECT_GT(value, 0) << tag;
  }
  const auto validation = curve("out", "epoch/validation_accuracy");
  ASSERT_EQ(validation.size(), 3u);
  EXPECT_FLOAT_EQ(validation.at(6 * result.best_epoch),
                  static_cast<float>(result.validation.at("accuracy")));
  EXPECT_EQ(curve("out", "epoch/train_loss").size(), 3u);
  EXPECT_FLOAT_EQ(curve("out", "test/accuracy").at(18),
                  static_cast<float>(result.test.at("accuracy")));

  const auto weights = Reader::series(read, "weights/vit.head.weight");
  ASSERT_EQ(weights.size(), 3u);
  EXPECT_EQ(Reader::number(Reader::message(*weights[0].value, "histo"), "num"), 2 * 16);

  // One layer with two heads over the 4 patches of 16 images.
  for (const char* head :
       {"attention_entropy/vit.enc.0.attn/head_0", "attention_entropy/vit.enc.0.attn/head_1"}) {
    const auto means = curve("out", head);
    ASSERT_EQ(means.size(), 3u) << head;
    for (auto& [step, value] : means) {
      EXPECT_GE(value, 0) << head;
      EXPECT_LE(value, std::log(4.0) + 1e-5) << head;
    }
    int histograms = 0;
    for (auto& p : Reader::series(read, std::string(head) + "/spread")) {
      const auto& h = Reader::message(*p.value, "histo");
      EXPECT_EQ(Reader::number(h, "num"), 16 * 4);
      EXPECT_NEAR(Reader::number(h, "sum") / (16 * 4), means.at(p.step), 1e-5);
      ++histograms;
    }
    EXPECT_EQ(histograms, 3);
  }
  for (int i = 0; i < 4; ++i)
    EXPECT_EQ(Reader::series(read, "attention/example_" + std::to_string(i)).size(), 3u);
  EXPECT_TRUE(Reader::series(read, "attention/example_4").empty());

  const auto recipe = Reader::series(read, "recipe");
  ASSERT_EQ(recipe.size(), 1u);
  EXPECT_NE(Reader::text(Reader::message(*recipe[0].value, "tensor"), "string_val", 0)
                .find("    epochs = 3\n"),
            std::string::npos);
  int graphs = 0;
  for (auto& e : read)
    if (Reader::has(*e, "graph_def")) {
      ++graphs;
      EXPECT_GT(Reader::size(*reader_.graph(Reader::text(*e, "graph_def")), "node"), 10);
    }
  EXPECT_EQ(graphs, 1);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(EventRecorderTest, WatchingChangesNoBitOfTheWeights) {
  run("watched");
  run("alone", "tensorboard = false\n");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "alone" / kEventsFolder));
  EXPECT_EQ(read_file(folder_ / "watched" / "model.safetensors", 1 << 24),
            read_file(folder_ / "alone" / "model.safetensors", 1 << 24));
}

TEST_F(EventRecorderTest, ARunThatGoesOnHasEachStepOnceAndTheSameCurve) {
  run("whole");
  for (const int stop_at : {1, 7, 12}) {
    SCOPED_TRACE(stop_at);
    const std::string out = "stopped" + std::to_string(stop_at);
    std::atomic<bool> stop{false};
    run(out, "every = 2\n", [&](TrainRequest& r) {
      r.stop = &stop;
      r.progress = [&](const TrainProgress& p) {
        if (p.total_step == stop_at) stop = true;
      };
    });
    // What a killed run has written beyond its checkpoint.
    {
      EventWriter writer = EventWriter::resume(folder_ / out / kEventsFolder, stop_at);
      EventSummary summary;
      summary.scalar("train/loss", 1e9);
      writer.write(stop_at + 1, summary);
      writer.write(stop_at + 2, summary);
    }
    run(out, "every = 2\n", [](TrainRequest& r) { r.resume = true; });
    for (const char* tag :
         {"train/loss", "train/gradient_norm", "epoch/validation_loss", "epoch/train_loss",
          "test/loss", "attention_entropy/vit.enc.0.attn/head_0"})
      EXPECT_EQ(curve(out, tag), curve("whole", tag)) << tag;
    EXPECT_EQ(Reader::series(events(out), "recipe").size(), 1u);
    // Going on with what is finished adds nothing.
    const auto before = events(out).size();
    run(out, "every = 2\n", [](TrainRequest& r) { r.resume = true; });
    EXPECT_EQ(events(out).size(), before);
  }
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(EventRecorderTest, WritingOverARunWritesOverItsEvents) {
  run("out");
  run("out", "every = 6\n", [](TrainRequest& r) { r.overwrite = true; });
  EXPECT_EQ(curve("out", "train/loss").size(), 3u);
}

TEST_F(EventRecorderTest, EventsThatCannotBeWrittenAreOneWarningAndTheRunGoesOn) {
  std::filesystem::create_directories(folder_ / "out");
  write_file_atomically(folder_ / "out" / kEventsFolder, std::string_view("in the way"));
  const TrainResult result = run("out");
  EXPECT_EQ(result.epochs, 3);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "out" / "model.safetensors"));
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("the event files could not be written; the training goes on"),
            std::string::npos)
      << warnings_[0];
}

TEST_F(EventRecorderTest, HistogramsAndAttentionMayBeLeftOut) {
  run("out", "every = 2\nhistograms_every = 2\nattention_images = 0\n");
  EXPECT_EQ(Reader::series(events("out"), "weights/vit.head.weight").size(), 1u);
  EXPECT_TRUE(curve("out", "attention_entropy/vit.enc.0.attn/head_0").empty());
  expect_error(ErrorCode::invalid_argument, "small.toml", [&] { run("other", "every = 0\n"); });
  expect_error(ErrorCode::invalid_argument, "expected at least 1, got 0",
               [&] { run("other", "every = 0\n"); });
}

AttentionMap map_of(std::vector<float> probabilities, int64_t heads, int64_t queries) {
  AttentionMap map;
  map.heads = heads;
  map.queries = queries;
  map.keys = static_cast<int64_t>(probabilities.size()) / heads / queries;
  map.probabilities = std::move(probabilities);
  return map;
}

TEST(AttentionWatch, EntropyIsZeroForOneKeyAndTheLogarithmForAll) {
  const AttentionMap map =
      map_of({1, 0, 0, 0, 0.25f, 0.25f, 0.25f, 0.25f, 0.5f, 0.5f, 0, 0, 0, 0, 0, 0}, 2, 2);
  const auto first = attention_entropy(map, 0), second = attention_entropy(map, 1);
  ASSERT_EQ(first.size(), 2u);
  EXPECT_NEAR(first[0], 0, 1e-6);
  EXPECT_NEAR(first[1], std::log(4.0), 1e-6);
  EXPECT_NEAR(second[0], std::log(2.0), 1e-6);
  EXPECT_EQ(second[1], 0);  // a query that sees no key
}

TEST(AttentionWatch, APictureShowsTheImageAndWhatEachPatchReceived) {
  const Image image{2, 2, 1, {200, 200, 200, 200}};
  AttentionMaps maps;
  maps.images = 1;
  // All queries of head 0 look at patch 1 (above right), those of head 1 at patch 2 (below left).
  maps.nodes.push_back(map_of({0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0,
                               0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0},
                              2, 4));
  const Image sheet = attention_picture(image, maps, 0);
  EXPECT_EQ(sheet.height, 56);
  EXPECT_EQ(sheet.width, 3 * 60 - 4);
  const auto at = [&](int64_t y, int64_t x) {
    return static_cast<int>(sheet.pixels[static_cast<size_t>(y * sheet.width + x)]);
  };
  EXPECT_EQ(at(10, 10), 200);
  EXPECT_EQ(at(10, 58), 255);  // between two squares
  EXPECT_EQ(at(10, 60 + 40), 255);
  EXPECT_EQ(at(40, 60 + 40), 0);
  EXPECT_EQ(at(10, 60 + 10), 0);
  EXPECT_EQ(at(40, 120 + 10), 255);
  EXPECT_EQ(at(10, 120 + 40), 0);
}

}  // namespace
}  // namespace fovea

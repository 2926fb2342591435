#include "fovea/train/trainer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "fovea/data/test_images.h"
#include "fovea/formats/bundle.h"
#include "fovea/formats/file.h"
#include "fovea/formats/safetensors.h"
#include "fovea/formats/test_data.h"
#include "fovea/graph/ops.h"
#include "fovea/tasks/image_classification.h"
#include "fovea/tasks/levels.h"
#include "fovea/train/checkpoint.h"

namespace fovea {
namespace {

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() { write_small_images(folder_ / "data", 120, 40); }

  TrainResult run(const std::string& out, const std::string& more = "",
                  const std::function<void(TrainRequest&)>& change = {}) {
    RecipeTable recipe = RecipeTable::parse(small_recipe(folder_ / "data", more), "small.toml");
    TrainRequest request;
    request.out = folder_ / out;
    request.pool = std::make_shared<ThreadPool>(2);
    if (change) change(request);
    return train(recipe, request);
  }
  std::vector<std::byte> weights(const std::string& out) {
    return read_file(folder_ / out / "model.safetensors", 1 << 24);
  }

  TemporaryFolder folder_;
};

TEST_F(TrainerTest, LearnsASmallDataSetAndWritesABundle) {
  const TrainResult result = run("out", "patience = 0\n");
  EXPECT_GT(result.test.at("accuracy"), 0.9);
  EXPECT_EQ(result.epochs, 3);
  const Bundle bundle = load_bundle(folder_ / "out");
  EXPECT_EQ(bundle.labels, (std::vector<std::string>{"upper", "left"}));
  for (const char* key : {"accuracy", "seed", "compiler", "processor", "oneDNN"})
    EXPECT_NE(bundle.metrics_json.find(key), std::string::npos) << key;
}

TEST_F(TrainerTest, AStoppedRunGoesOnToTheSameBitsWithAnyNumberOfThreads) {
  run("whole");
  for (const int stop_at : {1, 4, 7, 10}) {
    const std::string out = "stopped" + std::to_string(stop_at);
    std::atomic<bool> stop{false};
    const TrainResult first = run(out, "", [&](TrainRequest& r) {
      r.stop = &stop;
      r.progress = [&](const TrainProgress& p) {
        if (p.total_step == stop_at) stop = true;
      };
    });
    EXPECT_TRUE(first.interrupted);
    const TrainResult second = run(out, "", [&](TrainRequest& r) {
      r.resume = true;
      r.pool = std::make_shared<ThreadPool>(1 + stop_at % 4);
    });
    EXPECT_FALSE(second.interrupted);
    EXPECT_EQ(weights(out), weights("whole")) << "stopped at step " << stop_at;
  }
}

const char* const kHalfLevel =
    "[[levels]]\nname = \"half\"\nshare = 0.5\nset = [\"vit.enc.*.attn.heads_kept=1\"]\n";

TEST_F(TrainerTest, TrainsLevelsTogetherAndMeasuresEach) {
  const TrainResult result = run("out", std::string("weight_decay = 0.01\n") + kHalfLevel);
  EXPECT_GT(result.test.at("accuracy"), 0.9);
  ASSERT_EQ(result.levels.size(), 1u);
  EXPECT_GT(result.levels.at("half").at("accuracy"), 0.8);
  EXPECT_NE(result.levels.at("half").at("loss"), result.test.at("loss"));
  EXPECT_NE(load_bundle(folder_ / "out").metrics_json.find("\"half\""), std::string::npos);
  // Which step is made at which level is drawn by its number: a run that was stopped goes on alike.
  std::atomic<bool> stop{false};
  const auto more = std::string("weight_decay = 0.01\n") + kHalfLevel;
  run("stopped", more, [&](TrainRequest& r) {
    r.stop = &stop;
    r.progress = [&](const TrainProgress& p) {
      if (p.total_step == 5) stop = true;
    };
  });
  run("stopped", more, [](TrainRequest& r) {
    r.resume = true;
    r.pool = std::make_shared<ThreadPool>(1);
  });
  EXPECT_EQ(weights("stopped"), weights("out"));
}

TEST_F(TrainerTest, ALevelThatNamesNoNodeIsAnErrorBeforeAnythingIsWritten) {
  const std::string level =
      "[[levels]]\nname = \"half\"\nshare = 0.5\nset = [\"vit.dec.*.attn.heads_kept=1\"]\n";
  expect_error(ErrorCode::not_found, "vit.dec.*.attn", [&] { run("out", level); });
}

TEST_F(TrainerTest, TrainsInBf16) {
  const TrainResult result = run("out", "precision = \"bf16\"\n");
  EXPECT_GT(result.test.at("accuracy"), 0.9);
  run("again", "precision = \"bf16\"\n",
      [](TrainRequest& r) { r.pool = std::make_shared<ThreadPool>(3); });
  EXPECT_EQ(weights("again"), weights("out"));
}

TEST_F(TrainerTest, AutomaticPrecisionIsOneOfTheTwoAndIsRecorded) {
  run("auto", "precision = \"auto\"\n");
  const std::string named = in_bf16(Precision::automatic) ? "bf16" : "f32";
  run("named", "precision = \"" + named + "\"\n");
  EXPECT_EQ(weights("auto"), weights("named"));
  EXPECT_NE(load_bundle(folder_ / "auto").metrics_json.find("\"precision\": \"" + named + "\""),
            std::string::npos);
}

TEST_F(TrainerTest, AMemoryBudgetChangesNoBitOfTheResult) {
  run("free");
  // Less than the step takes without it, which the error for a budget out of reach tells.
  expect_error(ErrorCode::out_of_memory, "the budget is 0.001 MB",
               [&] { run("none", "memory_mb = 0.001\n"); });
  run("tight", "memory_mb = 0.052\n");
  EXPECT_EQ(weights("tight"), weights("free"));
}

TEST_F(TrainerTest, AFolderInUseIsRefusedWithTheWaysOut) {
  run("out");
  expect_error(ErrorCode::invalid_argument, "--overwrite", [&] { run("out"); });
  EXPECT_NO_THROW(run("out", "", [](TrainRequest& r) { r.overwrite = true; }));
  expect_error(ErrorCode::invalid_argument, "another recipe",
               [&] { run("out", "beta1 = 0.8\n", [](TrainRequest& r) { r.resume = true; }); });
  // Going on with what has finished ends with the same bundle.
  const auto before = weights("out");
  run("out", "", [](TrainRequest& r) { r.resume = true; });
  EXPECT_EQ(weights("out"), before);
}

TEST_F(TrainerTest, StartsFromTheWeightsOfAnotherBundle) {
  run("first");
  const TrainResult result =
      run("second", "", [&](TrainRequest& r) { r.init = folder_ / "first"; });
  EXPECT_GT(result.initialised, 10);
  EXPECT_GE(result.test.at("accuracy"), 0.9);
}

TEST_F(TrainerTest, StopsEarlyWithoutGain) {
  const TrainResult result =
      run("out", "patience = 1\nweight_decay = 0.01\n", [](TrainRequest&) {});
  EXPECT_LE(result.epochs, 3);
  RecipeTable recipe =
      RecipeTable::parse(small_recipe(folder_ / "data", "patience = 2\n"), "small.toml");
  recipe.set("train.epochs=60");
  TrainRequest request;
  request.out = folder_ / "long";
  request.pool = std::make_shared<ThreadPool>(2);
  const TrainResult stopped = train(recipe, request);
  EXPECT_TRUE(stopped.stopped_early);
  EXPECT_EQ(stopped.epochs, stopped.best_epoch + 2);
}

TEST_F(TrainerTest, ALossThatIsNotFiniteNamesStepAndNodeAndKeepsTheCheckpoint) {
  run("good");
  Bundle bundle = load_bundle(folder_ / "good");
  auto broken = std::make_shared<HostTensor>(*bundle.weights.at("vit.head.weight"));
  const float infinity = std::numeric_limits<float>::infinity();
  std::memcpy(broken->bytes.data(), &infinity, sizeof infinity);
  bundle.weights["vit.embed.weight"] = bundle.weights.at("vit.embed.weight");
  bundle.weights["vit.head.weight"] = broken;
  save_bundle(folder_ / "broken", bundle);
  for (const char* more : {"", "accumulate = 4\n"}) {
    const auto init = [&](TrainRequest& r) {
      r.init = folder_ / "broken";
      r.overwrite = true;
    };
    expect_error(ErrorCode::non_finite, "step 1:", [&] { run("out", more, init); });
    expect_error(ErrorCode::non_finite, "'vit.head.weight'", [&] { run("out", more, init); });
  }
  EXPECT_NO_THROW(checkpoint_recipe(folder_ / "out" / "checkpoint.safetensors"));
}

TEST_F(TrainerTest, OverwritingLosesNothingBeforeTheNewRunCanBegin) {
  run("out");
  const auto before = weights("out");
  const auto overwrite = [&](const std::string& init, const std::string& more) {
    run("out", more, [&](TrainRequest& r) {
      r.overwrite = true;
      r.init = folder_ / init;
    });
  };
  expect_error(ErrorCode::not_found, "no such folder", [&] { overwrite("nothing", ""); });
  expect_error(ErrorCode::invalid_argument, "warmup", [&] { overwrite("out", "warmup = 2\n"); });
  EXPECT_EQ(weights("out"), before);
  EXPECT_NO_THROW(overwrite("out", ""));  // begins with the weights that it writes over
}

TEST_F(TrainerTest, ResumingWhereThereIsNothingIsAnError) {
  const auto resume = [](TrainRequest& r) { r.resume = true; };
  expect_error(ErrorCode::not_found, "no run in", [&] { run("nowhere", "", resume); });
  run("out");
  std::filesystem::remove(folder_ / "out" / kCheckpointFile);
  expect_error(ErrorCode::not_found, "no checkpoint", [&] { run("out", "", resume); });
}

TEST_F(TrainerTest, AValueOutOfRangeNamesTheLine) {
  expect_error(ErrorCode::invalid_argument, "small.toml:22: [train] warmup: expected a share",
               [&] { run("out", "warmup = 2\n"); });
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
}

TEST_F(TrainerTest, ACheckpointThatIsNoneIsAnError) {
  std::filesystem::create_directories(folder_ / "out");
  write_file_atomically(folder_ / "out" / "checkpoint.safetensors", std::string_view("nonsense"));
  expect_error(ErrorCode::corrupt, "checkpoint.safetensors",
               [&] { run("out", "", [](TrainRequest& r) { r.resume = true; }); });
}

TEST_F(TrainerTest, ACheckpointBeyondTheEndOfTheDataSaysThatTheyAreFewer) {
  std::atomic<bool> stop{false};
  run("out", "", [&](TrainRequest& r) {
    r.stop = &stop;
    r.progress = [&](const TrainProgress& p) { stop = p.step == 5; };
  });
  write_small_images(folder_ / "data", 60, 40);
  expect_error(ErrorCode::invalid_argument, "fewer than when the run began",
               [&] { run("out", "", [](TrainRequest& r) { r.resume = true; }); });
}

TEST_F(TrainerTest, AWrongKeyInTheRecipeIsNamedWithTheNearestOne) {
  expect_error(ErrorCode::invalid_argument, "did you mean 'train.weight_decay'",
               [&] { run("out", "weight_decy = 0.1\n"); });
}

// A job that code has put together: no recipe, a model of its own.
TrainJob job_in_code(const std::filesystem::path& data) {
  DataOptions options;
  options.kind = DataKind::idx;
  options.dir = data.string();
  options.classes = {"upper", "left"};
  options.validation = 16;
  TrainJob job;
  job.train = load_dataset(options, Split::train);
  job.validation = load_dataset(options, Split::validation);
  job.test = load_dataset(options, Split::test);
  job.task = image_classification(
      data_info(job.train), [](Graph& g, Value image, int64_t classes, const BuildContext&) {
        const Value x = ops::scaled(g, ops::cast(g, image, DType::f32), 1.0 / 255);
        return ops::linear(g, "head", ops::reshape(g, x, {g.shape(image)[0], 64}), classes);
      });
  job.options.epochs = 4;
  job.options.batch = 16;
  job.options.learning_rate = 2e-2;
  return job;
}

TEST_F(TrainerTest, TrainsAJobThatCodeHasPutTogether) {
  TrainJob job = job_in_code(folder_ / "data");
  job.levels = {{"half", 0, {"head.compute=bf16"}}};
  const TrainResult result = train(std::move(job), {.out = folder_ / "out"});
  EXPECT_GT(result.test.at("accuracy"), 0.9);
  EXPECT_EQ(result.parameters, 2 * 64 + 2);
  // The bundle's recipe holds what a recipe can say, and that the data were given in code.
  RecipeTable recipe = RecipeTable::parse(load_bundle(folder_ / "out").recipe, "recipe.toml");
  TrainOptions options;
  recipe.bind("train", options);
  EXPECT_EQ(options.epochs, 4);
  EXPECT_EQ(options.learning_rate, 2e-2);
  EXPECT_EQ(read_levels(recipe).at(0).set, std::vector<std::string>{"head.compute=bf16"});
  expect_error(ErrorCode::unsupported, "given in code", [&] { read_job(recipe); });
}

TEST_F(TrainerTest, AJobInCodeGoesOnWhereItWasStopped) {
  std::atomic<bool> stop{false};
  train(job_in_code(folder_ / "data"), {.out = folder_ / "whole"});
  const auto stop_at_once = [&](const TrainProgress&) { stop = true; };
  EXPECT_TRUE(train(job_in_code(folder_ / "data"),
                    {.out = folder_ / "out", .progress = stop_at_once, .stop = &stop})
                  .interrupted);
  TrainJob other = job_in_code(folder_ / "data");
  other.options.learning_rate = 1e-2;
  expect_error(ErrorCode::invalid_argument, "another recipe",
               [&] { train(std::move(other), {.out = folder_ / "out", .resume = true}); });
  train(job_in_code(folder_ / "data"), {.out = folder_ / "out", .resume = true});
  EXPECT_EQ(weights("out"), weights("whole"));
}

TEST_F(TrainerTest, RefusesAJobWhoseDataDoNotFit) {
  const auto refused = [&](ErrorCode code, const char* what, auto&& change) {
    TrainJob job = job_in_code(folder_ / "data");
    change(job);
    expect_error(code, what, [&] { train(std::move(job), {.out = folder_ / "out"}); });
    EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
  };
  refused(ErrorCode::invalid_argument, "expected examples", [](TrainJob& j) { j.train = {}; });
  refused(ErrorCode::corrupt, "samples of u8 [8,8,1]",
          [](TrainJob& j) { j.test.labels.pop_back(); });
  refused(ErrorCode::invalid_argument, "expected the classes", [](TrainJob& j) {
    j.validation.class_names = {"left", "upper"};
  });
  refused(ErrorCode::invalid_argument, "4", [](TrainJob& j) {
    DataInput& image = j.test.inputs.at(0);
    image.shape.at(1) = 4;
    image.bytes.resize(image.bytes.size() / 2);
  });
  refused(ErrorCode::invalid_argument, "epochs", [](TrainJob& j) { j.options.epochs = 0; });
  refused(ErrorCode::invalid_argument, "there is no task",
          [](TrainJob& j) { j.task.name = "image_clasification"; });
}

}  // namespace
}  // namespace fovea

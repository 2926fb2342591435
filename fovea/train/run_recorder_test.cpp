#include "fovea/train/run_recorder.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "fovea/data/test_images.h"
#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"
#include "fovea/train/trainer.h"

namespace fovea {
namespace {

class RunStoreTest : public ::testing::Test {
 protected:
  std::filesystem::path file() const { return folder_ / "runs.sqlite"; }
  static RunRecord example(const std::string& name) {
    RunRecord run;
    run.name = name;
    run.folder = "/models/" + name;
    run.recipe = "[train]\nepochs = 3\n";
    run.seed = 7;
    run.settings = {{"train.epochs", "3"}, {"train.seed", "7"}};
    return run;
  }

  TemporaryFolder folder_;
};

TEST_F(RunStoreTest, WhatIsWrittenIsRead) {
  RunRecord run = example("first");
  {
    RunStore store = RunStore::open(file());
    run.id = store.add(run);
    EXPECT_EQ(store.add(example("second")), run.id + 1);
    run.state = RunStatus::failed;
    run.error = "it's broken; \"quoted\"";
    run.results = {{"test_accuracy", 0.5}};
    run.epochs = 2;
    store.update(run, {{"step.loss", {{2, 1, 0.75}, {1, 1, 1.5}}}});
    store.update(run, {{"step.loss", {{3, 2, 0.5}, {2, 1, 0.7}}}});
  }
  RunStore store = RunStore::open_existing(file());
  ASSERT_EQ(store.list().size(), 2u);
  EXPECT_EQ(store.list()[0].results, run.results);
  EXPECT_EQ(store.list()[1].name, "second");
  const auto read = store.load(run.id);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->state, RunStatus::failed);
  EXPECT_EQ(read->error, run.error);
  EXPECT_EQ(read->settings, run.settings);
  EXPECT_EQ(read->seed, 7);
  EXPECT_EQ(read->epochs, 2);
  EXPECT_GT(read->began, 1.7e9);
  EXPECT_EQ(read->curves.at("step.loss"),
            (std::vector<RunPoint>{{1, 1, 1.5}, {2, 1, 0.7}, {3, 2, 0.5}}));
  EXPECT_FALSE(store.load(99));
}

TEST_F(RunStoreTest, GoingOnForgetsWhatCameAfterTheStep) {
  RunStore store = RunStore::open(file());
  RunRecord run = example("first");
  EXPECT_FALSE(store.find_in_folder(run.folder));
  run.id = store.add(run);
  run.state = RunStatus::interrupted;
  store.update(run, {{"step.loss", {{1, 1, 3}, {2, 1, 2}, {3, 1, 1}}}});
  EXPECT_EQ(store.find_in_folder(run.folder), run.id);
  store.go_on(run.id, 2, run);
  const auto read = store.load(run.id);
  EXPECT_EQ(read->state, RunStatus::running);
  EXPECT_EQ(read->curves.at("step.loss").size(), 2u);
}

TEST_F(RunStoreTest, ARunWhoseProcessIsGoneWasKilled) {
  const pid_t child = fork();
  if (child == 0) {
    RunStore::open(file()).add(example("lost"));
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  RunStore store = RunStore::open(file());
  store.add(example("mine"));
  const auto runs = store.list();
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].state, RunStatus::killed);
  EXPECT_EQ(runs[1].state, RunStatus::running);
}

TEST_F(RunStoreTest, SeveralWritersAtOnceLoseNothing) {
  // Each begins with a file that may not be there yet.
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      int code = 0;
      try {
        RunStore store = RunStore::open(file());
        RunRecord run = example("writer" + std::to_string(i));
        run.id = store.add(run);
        for (int64_t step = 1; step <= 25; ++step)
          store.update(run, {{"step.loss", {{step, 1, static_cast<double>(step)}}}});
      } catch (const std::exception& e) {
        std::fprintf(stderr, "%s\n", e.what());
        code = 1;
      }
      _exit(code);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  RunStore store = RunStore::open_existing(file());
  ASSERT_EQ(store.list().size(), 4u);
  for (const RunRecord& run : store.list())
    EXPECT_EQ(store.load(run.id)->curves.at("step.loss").size(), 25u);
}

TEST_F(RunStoreTest, AFileThatIsNoRecordIsAnErrorAndStaysAsItIs) {
  const std::string text = "this is no database, but a long enough text to be taken for a header";
  write_file_atomically(file(), std::string_view(text));
  expect_error(ErrorCode::corrupt, "is no record of runs", [&] { RunStore::open(file()); });
  expect_error(ErrorCode::corrupt, "--runs", [&] { RunStore::open_existing(file()); });
  EXPECT_EQ(read_text_file(file(), 1000), text);
  expect_error(ErrorCode::not_found, "there is no record of runs",
               [&] { RunStore::open_existing(folder_ / "none.sqlite"); });
  expect_error(ErrorCode::invalid_argument, "is no file",
               [&] { RunStore::open_existing(folder_.path()); });
  expect_error(ErrorCode::io, "cannot be used", [&] { RunStore::open(folder_.path()); });
  expect_error(ErrorCode::io, "cannot be made", [&] { RunStore::open(file() / "runs.sqlite"); });
}

// Replaces four bytes of the header, such as the application_id (68) or the user_version (60).
void patch(const std::filesystem::path& path, size_t at, uint32_t value) {
  std::string bytes = read_text_file(path, 1 << 20);
  for (size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<char>(value >> (24 - 8 * i));
  write_file_atomically(path, std::string_view(bytes));
}

TEST_F(RunStoreTest, ANewerFormatAndAnotherProgramsDatabaseAreRefused) {
  { RunStore::open(file()).add(example("first")); }
  patch(file(), 60, 2);
  expect_error(ErrorCode::unsupported, "has format 2", [&] { RunStore::open(file()); });
  expect_error(ErrorCode::unsupported, "newer fovea", [&] { RunStore::open_existing(file()); });
  patch(file(), 60, 1);
  EXPECT_EQ(RunStore::open_existing(file()).list().size(), 1u);
  patch(file(), 68, 0x12345678);
  expect_error(ErrorCode::corrupt, "another program", [&] { RunStore::open(file()); });
}

TEST_F(RunStoreTest, ADamagedFileIsAnError) {
  {
    RunStore store = RunStore::open(file());
    RunRecord run = example("first");
    run.recipe = std::string(100000, 'x');
    store.add(run);
  }
  std::string bytes = read_text_file(file(), 1 << 24);
  for (size_t i = 4096; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 37);
  write_file_atomically(file(), std::string_view(bytes));
  expect_error(ErrorCode::corrupt, "move it away", [&] { RunStore::open_existing(file()).list(); });
}

class RunRecorderTest : public ::testing::Test {
 protected:
  RunRecorderTest() { write_small_images(folder_ / "data", 120, 40); }

  std::filesystem::path file() const { return folder_ / "runs.sqlite"; }
  TrainResult run(const std::string& out, const std::string& more = "",
                  const std::function<void(TrainRequest&)>& change = {}) {
    RecipeTable recipe = RecipeTable::parse(
        small_recipe(folder_ / "data", more) + "[record]\ntensorboard = false\n", "small.toml");
    RunRecorder recorder(file());
    TrainRequest request;
    request.out = folder_ / out;
    request.pool = std::make_shared<ThreadPool>(2);
    request.observers = {&recorder};
    request.warn = [&](const std::string& text) { warnings_.push_back(text); };
    if (change) change(request);
    return train(recipe, request);
  }
  std::vector<RunRecord> runs() {
    RunStore store = RunStore::open_existing(file());
    std::vector<RunRecord> all;
    for (const RunRecord& r : store.list()) all.push_back(*store.load(r.id));
    return all;
  }

  TemporaryFolder folder_;
  std::vector<std::string> warnings_;
};

TEST_F(RunRecorderTest, ATrainingIsRecordedWithItsCurvesAndItsResult) {
  const TrainResult result = run("out");
  const std::vector<RunRecord> all = runs();
  ASSERT_EQ(all.size(), 1u);
  const RunRecord& r = all[0];
  EXPECT_EQ(r.state, RunStatus::finished);
  EXPECT_EQ(r.name, "out");
  EXPECT_EQ(r.folder, (folder_ / "out").string());
  EXPECT_EQ(r.threads, 2);
  EXPECT_EQ(r.seed, 1);
  EXPECT_EQ(r.precision, "f32");
  EXPECT_EQ(r.epochs, 3);
  EXPECT_EQ(r.step, 18);
  EXPECT_EQ(r.total_steps, 18);
  EXPECT_EQ(r.best_epoch, result.best_epoch);
  EXPECT_EQ(r.parameters, result.parameters);
  EXPECT_GT(r.seconds, 0);
  EXPECT_FALSE(r.processor.empty());
  EXPECT_EQ(r.results.at("test_accuracy"), result.test.at("accuracy"));
  // A value of the recipe, and a default.
  EXPECT_EQ(r.settings.at("train.epochs"), "3");
  EXPECT_EQ(r.settings.at("train.momentum"), "0.9");
  for (const char* curve :
       {"step.loss", "step.accuracy", "step.learning_rate", "step.gradient_norm"})
    EXPECT_EQ(r.curves.at(curve).size(), 18u) << curve;
  const auto& validation = r.curves.at("epoch.validation_accuracy");
  ASSERT_EQ(validation.size(), 3u);
  EXPECT_EQ(validation[0].step, 6);
  EXPECT_EQ(validation[0].epoch, 1);
  EXPECT_EQ(validation[static_cast<size_t>(result.best_epoch - 1)].value,
            result.validation.at("accuracy"));
  EXPECT_TRUE(warnings_.empty());
}

// A training that is only told of.
class ToldTraining {
 public:
  ToldTraining(const std::filesystem::path& file, std::filesystem::path out, int64_t steps)
      : out_(std::move(out)), recorder(file) {
    recorder.started({.out = out_,
                      .recipe = recipe_,
                      .settings = settings_,
                      .options = options_,
                      .task = task_,
                      .examples = none_,
                      .pool = nullptr,
                      .total_steps = steps});
  }
  void step(int64_t step, double loss) {
    const std::map<std::string, double> metrics = {{"loss", loss}};
    recorder.stepped({.step = step, .epoch = 1, .metrics = metrics});
  }
  void epoch() {
    recorder.epoch_ended(
        {.epoch = 1, .step = 1, .training = no_metrics_, .validation = no_metrics_, .weights = {}});
  }

 private:
  TrainOptions options_;
  Task task_;
  Dataset none_;
  std::string recipe_;
  std::map<std::string, std::string> settings_;
  std::map<std::string, double> no_metrics_;
  std::filesystem::path out_;

 public:
  RunRecorder recorder;
};

TEST_F(RunRecorderTest, LongCurvesAreThinnedToMeans) {
  ToldTraining training(file(), folder_ / "long", 1200);
  for (int64_t step = 1; step <= 1200; ++step) training.step(step, static_cast<double>(step));
  training.recorder.ended({});
  const RunRecord r = runs().at(0);
  const auto& loss = r.curves.at("step.loss");
  ASSERT_EQ(loss.size(), 400u);
  EXPECT_EQ(loss[0], (RunPoint{3, 1, 2.0}));
  EXPECT_EQ(loss[399], (RunPoint{1200, 1, 1199.0}));
}

TEST_F(RunRecorderTest, ARecordThatBreaksInMidRunIsToldOnce) {
  ToldTraining training(file(), folder_ / "out", 10);
  training.step(1, 2.0);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, SIG_IGN);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  expect_error(ErrorCode::io, "runs.sqlite", [&] { training.epoch(); });
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  training.step(2, 2.0);
  training.epoch();
  training.recorder.add_results({{"latency_ms", 1}});
  training.recorder.ended({});
  EXPECT_EQ(runs().at(0).step, 0);
}

TEST_F(RunRecorderTest, ARunThatGoesOnKeepsItsEntryAndItsCurves) {
  run("whole");
  std::atomic<bool> stop{false};
  run("out", "", [&](TrainRequest& r) {
    r.stop = &stop;
    r.progress = [&](const TrainProgress& p) {
      if (p.total_step == 7) stop = true;
    };
  });
  ASSERT_EQ(runs().size(), 2u);
  EXPECT_EQ(runs()[1].state, RunStatus::interrupted);
  EXPECT_EQ(runs()[1].step, 7);
  run("out", "", [](TrainRequest& r) { r.resume = true; });
  const std::vector<RunRecord> all = runs();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[1].state, RunStatus::finished);
  EXPECT_EQ(all[1].curves, all[0].curves);
  EXPECT_EQ(all[1].results, all[0].results);
  // Going on with what is finished leaves the entry as it is; writing over it makes another.
  run("out", "", [](TrainRequest& r) { r.resume = true; });
  EXPECT_EQ(runs()[1].changed, all[1].changed);
  run("out", "", [](TrainRequest& r) { r.overwrite = true; });
  EXPECT_EQ(runs().size(), 3u);
}

TEST_F(RunRecorderTest, ATrainingThatFailsIsRecordedWithItsError) {
  EXPECT_THROW(run("out", "",
                   [&](TrainRequest& r) {
                     r.progress = [](const TrainProgress& p) {
                       if (p.total_step == 4) throw Error(ErrorCode::io, "[test] no more");
                     };
                   }),
               Error);
  ASSERT_EQ(runs().size(), 1u);
  EXPECT_EQ(runs()[0].state, RunStatus::failed);
  EXPECT_EQ(runs()[0].error, "[test] no more");
}

TEST_F(RunRecorderTest, ARecordThatCannotBeWrittenIsOneWarning) {
  write_file_atomically(file(), std::string_view("a text in the place of the record"));
  const TrainResult result = run("out");
  EXPECT_EQ(result.epochs, 3);
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("the record of runs could not be written"), std::string::npos);
  EXPECT_NE(warnings_[0].find("runs.sqlite"), std::string::npos);
}

TEST(RunsFile, StandsBesideTheFolderOrWhereTheEnvironmentSays) {
  unsetenv("FOVEA_RUNS");
  EXPECT_EQ(runs_file("runs/demo").string(), "runs/runs.sqlite");
  EXPECT_EQ(runs_file("runs/demo/").string(), "runs/runs.sqlite");
  EXPECT_EQ(runs_file("demo").string(), "runs.sqlite");
  setenv("FOVEA_RUNS", "/elsewhere/all.sqlite", 1);
  EXPECT_EQ(runs_file("runs/demo").string(), "/elsewhere/all.sqlite");
  unsetenv("FOVEA_RUNS");
}

}  // namespace
}  // namespace fovea

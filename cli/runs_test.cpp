// fovea runs: what trainings have left in the record, as a person asks for it.
#include <signal.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "cli/runs_page.h"
#include "cli/test_program.h"
#include "fovea/data/test_images.h"

namespace fovea::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class CliRuns : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    unsetenv("FOVEA_RUNS");
    write_small_images(folder_ / "data", 64, 32);
    write("tiny.toml", small_recipe("data"));
  }

  Finished train(const std::string& out, const std::vector<std::string>& more = {},
                 const Setting& setting = {}) {
    std::vector<std::string> words = {
        "train", "tiny.toml", "--out", out, "--threads", "1", "--quiet", "--set", "train.epochs=2"};
    words.insert(words.end(), more.begin(), more.end());
    return run(words, setting);
  }
  json listed(const std::vector<std::string>& more = {}) {
    std::vector<std::string> words = {"runs", "list", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    const Finished f = run(words);
    EXPECT_EQ(f.code, 0) << f.err;
    return json::parse(f.out)["runs"];
  }
};

TEST_F(CliRuns, TrainingsAreListedShownAndCompared) {
  const Finished first = train("runs/first");
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(first.err, "");
  EXPECT_TRUE(fs::exists(folder_ / "runs/runs.sqlite"));
  EXPECT_TRUE(fs::exists(folder_ / "runs/first/events"));
  ASSERT_EQ(train("runs/second", {"--seed", "5", "--set", "train.epochs=3"}).code, 0);

  const json all = listed();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]["id"], 1);
  EXPECT_EQ(all[0]["name"], "first");
  EXPECT_EQ(all[0]["state"], "finished");
  EXPECT_EQ(all[0]["threads"], 1);
  EXPECT_EQ(all[1]["seed"], 5);
  EXPECT_EQ(all[1]["epochs"], 3);
  for (const char* name : {"test_accuracy", "latency_ms", "file_bytes", "images_per_second"})
    EXPECT_GT(all[0]["results"][name], 0) << name;
  const Finished table = run({"runs", "list"});
  ASSERT_EQ(table.code, 0) << table.err;
  EXPECT_EQ(std::count(table.out.begin(), table.out.end(), '\n'), 3) << table.out;
  for (const char* word : {"first", "second", "finished", "test accuracy"})
    EXPECT_NE(table.out.find(word), std::string::npos) << word << " is not in: " << table.out;
  EXPECT_EQ(run({"runs"}).out, table.out);  // list is what one wants most

  const Finished shown = run({"runs", "show", "second"});
  ASSERT_EQ(shown.code, 0) << shown.err;
  for (const char* word : {"[train]", "epochs = 3", "momentum = 0.9", "test accuracy", "processor",
                           "validation accuracy", "2 second"})
    EXPECT_NE(shown.out.find(word), std::string::npos) << word << " is not in: " << shown.out;
  const json data = json::parse(run({"runs", "show", "2", "--json"}).out);
  EXPECT_EQ(data["settings"]["train.seed"], "5");
  EXPECT_EQ(data["curves"]["epoch.validation_loss"].size(), 3u);
  EXPECT_EQ(data["curves"]["step.loss"].size(), 9u);
  EXPECT_NE(data["recipe"].get<std::string>().find("epochs = 3"), std::string::npos);

  const Finished compared = run({"runs", "compare", "first", "2", "--svg", "curves.svg"});
  ASSERT_EQ(compared.code, 0) << compared.err;
  for (const char* word : {"1 first", "2 second", "train.epochs", "train.seed", "curves.svg"})
    EXPECT_NE(compared.out.find(word), std::string::npos) << word << ": " << compared.out;
  EXPECT_EQ(compared.out.find("train.momentum"), std::string::npos) << compared.out;
  const std::string svg = slurp(folder_ / "curves.svg");
  for (const char* word : {"<svg ", "</svg>", "validation loss by epoch", "loss by step", "1 first",
                           "2 second", "train.seed"})
    EXPECT_NE(svg.find(word), std::string::npos) << word;
  const json differences = json::parse(run({"runs", "compare", "1", "2", "--json"}).out);
  bool seed = false;
  for (const json& d : differences["differences"])
    seed =
        seed || (d["of"] == "recipe" && d["key"] == "train.seed" && d["a"] == "1" && d["b"] == "5");
  EXPECT_TRUE(seed);
}

TEST_F(CliRuns, WhereTheRecordIsCanBeSaid) {
  ASSERT_EQ(train("model").code, 0);
  EXPECT_EQ(listed().size(), 1u);  // runs.sqlite beside the folder
  ASSERT_EQ(train("other", {"--runs", "here/all.sqlite"}).code, 0);
  EXPECT_EQ(listed({"--runs", "here/all.sqlite"}).size(), 1u);
  ASSERT_EQ(train("third", {}, environment("FOVEA_RUNS", "here/all.sqlite")).code, 0);
  EXPECT_EQ(listed({"--runs", "here/all.sqlite"}).size(), 2u);
  EXPECT_EQ(
      json::parse(
          run({"runs", "list", "--json"}, environment("FOVEA_RUNS", "here/all.sqlite")).out)["runs"]
          .size(),
      2u);
  ASSERT_EQ(train("fourth", {"--runs", "none"}).code, 0);
  EXPECT_EQ(listed().size(), 1u);
  EXPECT_FALSE(fs::exists(folder_ / "none"));
  fs::create_directory(folder_ / "runs");
  fs::rename(folder_ / "here/all.sqlite", folder_ / "runs/runs.sqlite");
  EXPECT_EQ(listed({"--runs", "runs"}).size(), 2u);
  // Two records: the usual one is shown, the other one named.
  EXPECT_EQ(listed().size(), 2u);
  EXPECT_NE(run({"runs", "list"}).out.find("fovea runs --runs runs.sqlite"), std::string::npos);
}

TEST_F(CliRuns, WrongRequestsAreErrorsWithARemedy) {
  expect_error(run({"runs", "list"}), {"there is no record of runs", "fovea train", "--runs"});
  expect_error(run({"runs", "lsit"}), {"lsit", "list"});
  ASSERT_EQ(train("runs/demo").code, 0);
  expect_error(run({"runs", "show", "dmeo"}), {"dmeo", "did you mean 'demo'", "fovea runs list"});
  expect_error(run({"runs", "show", "99"}), {"99", "fovea runs list"});
  expect_error(run({"runs", "show"}), {"expects a run"});
  expect_error(run({"runs", "compare", "demo"}), {"expects two runs"});
  expect_error(run({"runs", "list", "demo"}), {"fovea runs show RUN"});
  expect_error(run({"runs", "show", "demo", "1"}), {"only compare takes two"});
  expect_error(run({"runs", "show", "demo", "--svg", "x.svg"}), {"only compare writes a page"});
  expect_error(run({"runs", "compare", "1", "1", "--svg", "none/x.svg"}), {"none/x.svg"});
  EXPECT_NE(run({"runs", "compare", "1", "demo"}).out.find("Nothing differs."), std::string::npos);
  write("text.sqlite", "no database at all, whatever its name may say about it");
  expect_error(run({"runs", "list", "--runs", "text.sqlite"}),
               {"text.sqlite", "no record of runs"});
}

TEST_F(CliRuns, ARecordThatCannotBeWrittenIsOneWarningAndTheTrainingEndsWell) {
  write("runs.sqlite", "no database at all, whatever its name may say about it");
  const Finished f = train("model");
  EXPECT_EQ(f.code, 0);
  EXPECT_EQ(std::count(f.err.begin(), f.err.end(), '\n'), 1) << f.err;
  EXPECT_TRUE(f.err.starts_with("fovea: warning: the record of runs could not be written"))
      << f.err;
  EXPECT_TRUE(fs::exists(folder_ / "model/model.safetensors"));
}

TEST_F(CliRuns, AStoppedAKilledAndAFailedRunAreToldApart) {
  const auto long_run = [&](const std::string& out, int signal) {
    fs::remove(folder_ / ".err");  // of the run before
    const pid_t pid = start({"train", "tiny.toml", "--out", out, "--threads", "1", "--set",
                             "train.epochs=100000", "--set", "train.warmup=0"});
    // Once an epoch is over, its entry is there.
    for (int i = 0; i < 3000 && slurp(folder_ / ".err").find("epoch") == std::string::npos; ++i)
      usleep(20000);
    kill(pid, signal);
    return wait(pid).code;
  };
  EXPECT_EQ(long_run("stopped", SIGINT), 130);
  EXPECT_EQ(long_run("killed", SIGKILL), -SIGKILL);
  EXPECT_EQ(run({"train", "tiny.toml", "--out", "failed", "--threads", "1", "--quiet", "--set",
                 "train.learning_rate=900", "--set", "train.clip=0", "--set", "train.eps=1e-30",
                 "--set", "train.optimiser=sgd"})
                .code,
            2);
  const json all = listed();
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0]["state"], "interrupted");
  EXPECT_EQ(all[1]["state"], "killed");
  EXPECT_EQ(all[2]["state"], "failed");
  EXPECT_NE(all[2]["error"].get<std::string>().find("not finite"), std::string::npos);
}

TEST(RunsPage, OnlyWhatDiffersIsListed) {
  RunRecord a, b;
  a.settings = {{"train.epochs", "3"}, {"train.seed", "1"}, {"model.old", "7"}};
  b.settings = {{"train.epochs", "4"}, {"train.seed", "1"}};
  a.results = {{"test_accuracy", 0.5}};
  b.results = {{"test_accuracy", 0.75}};
  a.threads = 2;
  b.threads = 1;
  const auto differences = differences_of(a, b);
  ASSERT_EQ(differences.size(), 4u);
  EXPECT_EQ(differences[0].key, "model.old");
  EXPECT_EQ(differences[0].b, "-");
  EXPECT_EQ(differences[1].key, "train.epochs");
  EXPECT_EQ(differences[2].key, "test_accuracy");
  EXPECT_EQ(differences[2].b, "0.75");
  EXPECT_EQ(differences[3].key, "threads");
}

}  // namespace
}  // namespace fovea::cli

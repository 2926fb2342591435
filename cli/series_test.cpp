// Tables and sequences of numbers, from `fovea new` to `fovea predict`, as strangers use them.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cmath>

#include "cli/test_program.h"
#include "fovea/base/philox.h"
#include "fovea/formats/image.h"
#include "fovea/formats/test_npy.h"

namespace fovea::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class SeriesVerbs : public Cli {
 protected:
  // Runs of 6 to 14 rows whose second column rises or falls; the first is noise.
  std::string runs_table(int runs, bool labelled = true) {
    PhiloxStream random(1, stream_id("runs"));
    std::string text = labelled ? "run,noise,level,direction\n" : "run,noise,level\n";
    for (int r = 0; r < runs; ++r) {
      const int length = 6 + static_cast<int>(random.below(9));
      const double start = random.unit() * 10;
      for (int i = 0; i < length; ++i) {
        const double level = start + (r % 2 ? 1 : -1) * (i + 0.5 * random.unit());
        text += fmt::format("r{},{:.3f},{:.3f}", r, random.unit(), level);
        text += labelled ? (r % 2 ? ",up\n" : ",down\n") : "\n";
      }
    }
    return text;
  }

  // Rows in time whose state is whether the third value before them was high.
  std::string sensor_table(int rows) {
    PhiloxStream random(2, stream_id("sensor"));
    std::string text = "time,sensor,place,state\n";
    std::vector<double> values;
    for (int i = 0; i < rows; ++i) {
      values.push_back(random.unit() * 200 + 1000);
      const bool high = i >= 3 && values[static_cast<size_t>(i - 3)] > 1100;
      text += fmt::format("2026-01-{:02} {:02}:{:02},{:.2f},hall,{}\n", 1 + i / 1440, i / 60 % 24,
                          i % 60, values.back(), high ? "on" : "off");
    }
    return text;
  }
};

TEST_F(SeriesVerbs, SequencesOfDifferentLengthsAreLearnt) {
  write("runs.csv", runs_table(300));
  const Finished made = run({"new", "sequence-classifier", "runs.csv", "--group", "run"});
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_NE(made.out.find("2 classes; 224 samples to train with"), std::string::npos) << made.out;
  EXPECT_NE(made.out.find("up to 14 steps of 2 features"), std::string::npos) << made.out;

  const Finished looked = run({"data", "runs.toml", "--sheet", "sheet.png"});
  ASSERT_EQ(looked.code, 0) << looked.err;
  for (const char* word : {"sequences of up to 14 steps with 2 features", "noise", "deviation"})
    EXPECT_NE(looked.out.find(word), std::string::npos) << word << looked.out;
  EXPECT_EQ(read_image(folder_ / "sheet.png").channels, 3);

  const Finished trained =
      run({"train", "runs.toml", "--out", "model", "--set", "train.epochs=40", "--json"});
  ASSERT_EQ(trained.code, 0) << trained.err;
  const double accuracy = json::parse(trained.out)["test"]["accuracy"];
  EXPECT_GE(accuracy, 0.95) << trained.out;

  const Finished eval = run({"eval", "model", "--json"});
  ASSERT_EQ(eval.code, 0) << eval.err;
  EXPECT_EQ(json::parse(eval.out)["metrics"]["accuracy"], accuracy);

  // Without labels, in another order of columns.
  std::string rows = "level,noise,run\n";
  for (int i = 0; i < 9; ++i) rows += fmt::format("{},0.5,a\n", 2 + i);
  for (int i = 0; i < 7; ++i) rows += fmt::format("{},0.5,b\n", 9 - i);
  write("new.csv", rows);
  const Finished predicted = run({"predict", "model", "new.csv", "--top", "1", "--json"});
  ASSERT_EQ(predicted.code, 0) << predicted.err;
  const json all = json::parse(predicted.out)["predictions"];
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]["classes"][0]["class"], "up") << predicted.out;
  EXPECT_EQ(all[1]["classes"][0]["class"], "down") << predicted.out;
  EXPECT_EQ(all[1]["sample"], "new.csv, b");

  const Finished explained = run({"explain", "model", "--samples", "3", "--json"});
  ASSERT_EQ(explained.code, 0) << explained.err;
  const json page = json::parse(explained.out);
  EXPECT_EQ(page["grid"]["columns"], 14);
  ASSERT_EQ(page["examples"].size(), 3u);
  double shares = 0;
  for (const json& share : page["examples"][0]["rollout"]) shares += share.get<double>();
  // Of those tokens that the sequence has; and what each column adds.
  EXPECT_NEAR(shares, static_cast<double>(page["examples"][0]["rollout"].size()), 1e-3);
  EXPECT_EQ(page["examples"][0]["columns"][1]["column"], "level");
  EXPECT_EQ(read_image(folder_ / "model/explain/01-gradient.png").channels, 3);
  EXPECT_EQ(run({"explain", "model", "new.csv", "--out", "look"}).code, 0);
  const Finished measured = run({"explain", "model", "--faithfulness", "--json"});
  ASSERT_EQ(measured.code, 0) << measured.err;
  const json faithful = json::parse(measured.out)["faithfulness"];
  EXPECT_EQ(faithful["tokens"], 14);
  EXPECT_GT(faithful["rankings"][1]["insertion_above_random"]["mean"], 0) << faithful;
  expect_error(run({"data", "runs.toml", "--export", "png"}), {"expected images"});
  EXPECT_EQ(run({"profile", "model"}).code, 0);
  write("wrong.csv", "level,run\n1,a\n");
  expect_error(run({"predict", "model", "wrong.csv"}), {"there is no column 'noise' in wrong.csv"});
  write("wrong.csv", "level,noise\n1,a\n");
  expect_error(run({"predict", "model", "wrong.csv"}), {"wrong.csv:2: column 'noise'", "'a'"});
  expect_error(run({"predict", "model", "absent.csv"}), {"absent.csv"});
}

TEST_F(SeriesVerbs, WindowsOfATableInTimeAreLearntFromTheRowsBefore) {
  write("room.csv", sensor_table(2500));
  const Finished made = run({"new", "sequence-classifier", "room.csv", "--window", "5"});
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_NE(made.out.find("the column 'time' is left out: a time"), std::string::npos) << made.out;
  EXPECT_NE(made.out.find("'place' is left out: it holds words, such as 'hall'"), std::string::npos)
      << made.out;
  const std::string recipe = slurp(folder_ / "room.toml");
  for (const char* line :
       {"features = [\"sensor\"]", "window = 5", "split_by = \"time\"", "label_column = \"state\""})
    EXPECT_NE(recipe.find(line), std::string::npos) << line << " is not in\n" << recipe;
  const Finished trained = run({"train", "room.toml", "--out", "model", "--json"});
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_GE(json::parse(trained.out)["test"]["accuracy"], 0.9) << trained.out;
  // The first window ends at the sixth line of the file.
  const Finished predicted = run({"predict", "model", "room.csv", "--top", "1"});
  EXPECT_TRUE(predicted.out.starts_with("room.csv, line 6 ")) << predicted.out.substr(0, 200);
}

TEST_F(SeriesVerbs, ArraysAndRowsAreLearntTooAndExported) {
  PhiloxStream random(3, stream_id("rows"));
  std::vector<float> x;
  std::vector<int32_t> y;
  for (int i = 0; i < 600; ++i) {
    const float a = random.unit(), b = random.unit();
    x.insert(x.end(), {100 * a, b, i % 7 ? 1.0f : NAN});
    y.push_back(a > b ? 1 : 0);
  }
  fs::create_directory(folder_ / "d");
  write("d/train.npy", npy_text("(600, 3)", x));
  write("d/train_labels.npy", npy_text("(600,)", y));
  const Finished made = run({"new", "sequence-classifier", "d", "--json"});
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_EQ(json::parse(made.out)["train"], 450) << made.out;
  EXPECT_NE(slurp(folder_ / "d.toml").find("missing = \"mean\""), std::string::npos);
  const Finished trained =
      run({"train", "d.toml", "--out", "model", "--set", "train.epochs=25", "--json"});
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_GE(json::parse(trained.out)["test"]["accuracy"], 0.9) << trained.out;
  write("one.npy", npy_text<float>("(2, 3)", {90, 0.1f, NAN, 10, 0.9f, 1}));
  const json all =
      json::parse(run({"predict", "model", "one.npy", "--top", "1", "--json"}).out)["predictions"];
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]["classes"][0]["class"], "1");
  EXPECT_EQ(all[1]["classes"][0]["class"], "0");
  const Finished exported = run({"export", "model", "--onnx", "m.onnx"});
  EXPECT_EQ(exported.code, 0) << exported.err;
  const Finished explained = run({"explain", "model", "one.npy", "--json"});
  ASSERT_EQ(explained.code, 0) << explained.err;
  const json rows = json::parse(explained.out)["examples"];
  ASSERT_EQ(rows.size(), 2u);
  // The classes hang on the first two columns.
  const json& columns = rows[1]["columns"];
  EXPECT_GT(columns[0]["adds"].get<double>() + columns[1]["adds"].get<double>(),
            2 * std::abs(columns[2]["adds"].get<double>()))
      << columns;
  EXPECT_FALSE(rows[0]["columns"][2].contains("value"));
  const Finished measured = run({"explain", "model", "--faithfulness", "--images", "60"});
  ASSERT_EQ(measured.code, 0) << measured.err;
  EXPECT_NE(measured.out.find("60 rows"), std::string::npos) << measured.out;
  const json looked = json::parse(run({"data", "d.toml", "--json"}).out);
  EXPECT_EQ(looked["features"], 3);
  EXPECT_EQ(looked["columns"][2]["missing"], 68) << looked;
}

TEST_F(SeriesVerbs, RowsWithoutAnAnswerAreNamed) {
  std::string table = "x,y,label\n";
  for (int i = 0; i < 60; ++i)
    table += fmt::format("{},{},{}\n", i % 7, i % 5 == 0 ? "" : "1", i % 7 > 3 ? "big" : "small");
  write("t.csv", table);
  ASSERT_EQ(run({"new", "sequence-classifier", "t.csv"}).code, 0);
  const Finished trained = run({"train", "t.toml", "--out", "model", "--set", "train.epochs=1",
                                "--set", "data.missing=skip"});
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_NE(trained.err.find("12 samples of the train split miss a value"), std::string::npos)
      << trained.err;
  write("new.csv", "x,y\n1,1\n2,\n3,1\n");
  const Finished f = run({"predict", "model", "new.csv", "--top", "1"});
  ASSERT_EQ(f.code, 0) << f.err;
  EXPECT_NE(f.err.find("one sample is without an answer"), std::string::npos) << f.err;
  EXPECT_NE(f.err.find("new.csv, line 3: no value in 'y'"), std::string::npos) << f.err;
  const json result = json::parse(run({"predict", "model", "new.csv", "--json"}).out);
  EXPECT_EQ(result["predictions"].size(), 2u);
  EXPECT_EQ(result["skipped"], json({"new.csv, line 3: no value in 'y'"}));
  const Finished looked = run({"data", "t.toml", "--set", "data.missing=skip"});
  EXPECT_NE(looked.out.find("miss a value and are left out"), std::string::npos) << looked.out;
}

TEST_F(SeriesVerbs, WrongWishesAndKeysAreErrors) {
  write("t.csv", "x,kind\n1,a\n2,b\n3,a\n4,b\n");
  expect_error(run({"new", "sequence-clasifier", "t.csv"}), {"did you mean 'sequence-classifier'"});
  expect_error(run({"new", "image-classifier", "t.csv", "--label", "kind"}),
               {"belong to sequence-classifier"});
  expect_error(run({"new", "sequence-classifier", "t.csv", "--label", "kint"}),
               {"there is no column 'kint'", "did you mean 'kind'"});
  expect_error(run({"new", "sequence-classifier", "."}), {"expected train.csv, or train.npy"});
  write("lonely.npy", npy_text<float>("(2, 1)", {1, 2}));
  expect_error(run({"new", "sequence-classifier", "lonely.npy"}), {"lonely_labels.npy"});
  const std::string recipe =
      "[task]\nkind = \"sequence_classification\"\n[data]\nkind = \"csv\"\nfile = \"t.csv\"\n"
      "label_column = \"kind\"\nvalidation = 0\ntest = 0\n";
  write("t.toml", recipe);
  ASSERT_EQ(run({"data", "t.toml"}).code, 0);
  expect_error(run({"data", "t.toml", "--set", "data.widow=3"}),
               {"data.widow", "did you mean 'data.window'"});
  expect_error(run({"data", "t.toml", "--set", "modle.width=3"}), {"modle", "model"});
  expect_error(run({"train", "t.toml", "--set", "augment.flip=true"}),
               {"[augment]", "change images"});
  expect_error(run({"train", "t.toml", "--set", "task.kind=image_classification"}),
               {"needs images"});
}

}  // namespace
}  // namespace fovea::cli

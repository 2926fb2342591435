// A small model from beginning to end: trained, measured, used, interrupted.
#include <signal.h>
#include <sys/resource.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/test_program.h"
#include "fovea/formats/image.h"
#include "fovea/graph/graph_text.h"

namespace fovea::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

void append_big_endian(std::string& to, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) to += static_cast<char>(value >> shift & 0xff);
}

constexpr int kSide = 8;

// Class 0 is bright on the left, class 1 on the right; i makes each image a little different.
std::vector<uint8_t> half_bright(int label, int i) {
  std::vector<uint8_t> pixels;
  for (int y = 0; y < kSide; ++y)
    for (int x = 0; x < kSide; ++x) {
      const bool bright = (x < kSide / 2) == (label == 0);
      pixels.push_back(static_cast<uint8_t>((bright ? 200 : 20) + (i * 7 + y * 3 + x) % 16));
    }
  return pixels;
}

class CliModel : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    fs::create_directory(folder_ / "data");
    write_split("train", 64);
    write_split("t10k", 32);
    write("tiny.toml", kRecipe);
  }

  void write_split(const std::string& prefix, int count) {
    std::string images, labels;
    append_big_endian(images, 0x803);
    for (const int size : {count, kSide, kSide})
      append_big_endian(images, static_cast<uint32_t>(size));
    append_big_endian(labels, 0x801);
    append_big_endian(labels, static_cast<uint32_t>(count));
    for (int i = 0; i < count; ++i) {
      const std::vector<uint8_t> pixels = half_bright(i % 2, i);
      images.append(pixels.begin(), pixels.end());
      labels += static_cast<char>(i % 2);
    }
    write("data/" + prefix + "-images-idx3-ubyte", images);
    write("data/" + prefix + "-labels-idx1-ubyte", labels);
  }

  Finished train(const std::vector<std::string>& more = {}, const Setting& setting = {}) {
    std::vector<std::string> words = {"train", "tiny.toml", "--out", "model", "--threads", "1"};
    words.insert(words.end(), more.begin(), more.end());
    return run(words, setting);
  }

  static constexpr const char* kRecipe = R"([data]
kind = "idx"
dir = "data"
classes = ["left", "right"]
validation = 16
[model]
stem = []
patch = 4
width = 16
heads = 2
layers = 1
mlp = 16
[train]
epochs = 12
batch = 16
learning_rate = 1e-2
)";
};

TEST_F(CliModel, AWrongKeyIsNamedWithItsLineAndTheNearest) {
  write("wrong.toml", std::string(kRecipe) + "ephocs = 3\n");
  expect_error(run({"train", "wrong.toml"}), {"wrong.toml:17", "ephocs", "epochs"});
  expect_error(run({"graph", "wrong.toml"}), {"wrong.toml:17", "ephocs", "epochs"});
}

TEST_F(CliModel, AWrongOverrideIsNamed) {
  expect_error(train({"--set", "train.epoch=3"}), {"train.epoch", "epochs"});
  expect_error(train({"--set", "train.epochs=soon"}), {"train.epochs", "soon"});
}

TEST_F(CliModel, IsTrainedMeasuredAndUsed) {
  const Finished trained = train({"--json", "--quiet"});
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_EQ(trained.err, "");
  const json result = json::parse(trained.out);
  EXPECT_EQ(result["epochs"], 12);
  EXPECT_GE(result["test"]["accuracy"], 0.9);
  EXPECT_GT(result["parameters"], 0);
  EXPECT_GT(result["flops_per_image"], 0);
  EXPECT_GT(result["file_bytes"], 0);
  EXPECT_GT(result["latency_ms"], 0);
  EXPECT_GT(result["images_per_second"], 0);

  // eval finds what training measured.
  const Finished evaluated = run({"eval", "model", "--json", "--batch", "5"});
  ASSERT_EQ(evaluated.code, 0) << evaluated.err;
  const json evaluation = json::parse(evaluated.out);
  EXPECT_EQ(evaluation["task"], "image_classification");
  EXPECT_EQ(evaluation["split"], "test");
  EXPECT_EQ(evaluation["examples"], 32);
  EXPECT_DOUBLE_EQ(evaluation["metrics"]["accuracy"], result["test"]["accuracy"]);
  EXPECT_GT(evaluation["examples_per_second"], 0);
  EXPECT_EQ(json::parse(run({"eval", "model", "--split", "validation", "--json"}).out)["examples"],
            16);
  expect_error(run({"eval", "model", "--split", "tset"}), {"tset", "did you mean 'test'"});

  // predict on pictures that it has not seen.
  for (const int label : {0, 1})
    write_file_atomically(folder_ / (label == 0 ? "l.png" : "r.png"),
                          encode_png({kSide, kSide, 1, half_bright(label, 100)}));
  const Finished predicted = run({"predict", "model", "l.png", "r.png", "--top", "1", "--json"});
  ASSERT_EQ(predicted.code, 0) << predicted.err;
  const json predictions = json::parse(predicted.out)["predictions"];
  ASSERT_EQ(predictions.size(), 2u);
  EXPECT_EQ(predictions[0]["file"], "l.png");
  ASSERT_EQ(predictions[0]["classes"].size(), 1u);
  EXPECT_EQ(predictions[0]["classes"][0]["class"], "left");
  EXPECT_EQ(predictions[1]["classes"][0]["class"], "right");
  EXPECT_GT(predictions[0]["classes"][0]["probability"], 0.5);
  const Finished as_text = run({"predict", "model", "l.png"});
  EXPECT_NE(as_text.out.find("left"), std::string::npos) << as_text.out;

  // Pictures that do not fit.
  write_file_atomically(folder_ / "large.png", encode_png({4, 4, 1, std::vector<uint8_t>(16)}));
  expect_error(run({"predict", "model", "large.png"}), {"large.png", "8", "4"});
  write("broken.png", "no picture");
  expect_error(run({"predict", "model", "broken.png"}), {"broken.png"});
  expect_error(run({"predict", "model", "missing.png"}), {"missing.png"});

  // A second training does not throw this one away.
  expect_error(train(), {"model", "--overwrite"});
}

TEST_F(CliModel, IsProfiledAndPrinted) {
  ASSERT_EQ(train({"--set", "train.epochs=1"}).code, 0);
  const std::vector<std::vector<std::string>> targets = {
      {"model"}, {"tiny.toml"}, {"model", "--train"}, {"tiny.toml", "--train"}};
  for (const std::vector<std::string>& target : targets) {
    std::vector<std::string> words = {"profile", "--json", "--runs", "3", "--threads", "1"};
    words.insert(words.end(), target.begin(), target.end());
    const Finished f = run(words);
    ASSERT_EQ(f.code, 0) << f.err;
    const json profile = json::parse(f.out);
    double shares = 0;
    int64_t flops = 0;
    for (const json& node : profile["nodes"]) {
      shares += node["share"].get<double>();
      flops += node["flops"].get<int64_t>();
      EXPECT_NE(node["kernel"], "") << node;
    }
    EXPECT_NEAR(shares, 1, 1e-9);
    EXPECT_GT(flops, 0);
    EXPECT_EQ(profile["totals"]["flops"], flops);
    EXPECT_GT(profile["memory"]["arena_bytes"], 0);
    EXPECT_GT(profile["memory"]["peak_bytes"], profile["memory"]["arena_bytes"]);
    EXPECT_EQ(profile["batch"], profile["train"] ? 16 : 1);

    words[0] = "graph";
    words.erase(words.begin() + 1, words.begin() + 6);
    const Finished printed = run(words);
    ASSERT_EQ(printed.code, 0) << printed.err;
    // The two graphs between the lines with '#' are whole graph texts.
    std::istringstream lines(printed.out);
    std::vector<std::string> parts;
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("# before") || line.starts_with("# after")) parts.emplace_back();
      if (!line.starts_with("#")) parts.back() += line + "\n";
    }
    ASSERT_EQ(parts.size(), 2u);
    for (const std::string& text : parts) EXPECT_EQ(print_graph(parse_graph(text)), text);
    EXPECT_NE(printed.out.find("fuse_attention"), std::string::npos);
  }
  EXPECT_EQ(run({"profile", "model", "--runs", "1"}).code, 0);
  const Finished without = run({"graph", "model", "--disable-pass", "fuse_attention"});
  EXPECT_NE(without.out.find("disabled"), std::string::npos);
  expect_error(run({"graph", "model", "--disable-pass", "fuse_atention"}),
               {"fuse_atention", "did you mean 'fuse_attention'"});
  expect_error(run({"graph", "model", "--set", "model.width=8"}), {"model", "--set"});
  const Finished wider = run({"graph", "tiny.toml", "--set", "model.width=24"});
  EXPECT_NE(wider.out.find("[B,4,24]"), std::string::npos) << wider.out;
}

TEST_F(CliModel, TrainingShowsAPlainLineAnEpochWhereThereIsNoTerminal) {
  const Finished f = train({"--set", "train.epochs=2"});
  ASSERT_EQ(f.code, 0) << f.err;
  EXPECT_EQ(std::count(f.err.begin(), f.err.end(), '\n'), 2) << f.err;
  EXPECT_EQ(f.err.find('\r'), std::string::npos);
  EXPECT_NE(f.err.find("epoch 2/2"), std::string::npos) << f.err;
  for (const char* row : {"test accuracy", "parameters", "FLOPs an image", "file size",
                          "latency of one image", "images a second", "What to try next"})
    EXPECT_NE(f.out.find(row), std::string::npos) << row;
}

TEST_F(CliModel, TheSeedIsThatOfTheRecipe) {
  ASSERT_EQ(train({"--set", "train.epochs=1", "--seed", "7"}).code, 0);
  const std::string weights = slurp(folder_ / "model/model.safetensors");
  ASSERT_EQ(train({"--set", "train.epochs=1", "--set", "train.seed=7", "--overwrite"}).code, 0);
  EXPECT_EQ(slurp(folder_ / "model/model.safetensors"), weights);
  ASSERT_EQ(train({"--set", "train.epochs=1", "--seed", "8", "--overwrite"}).code, 0);
  EXPECT_NE(slurp(folder_ / "model/model.safetensors"), weights);
}

TEST_F(CliModel, WithoutOutTheModelIsNamedAfterTheRecipe) {
  ASSERT_EQ(run({"train", "tiny.toml", "--set", "train.epochs=1", "--quiet"}).code, 0);
  EXPECT_TRUE(fs::exists(folder_ / "runs/tiny/model.graph"));
}

TEST_F(CliModel, AnInterruptedTrainingSaysHowToGoOnAndEndsWithTheSameWeights) {
  const std::vector<std::string> options = {"--set", "train.epochs=40", "--set", "train.batch=4"};
  std::vector<std::string> words = {"train", "tiny.toml", "--out", "it's", "--threads", "1"};
  words.insert(words.end(), options.begin(), options.end());
  const pid_t pid = start(words);
  for (int i = 0; i < 600 && slurp(folder_ / ".err").empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  kill(pid, SIGINT);
  const Finished stopped = wait(pid);
  ASSERT_EQ(stopped.code, 130) << stopped.err;
  const size_t at = stopped.out.find(FOVEA_PROGRAM);
  ASSERT_NE(at, std::string::npos) << stopped.out;
  EXPECT_NE(stopped.out.find("--resume"), std::string::npos);

  // The command as it is printed, read by a shell.
  const std::string command = "cd '" + folder_.string() + "' && " +
                              stopped.out.substr(at, stopped.out.find('\n', at) - at) +
                              " --quiet --json > .out 2> .err";
  EXPECT_EQ(std::system(command.c_str()), 0) << command << slurp(folder_ / ".err");
  ASSERT_EQ(train(options).code, 0);
  EXPECT_EQ(slurp(folder_ / "it's/model.safetensors"), slurp(folder_ / "model/model.safetensors"));
}

TEST_F(CliModel, AFileThatMayNotGrowIsAnErrorAndKeepsTheCheckpoint) {
  const rlimit limit = {4096, 4096};
  expect_error(train({"--quiet"}, [&] { setrlimit(RLIMIT_FSIZE, &limit); }), {"model", "[file]"});
  ASSERT_EQ(train({"--set", "train.epochs=1"}).code, 0);
  const std::string before = slurp(folder_ / "model/checkpoint.safetensors");
  expect_error(train({"--quiet", "--resume", "--set", "train.epochs=1"},
                     [&] { setrlimit(RLIMIT_FSIZE, &limit); }),
               {"model"});
  EXPECT_EQ(slurp(folder_ / "model/checkpoint.safetensors"), before);
}

}  // namespace
}  // namespace fovea::cli

// A small model from beginning to end: trained, measured, used, interrupted.
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
// jpeglib.h needs FILE and size_t declared before it.
#include <jpeglib.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/test_program.h"
#include "fovea/data/test_images.h"
#include "fovea/formats/image.h"
#include "fovea/graph/graph_text.h"

namespace fovea::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kSide = 8;

// A picture of a class of write_small_images, without noise.
std::vector<uint8_t> half_bright(bool left) {
  std::vector<uint8_t> pixels;
  for (int y = 0; y < kSide; ++y)
    for (int x = 0; x < kSide; ++x) pixels.push_back((left ? x : y) < kSide / 2 ? 190 : 60);
  return pixels;
}

// A grey JPEG file.
std::string jpeg_of(std::vector<uint8_t> pixels) {
  jpeg_compress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* target = nullptr;
  unsigned long size = 0;  // NOLINT: libjpeg's type
  jpeg_mem_dest(&jpeg, &target, &size);
  jpeg.image_width = jpeg.image_height = kSide;
  jpeg.input_components = 1;
  jpeg.in_color_space = JCS_GRAYSCALE;
  jpeg_set_defaults(&jpeg);
  jpeg_start_compress(&jpeg, TRUE);
  while (jpeg.next_scanline < jpeg.image_height) {
    JSAMPROW row = pixels.data() + jpeg.next_scanline * kSide;
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  const std::string file(reinterpret_cast<const char*>(target), size);
  std::free(target);
  return file;
}

class CliModel : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    write_small_images(folder_ / "data", 64, 32);
    write("tiny.toml", small_recipe("data"));
  }

  Finished train(const std::vector<std::string>& more = {}, const Setting& setting = {}) {
    std::vector<std::string> words = {"train", "tiny.toml", "--out", "model", "--threads", "1"};
    words.insert(words.end(), more.begin(), more.end());
    return run(words, setting);
  }
};

TEST_F(CliModel, AWrongKeyIsNamedWithItsLineAndTheNearest) {
  const std::string recipe = small_recipe("data", "ephocs = 3\n");
  write("wrong.toml", recipe);
  const auto lines = std::count(recipe.begin(), recipe.end(), '\n');
  const std::string where = "wrong.toml:" + std::to_string(lines);
  expect_error(run({"train", "wrong.toml"}), {where, "ephocs", "epochs"});
  expect_error(run({"graph", "wrong.toml"}), {where, "ephocs", "epochs"});
}

TEST_F(CliModel, AWrongOverrideIsNamed) {
  expect_error(train({"--set", "train.epoch=3"}), {"train.epoch", "epochs"});
  expect_error(train({"--set", "train.epochs=soon"}), {"train.epochs", "soon"});
}

TEST_F(CliModel, IsTrainedMeasuredAndUsed) {
  const Finished trained =
      train({"--json", "--quiet", "--set", "train.epochs=12", "--set", "train.learning_rate=1e-2"});
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
  write_file_atomically(folder_ / "u.png", encode_png({kSide, kSide, 1, half_bright(false)}));
  write_file_atomically(folder_ / "l.png", encode_png({kSide, kSide, 1, half_bright(true)}));
  write("u.jpg", jpeg_of(half_bright(false)));
  write("l.jpg", jpeg_of(half_bright(true)));
  const std::vector<std::string> files = {"u.png", "l.png", "u.jpg", "l.jpg"};
  std::vector<std::string> words = {"predict", "model", "--top", "1", "--json"};
  words.insert(words.end(), files.begin(), files.end());
  const Finished predicted = run(words);
  ASSERT_EQ(predicted.code, 0) << predicted.err;
  const json predictions = json::parse(predicted.out)["predictions"];
  ASSERT_EQ(predictions.size(), files.size());
  for (size_t i = 0; i < files.size(); ++i) {
    EXPECT_EQ(predictions[i]["file"], files[i]);
    ASSERT_EQ(predictions[i]["classes"].size(), 1u);
    EXPECT_EQ(predictions[i]["classes"][0]["class"], files[i][0] == 'u' ? "upper" : "left");
    EXPECT_GT(predictions[i]["classes"][0]["probability"], 0.5);
  }
  const Finished as_text = run({"predict", "model", "l.png"});
  EXPECT_NE(as_text.out.find("left"), std::string::npos) << as_text.out;

  // Pictures that do not fit.
  write_file_atomically(folder_ / "large.png", encode_png({4, 4, 1, std::vector<uint8_t>(16)}));
  const Finished other_size = run({"predict", "model", "large.png"});  // resized as the recipe says
  EXPECT_EQ(other_size.code, 0) << other_size.err;
  EXPECT_NE(other_size.out.find("left"), std::string::npos) << other_size.out;
  write("broken.png", "no picture");
  expect_error(run({"predict", "model", "broken.png"}), {"broken.png"});
  write("broken.jpg", jpeg_of(half_bright(true)).substr(0, 100));
  expect_error(run({"predict", "model", "broken.jpg"}), {"broken.jpg"});
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

TEST_F(CliModel, LevelsAreMeasuredBesideTheFullModel) {
  write("tiny.toml", small_recipe("data") +
                         "[[levels]]\nname = \"half\"\nshare = 0.5\nset = "
                         "[\"vit.enc.*.attn.heads_kept=1\"]\n");
  ASSERT_EQ(train({"--set", "train.epochs=6"}).code, 0);
  for (const char* which : {"half", "all"}) {
    const Finished f = run({"eval", "model", "--level", which, "--json"});
    ASSERT_EQ(f.code, 0) << f.err;
    const json levels = json::parse(f.out)["levels"];
    ASSERT_EQ(levels.size(), 2u);
    EXPECT_EQ(levels[0]["level"], "full");
    EXPECT_EQ(levels[1]["level"], "half");
    EXPECT_LT(levels[1]["flops_per_image"], levels[0]["flops_per_image"]);
    for (const json& level : levels) {
      EXPECT_GT(level["metrics"]["accuracy"], 0.8);
      EXPECT_GT(level["latency_ms"], 0);
      EXPECT_GT(level["examples_per_second"], 0);
    }
  }
  EXPECT_EQ(json::parse(run({"eval", "model", "--json"}).out)["levels"].size(), 1u);
  const Finished table = run({"eval", "model", "--level", "half", "--precision", "bf16"});
  EXPECT_NE(table.out.find("half"), std::string::npos) << table.out;
  EXPECT_EQ(run({"profile", "model", "--level", "half", "--runs", "1"}).code, 0);
  EXPECT_EQ(run({"profile", "model", "--train", "--level", "half", "--runs", "1"}).code, 0);
  expect_error(run({"eval", "model", "--level", "haf"}), {"haf", "did you mean 'half'"});
  expect_error(run({"eval", "model", "--precision", "f8"}), {"--precision", "f8", "bf16"});
  // Each node is shown with how far it is from its like.
  const Finished diff = run({"diff", "model", "--b", "level=half", "--json"});
  ASSERT_EQ(diff.code, 0) << diff.err;
  EXPECT_NE(json::parse(diff.out)["first_apart"], "");
}

TEST_F(CliModel, TwoWaysToRunAreComparedNodeByNode) {
  ASSERT_EQ(train({"--set", "train.epochs=1"}).code, 0);
  const Finished f = run({"diff", "model", "--b", "kernel=attention=ref", "--json"});
  ASSERT_EQ(f.code, 0) << f.err;
  const json other_kernel = json::parse(f.out);
  EXPECT_EQ(other_kernel["only_a"], 0);
  EXPECT_EQ(other_kernel["first_apart"], "");
  bool seen = false;
  for (const json& node : other_kernel["nodes"]) {
    EXPECT_LE(node["relative_difference"], 1e-5) << node;
    seen = seen || (node["name"] == "vit.enc.0.attn" && node["kernel_b"] == "attention:ref");
  }
  EXPECT_TRUE(seen);
  const Finished table = run({"diff", "tiny.toml", "--b", "precision=bf16"});
  ASSERT_EQ(table.code, 0) << table.err;
  EXPECT_NE(table.out.find("They part at"), std::string::npos) << table.out;
  expect_error(run({"diff", "model"}), {"two ways"});
  expect_error(run({"diff", "model", "--b", "precison=bf16"}),
               {"precison", "did you mean 'precision'"});
  expect_error(run({"diff", "model", "--b", "kernel=attention=fast"}), {"fast"});
  expect_error(run({"diff", "model", "--b", "level=half", "--tolerance", "x"}), {"--tolerance"});
}

TEST_F(CliModel, AProfileIsWrittenAsATrace) {
  ASSERT_EQ(run({"profile", "tiny.toml", "--train", "--runs", "1", "--trace", "t.json", "--set",
                 "train.accumulate=2"})
                .code,
            0);
  const json trace = json::parse(slurp(folder_ / "t.json"));
  std::map<std::string, int> phases;
  for (const json& event : trace["traceEvents"]) {
    ++phases[event["ph"]];
    if (event["ph"] != "X") continue;
    EXPECT_GE(event["dur"], 0);
    EXPECT_NE(event["args"]["kernel"], "") << event;
  }
  EXPECT_GT(phases["X"], 20);
  EXPECT_GT(phases["M"], 0);
  expect_error(run({"profile", "tiny.toml", "--runs", "1", "--trace", "none/t.json"}),
               {"none/t.json"});
}

TEST_F(CliModel, AStepThatAccumulatesIsProfiledInItsTwoParts) {
  const std::vector<std::string> words = {"profile", "tiny.toml", "--train",           "--runs",
                                          "2",       "--set",     "train.accumulate=4"};
  std::vector<std::string> as_json = words;
  as_json.push_back("--json");
  const Finished f = run(as_json);
  ASSERT_EQ(f.code, 0) << f.err;
  const json profile = json::parse(f.out);
  EXPECT_EQ(profile["batch"], 4);
  EXPECT_EQ(profile["accumulate"], 4);
  double shares = 0;
  int64_t flops = 0;
  std::map<std::string, int> nodes, updates;
  for (const json& node : profile["nodes"]) {
    const std::string part = node["part"];
    ++nodes[part];
    updates[part] += node["op"] == "adamw";
    EXPECT_EQ(node["times"], part == "accumulate" ? 3 : 1) << node;
    shares += node["share"].get<double>();
    flops += node["times"].get<int64_t>() * node["flops"].get<int64_t>();
  }
  EXPECT_EQ(nodes.size(), 2u);
  EXPECT_GT(nodes["accumulate"], 0);
  EXPECT_EQ(updates["accumulate"], 0);
  EXPECT_GT(updates["apply"], 0);
  EXPECT_NEAR(shares, 1, 1e-9);
  EXPECT_EQ(profile["totals"]["flops"], flops);

  const Finished text = run(words);
  for (const char* heading : {"accumulate: 3 times", "apply: once", "batch 4 x 4"})
    EXPECT_NE(text.out.find(heading), std::string::npos) << heading << " is not in: " << text.out;
}

TEST_F(CliModel, TrainOptionsThatCannotBeAreErrorsOfProfileAndGraph) {
  for (const char* verb : {"profile", "graph"})
    expect_error(run({verb, "tiny.toml", "--train", "--set", "train.accumulate=3"}),
                 {"accumulate", "3"});
  ASSERT_EQ(train({"--set", "train.epochs=1"}).code, 0);
  expect_error(run({"profile", "model", "--set", "model.width=8"}), {"model", "--set"});
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
  const Finished f = run({"train", "tiny.toml", "--set", "train.epochs=1", "--quiet"});
  ASSERT_EQ(f.code, 0);
  EXPECT_TRUE(fs::exists(folder_ / "runs/tiny/model.graph"));
  // --quiet leaves results, and no advice.
  EXPECT_NE(f.out.find("test accuracy"), std::string::npos) << f.out;
  EXPECT_EQ(f.out.find("What to try next"), std::string::npos) << f.out;
  EXPECT_EQ(f.err, "");

  // What is near to a bundle or a recipe is named.
  expect_error(run({"eval", "tiny.toml"}), {"got a recipe", "did you mean 'runs/tiny'"});
  expect_error(run({"eval", "runs"}), {"did you mean 'runs/tiny'"});
  expect_error(run({"eval", "run/tiny"}), {"did you mean 'runs/tiny'"});
  expect_error(run({"profile", "runs/tini"}), {"did you mean 'runs/tiny'"});
  expect_error(run({"train", "runs/tiny"}), {"recipe", "did you mean 'runs/tiny/recipe.toml'"});
  expect_error(run({"train", "tyni.toml"}), {"did you mean 'tiny.toml'"});
  expect_error(run({"predict", "runs/tiny", "tiny.tml"}), {"did you mean 'tiny.toml'"});
}

TEST_F(CliModel, ExportsAndGraphsAsJson) {
  ASSERT_EQ(train({"--set", "train.epochs=1"}).code, 0);
  const Finished exported = run({"export", "model", "--onnx", "m.onnx", "--json"});
  ASSERT_EQ(exported.code, 0) << exported.err;
  EXPECT_EQ(json::parse(exported.out)["bytes"], fs::file_size(folder_ / "m.onnx"));
  const Finished printed = run({"graph", "model", "--json"});
  ASSERT_EQ(printed.code, 0) << printed.err;
  const json graph = json::parse(printed.out);
  EXPECT_EQ(graph["passes"][0]["name"], "apply_level");
  const Finished text = run({"graph", "model"});
  EXPECT_NE(text.out.find(graph["after"].get<std::string>()), std::string::npos);
}

TEST_F(CliModel, TheSeedOfADiffIsThatOfTheFreshWeights) {
  const auto largest = [&](const char* seed) {
    const Finished f =
        run({"diff", "tiny.toml", "--b", "precision=bf16", "--seed", seed, "--json"});
    EXPECT_EQ(f.code, 0) << f.err;
    return json::parse(f.out)["nodes"].back()["largest_difference"].get<double>();
  };
  EXPECT_EQ(largest("3"), largest("3"));
  EXPECT_NE(largest("3"), largest("4"));
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
  // Without the record of runs, which has a warning of its own.
  expect_error(train({"--quiet", "--runs", "none"}, [&] { setrlimit(RLIMIT_FSIZE, &limit); }),
               {"model", "[file]"});
  ASSERT_EQ(train({"--set", "train.epochs=1"}).code, 0);
  const std::string before = slurp(folder_ / "model/checkpoint.safetensors");
  expect_error(train({"--quiet", "--resume", "--runs", "none", "--set", "train.epochs=1"},
                     [&] { setrlimit(RLIMIT_FSIZE, &limit); }),
               {"model"});
  EXPECT_EQ(slurp(folder_ / "model/checkpoint.safetensors"), before);
}

}  // namespace
}  // namespace fovea::cli

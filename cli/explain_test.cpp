// fovea explain, as its users run it.
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "cli/test_program.h"
#include "fovea/data/test_images.h"
#include "fovea/formats/image.h"

namespace fovea::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class CliExplain : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    write_small_images(folder_ / "data", 64, 32);
    write("tiny.toml", small_recipe("data",
                                    "[[levels]]\nname = \"half\"\n"
                                    "set = [\"vit.enc.*.attn.heads_kept=1\"]\n"));
    const Finished trained = run({"train", "tiny.toml", "--out", "model", "--threads", "1",
                                  "--quiet", "--set", "train.epochs=6"});
    ASSERT_EQ(trained.code, 0) << trained.err;
  }
  // A picture of another size than the model's, in colour.
  void write_picture(const std::string& name, int64_t height, int64_t width) {
    Image image{height, width, 3, {}};
    for (int64_t i = 0; i < height * width; ++i)
      for (int k = 0; k < 3; ++k)
        image.pixels.push_back(static_cast<uint8_t>(i / width < height / 2 ? 190 + 10 * k : 60));
    write_file_atomically(folder_ / name, encode_png(image));
  }
};

double sum(const json& numbers) {
  double total = 0;
  for (const auto& v : numbers) total += v.get<double>();
  return total;
}

TEST_F(CliExplain, ShowsExamplesOfTheDataSetOnOnePage) {
  const Finished f = run({"explain", "model", "--samples", "4", "--json"});
  ASSERT_EQ(f.code, 0) << f.err;
  const json result = json::parse(f.out);
  EXPECT_EQ(result["grid"]["rows"], 2);
  EXPECT_EQ(result["grid"]["columns"], 2);
  ASSERT_EQ(result["examples"].size(), 4u);
  for (const json& example : result["examples"]) {
    EXPECT_TRUE(example["true_class"] == "upper" || example["true_class"] == "left");
    EXPECT_NEAR(sum(example["probabilities"]), 1, 1e-5);
    EXPECT_EQ(example["explained_class"], example["class"]);
    for (const char* kind : {"rollout", "gradient_rollout"}) {
      EXPECT_EQ(example[kind].size(), 4u);
      EXPECT_NEAR(sum(example[kind]), 4, 1e-5);
    }
  }
  const fs::path page = folder_ / result["folder"].get<std::string>() / "index.html";
  EXPECT_EQ(page, folder_ / "model" / "explain" / "index.html");
  EXPECT_NE(slurp(page).find("data:image/png;base64,"), std::string::npos);
  EXPECT_EQ(result["files"].size(), 4u * 4 + 1);
  for (const auto& file : result["files"])
    EXPECT_TRUE(fs::exists(page.parent_path() / file.get<std::string>())) << file;
  // The bundle is still one.
  EXPECT_EQ(run({"eval", "model"}).code, 0);
}

TEST_F(CliExplain, ShowsPicturesOfAnySizeAndColour) {
  write_picture("wide.png", 40, 60);
  write_picture("small.png", 3, 2);
  const Finished f = run({"explain", "model", "wide.png", "small.png", "--out", "a/b", "--level",
                          "half", "--precision", "bf16", "--class", "left", "--json"});
  ASSERT_EQ(f.code, 0) << f.err;
  const json result = json::parse(f.out);
  ASSERT_EQ(result["examples"].size(), 2u);
  EXPECT_EQ(result["examples"][0]["name"], "wide.png");
  EXPECT_EQ(result["examples"][0]["explained_class"], "left");
  EXPECT_FALSE(result["examples"][0].contains("true_class"));
  EXPECT_EQ(result["level"], "half");
  // Half of two heads: one picture beside the input and the two rollouts.
  const std::string page = slurp(folder_ / "a" / "b" / "index.html");
  size_t pictures = 0;
  for (size_t at = page.find("<img "); at != std::string::npos; at = page.find("<img ", at + 1))
    ++pictures;
  EXPECT_EQ(pictures, 2u * 4);
  const Finished plain = run({"explain", "model", "wide.png", "--out", "a/b"});
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_NE(plain.out.find("page: a/b/index.html"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder_ / "a" / "b" / "02-input.png"));
}

TEST_F(CliExplain, MeasuresWhetherAnswersHangOnWhatIsRankedHigh) {
  const std::vector<std::string> words = {"explain",  "model", "--faithfulness", "--images", "20",
                                          "--orders", "3",     "--json"};
  const Finished f = run(words);
  ASSERT_EQ(f.code, 0) << f.err;
  const json result = json::parse(f.out)["faithfulness"];
  EXPECT_EQ(result["images"], 20);
  EXPECT_EQ(result["steps"], 4);
  EXPECT_EQ(result["random_orders"], 3);
  ASSERT_EQ(result["rankings"].size(), 3u);
  EXPECT_EQ(result["rankings"][1]["ranking"], "gradient_rollout");
  for (const json& ranking : result["rankings"]) {
    EXPECT_EQ(ranking["highest_first"]["probability"].size(), 5u);
    const double area = ranking["highest_first"]["area"]["mean"];
    const double random = result["random"]["area"]["mean"];
    EXPECT_NEAR(ranking["deletion_below_random"]["mean"].get<double>(), random - area, 1e-6);
    EXPECT_GT(ranking["deletion_below_random"]["standard_error"], 0);
  }
  for (const char* plot : {"deletion.svg", "insertion.svg"})
    EXPECT_TRUE(slurp(folder_ / "model" / "explain" / plot).starts_with("<svg ")) << plot;
  // The same command finds the same.
  EXPECT_EQ(json::parse(run(words).out)["faithfulness"], result);
}

TEST_F(CliExplain, WhatCannotBeShownIsSaidWithARemedy) {
  write_picture("x.png", 8, 8);
  expect_error(run({"explain"}), {"BUNDLE"});
  expect_error(run({"explain", "nowhere"}), {"nowhere"});
  expect_error(run({"explain", "model", "y.png"}), {"y.png"});
  expect_error(run({"explain", "model", "tiny.toml"}), {"tiny.toml"});
  expect_error(run({"explain", "model", "x.png", "--class", "lfet"}), {"did you mean 'left'"});
  expect_error(run({"explain", "model", "x.png", "--level", "hlaf"}), {"did you mean 'half'"});
  expect_error(run({"explain", "model", "--split", "tset"}), {"did you mean 'test'"});
  expect_error(run({"explain", "model", "x.png", "--out", "data"}), {"data", "--out"});
  expect_error(run({"explain", "model", "x.png", "--out", "tiny.toml"}), {"tiny.toml", "--out"});
  expect_error(run({"explain", "model", "x.png", "--out", "tiny.toml/sub"}), {"--out"});
  if (geteuid() != 0) {  // root may write anywhere
    ASSERT_EQ(::mkdir((folder_ / "shut").c_str(), 0555), 0);
    expect_error(run({"explain", "model", "x.png", "--out", "shut"}), {"shut", "--out"});
  }
  expect_error(run({"explain", "model", "x.png", "--out", "/proc/here"}), {"/proc/here", "--out"});
}

TEST_F(CliExplain, AModelWithoutAttentionIsSaidToBeOne) {
  std::string graph = slurp(folder_ / "model" / "model.graph");
  // The result of attention becomes that of the values alone.
  const size_t at = graph.find(" = attention(");
  ASSERT_NE(at, std::string::npos);
  const size_t open = graph.find('(', at), end = graph.find(')', at);
  const std::string inputs = graph.substr(open + 1, end - open - 1);
  const std::string q = inputs.substr(0, inputs.find(','));
  graph.replace(at, end + 1 - at, " = gelu(" + q + ")");
  const size_t ops = graph.find("attention=1 ");
  ASSERT_NE(ops, std::string::npos);
  graph.erase(ops, 12);
  write("model/model.graph", graph);
  write_picture("x.png", 8, 8);
  expect_error(run({"explain", "model", "x.png"}), {"no attention"});
}

}  // namespace
}  // namespace fovea::cli

// Real images, tables and sequences, as docs/benchmarks.md trains them: minutes.
#include <nlohmann/json.hpp>

#include "cli/test_program.h"
#include "fovea/formats/test_data.h"

namespace fovea::cli {
namespace {

namespace fs = std::filesystem;

using OwnData = Cli;

TEST_F(OwnData, ARecipeFindsPneumoniaInChestImages) {
  const fs::path data = shared_data("medmnist/pneumoniamnist_a.npz");
  if (data.empty()) GTEST_SKIP() << "the shared data are not here";
  const fs::path images = folder_ / "images";
  const std::string prepare = std::string(FOVEA_PREPARE_IMAGES) + " pneumonia '" +
                              data.parent_path().string() + "' '" + images.string() +
                              "' > /dev/null";
  ASSERT_EQ(std::system(prepare.c_str()), 0);
  const Finished f = run({"train", (fs::path(FOVEA_SOURCE_DIR) / "recipes/pneumonia.toml").string(),
                          "--out", "model", "--set", "data.dir=" + images.string(), "--json"});
  ASSERT_EQ(f.code, 0) << f.err;
  EXPECT_GE(nlohmann::json::parse(f.out)["test"]["accuracy"], 0.84) << f.out;
  // Pictures of other sizes and kinds are answered, too.
  const Finished one = run({"predict", "model", (images / "test/pneumonia/00000.png").string()});
  EXPECT_EQ(one.code, 0) << one.err;
}

std::string recipe(const std::string& name) {
  return (fs::path(FOVEA_SOURCE_DIR) / "recipes" / name).string();
}

TEST_F(OwnData, ARecipeTellsFromSensorsWhetherSomebodyIsInTheRoom) {
  const fs::path data = shared_data("occupancy");
  if (data.empty()) GTEST_SKIP() << "the shared data are not here";
  fs::create_directory(folder_ / "occupancy");
  for (const auto& [from, to] :
       {std::pair("datatraining.txt", "train.csv"), std::pair("datatest.txt", "validation.csv"),
        std::pair("datatest2.txt", "test.csv")})
    fs::copy_file(data / from, folder_ / "occupancy" / to);
  const Finished f = run({"train", recipe("occupancy.toml"), "--out", "model", "--json"});
  ASSERT_EQ(f.code, 0) << f.err;
  EXPECT_GE(nlohmann::json::parse(f.out)["test"]["accuracy"], 0.92) << f.out;
  const Finished rows = run({"predict", "model", "occupancy/test.csv", "--top", "1", "--json"});
  ASSERT_EQ(rows.code, 0) << rows.err;
  EXPECT_EQ(nlohmann::json::parse(rows.out)["predictions"].size(), 9752u - 15);
}

TEST_F(OwnData, ARecipeTellsFromATelephoneWhatItsOwnerDoes) {
  const fs::path archive = shared_data("uci_har/uci_har_subset.tar.gz");
  if (archive.empty()) GTEST_SKIP() << "the shared data are not here";
  const std::string prepare = "cd '" + folder_.string() + "' && tar -xzf '" + archive.string() +
                              "' && " + FOVEA_PREPARE_SERIES +
                              " uci_har uci_har_subset uci_har > /dev/null";
  ASSERT_EQ(std::system(prepare.c_str()), 0);
  const Finished f = run({"train", recipe("uci_har.toml"), "--out", "model", "--json"});
  ASSERT_EQ(f.code, 0) << f.err;
  EXPECT_GE(nlohmann::json::parse(f.out)["test"]["accuracy"], 0.9) << f.out;
}

}  // namespace
}  // namespace fovea::cli

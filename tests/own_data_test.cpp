// Folders of real images, as docs/benchmarks.md trains them: minutes.
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

}  // namespace
}  // namespace fovea::cli

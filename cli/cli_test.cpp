// Help, errors and doctor: what the program does without a model.
#include <nlohmann/json.hpp>

#include "cli/test_program.h"

namespace fovea::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// --- Help, versions, typing errors

TEST_F(Cli, VersionIsOneLine) {
  const Finished f = run({"--version"});
  EXPECT_EQ(f.code, 0);
  EXPECT_TRUE(f.out.starts_with("fovea ")) << f.out;
  EXPECT_EQ(std::count(f.out.begin(), f.out.end(), '\n'), 1);
}

TEST_F(Cli, AnExportSaysWhereTo) { expect_error(run({"export", "m"}), {"--onnx"}); }

TEST_F(Cli, AnUnknownVerbIsAnErrorWithTheNearest) {
  expect_error(run({"trian"}), {"trian", "did you mean 'train'"});
}

TEST_F(Cli, AnUnknownOptionIsAnErrorWithTheNearest) {
  expect_error(run({"doctor", "--jsn"}), {"--jsn", "did you mean '--json'", "doctor --help"});
  expect_error(run({"eval", "--split=test", "--bach", "3"}), {"--bach", "did you mean '--batch'"});
}

TEST_F(Cli, AMissingArgumentIsAnError) {
  expect_error(run({"train"}), {"RECIPE"});
  expect_error(run({"predict", "model"}), {"FILE"});
}

TEST_F(Cli, AnArgumentTooManyIsAnError) { expect_error(run({"eval", "a", "b"}), {"'b'"}); }

TEST_F(Cli, ANumberOutOfItsRangeIsAnError) {
  expect_error(run({"eval", "x", "--batch", "0"}), {"--batch", "from 1", "'0'"});
  expect_error(run({"eval", "x", "--threads", "many"}), {"--threads", "'many'"});
  expect_error(run({"train", "x", "--seed", "-1"}), {"--seed", "'-1'"});
}

TEST_F(Cli, ResumeAndOverwriteExcludeEachOther) {
  expect_error(run({"train", "x.toml", "--resume", "--overwrite"}), {"--resume", "--overwrite"});
}

TEST_F(Cli, AFullDiskBehindStandardOutputIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  expect_error(run({"--help"}, [] { dup2(open("/dev/full", O_WRONLY), 1); }),
               {"standard output", "No space left"});
}

TEST_F(Cli, AReaderThatHasSeenEnoughIsNoError) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  const Finished f = run({"--help"}, [&] { dup2(ends[1], 1); });
  close(ends[1]);
  EXPECT_EQ(f.code, 0);
  EXPECT_EQ(f.err, "");
}

// --- Recipes and bundles that are wrong

TEST_F(Cli, AMissingRecipeIsNamed) {
  for (const char* verb : {"train", "graph", "profile"})
    expect_error(run({verb, "nowhere.toml"}), {"nowhere.toml"});
}

TEST_F(Cli, AFolderThatIsNoBundleIsNamed) {
  fs::create_directory(folder_ / "empty");
  expect_error(run({"eval", "empty"}), {"empty"});
  expect_error(run({"predict", "empty", "x.png"}), {"empty"});
  expect_error(run({"profile", "empty"}), {"empty"});
}

TEST_F(Cli, AMissingDataSetNamesThePackage) {
  write("r.toml", "[data]\nkind = \"fashion_mnist\"\ndir = \"nothing-here\"\n");
  expect_error(run({"train", "r.toml"}), {"nothing-here", "dataset-fashion-mnist"});
  expect_error(run({"graph", "r.toml"}), {"dataset-fashion-mnist"});
}

TEST_F(Cli, ATaskThatDoesNotExistIsAnErrorWithTheNearest) {
  write("r.toml", "[task]\nkind = \"image_clasification\"\n");
  expect_error(run({"graph", "r.toml"}), {"r.toml:2", "did you mean 'image_classification'"});
}

// --- doctor

TEST_F(Cli, DoctorNamesKernelsAndLibraries) {
  const Finished f = run({"doctor", "--json"});
  ASSERT_EQ(f.code, 0) << f.err;
  const json report = json::parse(f.out);
  EXPECT_GE(report["threads"], 1);
  EXPECT_EQ(report["kernels"]["attention"].back(), "ref");
  EXPECT_EQ(report["kernels"]["matmul"].back(), "ref");
  for (const char* library : {"oneDNN", "Highway", "libpng", "zlib", "toml++", "fmt"})
    EXPECT_TRUE(report["libraries"].contains(library)) << library;
  EXPECT_EQ(report["data_sets"][0]["name"], "Fashion-MNIST");
}

TEST_F(Cli, DoctorSaysHowToForceAKernel) {
  const Finished f = run({"doctor"});
  EXPECT_EQ(f.code, 0) << f.err;
  EXPECT_NE(f.out.find("FOVEA_FORCE_KERNEL=attention=hwy_avx2"), std::string::npos) << f.out;
  EXPECT_NE(run({"doctor", "--help"}).out.find("FOVEA_FORCE_KERNEL=family=kernel"),
            std::string::npos);
}

TEST_F(Cli, DoctorShowsTheForcedKernelAlone) {
  const Finished f = run({"doctor", "--json"}, environment("FOVEA_FORCE_KERNEL", "attention=ref"));
  ASSERT_EQ(f.code, 0) << f.err;
  const json report = json::parse(f.out);
  EXPECT_EQ(report["kernels"]["attention"], json::array({"ref"}));
  EXPECT_EQ(report["force_kernel"], "attention=ref");
}

TEST_F(Cli, AForcedKernelThatDoesNotExistIsAnErrorWithWhatThereIs) {
  expect_error(run({"doctor"}, environment("FOVEA_FORCE_KERNEL", "attention=nonsense")),
               {"nonsense", "attention", "ref"});
  expect_error(run({"doctor"}, environment("FOVEA_FORCE_KERNEL", "attention=reff")),
               {"did you mean 'ref'"});
}

}  // namespace
}  // namespace fovea::cli

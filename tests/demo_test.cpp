// What `make demo` trains, from beginning to end: its arguments are read from the Makefile.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/test_program.h"
#include "fovea/data/fashion_mnist.h"

namespace fovea::cli {
namespace {

// The words behind build/bin/fovea in the commands of a target, lines that a backslash continues
// joined; empty where there is no such command.
std::vector<std::string> arguments_of(const std::string& makefile, const std::string& target) {
  std::istringstream lines(makefile);
  bool inside = false;
  std::string command;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("\t")) {
      inside = line.starts_with(target + ":");
      continue;
    }
    if (!inside) continue;
    command += line;
    if (command.ends_with("\\")) {
      command.back() = ' ';
      continue;
    }
    std::istringstream words(command);
    std::string word;
    words >> word;
    if (word == "build/bin/fovea") {
      std::vector<std::string> arguments;
      while (words >> word) arguments.push_back(word);
      return arguments;
    }
    command.clear();
  }
  return {};
}

using Demo = Cli;

TEST_F(Demo, ReachesItsAccuracyOnFashionMnist) {
  namespace fs = std::filesystem;
  if (!fs::exists(fs::path(kFashionMnistFolder) / "train-images-idx3-ubyte.gz"))
    GTEST_SKIP() << "Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist";
  const fs::path root = FOVEA_SOURCE_DIR;
  std::vector<std::string> words = arguments_of(slurp(root / "Makefile"), "demo");
  ASSERT_GE(words.size(), 2u) << "no command of build/bin/fovea under demo: in the Makefile";
  ASSERT_EQ(words[0], "train");
  for (std::string& word : words) {
    // A variable or a quote is for a shell, which does not stand between here.
    ASSERT_EQ(word.find_first_of("$'\"\\"), std::string::npos) << word;
    if (word.ends_with(".toml")) word = (root / word).string();
  }
  words.push_back("--json");
  const Finished f = run(words);
  ASSERT_EQ(f.code, 0) << f.err;
  EXPECT_GE(nlohmann::json::parse(f.out)["test"]["accuracy"], 0.90) << f.out;
}

}  // namespace
}  // namespace fovea::cli

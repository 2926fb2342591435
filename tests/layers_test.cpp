// The layers of the house: who may include whom, how deep the rooms are, how long the files.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace {

namespace fs = std::filesystem;

constexpr size_t kMostLines = 800;

// What each room may include besides itself. Whoever may include a room sees what it sees.
const std::map<std::string, std::set<std::string>>& allowed_directly() {
  static const std::map<std::string, std::set<std::string>> rooms = {
      {"base", {}},
      {"graph", {"base"}},
      {"passes", {"graph"}},
      {"kernels", {"base"}},
      {"formats", {"base", "graph"}},
      {"data", {"base", "formats"}},
      {"models", {"graph"}},
      {"runtime", {"graph", "passes", "kernels"}},
      {"tasks", {"data", "models", "graph", "formats"}},
      {"infer", {"tasks", "runtime", "passes", "formats"}},
      {"train", {"infer"}},
      {"search", {"train", "infer"}},
      {"explain", {"infer"}},
      {"serve", {"infer", "explain"}},
  };
  return rooms;
}

std::set<std::string> allowed(const std::string& room) {
  std::set<std::string> all = {room};
  for (auto& next : allowed_directly().at(room)) all.merge(allowed(next));
  return all;
}

// The path that a line includes, without quotes or brackets; empty where it includes nothing.
std::string included(std::string_view line) {
  const auto skip_blanks = [&] {
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  };
  skip_blanks();
  if (!line.starts_with('#')) return {};
  line.remove_prefix(1);
  skip_blanks();
  if (!line.starts_with("include")) return {};
  line.remove_prefix(7);
  skip_blanks();
  if (line.empty() || (line[0] != '"' && line[0] != '<')) return {};
  const size_t end = line.find(line[0] == '"' ? '"' : '>', 1);
  return std::string(line.substr(1, end == std::string_view::npos ? end : end - 1));
}

// "fovea/graph/op.h" -> "graph"; what is no room of ours gives an empty name, and a file that
// stands in no room "fovea".
std::string room_of(std::string_view path) {
  if (!path.starts_with("fovea/")) return path.starts_with("cli/") ? "cli" : "";
  path.remove_prefix(6);
  const size_t slash = path.find('/');
  return slash == std::string_view::npos ? "fovea" : std::string(path.substr(0, slash));
}

// What is wrong with an include line of the file (both by their paths from the root), or nothing.
std::string fault_of(const std::string& file, std::string_view line) {
  const std::string path = included(line), from = room_of(file), to = room_of(path);
  if (path.empty()) return {};
  if (path.find("..") != std::string::npos) return "leaves its folder: " + path;
  if (from == "kernels" && file.ends_with(".h"))
    for (std::string_view foreign : {"spdlog", "fmt", "nlohmann", "toml", "CLI"})
      if (path.starts_with(foreign)) return "a header of the kernels includes " + path;
  if (path.starts_with("tests/") || path.starts_with("bench/"))
    return "the library includes " + path;
  if (path.find('/') == std::string::npos && line.find('"') != std::string_view::npos)
    return "expected a full path, got " + path;
  if (to.empty() || from == "cli" || from == "fovea") return {};
  if (!allowed_directly().contains(from)) return from + " is no room that the layers know";
  if (!allowed(from).contains(to)) return from + " must not include " + to + ": " + path;
  return {};
}

struct File {
  std::string path;  // from the root
  std::vector<std::string> lines;
};

std::vector<File> read_all() {
  const fs::path root = FOVEA_SOURCE_DIR;
  std::vector<File> files;
  for (const char* folder : {"fovea", "cli"}) {
    if (!fs::exists(root / folder)) continue;
    for (auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension().string();
      if (!entry.is_regular_file() ||
          (extension != ".h" && extension != ".cpp" && extension != ".cu"))
        continue;
      File file{fs::relative(entry.path(), root).generic_string(), {}};
      std::ifstream in(entry.path());
      for (std::string line; std::getline(in, line);) file.lines.push_back(line);
      files.push_back(std::move(file));
    }
  }
  return files;
}

TEST(Layers, EachFileIncludesOnlyWhatItsRoomMaySee) {
  const auto files = read_all();
  ASSERT_GT(files.size(), 50u);
  for (const File& file : files)
    for (size_t i = 0; i < file.lines.size(); ++i)
      EXPECT_EQ(fault_of(file.path, file.lines[i]), "") << file.path << ":" << i + 1;
}

TEST(Layers, AnIncludeReachesAFileThatExists) {
  for (const File& file : read_all())
    for (auto& line : file.lines)
      if (const std::string path = included(line); !room_of(path).empty()) {
        const fs::path header = fs::path(FOVEA_SOURCE_DIR) / path;
        // x.h.in: CMake writes the header while it configures.
        EXPECT_TRUE(fs::exists(header) || fs::exists(header.string() + ".in"))
            << file.path << ": " << path;
      }
}

TEST(Layers, NoRoomIsDeeperThanTwoLevels) {
  for (const File& file : read_all()) {
    const auto slashes = std::count(file.path.begin(), file.path.end(), '/');
    EXPECT_LE(slashes, 2) << file.path;
  }
}

TEST(Layers, EveryRoomIsOneThatTheDesignNames) {
  for (const File& file : read_all()) {
    const std::string room = room_of(file.path);
    EXPECT_TRUE(room == "fovea" || room == "cli" || allowed_directly().contains(room)) << file.path;
  }
}

TEST(Layers, NoFileIsLongerThan800Lines) {
  for (const File& file : read_all()) EXPECT_LE(file.lines.size(), kMostLines) << file.path;
}

TEST(Layers, EveryHeaderIsReadOnceAndSaysWhatItIsFor) {
  for (const File& file : read_all()) {
    if (!file.path.ends_with(".h") || file.path.ends_with("-inl.h")) continue;
    ASSERT_FALSE(file.lines.empty()) << file.path;
    EXPECT_TRUE(file.lines[0].starts_with("//")) << file.path << " starts with: " << file.lines[0];
    EXPECT_NE(std::find(file.lines.begin(), file.lines.end(), "#pragma once"), file.lines.end())
        << file.path;
  }
}

TEST(Layers, AForbiddenIncludeWouldBeFound) {
  EXPECT_NE(fault_of("fovea/graph/op.cpp", "#include \"fovea/runtime/session.h\""), "");
  EXPECT_NE(fault_of("fovea/kernels/matmul.h", "#include \"fovea/graph/graph.h\""), "");
  EXPECT_NE(fault_of("fovea/kernels/matmul.h", "#include <spdlog/spdlog.h>"), "");
  EXPECT_NE(fault_of("fovea/base/error.h", "  #  include \"fovea/graph/graph.h\""), "");
  EXPECT_NE(fault_of("fovea/models/encoder.cpp", "#include \"fovea/data/loader.h\""), "");
  EXPECT_NE(fault_of("fovea/infer/predictor.cpp", "#include \"fovea/train/loop.h\""), "");
  EXPECT_NE(fault_of("fovea/data/loader.cpp", "#include \"cli/main.h\""), "");
  EXPECT_NE(fault_of("fovea/passes/fold.cpp", "#include \"fold.h\""), "");
  EXPECT_NE(fault_of("fovea/passes/fold.cpp", "#include \"../graph/graph.h\""), "");
  EXPECT_NE(fault_of("fovea/cellar/x.cpp", "#include \"fovea/base/error.h\""), "");
  EXPECT_NE(fault_of("fovea/graph/op.cpp", "#include \"tests/op_harness.h\""), "");
}

TEST(Layers, AnAllowedIncludePasses) {
  EXPECT_EQ(fault_of("fovea/passes/fold.cpp", "#include \"fovea/base/error.h\""), "");
  EXPECT_EQ(fault_of("fovea/train/loop.cpp", "#include \"fovea/kernels/kernel.h\""), "");
  EXPECT_EQ(fault_of("fovea/kernels/copy_ref.cpp", "#include <cstring>"), "");
  EXPECT_EQ(fault_of("cli/train.cpp", "#include \"fovea/train/loop.h\""), "");
  EXPECT_EQ(fault_of("fovea/graph/op.cpp", "// #include \"fovea/runtime/session.h\""), "");
}

}  // namespace

// Every code block of README, CONTRIBUTING and docs/ as a test: shell commands run, page by page,
// in a folder of their own; C and C++ are built against the installed package and run; recipes are
// read; verbs, options and keys must exist even where nothing runs.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"
#include "fovea/tasks/levels.h"
#include "fovea/train/trainer.h"
#include "tests/doc_blocks.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;
using Mode = DocBlock::Mode;

constexpr int kSkipped = 77;  // what a setup exits with when the page cannot run here

const fs::path kSource = FOVEA_SOURCE_DIR;

bool slow_suite() { return std::getenv("FOVEA_SLOW_DOCS") != nullptr; }

std::vector<std::string> pages() {
  std::vector<std::string> found = {"README.md", "CONTRIBUTING.md"};
  for (auto& entry : fs::recursive_directory_iterator(kSource / "docs"))
    if (entry.path().extension() == ".md")
      found.push_back(fs::relative(entry.path(), kSource).string());
  std::sort(found.begin(), found.end());
  return found;
}

struct Output {
  int code = -1;
  std::string text;
};

Output run(const std::string& command) {
  Output out;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return out;
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof buffer, pipe)) out.text.append(buffer, n);
  const int status = pclose(pipe);
  out.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return out;
}

// Reads every section of a recipe, as training would, but no data.
void bind_all(RecipeTable& recipe) {
  TrainOptions train;
  DataOptions data;
  AugmentOptions augment;
  RecordOptions record;
  recipe.bind("train", train);
  recipe.bind("data", data);
  recipe.bind("augment", augment);
  recipe.bind("record", record);
  check_train_options(train);
  check_augment(augment);
  check_record_options(record);
  make_task(recipe, {28, 28, 1, {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}});
  read_levels(recipe);
  recipe.check_all_read();
}

// What --help says of a verb; empty where there is no such verb.
const std::string& help_of(const std::string& verb) {
  static std::map<std::string, std::string> texts;
  const auto [it, is_new] = texts.try_emplace(verb);
  if (is_new) {
    const Output out = run(fmt::format("'{}' {} --help 2>&1", FOVEA_PROGRAM, verb));
    if (out.code == 0) it->second = out.text;
  }
  return it->second;
}

void check_fovea(const std::vector<std::string>& words) {
  if (words.size() < 2) return;
  size_t first = 1;
  std::string verb;
  if (!words[1].starts_with("-")) verb = words[first++];
  const std::string& help = help_of(verb);
  EXPECT_FALSE(help.empty()) << "there is no verb '" << verb << "'";
  for (size_t i = first; i < words.size(); ++i) {
    const std::string option = words[i].substr(0, words[i].find('='));
    if (!option.starts_with("--")) continue;
    bool known = option == "--help";
    for (size_t at = help.find(option); !known && at != std::string::npos;
         at = help.find(option, at + 1))
      known = help.find_first_of(" ,\n=", at) == at + option.size();
    EXPECT_TRUE(known) << "'fovea " << verb << "' has no option " << option;
    if (option == "--set" && i + 1 < words.size()) {
      RecipeTable recipe = RecipeTable::parse("", "empty");
      try {
        recipe.set(words[i + 1]);
        bind_all(recipe);
      } catch (const Error& e) {
        ADD_FAILURE() << e.what();
      }
    }
  }
}

void check_make(const std::vector<std::string>& words) {
  static const std::string makefile = "\n" + read_text_file(kSource / "Makefile", 1 << 20);
  for (size_t i = 1; i < words.size(); ++i)
    if (words[i].find('=') == std::string::npos && !words[i].starts_with("-")) {
      EXPECT_NE(makefile.find("\n" + words[i] + ":"), std::string::npos)
          << "the Makefile has no target " << words[i];
    }
}

void look_through(const std::string& shell) {
  for (std::vector<std::string> words : shell_commands(shell)) {
    while (!words.empty() && words[0].find('=') != std::string::npos) words.erase(words.begin());
    if (words.empty()) continue;
    const std::string program = fs::path(words[0]).filename();
    if (program == "fovea") check_fovea(words);
    if (program == "make") check_make(words);
  }
}

std::string quoted(const std::string& s) {
  std::string out = "'";
  for (const char c : s) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// Builds and runs a program; a piece of one is only compiled.
std::string program_commands(const DocBlock& block) {
  const bool cpp = block.language == "cpp", whole = block.text.find(" main(") != std::string::npos;
  const std::string file = fmt::format("block_{}.{}", block.line, block.language);
  std::string text = block.text;
  if (!whole && cpp) text = "#include \"fovea/fovea.h\"\n" + text;
  std::string out = fmt::format("cat >{} <<'END_OF_BLOCK'\n{}END_OF_BLOCK\n", file, text);
  const std::string compiler =
      cpp ? FOVEA_CXX " -std=c++20" : FOVEA_CC " -std=c11 -Wall -Wextra -Werror";
  const std::string package = cpp ? "fovea" : "fovea-kernels";
  if (!whole)
    return out +
           fmt::format("{} -fsyntax-only {} $(pkg-config --cflags {})\n", compiler, file, package);
  return out + fmt::format("{} {} -o block_{} $(pkg-config --cflags --libs {})\n./block_{}\n",
                           compiler, file, block.line, package, block.line);
}

// The page as one shell script: variables and folders last from block to block.
std::string script_of(const std::string& page, const std::vector<DocBlock>& blocks) {
  std::string script =
      "set -eEu -o pipefail\n"
      "at=start\n"
      "trap 'echo \"failed at $at\"' ERR\n"
      "skip_page() { echo \"skipped: $*\"; exit 77; }\n";
  for (const DocBlock& block : blocks) {
    script += fmt::format("at={}\n", quoted(fmt::format("{}:{}", page, block.line)));
    if (block.mode == Mode::skip || block.mode == Mode::same) continue;
    if (block.mode == Mode::slow && !slow_suite()) continue;
    if (block.mode == Mode::instead) {
      script += block.commands;
    } else if (block.mode == Mode::exits) {
      const std::string file = fmt::format("block_{}.sh", block.line);
      script += fmt::format("cat >{} <<'END_OF_BLOCK'\n{}END_OF_BLOCK\n", file, block.text);
      script += fmt::format("code=0; bash {} || code=$?\n[ $code = {} ]\n", file, block.exit_code);
    } else if (block.language == "sh") {
      script += block.text;
    } else if (block.language == "cpp" || block.language == "c") {
      script += program_commands(block);
    }
  }
  return script;
}

// A folder in which a page's commands run as in a built checkout.
class Playground {
 public:
  Playground() {
    fs::create_directories(folder_ / "build/bin");
    fs::create_symlink(FOVEA_PROGRAM, folder_ / "build/bin/fovea");
    for (const char* name : {"recipes", "examples", "docs", "README.md"})
      if (fs::exists(kSource / name)) fs::create_symlink(kSource / name, folder_ / name);
  }
  Output bash(const std::string& script) {
    const fs::path file = folder_ / ".script";
    write_file_atomically(file, script);
    return run(fmt::format(
        "cd {0} && PATH={0}/build/bin:$PATH FOVEA_SOURCE={1} PKG_CONFIG_PATH={2}/lib/pkgconfig "
        "CMAKE_PREFIX_PATH={2} HOME={0} bash .script 2>&1 </dev/null",
        quoted(folder_.path().string()), quoted(kSource.string()), quoted(FOVEA_PACKAGE)));
  }

 private:
  TemporaryFolder folder_;
};

class DocsTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    try {
      blocks_ = doc_blocks(read_text_file(kSource / GetParam(), 1 << 22), GetParam());
    } catch (const Error& e) {
      FAIL() << e.what();
    }
  }
  std::string at(const DocBlock& block) const {
    return fmt::format("{}:{}", GetParam(), block.line);
  }
  std::vector<DocBlock> blocks_;
};

TEST_P(DocsTest, NamesOnlyWhatExists) {
  const std::set<std::string> known = {"sh", "cpp", "c", "cmake", "toml", "text", "json"};
  for (const DocBlock& block : blocks_) {
    SCOPED_TRACE(at(block));
    EXPECT_TRUE(known.contains(block.language)) << "no test knows '" << block.language << "'";
    if (block.language == "sh") look_through(block.text + block.commands);
    if (block.mode == Mode::same) {
      EXPECT_NE(read_text_file(kSource / block.reason, 1 << 20).find(block.text), std::string::npos)
          << block.reason << " holds something else";
    }
    if (block.language != "toml" || block.mode == Mode::skip) continue;
    try {
      RecipeTable recipe = RecipeTable::parse(block.text, at(block));
      bind_all(recipe);
    } catch (const Error& e) {
      ADD_FAILURE() << e.what();
    }
  }
}

TEST_P(DocsTest, ItsBlocksRun) {
  const auto runs = [](const DocBlock& b) {
    return b.mode != Mode::skip && b.mode != Mode::same && b.mode != Mode::setup &&
           (b.mode != Mode::slow || slow_suite()) &&
           (b.language == "sh" || b.language == "cpp" || b.language == "c");
  };
  if (std::none_of(blocks_.begin(), blocks_.end(), runs)) GTEST_SKIP() << "nothing to run";
  const Output out = Playground().bash(script_of(GetParam(), blocks_));
  if (out.code == kSkipped) GTEST_SKIP() << out.text;
  EXPECT_EQ(out.code, 0) << out.text;
}

INSTANTIATE_TEST_SUITE_P(Pages, DocsTest, testing::ValuesIn(pages()), [](const auto& page) {
  std::string name = page.param;
  for (char& c : name)
    if (!isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

// The mechanism itself.

std::string refusal(std::string_view page) {
  try {
    doc_blocks(page, "page.md");
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(DocBlocks, AreReadWithTheirComments) {
  const auto blocks = doc_blocks(
      "Text\n\n```sh\nls\n```\n<!-- test: skip takes hours -->\n\n```sh\nmake x\n```\n"
      "<!-- test: setup\ntrue\n-->\n- item\n\n  ```text\n  out\n  ```\n"
      "<!-- test: instead small\necho\n-->\n```sh\nbig\n```\n<!-- test: exits 2 "
      "-->\n```sh\nf\n```\n",
      "page.md");
  ASSERT_EQ(blocks.size(), 6u);
  EXPECT_EQ(blocks[0].line, 3);
  EXPECT_EQ(blocks[0].text, "ls\n");
  EXPECT_EQ(blocks[1].mode, Mode::skip);
  EXPECT_EQ(blocks[1].reason, "takes hours");
  EXPECT_EQ(blocks[2].mode, Mode::setup);
  EXPECT_EQ(blocks[3].text, "out\n");
  EXPECT_EQ(blocks[4].commands, "echo\n");
  EXPECT_EQ(blocks[5].exit_code, 2);
}

TEST(DocBlocks, RefuseWhatNoTestWouldSee) {
  EXPECT_NE(refusal("```\nls\n```\n").find("page.md:1: a fence without a language"),
            std::string::npos);
  EXPECT_NE(refusal("```sh\nls\n").find("no end"), std::string::npos);
  EXPECT_NE(refusal("Text:\n\n    code\n").find("page.md:3: an indented"), std::string::npos);
  EXPECT_NE(refusal("<!-- test: skip -->\n```sh\n```\n").find("without a reason"),
            std::string::npos);
  EXPECT_NE(refusal("<!-- test: skpi x -->\n```sh\n```\n").find("'skpi'"), std::string::npos);
  EXPECT_NE(refusal("<!-- test: skip x -->\nText\n").find("no block"), std::string::npos);
  EXPECT_NE(refusal("<!-- test: skip x -->\n").find("no block"), std::string::npos);
}

TEST(DocBlocks, ShellIsCutIntoCommands) {
  using Commands = std::vector<std::vector<std::string>>;
  EXPECT_EQ(shell_commands("a 'b c' \\\n  d # e\nf && g|h\n"),
            (Commands{{"a", "b c", "d"}, {"f"}, {"g"}, {"h"}}));
}

TEST(DocBlocks, AFailingCommandFailsThePageAndSaysWhere) {
  const auto blocks = doc_blocks("```sh\ntrue\n```\n```sh\nfalse\ntrue\n```\n", "page.md");
  const Output out = Playground().bash(script_of("page.md", blocks));
  EXPECT_NE(out.code, 0);
  EXPECT_NE(out.text.find("failed at page.md:4"), std::string::npos) << out.text;
}

TEST(DocBlocks, AnExitCodeThatIsNotTheOneToldFails) {
  const auto blocks = doc_blocks("<!-- test: exits 2 -->\n```sh\nexit 3\n```\n", "page.md");
  EXPECT_NE(Playground().bash(script_of("page.md", blocks)).code, 0);
  const auto right = doc_blocks("<!-- test: exits 3 -->\n```sh\nexit 3\n```\n", "page.md");
  EXPECT_EQ(Playground().bash(script_of("page.md", right)).code, 0);
}

}  // namespace
}  // namespace fovea

// The scripts of `fovea completion`, run by the shells that they are for; and the manual pages.
#include "cli/completion.h"

#include <sstream>

#include "cli/man_page.h"
#include "cli/test_program.h"
#include "fovea/passes/pipeline.h"

namespace fovea::cli {
namespace {

bool has_program(const std::string& name) {
  return std::system(("command -v " + name + " >/dev/null 2>&1").c_str()) == 0;
}

class Completion : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    write("bash", bash_completion());
    write("zsh", zsh_completion());
    write("r.toml",
          "[task]\nkind = \"image_classification\"\n\n[train]\nepochs = 3\nseed = 1\n\n[[levels]]\n"
          "name = \"half\"\nshare = 0.3\nset = []\n\n[[levels]]\nname = 'quarter'\n");
    std::filesystem::create_directory(folder_ / "model");
    write("model/recipe.toml", slurp(folder_ / "r.toml"));
    write("two words.png", "");
  }

  // Runs a line of sh in the test's folder.
  Finished line(const std::string& command) {
    const int status = std::system(
        ("cd '" + folder_.string() + "' && { " + command + "; } >.out 2>.err </dev/null").c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, slurp(folder_ / ".out"),
            slurp(folder_ / ".err")};
  }
  // Runs a script by a shell there.
  Finished shell(const std::string& program, const std::string& script) {
    write("script", script);
    return line(program + " ./script");
  }

  // What bash offers for these words, of which the last is to be completed.
  std::vector<std::string> in_bash(const std::vector<std::string>& words) {
    std::string all;
    for (const std::string& word : words) all += " '" + word + "'";
    const Finished f = shell("bash", "source ./bash\nCOMP_WORDS=(" + all +
                                         ")\nCOMP_CWORD=" + std::to_string(words.size() - 1) +
                                         "\n_fovea\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n");
    EXPECT_EQ(f.code, 0) << f.err;
    EXPECT_EQ(f.err, "");
    std::vector<std::string> lines;
    std::istringstream text(f.out);
    for (std::string line; std::getline(text, line);)
      if (!line.empty()) lines.push_back(line);
    std::sort(lines.begin(), lines.end());
    return lines;
  }
};

using Words = std::vector<std::string>;

TEST_F(Completion, BashKnowsTheVerbs) {
  if (!has_program("bash")) GTEST_SKIP() << "no bash here";
  EXPECT_EQ(in_bash({"fovea", "tr"}), Words{"train"});
  EXPECT_EQ(in_bash({"fovea", "--v"}), Words{"--version"});
  EXPECT_EQ(in_bash({"fovea", "help", "ev"}), Words{"eval"});
  size_t verbs = 0;
  for (const VerbGroup& group : verb_groups()) verbs += group.verbs.size();
  EXPECT_EQ(in_bash({"fovea", ""}).size(), verbs + 2);
}

TEST_F(Completion, BashKnowsOptionsAndTheirValues) {
  if (!has_program("bash")) GTEST_SKIP() << "no bash here";
  EXPECT_EQ(in_bash({"fovea", "eval", "--pre"}), Words{"--precision"});
  EXPECT_EQ(in_bash({"fovea", "eval", "model", "--split", ""}),
            (Words{"test", "train", "validation"}));
  // bash's own way to write --precision=b
  EXPECT_EQ(in_bash({"fovea", "eval", "model", "--precision", "=", "b"}), Words{"bf16"});
  EXPECT_EQ(in_bash({"fovea", "bench", "in"}), Words{"infer"});
  EXPECT_EQ(in_bash({"fovea", "eval", "model", "--batch", ""}), Words{});
  EXPECT_EQ(in_bash({"fovea", "nonsense", ""}), Words{});
  EXPECT_EQ(in_bash({"fovea", "new", "image"}), Words{"image-classifier"});
  for (const char* verb : {"graph", "profile"}) {
    EXPECT_EQ(in_bash({"fovea", verb, "model", "--disable-pass", "fuse_att"}),
              Words{"fuse_attention"});
    EXPECT_EQ(in_bash({"fovea", verb, "model", "--disable-pass", ""}).size(), pipeline().size());
  }
}

TEST_F(Completion, BashKnowsFilesLevelsAndKeys) {
  if (!has_program("bash")) GTEST_SKIP() << "no bash here";
  EXPECT_EQ(in_bash({"fovea", "train", ""}), (Words{"model", "r.toml"}));
  EXPECT_EQ(in_bash({"fovea", "eval", "mo"}), Words{"model"});
  EXPECT_EQ(in_bash({"fovea", "predict", "model", "tw"}), Words{"two words.png"});
  EXPECT_EQ(in_bash({"fovea", "predict", "model", "--top", "2", "a.png", "tw"}),
            Words{"two words.png"});
  EXPECT_EQ(in_bash({"fovea", "eval", "model", "--level", ""}), (Words{"full", "half", "quarter"}));
  EXPECT_EQ(in_bash({"fovea", "graph", "r.toml", "--level", "q"}), Words{"quarter"});
  EXPECT_EQ(in_bash({"fovea", "train", "r.toml", "--set", "train."}),
            (Words{"train.epochs=", "train.seed="}));
}

TEST_F(Completion, ZshCompletesWhatIsTyped) {
  if (!has_program("zsh")) GTEST_SKIP() << "no zsh here";
  // A shell behind a terminal of its own; what it echoes holds the completed words.
  const Finished f = shell("zsh -f", R"(
zmodload zsh/zpty
zpty -b shell env TERM=dumb zsh -f -i
type_in() { zpty -w -n shell "$1" }
# Reads until the text comes, at most ten seconds.
wait_for() {
  local chunk seen i
  for ((i = 0; i < 200; i++)); do
    while zpty -r -t shell chunk; do seen+=$chunk; done
    [[ $seen == *"$1"* ]] && return 0
    sleep 0.05
  done
  print -r -- "no '$1' in: $seen"
  return 1
}
type_in $'PROMPT="> "; autoload -U compinit && compinit -u -D; source ./zsh; echo loa"ded"\n'
wait_for loaded || exit 1
check() { type_in "$1"$'\t'; wait_for "$2"; type_in $'\x15' }
check 'fovea trai' 'fovea train '
check 'fovea eval --preci' '--precision='
check 'fovea eval model --split v' '--split validation'
check 'fovea graph --precision=b' '--precision=bf16'
check 'fovea eval model --level q' '--level quarter'
check 'fovea train r' 'fovea train r.toml'
check 'fovea train r.toml --set train.e' 'train.epochs='
check 'fovea predict model two' 'two\ words.png'
check 'fovea completion z' 'completion zsh'
check 'fovea new ima' 'new image-classifier'
check 'fovea graph r.toml --disable-pass join' '--disable-pass join_projections'
zpty -d shell
)");
  EXPECT_EQ(f.out, "");
  EXPECT_EQ(f.code, 0) << f.err;
}

TEST_F(Completion, TheShellsFindNoFaultInTheirScripts) {
  for (const char* name : {"bash", "zsh"}) {
    if (!has_program(name)) continue;
    const Finished f = line(std::string(name) + " -n ./" + name);
    EXPECT_EQ(f.code, 0) << f.err;
    EXPECT_EQ(f.err, "");
  }
}

TEST_F(Completion, TheProgramPrintsThem) {
  EXPECT_EQ(run({"completion", "bash"}).out, bash_completion());
  EXPECT_EQ(run({"completion", "zsh"}).out, zsh_completion());
  expect_error(run({"completion", "zhs"}), {"bash, zsh", "did you mean 'zsh'"});
}

TEST_F(Completion, ManPagesAreWrittenForAllVerbs) {
  ASSERT_EQ(run({"man", "--out", "man/man1"}).code, 0);
  EXPECT_EQ(slurp(folder_ / "man/man1/fovea.1"), run({"man"}).out);
  size_t pages = 1;
  for (const VerbGroup& group : verb_groups())
    for (const Verb& verb : group.verbs) {
      EXPECT_EQ(slurp(folder_ / ("man/man1/fovea-" + verb.name + ".1")), man_page(verb));
      ++pages;
    }
  EXPECT_EQ(static_cast<size_t>(
                std::distance(std::filesystem::directory_iterator(folder_ / "man/man1"), {})),
            pages);
  expect_error(run({"man", "train", "--out", "x"}), {"--out", "both"});
  expect_error(run({"man", "trian"}), {"did you mean 'train'"});
}

TEST_F(Completion, ManPagesAreValidRoff) {
  ASSERT_EQ(run({"man", "--out", "man1"}).code, 0);
  const bool groff = has_program("groff"), mandoc = has_program("mandoc");
  if (!groff && !mandoc) GTEST_SKIP() << "neither groff nor mandoc here";
  for (const auto& page : std::filesystem::directory_iterator(folder_ / "man1")) {
    const std::string name = "man1/" + page.path().filename().string();
    if (groff) {
      const Finished f = line("groff -man -Tutf8 -P -cbou -ww -b " + name);
      EXPECT_EQ(f.err, "") << name;
      for (const char* words : {"EXIT", "130", "Ctrl-C", "FOVEA"})
        EXPECT_NE(f.out.find(words), std::string::npos) << words << " is not in " << f.out;
    }
    if (mandoc) {
      // The date of a page is that of its build; there is none.
      const Finished f = line("mandoc -T lint -W warning " + name + " | grep -v 'missing date'");
      EXPECT_EQ(f.out, "") << name;
    }
  }
}

TEST(ManPage, WhatRoffWouldTakeForACommandIsText) {
  const Verb verb = {.name = "x",
                     .summary = "a \\fB 'quote'",
                     .description = ".SH not a heading\n'nor this",
                     .examples = {},
                     .declare = [](Arguments&) { return Verb::Action(); }};
  const std::string page = man_page(verb);
  EXPECT_NE(page.find("\n\\&.SH not a heading\n.PP\n\\&\\(aqnor this\n"), std::string::npos)
      << page;
  EXPECT_NE(page.find("a \\efB \\(aqquote\\(aq"), std::string::npos) << page;
}

}  // namespace
}  // namespace fovea::cli

// What the program says about itself: one table of verbs gives the screen, the pages and the names.
#include "cli/help.h"

#include <map>
#include <sstream>

#include "cli/test_program.h"
#include "fovea/base/terminal.h"

namespace fovea::cli {
namespace {

std::vector<Verb> all_verbs() {
  std::vector<Verb> all;
  for (const VerbGroup& group : verb_groups())
    all.insert(all.end(), group.verbs.begin(), group.verbs.end());
  return all;
}

void expect_lines_within(const std::string& text, size_t columns) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(text_width(line), columns) << line;
}

TEST_F(Cli, AloneItShowsOneScreenWithAllVerbs) {
  const Finished f = run({});
  EXPECT_EQ(f.code, 0);
  EXPECT_LE(std::count(f.out.begin(), f.out.end(), '\n'), 30);
  expect_lines_within(f.out, 80);
  for (const Verb& verb : all_verbs())
    EXPECT_NE(f.out.find("\n  " + verb.name), std::string::npos) << verb.name;
  EXPECT_EQ(run({"--help"}).out, f.out);
  EXPECT_EQ(run({"help"}).out, f.out);
}

TEST_F(Cli, EachVerbExplainsItself) {
  for (const Verb& verb : all_verbs()) {
    const Finished f = run({verb.name, "--help"});
    EXPECT_EQ(f.code, 0) << f.err;
    EXPECT_EQ(f.err, "");
    EXPECT_TRUE(f.out.starts_with("Usage: fovea " + verb.name)) << f.out;
    EXPECT_NE(f.out.find("130 after Ctrl-C"), std::string::npos) << f.out;
    expect_lines_within(f.out, 80);
    for (const Argument& argument : arguments_of(verb))
      EXPECT_NE(f.out.find("\n  " + argument.name), std::string::npos) << argument.name;
    EXPECT_EQ(run({"help", verb.name}).out, f.out);
  }
}

TEST(Verbs, EachHasASummaryADescriptionAndAnExampleThatItsArgumentsTake) {
  for (const Verb& verb : all_verbs()) {
    EXPECT_FALSE(verb.summary.empty() || verb.description.empty()) << verb.name;
    EXPECT_FALSE(verb.examples.empty()) << verb.name;
    for (const Verb::Example& example : verb.examples) {
      std::vector<std::string> words;
      std::istringstream command(example.command.substr(0, example.command.find_first_of("|>")));
      for (std::string word; command >> word;) words.push_back(word);
      ASSERT_GE(words.size(), 2u) << example.command;
      EXPECT_EQ(words[0] + " " + words[1], "fovea " + verb.name);
      Arguments arguments(verb.name);
      const Verb::Action action = verb.declare(arguments);
      EXPECT_TRUE(arguments.parse(std::span(words).subspan(2))) << example.command;
    }
  }
}

TEST(Verbs, AnOptionOfOneNameMeansTheSameInEachVerb) {
  std::map<std::string, std::pair<std::string, std::string>> seen;  // help and value, by name
  for (const Verb& verb : all_verbs())
    for (const Argument& argument : arguments_of(verb)) {
      static constexpr std::string_view kCommon[] = {"--threads", "--seed",  "--quiet",
                                                     "--json",    "--level", "--precision"};
      if (std::find(std::begin(kCommon), std::end(kCommon), argument.name) == std::end(kCommon))
        continue;
      const auto [at, first] =
          seen.emplace(argument.name, std::pair(argument.help, argument.value));
      EXPECT_EQ(at->second, std::pair(argument.help, argument.value))
          << argument.name << " of " << verb.name;
    }
  EXPECT_EQ(seen.size(), 6u);
}

TEST(Verbs, AValueIsCompletedByItsName) {
  EXPECT_EQ(value_kind("DIR"), ValueKind::folder);
  EXPECT_EQ(value_kind("DIR|FILE.csv"), ValueKind::file);
  EXPECT_EQ(value_kind("BUNDLE|RECIPE"), ValueKind::model);
  EXPECT_EQ(value_kind("f32|bf16|auto"), ValueKind::choices);
  EXPECT_EQ(value_kind("KEY=VALUE"), ValueKind::key);
  EXPECT_EQ(choices_of("bash|zsh"), (std::vector<std::string>{"bash", "zsh"}));
}

TEST(Help, APageIsAsWideAsItsTerminal) {
  for (const size_t columns : {64u, 80u, 100u})
    for (const Verb& verb : all_verbs()) {
      std::istringstream lines(verb_help(verb, {.columns = columns}));
      for (std::string line; std::getline(lines, line);) {
        if (line.starts_with("Usage") || line.starts_with("  fovea") || line.starts_with("  --") ||
            line.starts_with("Exit code"))
          continue;  // what is typed stays in one line
        EXPECT_LE(text_width(line), columns) << line;
      }
    }
}

TEST(Help, ColoursStandOnlyWhereTheyAreWanted) {
  EXPECT_EQ(overview({.colours = false}).find('\x1b'), std::string::npos);
  EXPECT_NE(overview({.colours = true}).find("\x1b[1mMake a model\x1b[0m"), std::string::npos);
}

TEST_F(Cli, AVerbThatHelpDoesNotKnowIsAnErrorWithTheNearest) {
  expect_error(run({"help", "trian"}), {"trian", "did you mean 'train'"});
}

}  // namespace
}  // namespace fovea::cli

#include "fovea/formats/recipe.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>

#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

enum class Schedule { constant, cosine };
std::span<const std::string_view> enum_names(Schedule) {
  static constexpr std::array<std::string_view, 2> kNames = {"constant", "cosine"};
  return kNames;
}

struct Train {
  int64_t epochs = 8;
  double rate = 0.5;
  bool average = false;
  std::string note = "none";
  Schedule schedule = Schedule::constant;
  std::vector<int64_t> sizes = {1};
  std::vector<double> betas = {0.9};
  std::vector<std::string> tags = {"a"};

  template <class V>
  void visit(V& v) {
    v("epochs", epochs);
    v("rate", rate);
    v("average", average);
    v("note", note);
    v("schedule", schedule);
    v("sizes", sizes);
    v("betas", betas);
    v("tags", tags);
  }
};

struct Loss {
  double weight = 1;
  template <class V>
  void visit(V& v) {
    v("weight", weight);
  }
};

RecipeTable parse(std::string_view text) { return RecipeTable::parse(text, "fashion.toml"); }

void bind_refuses(std::string_view what, std::string_view text) {
  SCOPED_TRACE(text);
  expect_error(ErrorCode::invalid_argument, what, [&] {
    Train train;
    parse(text).bind("train", train);
  });
}

TEST(Recipe, ReplacesTheFieldsThatStandInItAndLeavesTheOthers) {
  RecipeTable recipe = parse(R"([train]
epochs = 3
rate = 2e-3
average = true
note = "my run"
schedule = "cosine"
sizes = [2, 3]
betas = [0.5, 1]
tags = []
)");
  Train train;
  recipe.bind("train", train);
  EXPECT_EQ(train.epochs, 3);
  EXPECT_EQ(train.rate, 2e-3);
  EXPECT_TRUE(train.average);
  EXPECT_EQ(train.note, "my run");
  EXPECT_EQ(train.schedule, Schedule::cosine);
  EXPECT_EQ(train.sizes, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(train.betas, (std::vector<double>{0.5, 1.0}));
  EXPECT_TRUE(train.tags.empty());
  EXPECT_NO_THROW(recipe.check_all_read());

  Train other;
  parse("[model]\n").bind("train", other);
  EXPECT_EQ(other.epochs, 8);
  EXPECT_EQ(other.tags, (std::vector<std::string>{"a"}));
}

TEST(Recipe, TellsWhatItsFieldsHoldWithTheirDefaults) {
  RecipeTable recipe = parse("[train]\nepochs = 3\nschedule = 'cosine'\ntags = ['x', 'y']\n");
  recipe.set("train.rate=2");
  Train train;
  recipe.bind("train", train);
  const auto& resolved = recipe.resolved();
  EXPECT_EQ(resolved.size(), 8u);
  EXPECT_EQ(resolved.at("train.epochs"), "3");
  EXPECT_EQ(resolved.at("train.rate"), "2.0");
  EXPECT_EQ(resolved.at("train.average"), "false");
  EXPECT_EQ(resolved.at("train.note"), "'none'");
  EXPECT_EQ(resolved.at("train.schedule"), "'cosine'");
  EXPECT_EQ(resolved.at("train.sizes"), "[ 1 ]");
  EXPECT_EQ(resolved.at("train.betas"), "[ 0.9 ]");
  EXPECT_EQ(resolved.at("train.tags"), "[ 'x', 'y' ]");
}

TEST(Recipe, AnIntegerIsTakenForARealAndNotTheOtherWay) {
  Train train;
  parse("train.rate = 3").bind("train", train);
  EXPECT_EQ(train.rate, 3.0);
  bind_refuses(
      "[recipe] fashion.toml:2: 'train.epochs': expected an integer, got the real number 3",
      "[train]\nepochs = 3.0");
}

TEST(Recipe, AValueOfTheWrongTypeNamesLineKeyAndTypes) {
  bind_refuses("fashion.toml:3: 'train.epochs': expected an integer, got the string 'many'",
               "[train]\n\nepochs = 'many'");
  bind_refuses("'train.rate': expected a finite number, got the boolean true", "train.rate = true");
  bind_refuses("'train.rate': expected a finite number", "train.rate = nan");
  bind_refuses("'train.average': expected true or false, got the integer 1", "train.average = 1");
  bind_refuses("'train.note': expected a string, got a date", "train.note = 2020-01-01");
  bind_refuses("'train.sizes': expected an array of integers, got the integer 1",
               "train.sizes = 1");
  bind_refuses("fashion.toml:3: 'train.sizes[1]': expected an integer, got the string 'x'",
               "train.sizes = [\n1,\n'x']");
  bind_refuses("'train.betas[0]': expected a finite number, got an array", "train.betas = [[]]");
  bind_refuses("'train.tags[0]': expected a string, got a table", "train.tags = [{}]");
  bind_refuses("'train.epochs': expected an integer, got a table", "[train.epochs]");
  bind_refuses("'train': expected a section, got the integer 3", "train = 3");
}

TEST(Recipe, AnUnknownEnumValueListsTheNames) {
  bind_refuses("expected one of constant, cosine, got the string 'cosin'; did you mean 'cosine'?",
               "train.schedule = 'cosin'");
  bind_refuses("expected one of constant, cosine, got the integer 1", "train.schedule = 1");
}

TEST(Recipe, AnUnknownKeyIsAnErrorWithLineAndNearestName) {
  const auto refuses = [](std::string_view what, std::string_view text) {
    SCOPED_TRACE(text);
    RecipeTable recipe = parse(text);
    Train train;
    Loss loss;
    recipe.bind("train", train);
    recipe.bind("train.loss", loss);
    expect_error(ErrorCode::invalid_argument, what, [&] { recipe.check_all_read(); });
  };
  refuses("[recipe] fashion.toml:3: unknown key 'train.epoch'; did you mean 'train.epochs'?",
          "[train]\nrate = 1\nepoch = 3");
  refuses("fashion.toml:1: unknown section 'trian'; did you mean 'train'?", "[trian]\nepochs = 3");
  refuses("unknown key 'epochs'; did you mean 'train.epochs'?", "epochs = 3");
  refuses("unknown key 'train.loss.epochs'; did you mean 'train.epochs'?", "train.loss.epochs = 3");
  refuses("unknown section 'train.los'; did you mean 'train.loss'?", "train.los.weight = 3");
  refuses("unknown key 'train.loss.temperature' (expected one of weight)",
          "train.loss.temperature = 3");
  refuses("unknown key '\"train.epochs\"'", "\"train.epochs\" = 3");
  refuses("fashion.toml:2: unknown key 'train.zz'", "[train]\nzz = 1\naa = 1");
  refuses("unknown key 'train.loss2'; did you mean 'train.loss'?", "train.loss2 = 3\n[[other]]\n");
  refuses("unknown key 'other'", "[[other]]\nepoch = 3\n");
}

TEST(Recipe, ArraysOfTablesBindByIndex) {
  RecipeTable recipe = parse("[[losses]]\nweight = 2\n[[losses]]\nweight = 0.5\n");
  ASSERT_EQ(recipe.items("losses"), 2);
  Loss first, second;
  recipe.bind("losses[0]", first);
  expect_error(ErrorCode::invalid_argument, "fashion.toml:3: unknown section 'losses[1]'",
               [&] { recipe.check_all_read(); });
  recipe.bind("losses[1]", second);
  EXPECT_EQ(first.weight, 2.0);
  EXPECT_EQ(second.weight, 0.5);
  EXPECT_NO_THROW(recipe.check_all_read());
  EXPECT_EQ(recipe.items("none"), 0);
  RecipeTable none = parse("[[losses]]\nweight = 2\n");
  none.set("losses=[]");
  EXPECT_EQ(none.items("losses"), 0);
  EXPECT_NO_THROW(none.check_all_read());
  recipe.set("losses[1].weigth=3");
  expect_error(ErrorCode::invalid_argument,
               "--set losses[1].weigth: unknown key 'losses[1].weigth'; did you mean "
               "'losses[1].weight'?",
               [&] { recipe.check_all_read(); });
  expect_error(ErrorCode::invalid_argument, "expected an array",
               [&] { recipe.items("losses[0]"); });
}

TEST(Recipe, SetReplacesAndAddsValues) {
  RecipeTable recipe = parse("[train]\nepochs = 3\n");
  recipe.set("train.epochs=5");
  recipe.set("train.rate=1e-3");
  recipe.set("train.note=/data/run one");
  recipe.set("train.schedule=cosine");
  recipe.set("train.tags=[\"x\", 'y']");
  recipe.set("other.average=true");
  Train train, other;
  recipe.bind("train", train);
  recipe.bind("other", other);
  EXPECT_EQ(train.epochs, 5);
  EXPECT_EQ(train.rate, 1e-3);
  EXPECT_EQ(train.note, "/data/run one");
  EXPECT_EQ(train.schedule, Schedule::cosine);
  EXPECT_EQ(train.tags, (std::vector<std::string>{"x", "y"}));
  EXPECT_TRUE(other.average);
  EXPECT_NO_THROW(recipe.check_all_read());
}

TEST(Recipe, AWrongValueOrKeyFromTheCommandLineSaysSo) {
  RecipeTable recipe = parse("[train]\nepochs = 3\n");
  recipe.set("train.epochs=many");
  Train train;
  expect_error(ErrorCode::invalid_argument,
               "[recipe] --set train.epochs: 'train.epochs': expected an integer, got the string "
               "'many'",
               [&] { recipe.bind("train", train); });
  recipe.set("train.epochs=4");
  recipe.bind("train", train);
  recipe.set("train.epoch=4");
  expect_error(ErrorCode::invalid_argument,
               "--set train.epoch: unknown key 'train.epoch'; did you mean 'train.epochs'?",
               [&] { recipe.check_all_read(); });
}

TEST(Recipe, ABadlyFormedSettingIsAnError) {
  RecipeTable recipe = parse("[train]\nepochs = 3\n");
  for (const char* text : {"", "=", "train.epochs", "=3", "train.=3", ".epochs=3", "a b=3",
                           "train..epochs=3", "train[=3", "train[x]=3", "train[0]=3"}) {
    expect_error(ErrorCode::invalid_argument, "expected key=value", [&] { recipe.set(text); });
  }
  expect_error(ErrorCode::invalid_argument, "not valid TOML", [&] { recipe.set("a=[1, 2"); });
  expect_error(ErrorCode::invalid_argument, "on one line", [&] { recipe.set("a=1\nb=2"); });
  expect_error(ErrorCode::invalid_argument, "'train.epochs' is not a section",
               [&] { recipe.set("train.epochs.x=1"); });
  expect_error(ErrorCode::invalid_argument, "'losses[0]' is not a section",
               [&] { recipe.set("losses[0].x=1"); });
  expect_error(ErrorCode::invalid_argument, "nested too deep",
               [&] { recipe.set("a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a=1"); });
}

TEST(Recipe, TextThatIsNotTomlNamesTheLine) {
  expect_error(ErrorCode::invalid_argument, "[recipe] fashion.toml:2: not valid TOML",
               [] { parse("a = 1\nb = = 2\n"); });
  expect_error(ErrorCode::invalid_argument, "fashion.toml:2", [] { parse("a = 1\na = 2\n"); });
}

TEST(Recipe, AbsurdlyDeepTablesAreAnErrorAndNotACrash) {
  std::string dotted = "a = 1\nb", quoted = "'x,'", array = "a = ";
  for (int i = 0; i < 200000; ++i) {
    dotted += ".a";
    quoted += " . \"a,=\\\"\"";
    array += '[';
  }
  expect_error(ErrorCode::invalid_argument, "fashion.toml:2: tables are nested too deep",
               [&] { parse(dotted + " = 1"); });
  expect_error(ErrorCode::invalid_argument, "nested too deep", [&] { parse(quoted + " = 1"); });
  expect_error(ErrorCode::invalid_argument, "nested too deep", [&] { parse("[" + dotted + "]"); });
  expect_error(ErrorCode::invalid_argument, "not valid TOML", [&] { parse(array); });
  EXPECT_NO_THROW(
      parse("a = [1.5, 2.5, 3.5] # ...................................\n"
            "b = \"...................................................\"\n"
            "c = '''\n.......................................\n'''\n"));
}

TEST(Recipe, SaysWhereAValueStands) {
  RecipeTable recipe = parse("[train]\n\nepochs = 3\n");
  recipe.set("train.rate=1");
  EXPECT_EQ(recipe.place("train.epochs"), "fashion.toml:3");
  EXPECT_EQ(recipe.place("train.none"), "fashion.toml:1");
  EXPECT_EQ(recipe.place("train.rate"), "--set train.rate");
  EXPECT_EQ(recipe.place("none"), "fashion.toml");
  EXPECT_TRUE(recipe.has("train"));
  EXPECT_TRUE(recipe.has("train.epochs"));
  EXPECT_FALSE(recipe.has("model"));
}

TEST(Recipe, ItsTextHoldsWhatWasSetAndReadsBack) {
  RecipeTable recipe = parse(R"([train]
epochs = 3   # few
rate = 0.1
note = "a \"quoted\" \u00e9 text"
[[losses]]
weight = 2
)");
  recipe.set("train.betas=[0.30000000000000004, 1e-300]");
  recipe.set("train.epochs=9223372036854775807");
  RecipeTable back = RecipeTable::parse(recipe.to_text(), "again.toml");
  EXPECT_EQ(back.to_text(), recipe.to_text());
  Train train;
  back.bind("train", train);
  EXPECT_EQ(train.epochs, std::numeric_limits<int64_t>::max());
  EXPECT_EQ(train.rate, 0.1);
  EXPECT_EQ(train.note, "a \"quoted\" \xc3\xa9 text");
  EXPECT_EQ(train.betas, (std::vector<double>{0.30000000000000004, 1e-300}));
  EXPECT_EQ(back.items("losses"), 1);
}

TEST(Recipe, LoadsAFileAndNamesIt) {
  TemporaryFolder folder;
  write_file_atomically(folder / "r.toml", "[train]\nepochs = 'x'\n");
  RecipeTable recipe = RecipeTable::load(folder / "r.toml");
  Train train;
  expect_error(ErrorCode::invalid_argument,
               (folder / "r.toml").string() + ":2: ", [&] { recipe.bind("train", train); });
  expect_error(ErrorCode::not_found, "none.toml", [&] { RecipeTable::load(folder / "none.toml"); });
  expect_error(ErrorCode::invalid_argument, "got a folder; fovea new writes one",
               [&] { RecipeTable::load(folder.path()); });
}

TEST(Recipe, ASectionThatWasWrittenReadsBackTheSame) {
  Train written;
  written.epochs = -3;
  written.rate = 1e-7;
  written.average = true;
  written.note = "a \"quoted\" \\ line\nand \x01 caf\xc3\xa9";
  written.schedule = Schedule::cosine;
  written.sizes = {};
  written.betas = {1, 0.1, -1e300};
  written.tags = {"x, y", ""};
  Train read;
  RecipeTable table = parse(recipe_section("[train]", written));
  table.bind("train", read);
  EXPECT_EQ(read.epochs, written.epochs);
  EXPECT_EQ(read.rate, written.rate);
  EXPECT_EQ(read.average, written.average);
  EXPECT_EQ(read.note, written.note);
  EXPECT_EQ(read.schedule, written.schedule);
  EXPECT_EQ(read.sizes, written.sizes);
  EXPECT_EQ(read.betas, written.betas);
  EXPECT_EQ(read.tags, written.tags);
}

}  // namespace
}  // namespace fovea

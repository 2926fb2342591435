// fovea new: a recipe for data of one's own.
#include <fmt/format.h>

#include <array>
#include <filesystem>

#include "cli/cli_support.h"
#include "cli/new_recipe.h"
#include "cli/new_series.h"
#include "cli/verbs.h"
#include "fovea/base/error.h"
#include "fovea/base/text.h"
#include "fovea/formats/file.h"

namespace fovea::cli {

namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 2> kKinds = {"image-classifier", "sequence-classifier"};

// "photos/", "photos.csv" and "photos.npy" become "photos.toml".
std::string default_file(const std::string& path) {
  fs::path name = fs::path(path).lexically_normal();
  if (!name.has_filename()) name = name.parent_path();
  const bool file = name.extension() == ".csv" || name.extension() == ".npy";
  std::string stem = file ? name.stem().string() : name.filename().string();
  if (stem.empty() || stem == "." || stem == "..") stem = "recipe";
  return stem + ".toml";
}

// What was written must be a recipe that builds a model.
void check_recipe(const std::string& text, const DataInfo& info) {
  RecipeTable recipe = RecipeTable::parse(text, "the new recipe");
  DataOptions data;
  TrainOptions train_options;
  AugmentOptions augment_options;
  recipe.bind("data", data);
  recipe.bind("train", train_options);
  recipe.bind("augment", augment_options);
  check_train_options(train_options);
  check_augment(augment_options);
  make_task(recipe, info);
  recipe.check_all_read();
}

}  // namespace

std::span<const std::string_view> new_kinds() { return kKinds; }

namespace {

struct Options {
  std::string kind, path, out;
  SeriesWish wish;
  int64_t threads = 0;
  bool overwrite = false, json = false;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("KIND", o.kind, "What to make: image-classifier, sequence-classifier");
  arguments.positional("DIR|FILE", o.path,
                       "Folder of the images, or a CSV file that names them; for "
                       "sequence-classifier a .csv or .npy file, or a folder with train.csv or "
                       "train.npy");
  arguments.option("--label", o.wish.label, "COLUMN", "Of a table: the column of the classes");
  arguments.option("--group", o.wish.group, "COLUMN",
                   "Of a table: the column that says which rows are one sequence");
  arguments.option("--window", o.wish.window, 0, 1 << 20,
                   "Of a table: rows that make a sample; 0: each row is one");
  arguments.option("--out", o.out, "FILE", "The recipe [DIR.toml]");
  arguments.flag("--overwrite", o.overwrite, "Replace a recipe that is there");
  arguments.threads(o.threads);
  arguments.json(o.json);
}

// What came of looking at the data.
struct Made {
  std::string recipe;
  size_t classes = 0;
  std::array<int64_t, 3> samples = {};  // by Split
  std::string word, shape;              // "images", "28x28 grey"
  std::vector<std::string> remarks;
};

Made make_image_classifier(const Options& o) {
  Progress progress(stderr);
  const ImageSurvey survey = survey_images(o.path, make_pool(o.threads), [&](double share) {
    progress.update(share, "opening images");
  });
  progress.finish();
  Made made{image_classifier_recipe(survey, fmt::format("fovea new {} {}", o.kind, o.path), o.out),
            survey.list.class_names.size(),
            survey.samples,
            "images",
            fmt::format("{}x{} {}", survey.width, survey.height, survey.colour ? "colour" : "grey"),
            remarks(survey)};
  DataOptions data;
  RecipeTable::parse(made.recipe, "the new recipe").bind("data", data);
  check_recipe(made.recipe, {data.height, data.width, data.channels, survey.list.class_names,
                             survey.class_counts});
  return made;
}

Made make_sequence_classifier(const Options& o) {
  const SeriesSurvey survey = survey_series(o.path, o.wish);
  std::string command = fmt::format("fovea new {} {}", o.kind, o.path);
  for (const auto& [name, value] :
       {std::pair("--label", o.wish.label), std::pair("--group", o.wish.group),
        std::pair("--window", o.wish.window ? std::to_string(*o.wish.window) : "")})
    if (!value.empty()) command += fmt::format(" {} {}", name, value);
  const std::string features =
      fmt::format("{} feature{}", survey.features, survey.features == 1 ? "" : "s");
  Made made{sequence_classifier_recipe(survey, command, o.out),
            survey.class_names.size(),
            survey.samples,
            "samples",
            survey.steps == 1 ? "rows of " + features
                              : fmt::format("{}{} steps of {}", survey.ragged ? "up to " : "",
                                            survey.steps, features),
            survey.remarks};
  const std::vector<double> any(static_cast<size_t>(survey.features), 1);
  check_recipe(made.recipe,
               {.class_names = survey.class_names,
                .class_counts = survey.class_counts,
                .series = {survey.steps, survey.features, survey.ragged, false, any, any}});
  return made;
}

void print_as_json(const Options& o, const Made& made) {
  Json notes = Json::array();
  for (const std::string& line : made.remarks) notes.push(line);
  Json result = Json::object();
  result.set("recipe", o.out)
      .set("classes", static_cast<int64_t>(made.classes))
      .set("train", made.samples[0])
      .set("validation", made.samples[1])
      .set("test", made.samples[2])
      .set("notes", std::move(notes));
  print_json(result);
}

void print_as_text(const Call& call, const Options& o, const Made& made) {
  fmt::print("{}: {} classes; {} {} to train with, {} to validate, {} to test; {}\n", o.path,
             made.classes, made.samples[0], made.word, made.samples[1], made.samples[2],
             made.shape);
  for (const std::string& line : made.remarks) fmt::print("note: {}\n", line);
  fmt::print(
      "\n{} is written. What to do next:\n"
      "  {} data {} --sheet samples.png   look at what the model will see\n"
      "  {} train {}\n",
      o.out, call.program, o.out, call.program, o.out);
}

int run(const Call& call, Options& o) {
  const bool images = o.kind == kKinds[0];
  if (!images && o.kind != kKinds[1])
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[new] there is no kind '{}'{} (kinds: {})", o.kind,
                            did_you_mean(o.kind, kKinds), fmt::join(kKinds, ", ")));
  if (o.out.empty()) o.out = default_file(o.path);
  std::error_code ignored;
  if (!o.overwrite && fs::exists(o.out, ignored))
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[new] {} is there already; --overwrite replaces it, --out takes "
                            "another name",
                            o.out));
  if (images && (!o.wish.label.empty() || !o.wish.group.empty() || o.wish.window))
    throw Error(ErrorCode::invalid_argument,
                "[new] --label, --group and --window belong to sequence-classifier (a table of "
                "images has columns of paths and labels)");
  const Made made = images ? make_image_classifier(o) : make_sequence_classifier(o);
  write_file_atomically(o.out, made.recipe);
  if (o.json)
    print_as_json(o, made);
  else
    print_as_text(call, o, made);
  return 0;
}

}  // namespace

Verb new_verb() {
  return {.name = "new",
          .summary = "write a recipe for data of your own",
          .description =
              "Looks at data and writes a recipe that trains on them, with the reasons for its "
              "numbers as comments.\n"
              "image-classifier: DIR holds a folder for each class, or such folders below "
              "train/, validation/ and test/; a CSV file with columns of paths and labels will "
              "do, too.\n"
              "sequence-classifier: FILE is a table with a line of names, or an .npy array "
              "[samples, steps, features] or [samples, features] with its labels beside it in "
              "NAME_labels.npy; DIR holds train.csv or train.npy, and perhaps the same of "
              "validation and test.",
          .examples = {{"fovea new image-classifier photos", "writes photos.toml"},
                       {"fovea new image-classifier labels.csv --out birds.toml",
                        "from a table of paths and labels"},
                       {"fovea new sequence-classifier sensors.csv --label state --window 30",
                        "the state from the last thirty rows of a table"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

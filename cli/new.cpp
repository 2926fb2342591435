// fovea new: a recipe for data of one's own.
#include <fmt/format.h>

#include <array>
#include <filesystem>

#include "cli/cli_support.h"
#include "cli/new_recipe.h"
#include "cli/verbs.h"
#include "fovea/base/error.h"
#include "fovea/base/text.h"
#include "fovea/formats/file.h"

namespace fovea::cli {

namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 1> kKinds = {"image-classifier"};

// "photos/" and "photos.csv" become "photos.toml".
std::string default_file(const std::string& path) {
  fs::path name = fs::path(path).lexically_normal();
  if (!name.has_filename()) name = name.parent_path();
  std::string stem = name.extension() == ".csv" ? name.stem().string() : name.filename().string();
  if (stem.empty() || stem == "." || stem == "..") stem = "recipe";
  return stem + ".toml";
}

// What was written must be a recipe that builds a model.
void check_recipe(const std::string& text, const ImageSurvey& survey) {
  RecipeTable recipe = RecipeTable::parse(text, "the new recipe");
  DataOptions data;
  TrainOptions train_options;
  AugmentOptions augment_options;
  recipe.bind("data", data);
  recipe.bind("train", train_options);
  recipe.bind("augment", augment_options);
  check_train_options(train_options);
  check_augment(augment_options);
  make_task(recipe,
            {data.height, data.width, data.channels, survey.list.class_names, survey.class_counts});
  recipe.check_all_read();
}

}  // namespace

std::span<const std::string_view> new_kinds() { return kKinds; }

namespace {

struct Options {
  std::string kind, path, out;
  int64_t threads = 0;
  bool overwrite = false, json = false;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("KIND", o.kind, "What to make: image-classifier");
  arguments.positional("DIR", o.path, "Folder of the images, or a CSV file that names them");
  arguments.option("--out", o.out, "FILE", "The recipe [DIR.toml]");
  arguments.flag("--overwrite", o.overwrite, "Replace a recipe that is there");
  arguments.threads(o.threads);
  arguments.json(o.json);
}

void print_as_json(const Options& o, const ImageSurvey& survey) {
  Json notes = Json::array();
  for (const std::string& line : remarks(survey)) notes.push(line);
  Json result = Json::object();
  result.set("recipe", o.out)
      .set("classes", static_cast<int64_t>(survey.list.class_names.size()))
      .set("train", survey.samples[0])
      .set("validation", survey.samples[1])
      .set("test", survey.samples[2])
      .set("notes", std::move(notes));
  print_json(result);
}

void print_as_text(const Call& call, const Options& o, const ImageSurvey& survey) {
  fmt::print("{}: {} classes; {} images to train with, {} to validate, {} to test; {}x{} {}\n",
             o.path, survey.list.class_names.size(), survey.samples[0], survey.samples[1],
             survey.samples[2], survey.width, survey.height, survey.colour ? "colour" : "grey");
  for (const std::string& line : remarks(survey)) fmt::print("note: {}\n", line);
  fmt::print(
      "\n{} is written. What to do next:\n"
      "  {} data {} --sheet samples.png   look at what the model will see\n"
      "  {} train {}\n",
      o.out, call.program, o.out, call.program, o.out);
}

int run(const Call& call, Options& o) {
  if (o.kind != kKinds[0])
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
  Progress progress(stderr);
  const ImageSurvey survey = survey_images(o.path, make_pool(o.threads), [&](double share) {
    progress.update(share, "opening images");
  });
  progress.finish();
  const std::string text =
      image_classifier_recipe(survey, fmt::format("fovea new {} {}", o.kind, o.path), o.out);
  check_recipe(text, survey);
  write_file_atomically(o.out, text);
  if (o.json)
    print_as_json(o, survey);
  else
    print_as_text(call, o, survey);
  return 0;
}

}  // namespace

Verb new_verb() {
  return {.name = "new",
          .summary = "write a recipe for images of your own",
          .description =
              "Looks at images and writes a recipe that trains on them, with the reasons for its "
              "numbers as comments.\nDIR holds a folder for each class, or such folders below "
              "train/, validation/ and test/; a CSV file with columns of paths and labels will "
              "do, too.",
          .examples = {{"fovea new image-classifier photos", "writes photos.toml"},
                       {"fovea new image-classifier labels.csv --out birds.toml",
                        "from a table of paths and labels"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

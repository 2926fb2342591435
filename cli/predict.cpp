// fovea predict: the classes of image files, or of the rows in tables and arrays.
#include <fmt/format.h>

#include <algorithm>

#include "cli/cli_support.h"
#include "cli/verbs.h"
#include "fovea/data/series_dataset.h"
#include "fovea/formats/image.h"
#include "fovea/infer/predictor.h"
#include "fovea/tasks/sequence_classification.h"

namespace fovea::cli {

namespace {

constexpr size_t kShownSkipped = 20;

struct Options {
  std::string path;
  std::vector<std::string> files;
  int64_t top = 3, threads = 0;
  bool json = false;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("BUNDLE", o.path, "Folder of the model");
  arguments.positionals(
      "FILE", o.files,
      "Images of any size: they are resized as the recipe says; or tables (.csv) and "
      "arrays (.npy) of numbers, for a model of those");
  arguments.option("--top", o.top, 1, INT64_MAX, "Classes to show for each answer");
  arguments.threads(o.threads);
  arguments.json(o.json);
}

// One answer: of an image, or of a row or sequence in a file.
struct Answer {
  std::string file;
  std::string sample;  // its name in the file; empty where the file is the sample
  std::vector<ClassScore> classes;
};

std::vector<Answer> answers_of_images(Predictor& predictor, const std::vector<std::string>& files) {
  std::vector<Answer> answers;
  for (const std::string& file : files)
    answers.push_back({file, "", predictor.predict(read_image(file), file)});
  return answers;
}

std::vector<Answer> answers_of_rows(Predictor& predictor, const Bundle& bundle,
                                    const std::vector<std::string>& files,
                                    std::vector<std::string>& skipped) {
  DataOptions data;
  RecipeTable::parse(bundle.recipe, "recipe.toml").bind("data", data);
  const SeriesInfo info = series_info(bundle.graph);
  std::vector<Answer> answers;
  for (const std::string& file : files) {
    const Dataset samples =
        load_series_file(file, data, {info.steps, info.features, info.ragged, false});
    skipped.insert(skipped.end(), samples.skipped.begin(), samples.skipped.end());
    std::vector<std::vector<ClassScore>> all = predictor.predict(samples);
    for (size_t i = 0; i < all.size(); ++i)
      answers.push_back({file, samples.name(static_cast<int64_t>(i)), std::move(all[i])});
  }
  return answers;
}

// Who counts the answers must learn that there are fewer than rows.
void tell_skipped(const std::vector<std::string>& skipped) {
  if (skipped.empty()) return;
  fmt::print(stderr, "{} without an answer, since {} (data.missing = \"skip\" in the recipe):\n",
             skipped.size() == 1 ? "one sample is" : fmt::format("{} samples are", skipped.size()),
             skipped.size() == 1 ? "it misses a value" : "they miss a value");
  for (size_t i = 0; i < std::min(skipped.size(), kShownSkipped); ++i)
    fmt::print(stderr, "  {}\n", skipped[i]);
  if (skipped.size() > kShownSkipped)
    fmt::print(stderr, "  and {} more (--json names all)\n", skipped.size() - kShownSkipped);
}

int run(const Call&, Options& o) {
  const Bundle bundle = load_bundle(o.path);
  Predictor predictor(bundle, make_pool(o.threads));
  std::vector<std::string> skipped;
  const std::vector<Answer> answers = bundle.graph.find(kSeriesInput) >= 0
                                          ? answers_of_rows(predictor, bundle, o.files, skipped)
                                          : answers_of_images(predictor, o.files);
  const auto name_of = [](const Answer& a) -> const std::string& {
    return a.sample.empty() ? a.file : a.sample;
  };
  size_t width = 0;
  for (const Answer& answer : answers) width = std::max(width, name_of(answer).size());
  Json predictions = Json::array();
  for (const Answer& answer : answers) {
    const std::vector<ClassScore>& all = answer.classes;
    const size_t shown = std::min(all.size(), static_cast<size_t>(o.top));
    if (!o.json) {
      fmt::print("{:<{}}", name_of(answer), width);
      for (size_t i = 0; i < shown; ++i)
        fmt::print("  {} {:.1f} %", all[i].label, 100 * all[i].probability);
      fmt::print("\n");
      continue;
    }
    Json classes = Json::array();
    for (size_t i = 0; i < shown; ++i) {
      Json score = Json::object();
      score.set("class", all[i].label).set("probability", all[i].probability);
      classes.push(std::move(score));
    }
    Json one = Json::object();
    one.set("file", answer.file);
    if (!answer.sample.empty()) one.set("sample", answer.sample);
    one.set("classes", std::move(classes));
    predictions.push(std::move(one));
  }
  if (o.json) {
    Json out = Json::object();
    out.set("predictions", std::move(predictions));
    if (!skipped.empty()) {
      Json reasons = Json::array();
      for (const std::string& why : skipped) reasons.push(std::string_view(why));
      out.set("skipped", std::move(reasons));
    }
    print_json(out);
  }
  tell_skipped(skipped);
  return 0;
}

}  // namespace

Verb predict_verb() {
  return {.name = "predict",
          .summary = "name the classes of images, or of rows of numbers",
          .description =
              "Names the most probable classes of PNG and JPEG files, or of the rows, windows and "
              "sequences in CSV and .npy files, which are read as the recipe of the model says. "
              "Such a file needs no labels.",
          .examples = {{"fovea predict runs/demo picture.png", "its class and how sure that is"},
                       {"fovea predict runs/room sensors.csv --top 1", "a line for each row"},
                       {"fovea predict runs/demo pictures/*.png --top 1 --json",
                        "a whole folder, for a program to read"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

// fovea predict: the classes of image files.
#include <fmt/format.h>

#include <algorithm>

#include "cli/cli_support.h"
#include "cli/verbs.h"
#include "fovea/formats/image.h"
#include "fovea/infer/predictor.h"

namespace fovea::cli {

namespace {

struct Options {
  std::string path;
  std::vector<std::string> files;
  int64_t top = 3, threads = 0;
  bool json = false;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("BUNDLE", o.path, "Folder of the model");
  arguments.positionals("FILE", o.files, "Images of any size: they are resized as the recipe says");
  arguments.option("--top", o.top, 1, INT64_MAX, "Classes to show for each image");
  arguments.threads(o.threads);
  arguments.json(o.json);
}

int run(const Call&, Options& o) {
  Predictor predictor(load_bundle(o.path), make_pool(o.threads));
  size_t width = 0;
  for (const std::string& file : o.files) width = std::max(width, file.size());
  Json predictions = Json::array();
  for (const std::string& file : o.files) {
    const std::vector<ClassScore> all = predictor.predict(read_image(file), file);
    const size_t shown = std::min(all.size(), static_cast<size_t>(o.top));
    if (!o.json) {
      fmt::print("{:<{}}", file, width);
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
    one.set("file", file).set("classes", std::move(classes));
    predictions.push(std::move(one));
  }
  if (o.json) {
    Json out = Json::object();
    out.set("predictions", std::move(predictions));
    print_json(out);
  }
  return 0;
}

}  // namespace

Verb predict_verb() {
  return {.name = "predict",
          .summary = "name the classes of PNG and JPEG files",
          .description = "Names the most probable classes of PNG and JPEG files.",
          .examples = {{"fovea predict runs/demo picture.png", "its class and how sure that is"},
                       {"fovea predict runs/demo pictures/*.png --top 1 --json",
                        "a whole folder, for a program to read"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

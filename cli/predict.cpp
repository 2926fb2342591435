// fovea predict: the classes of image files.
#include <fmt/format.h>

#include <algorithm>

#include "cli/cli_support.h"
#include "cli/verbs.h"
#include "fovea/formats/image.h"
#include "fovea/infer/predictor.h"

namespace fovea::cli {

int predict_verb(const Call& call) {
  std::string path;
  std::vector<std::string> files;
  int64_t top = 3, threads = 0;
  bool json = false;
  Arguments arguments("predict", "Names the most probable classes of PNG and JPEG files.");
  arguments.positional("BUNDLE", path, "Folder of the model");
  arguments.positionals("FILE", files, "Images of the size that the model was trained with");
  arguments.option("--top", top, 1, INT64_MAX, "Classes to show for each image");
  add_threads(arguments, threads);
  arguments.flag("--json", json, "The result as JSON");
  if (!arguments.parse(call.arguments)) return 0;

  Predictor predictor(load_bundle(path), make_pool(threads));
  size_t width = 0;
  for (const std::string& file : files) width = std::max(width, file.size());
  Json predictions = Json::array();
  for (const std::string& file : files) {
    const std::vector<ClassScore> all = predictor.predict(read_image(file), file);
    const size_t shown = std::min(all.size(), static_cast<size_t>(top));
    if (!json) {
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
  if (json) {
    Json out = Json::object();
    out.set("predictions", std::move(predictions));
    print_json(out);
  }
  return 0;
}

}  // namespace fovea::cli

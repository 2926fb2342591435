// fovea eval: a bundle measured on a data set.
#include <fmt/format.h>

#include "cli/cli_support.h"
#include "cli/verbs.h"
#include "fovea/base/progress.h"

namespace fovea::cli {

int eval_verb(const Call& call) {
  std::string path, split_name = "test";
  int64_t batch = 256, threads = 0;
  bool json = false;
  Arguments arguments("eval", "Measures a trained model on the data set that its recipe names.");
  arguments.positional("BUNDLE", path, "Folder of the model");
  arguments.option("--split", split_name, "NAME", "train, validation or test");
  arguments.option("--batch", batch, 1, 65536, "Images at a time");
  add_threads(arguments, threads);
  arguments.flag("--json", json, "The result as JSON");
  if (!arguments.parse(call.arguments)) return 0;

  const Split split = split_named(split_name);
  Model model = Model::open_bundle(path);
  const Evaluation result = model.evaluate(split, batch, make_pool(threads));
  if (json) {
    Json out = Json::object();
    out.set("task", model.kind().name)
        .set("split", split_name)
        .set("examples", result.examples)
        .set("metrics", result.metrics)
        .set("examples_per_second", result.examples_per_second);
    print_json(out);
    return 0;
  }
  for (const auto& [name, value] : result.metrics) fmt::print("{:<16} {:.4f}\n", name, value);
  fmt::print("{:<16} {} of {}\n", "images", result.examples, split_name);
  fmt::print("{:<16} {}\n", "images a second", format_count(result.examples_per_second));
  return 0;
}

}  // namespace fovea::cli

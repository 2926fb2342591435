#include "fovea/train/metrics_file.h"

#include <nlohmann/json.hpp>

#include "fovea/base/build_info.h"
#include "fovea/kernels/versions.h"

namespace fovea {

std::string metrics_json(const std::string& task, const TrainOptions& options,
                         const TrainResult& result) {
  nlohmann::ordered_json j;
  j["task"] = task;
  j["seed"] = options.seed;
  j["precision"] = in_bf16(options.precision) ? "bf16" : "f32";
  j["epochs"] = result.epochs;
  j["best_epoch"] = result.best_epoch;
  j["parameters"] = result.parameters;
  j["seconds"] = result.seconds;
  j["validation"] = result.validation;
  j["test"] = result.test;
  if (!result.levels.empty()) j["levels"] = result.levels;
  j["build"] = {{"version", version()}, {"compiler", compiler()}};
  j["processor"] = processor_name();
  for (const LibraryVersion& library : kernel_libraries())
    j["libraries"][library.name] = library.version;
  return j.dump(2) + "\n";
}

}  // namespace fovea

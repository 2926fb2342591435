// What a bundle says of how it was made and how good it is.
#pragma once

#include <string>

#include "fovea/train/trainer.h"

namespace fovea {

// metrics.json: task, seed, epochs, validation and test metrics, parameters, build, processor,
// libraries.
std::string metrics_json(const std::string& task, const TrainOptions& options,
                         const TrainResult& result);

}  // namespace fovea

// The learning rate of each step.
#pragma once

#include "fovea/train/options.h"

namespace fovea {

// step counts from 0 to total - 1. A linear rise over the warm-up, then constant, or half a cosine
// down to final_rate (Loshchilov and Hutter 2017, without restarts).
double learning_rate(const TrainOptions& options, int64_t step, int64_t total);

}  // namespace fovea

// Images of a data set that are worth a look: some that the model gets right, some that it does
// not.
#pragma once

#include <cstdint>
#include <vector>

#include "fovea/data/dataset.h"
#include "fovea/runtime/session.h"

namespace fovea {

// The class that the model names for each example. model: compiled for inference. Throws what
// check_inputs throws.
std::vector<int32_t> predict_classes(Session& model, const Dataset& dataset, int64_t batch);

// Indices of at most `count` examples, of as many classes as can be: right ones first, then up to
// three in eight that are wrong. Draws from the seed alone. FOVEA_ASSERT that there is a prediction
// for each.
std::vector<int64_t> choose_samples(const Dataset& dataset, const std::vector<int32_t>& predicted,
                                    int64_t count, uint64_t seed);

}  // namespace fovea

// What each column of a table adds to an answer, by taking it away.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fovea/data/dataset.h"
#include "fovea/runtime/session.h"

namespace fovea {

// For each example and column of its series: by how much the probability of the example's class
// falls when the mean of training stands in that column, at all steps (negative: it rises, the
// column speaks against the class). It is measured, one run for each column, and nothing is
// approximated; columns that say the same may each seem to add nothing. mean [F]. classes: one for
// each example. Throws Error (invalid_argument) where these are not as many as they should be, and
// what check_inputs throws.
std::vector<std::vector<double>> column_effects(Session& model, const Dataset& examples,
                                                std::span<const int32_t> classes,
                                                const std::vector<double>& mean,
                                                int64_t batch = 64);

}  // namespace fovea

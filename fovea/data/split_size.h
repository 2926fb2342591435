// How much of the training samples the options cut off for another part.
#pragma once

#include "fovea/data/data_options.h"

namespace fovea {

// The share that options.validation or options.test asks of `whole` samples, 0 to below 1; 0 where
// there is nothing to cut from. Error (invalid_argument) for what is no share and no number of
// samples.
double share_of(const DataOptions& options, Split part, int64_t whole);

// The same as a number of samples.
int64_t samples_of(const DataOptions& options, Split part, int64_t whole);

}  // namespace fovea

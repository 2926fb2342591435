// A picture of samples as a model sees them, with the names of their classes.
#pragma once

#include "fovea/data/augment.h"
#include "fovea/data/dataset.h"
#include "fovea/formats/image.h"

namespace fovea::cli {

// A row for each of the first 16 classes that have samples, with eight of them drawn by the seed,
// augmented as in the first epoch; small ones are enlarged without smoothing. White behind them.
Image sample_sheet(const ImageDataset& dataset, const AugmentOptions& augment_options,
                   uint64_t seed);

}  // namespace fovea::cli

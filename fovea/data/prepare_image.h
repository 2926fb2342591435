// From a picture to a sample: the one way for data sets of files and for predictions.
#pragma once

#include "fovea/data/augment.h"
#include "fovea/data/data_options.h"
#include "fovea/formats/image.h"

namespace fovea {

// The image as [height, width, channels], channels 1 or 3. Where the size fits already, its pixels
// stay as they are. Error (invalid_argument) for a shape or an image that cannot be.
Image prepare_image(const Image& image, const ImageShape& shape, ResizeMode mode);

}  // namespace fovea

#include "fovea/data/prepare_image.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "fovea/base/error.h"

namespace fovea {
namespace {

// Copies the overlap of two images of equal channels: (top, left) of the source comes to the
// target's corner; negative numbers place the source inside the target.
Image placed(const Image& source, int64_t height, int64_t width, int64_t top, int64_t left) {
  Image target{height, width, source.channels, {}};
  target.pixels.assign(static_cast<size_t>(height * width * source.channels), 0);
  const int64_t first = std::max<int64_t>(0, -left);
  const int64_t last = std::min(width, source.width - left);
  if (first >= last) return target;
  for (int64_t y = std::max<int64_t>(0, -top); y < std::min(height, source.height - top); ++y) {
    const auto from = ((y + top) * source.width + first + left) * source.channels;
    const auto to = (y * width + first) * source.channels;
    std::copy_n(source.pixels.begin() + from, (last - first) * source.channels,
                target.pixels.begin() + to);
  }
  return target;
}

// b * c / d, rounded, at least 1 and at most `most`.
int64_t scaled(int64_t b, int64_t c, int64_t d, int64_t most) {
  const double exact = static_cast<double>(b) * static_cast<double>(c) / static_cast<double>(d);
  return std::clamp<int64_t>(std::llround(exact), 1, most);
}

Image sized(const Image& image, int64_t height, int64_t width, ResizeMode mode) {
  if (image.height == height && image.width == width) return image;
  // Whether the source is wider than the target; sides are at most 2^26, so products fit.
  const bool wider = image.width * height > image.height * width;
  switch (mode) {
    case ResizeMode::stretch:
      break;
    case ResizeMode::crop: {
      // The part of the source that has the target's proportions.
      const int64_t h = wider ? image.height : scaled(image.width, height, width, image.height);
      const int64_t w = wider ? scaled(image.height, width, height, image.width) : image.width;
      return resize(placed(image, h, w, (image.height - h) / 2, (image.width - w) / 2), height,
                    width);
    }
    case ResizeMode::pad: {
      const int64_t h = wider ? scaled(width, image.height, image.width, height) : height;
      const int64_t w = wider ? width : scaled(height, image.width, image.height, width);
      return placed(resize(image, h, w), height, width, -((height - h) / 2), -((width - w) / 2));
    }
  }
  return resize(image, height, width);
}

}  // namespace

Image prepare_image(const Image& image, const ImageShape& shape, ResizeMode mode) {
  if (shape.height < 1 || shape.width < 1 || shape.height > kMaxPixels ||
      shape.width > kMaxPixels / shape.height || (shape.channels != 1 && shape.channels != 3)) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[data] expected samples of 1 to {} pixels in 1 or 3 channels, got "
                            "width {}, height {}, channels {}",
                            kMaxPixels, shape.width, shape.height, shape.channels)};
  }
  // Fewer channels are resized, whichever side that is.
  if (shape.channels == 1) return sized(to_grey(image), shape.height, shape.width, mode);
  return to_rgb(sized(image, shape.height, shape.width, mode));
}

}  // namespace fovea

#include "fovea/data/augment.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "fovea/base/error.h"
#include "fovea/base/philox.h"

namespace fovea {
namespace {

constexpr int64_t kMaxShift = 1 << 20;
constexpr int kAttempts = 100;
constexpr double kMinAspect = 0.3;

int64_t draw_shift(PhiloxStream& random, int64_t shift) {
  return static_cast<int64_t>(random.below(static_cast<uint32_t>(2 * shift + 1))) - shift;
}

void flip_and_shift(std::span<const uint8_t> source, std::span<uint8_t> target,
                    const ImageShape& shape, bool flip, int64_t down, int64_t right) {
  const auto channels = static_cast<size_t>(shape.channels);
  const auto row_bytes = static_cast<size_t>(shape.width) * channels;
  // Columns [first, last) of the target come from the source.
  const int64_t first = std::clamp<int64_t>(right, 0, shape.width);
  const int64_t last = std::clamp<int64_t>(shape.width + right, 0, shape.width);
  for (int64_t y = 0; y < shape.height; ++y) {
    uint8_t* to = target.data() + static_cast<size_t>(y) * row_bytes;
    const int64_t from_y = y - down;
    if (from_y < 0 || from_y >= shape.height || first >= last) {
      std::fill_n(to, row_bytes, uint8_t{0});
      continue;
    }
    const uint8_t* from = source.data() + static_cast<size_t>(from_y) * row_bytes;
    std::fill_n(to, static_cast<size_t>(first) * channels, uint8_t{0});
    std::fill(to + static_cast<size_t>(last) * channels, to + row_bytes, uint8_t{0});
    if (!flip) {
      std::copy_n(from + static_cast<size_t>(first - right) * channels,
                  static_cast<size_t>(last - first) * channels,
                  to + static_cast<size_t>(first) * channels);
      continue;
    }
    for (int64_t x = first; x < last; ++x) {
      const auto from_x = static_cast<size_t>(shape.width - 1 - (x - right));
      std::copy_n(from + from_x * channels, channels, to + static_cast<size_t>(x) * channels);
    }
  }
}

double uniform(PhiloxStream& random, double low, double high) {
  return low + (high - low) * static_cast<double>(random.unit());
}

void erase(std::span<uint8_t> image, const ImageShape& shape, const AugmentOptions& options,
           PhiloxStream& random) {
  const double whole = static_cast<double>(shape.height) * static_cast<double>(shape.width);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const double area = whole * uniform(random, options.erase_min, options.erase_max);
    const double aspect = uniform(random, kMinAspect, 1.0 / kMinAspect);
    const auto height = static_cast<int64_t>(std::sqrt(area * aspect));
    const auto width = static_cast<int64_t>(std::sqrt(area / aspect));
    const auto top = static_cast<int64_t>(random.below(static_cast<uint32_t>(shape.height)));
    const auto left = static_cast<int64_t>(random.below(static_cast<uint32_t>(shape.width)));
    if (height < 1 || width < 1 || top + height > shape.height || left + width > shape.width) {
      continue;
    }
    for (int64_t y = top; y < top + height; ++y) {
      uint8_t* row = image.data() + (y * shape.width + left) * shape.channels;
      for (int64_t i = 0; i < width * shape.channels; ++i) {
        row[i] = static_cast<uint8_t>(random.next() >> 24);
      }
    }
    return;
  }
}

}  // namespace

void check_augment(const AugmentOptions& options) {
  const auto refuse = [](const std::string& what) {
    throw Error{ErrorCode::invalid_argument, fmt::format("[augment] {}", what)};
  };
  // Written so that a NaN is refused, too.
  if (options.shift < 0 || options.shift > kMaxShift) {
    refuse(fmt::format("'shift': expected 0 to {} pixels, got {}", kMaxShift, options.shift));
  }
  if (!(options.erase >= 0 && options.erase <= 1)) {
    refuse(fmt::format("'erase': expected a probability from 0 to 1, got {}", options.erase));
  }
  if (!(options.erase_min > 0 && options.erase_min <= options.erase_max &&
        options.erase_max <= 1)) {
    refuse(fmt::format(
        "'erase_min' and 'erase_max': expected 0 < erase_min <= erase_max <= 1, got {} and {}",
        options.erase_min, options.erase_max));
  }
}

bool changes_images(const AugmentOptions& options) {
  return options.shift > 0 || options.flip || options.erase > 0;
}

void augment(std::span<const uint8_t> source, std::span<uint8_t> target, const ImageShape& shape,
             const AugmentOptions& options, const AugmentKey& key) {
  FOVEA_ASSERT(source.size() == target.size());
  FOVEA_ASSERT(static_cast<int64_t>(source.size()) == shape.height * shape.width * shape.channels);
  PhiloxStream random(key.seed, stream_id("augment") + static_cast<uint64_t>(key.epoch),
                      static_cast<uint64_t>(key.sample));
  // All four are drawn whatever the options are, so that one option does not change another's draw.
  const bool flip = random.unit() < 0.5f;
  const int64_t down = draw_shift(random, options.shift);
  const int64_t right = draw_shift(random, options.shift);
  const bool erases = static_cast<double>(random.unit()) < options.erase;
  flip_and_shift(source, target, shape, options.flip && flip, down, right);
  if (erases) erase(target, shape, options, random);
}

}  // namespace fovea

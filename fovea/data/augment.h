// Random changes to training images that keep their class. What happens to a sample depends on
// (seed, epoch, sample) alone, so any number of threads and a resumed run agree.
#pragma once

#include <cstdint>
#include <span>

namespace fovea {

// The section [augment] of a recipe. As it stands, it changes nothing.
struct AugmentOptions {
  int64_t shift = 0;        // up to as many pixels in each direction; what comes in is black
  bool flip = false;        // left and right change places in half of the samples
  double erase = 0;         // probability of random erasing (Zhong et al. 2020)
  double erase_min = 0.02;  // erased share of the area, at least
  double erase_max = 0.4;   // and at most

  template <class V>
  void visit(V& v) {
    v("shift", shift);
    v("flip", flip);
    v("erase", erase);
    v("erase_min", erase_min);
    v("erase_max", erase_max);
  }
};

// Error (invalid_argument) where a number is out of its range.
void check_augment(const AugmentOptions& options);

// Whether any sample may be changed.
bool changes_images(const AugmentOptions& options);

struct ImageShape {
  int64_t height = 0, width = 0, channels = 0;
};

// Which draw of random numbers.
struct AugmentKey {
  uint64_t seed = 0;
  int64_t epoch = 0;
  int64_t sample = 0;  // its index in the data set
};

// Writes the changed source to target, both [height, width, channels] and apart from each other.
// Flip, then shift, then erase. Random erasing after Zhong et al., "Random erasing data
// augmentation", AAAI 2020, algorithm 1 (aspect ratio uniform in [0.3, 1/0.3], every byte drawn
// anew), with 100 attempts.
void augment(std::span<const uint8_t> source, std::span<uint8_t> target, const ImageShape& shape,
             const AugmentOptions& options, const AugmentKey& key);

}  // namespace fovea

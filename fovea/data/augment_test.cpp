#include "fovea/data/augment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

using Pixels = std::vector<uint8_t>;

Pixels counting(const ImageShape& shape) {
  Pixels pixels;
  for (int64_t i = 0; i < shape.height * shape.width * shape.channels; ++i) {
    pixels.push_back(static_cast<uint8_t>(1 + i % 255));
  }
  return pixels;
}

Pixels augmented(const Pixels& source, const ImageShape& shape, const AugmentOptions& options,
                 const AugmentKey& key) {
  Pixels target(source.size(), 77);
  augment(source, target, shape, options, key);
  return target;
}

// The plain meaning of flip and shift.
Pixels moved(const Pixels& source, const ImageShape& s, bool flip, int64_t down, int64_t right) {
  Pixels target(source.size(), 0);
  for (int64_t y = 0; y < s.height; ++y) {
    for (int64_t x = 0; x < s.width; ++x) {
      const int64_t from_y = y - down;
      const int64_t from_x = x - right;
      if (from_y < 0 || from_y >= s.height || from_x < 0 || from_x >= s.width) continue;
      for (int64_t c = 0; c < s.channels; ++c) {
        const int64_t column = flip ? s.width - 1 - from_x : from_x;
        target[static_cast<size_t>((y * s.width + x) * s.channels + c)] =
            source[static_cast<size_t>((from_y * s.width + column) * s.channels + c)];
      }
    }
  }
  return target;
}

TEST(Augment, ByDefaultChangesNothing) {
  const ImageShape shape = {5, 4, 3};
  const Pixels source = counting(shape);
  for (int64_t sample = 0; sample < 20; ++sample) {
    EXPECT_EQ(augmented(source, shape, {}, {1, 2, sample}), source);
  }
}

TEST(Augment, DependsOnSeedEpochAndSampleAlone) {
  const ImageShape shape = {28, 28, 1};
  const Pixels source = counting(shape);
  AugmentOptions options;
  options.erase = 1;
  const Pixels first = augmented(source, shape, options, {1, 2, 3});
  EXPECT_EQ(augmented(source, shape, options, {1, 2, 3}), first);
  EXPECT_NE(augmented(source, shape, options, {2, 2, 3}), first);
  EXPECT_NE(augmented(source, shape, options, {1, 3, 3}), first);
  EXPECT_NE(augmented(source, shape, options, {1, 2, 4}), first);
}

TEST(Augment, FlipsAboutHalfOfTheSamples) {
  const ImageShape shape = {3, 5, 3};
  const Pixels source = counting(shape), mirrored = moved(source, shape, true, 0, 0);
  AugmentOptions options;
  options.flip = true;
  int flipped = 0;
  for (int64_t sample = 0; sample < 1000; ++sample) {
    const Pixels result = augmented(source, shape, options, {1, 0, sample});
    ASSERT_TRUE(result == source || result == mirrored);
    flipped += result == mirrored;
  }
  EXPECT_NEAR(flipped, 500, 80);
}

TEST(Augment, ShiftsByEveryAmountAndPadsWithBlack) {
  const ImageShape shape = {4, 5, 2};
  const Pixels source = counting(shape);
  for (bool flip : {false, true}) {
    std::set<Pixels> expected, got;
    for (int64_t down = -2; down <= 2; ++down) {
      for (int64_t right = -2; right <= 2; ++right) {
        expected.insert(moved(source, shape, false, down, right));
        if (flip) expected.insert(moved(source, shape, true, down, right));
      }
    }
    AugmentOptions options;
    options.shift = 2;
    options.flip = flip;
    for (int64_t sample = 0; sample < 2000; ++sample) {
      got.insert(augmented(source, shape, options, {1, 0, sample}));
    }
    EXPECT_EQ(got, expected);
  }
}

TEST(Augment, AShiftBeyondTheImageLeavesItBlackOrPartlyBlack) {
  const ImageShape shape = {2, 2, 1};
  AugmentOptions options;
  options.shift = 100;
  options.flip = true;
  int black = 0;
  for (int64_t sample = 0; sample < 200; ++sample) {
    black += augmented(counting(shape), shape, options, {1, 0, sample}) == Pixels(4, 0);
  }
  EXPECT_GT(black, 150);
}

TEST(Augment, ErasesARectangleOfTheAskedAreaInTheAskedShareOfSamples) {
  const ImageShape shape = {32, 32, 1};
  const Pixels source(1024, 0);
  AugmentOptions options;
  options.erase = 0.3;
  options.erase_min = 0.1;
  options.erase_max = 0.2;
  int erased = 0;
  for (int64_t sample = 0; sample < 1000; ++sample) {
    const Pixels result = augmented(source, shape, options, {1, 0, sample});
    int64_t top = 32, bottom = -1, left = 32, right = -1, changed = 0;
    for (int64_t i = 0; i < 1024; ++i) {
      if (result[static_cast<size_t>(i)] == 0) continue;
      ++changed;
      top = std::min(top, i / 32);
      bottom = std::max(bottom, i / 32);
      left = std::min(left, i % 32);
      right = std::max(right, i % 32);
    }
    if (changed == 0) continue;
    ++erased;
    const int64_t area = (bottom - top + 1) * (right - left + 1);
    EXPECT_GE(changed, area * 9 / 10);  // a new byte may be black, too
    EXPECT_GE(area, 60);                // sides are rounded down
    EXPECT_LE(area, 205);
  }
  EXPECT_NEAR(erased, 300, 60);
}

TEST(Augment, ErasingATinyImageIsHarmless) {
  AugmentOptions options;
  options.erase = 1;
  const Pixels source = {9};
  for (int64_t sample = 0; sample < 50; ++sample) {
    EXPECT_EQ(augmented(source, {1, 1, 1}, options, {1, 0, sample}), source);
  }
}

TEST(Augment, NumbersOutOfRangeAreErrors) {
  const auto refuses = [](std::string_view what, AugmentOptions options) {
    expect_error(ErrorCode::invalid_argument, what, [&] { check_augment(options); });
  };
  AugmentOptions options;
  EXPECT_NO_THROW(check_augment(options));
  options.shift = -1;
  refuses("'shift'", options);
  options = {};
  options.erase = 1.5;
  refuses("'erase'", options);
  options.erase = std::numeric_limits<double>::quiet_NaN();
  refuses("'erase'", options);
  options = {};
  options.erase_min = 0.5;
  refuses("'erase_min'", options);
  options = {};
  options.erase_max = 2;
  refuses("'erase_max'", options);
}

}  // namespace
}  // namespace fovea

#include "fovea/data/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

ImageDataset dataset(std::vector<uint8_t> images, std::vector<int32_t> labels,
                     int64_t channels = 1) {
  return {"test", 1, 2, channels, std::move(images), std::move(labels), {"a", "b", "c"}};
}

TEST(Statistics, CountsClasses) {
  EXPECT_EQ(class_counts(dataset({1, 2, 3, 4, 5, 6}, {2, 0, 2})), (std::vector<int64_t>{1, 0, 2}));
  expect_error(ErrorCode::corrupt, "has the label 3", [] { class_counts(dataset({1, 2}, {3})); });
}

TEST(Statistics, MeanAndDeviationAreThoseOfEachChannel) {
  // Channel 0: 0, 255, 255, 255; channel 1: 51 everywhere; channel 2: 0, 0, 102, 102.
  const PixelStatistics s =
      pixel_statistics(dataset({0, 51, 0, 255, 51, 0, 255, 51, 102, 255, 51, 102}, {0, 1}, 3));
  ASSERT_EQ(s.mean.size(), 3u);
  EXPECT_NEAR(s.mean[0], 0.75, 1e-12);
  EXPECT_NEAR(s.deviation[0], std::sqrt(3.0) / 4, 1e-12);
  EXPECT_NEAR(s.mean[1], 0.2, 1e-12);
  EXPECT_NEAR(s.deviation[1], 0, 1e-7);
  EXPECT_NEAR(s.deviation[2], 0.2, 1e-12);
  EXPECT_TRUE(pixel_statistics(dataset({}, {})).mean.empty());
}

TEST(Statistics, TwinsAreFoundWithinAndBetweenSplits) {
  const std::vector<Twins> twins =
      find_twins({dataset({1, 2, 3, 4, 1, 2}, {0, 1, 0}), dataset({5, 6}, {0}),
                  dataset({7, 8, 5, 6, 3, 4, 7, 8}, {0, 0, 0, 1})});
  ASSERT_EQ(twins.size(), 4u);
  const auto is = [&](size_t i, Split a, int64_t first, Split b, int64_t second, bool same) {
    EXPECT_TRUE(twins[i].a == a && twins[i].b == b && twins[i].first == first &&
                twins[i].second == second && twins[i].same_label == same)
        << i;
  };
  is(0, Split::train, 0, Split::train, 2, true);
  is(1, Split::validation, 0, Split::test, 1, true);
  is(2, Split::train, 1, Split::test, 2, false);
  is(3, Split::test, 0, Split::test, 3, false);
}

}  // namespace
}  // namespace fovea

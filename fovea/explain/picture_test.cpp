#include "fovea/explain/picture.h"

#include <gtest/gtest.h>

#include "fovea/explain/colour_scale.h"

namespace fovea {
namespace {

Colour pixel(const Image& image, int64_t y, int64_t x) {
  const uint8_t* p = image.pixels.data() + (y * image.width + x) * image.channels;
  return {p[0], p[1], p[2]};
}

TEST(ColourScale, GrowsLighterInEvenStepsFromEndToEnd) {
  double before = lightness(scale_colour(0));
  EXPECT_LT(before, 10);
  for (int i = 1; i <= 32; ++i) {
    const double now = lightness(scale_colour(i / 32.0));
    EXPECT_GT(now - before, 1.5) << i;
    EXPECT_LT(now - before, 4.5) << i;
    before = now;
  }
  EXPECT_GT(before, 90);
}

TEST(ColourScale, BeyondItsEndsStandsTheNearerOne) {
  EXPECT_EQ(lightness(scale_colour(-3)), lightness(scale_colour(0)));
  EXPECT_EQ(lightness(scale_colour(7)), lightness(scale_colour(1)));
  EXPECT_NEAR(lightness({255, 255, 255}), 100, 1e-3);
  EXPECT_EQ(lightness({0, 0, 0}), 0);
}

TEST(Picture, AHeatMapIsLightWhereTheNumbersAreLargeAndShowsTheImage) {
  // A grey image of 4 x 8 whose right half is white; tokens in one row of two.
  Image image{4, 8, 1, std::vector<uint8_t>(32)};
  for (size_t i = 0; i < 32; ++i) image.pixels[i] = i % 8 < 4 ? 0 : 255;
  const TokenGrid grid{1, 2};
  const Image left = heat_map(image, {3, 1}, grid, {1, 3}, 64);
  const Image right = heat_map(image, {1, 3}, grid, {1, 3}, 64);
  EXPECT_EQ(left.height, 32);
  EXPECT_EQ(left.width, 64);
  EXPECT_EQ(left.channels, 3);
  EXPECT_GT(lightness(pixel(left, 16, 4)), lightness(pixel(left, 16, 60)));
  EXPECT_LT(lightness(pixel(right, 16, 4)), lightness(pixel(right, 16, 60)));
  const Image flat = heat_map(image, {2, 2}, grid, {1, 3}, 64);
  EXPECT_LT(lightness(pixel(flat, 16, 4)) + 10, lightness(pixel(flat, 16, 60)));
}

TEST(Picture, ColumnsHaveNoNeighboursAndWhatIsBehindASequenceIsLeftBare) {
  const Image white{4, 8, 1, std::vector<uint8_t>(32, 255)};
  const auto light = [](const Image& image, int64_t x) { return lightness(pixel(image, 16, x)); };
  const Image strips = heat_map(white, {3, 1}, {1, 2, TokenKind::column}, {1, 3}, 64);
  EXPECT_EQ(light(strips, 0), light(strips, 31));
  EXPECT_EQ(light(strips, 32), light(strips, 63));
  EXPECT_GT(light(strips, 31), light(strips, 32) + 20);
  const Image half = heat_map(white, {1, 1}, {1, 4, TokenKind::steps}, {1, 3}, 64);
  EXPECT_LT(light(half, 31), 60);
  EXPECT_NEAR(light(half, 32), 100, 1e-3);
}

TEST(Picture, IsEnlargedByItsLongerSide) {
  const Image tall = enlarged({40, 10, 3, std::vector<uint8_t>(1200, 9)}, 100);
  EXPECT_EQ(tall.height, 100);
  EXPECT_EQ(tall.width, 25);
  const Image thin = enlarged({1, 1000, 1, std::vector<uint8_t>(1000, 9)}, 100);
  EXPECT_EQ(thin.height, 1);
}

TEST(Picture, TheScaleStandsBesideItWithItsNumbers) {
  const Image picture = enlarged({8, 8, 1, std::vector<uint8_t>(64, 128)}, 80);
  const Image scaled = with_scale(picture, {0.42, 12.3, true});
  EXPECT_EQ(scaled.height, 80);
  ASSERT_GT(scaled.width, 110);
  EXPECT_EQ(lightness(pixel(scaled, 0, 90)), lightness(scale_colour(1)));
  EXPECT_EQ(lightness(pixel(scaled, 79, 90)), lightness(scale_colour(0)));
  int ink = 0;
  for (int64_t y = 0; y < 80; ++y)
    for (int64_t x = 104; x < scaled.width; ++x) ink += lightness(pixel(scaled, y, x)) < 50;
  EXPECT_GT(ink, 100);
  // A picture lower than two numbers gets room for them.
  EXPECT_GE(with_scale(enlarged({1, 40, 1, std::vector<uint8_t>(40)}, 80), {0, 1}).height, 30);
}

TEST(Picture, NumbersHaveTwoDigitsThatTell) {
  EXPECT_EQ(share_text(0), "0x");
  EXPECT_EQ(share_text(0.426), "0.43x");
  EXPECT_EQ(share_text(0.999), "1.0x");
  EXPECT_EQ(share_text(2.34), "2.3x");
  EXPECT_EQ(share_text(48.7), "49x");
  EXPECT_EQ(high_text({0, 2.5, false}), "2.5x");
  EXPECT_EQ(high_text({0, 2.5, true}), "2.5x+");
}

TEST(Picture, ASheetHoldsLinesOfPictures) {
  const Image dark{10, 20, 3, std::vector<uint8_t>(600, 0)};
  const Image all = sheet({{dark, dark}, {dark}});
  EXPECT_EQ(all.height, 26);
  EXPECT_EQ(all.width, 46);
  EXPECT_EQ(pixel(all, 0, 30).red, 0);
  EXPECT_EQ(pixel(all, 20, 30).red, 255);
  EXPECT_EQ(pixel(all, 20, 10).red, 0);
}

TEST(Picture, ARangeIsNeverEmpty) {
  const Range all = range_of({3, 1, 2});
  EXPECT_EQ(all.low, 1);
  EXPECT_EQ(all.high, 3);
  const Range flat = range_of({1, 1, 1});
  EXPECT_LT(flat.low, 1);
  EXPECT_GT(flat.high, 1);
}

}  // namespace
}  // namespace fovea

#include "fovea/explain/picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "fovea/base/error.h"
#include "fovea/explain/colour_scale.h"

namespace fovea {
namespace {

constexpr double kHeat = 0.68;  // how much of a picture's colour is the number's, not the image's
constexpr int64_t kGap = 6, kBarWidth = 14, kFontScale = 3;

// Digits of 3 x 5 dots, a row after the other.
constexpr std::string_view kGlyphs = "0123456789.x+";
constexpr std::array<std::string_view, 13> kDots = {
    "####.##.##.####", ".#.##..#..#.###", "###..#####..###", "###..#.##..####", "#.##.####..#..#",
    "####..###..####", "####..####.####", "###..#..#.#..#.", "####.#####.####", "####.####..####",
    ".............#.", "...#.#.#.#.#...", "....#.###.#...."};

Image blank(int64_t height, int64_t width, uint8_t shade) {
  Image image{height, width, 3, {}};
  image.pixels.assign(static_cast<size_t>(height * width * 3), shade);
  return image;
}

void set_pixel(Image& image, int64_t y, int64_t x, Colour c) {
  if (y < 0 || x < 0 || y >= image.height || x >= image.width) return;
  uint8_t* p = image.pixels.data() + (y * image.width + x) * 3;
  p[0] = c.red;
  p[1] = c.green;
  p[2] = c.blue;
}

void paste(Image& onto, const Image& picture, int64_t top, int64_t left) {
  for (int64_t y = 0; y < picture.height; ++y)
    std::copy_n(picture.pixels.begin() + y * picture.width * 3, picture.width * 3,
                onto.pixels.begin() + ((top + y) * onto.width + left) * 3);
}

int64_t text_width(std::string_view text) {
  return static_cast<int64_t>(text.size()) * 4 * kFontScale;
}

void write(Image& onto, std::string_view text, int64_t top, int64_t left) {
  for (const char c : text) {
    const size_t glyph = kGlyphs.find(c);
    FOVEA_ASSERT(glyph != std::string_view::npos);
    for (int64_t y = 0; y < 5 * kFontScale; ++y)
      for (int64_t x = 0; x < 3 * kFontScale; ++x)
        if (kDots[glyph][static_cast<size_t>(y / kFontScale * 3 + x / kFontScale)] == '#')
          set_pixel(onto, top + y, left + x, {40, 40, 40});
    left += 4 * kFontScale;
  }
}

std::pair<int64_t, int64_t> enlarged_size(const Image& image, int64_t side) {
  const int64_t longer = std::max(image.height, image.width);
  FOVEA_ASSERT(longer > 0);
  return {std::max<int64_t>(1, image.height * side / longer),
          std::max<int64_t>(1, image.width * side / longer)};
}

// One row of pixels, each as a strip of its own.
Image in_strips(const Image& row, int64_t height, int64_t width) {
  Image strips{height, width, 1, {}};
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      strips.pixels.push_back(row.pixels[static_cast<size_t>(x * row.width / width)]);
  return strips;
}

}  // namespace

Range range_of(const std::vector<double>& values) {
  FOVEA_ASSERT(!values.empty());
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  if (*high - *low > 1e-9) return {.low = *low, .high = *high};
  return {.low = *low * 0.9 - 1e-3, .high = *high * 1.1 + 1e-3};
}

Image enlarged(const Image& image, int64_t side) {
  const auto [height, width] = enlarged_size(image, side);
  return resize(to_rgb(image), height, width);
}

Image heat_map(const Image& image, const std::vector<double>& values, const TokenGrid& grid,
               Range range, int64_t side) {
  const auto count = static_cast<int64_t>(values.size());
  FOVEA_ASSERT(count == grid.tokens() || (grid.rows == 1 && count > 0 && count < grid.columns));
  Image heat{grid.rows, count / grid.rows, 1, {}};
  for (const double v : values)
    heat.pixels.push_back(static_cast<uint8_t>(
        std::lround(255 * std::clamp((v - range.low) / (range.high - range.low), 0.0, 1.0))));
  Image picture = enlarged(image, side);
  const int64_t width =
      std::max<int64_t>(1, picture.width * heat.width / std::max<int64_t>(1, grid.columns));
  heat = grid.kind == TokenKind::column ? in_strips(heat, picture.height, width)
                                        : resize(heat, picture.height, width);
  for (size_t i = 0; i < heat.pixels.size(); ++i) {
    const Colour c = scale_colour(heat.pixels[i] / 255.0);
    const std::array<uint8_t, 3> parts = {c.red, c.green, c.blue};
    const size_t row = i / static_cast<size_t>(width), column = i % static_cast<size_t>(width);
    for (size_t k = 0; k < 3; ++k) {
      uint8_t& p = picture.pixels[(row * static_cast<size_t>(picture.width) + column) * 3 + k];
      p = static_cast<uint8_t>(std::lround(kHeat * parts[k] + (1 - kHeat) * p));
    }
  }
  return picture;
}

Image sheet(const std::vector<std::vector<Image>>& lines) {
  int64_t height = -kGap, width = 0;
  std::vector<int64_t> heights;
  for (const auto& line : lines) {
    int64_t line_width = -kGap, line_height = 0;
    for (const Image& picture : line) {
      line_width += kGap + picture.width;
      line_height = std::max(line_height, picture.height);
    }
    heights.push_back(line_height);
    height += kGap + line_height;
    width = std::max(width, line_width);
  }
  FOVEA_ASSERT(height > 0 && width > 0);
  Image all = blank(height, width, 255);
  int64_t top = 0;
  for (size_t i = 0; i < lines.size(); ++i) {
    int64_t left = 0;
    for (const Image& picture : lines[i]) {
      paste(all, picture, top, left);
      left += picture.width + kGap;
    }
    top += heights[i] + kGap;
  }
  return all;
}

Image with_scale(const Image& picture, Range range) {
  const std::string high = high_text(range), low = share_text(range.low);
  const int64_t text_left = picture.width + kGap + kBarWidth + 4;
  const int64_t least = 2 * 5 * kFontScale + kGap;  // for the two numbers
  Image all = blank(std::max(picture.height, least),
                    text_left + std::max(text_width(high), text_width(low)), 255);
  paste(all, picture, 0, 0);
  for (int64_t y = 0; y < all.height; ++y)
    for (int64_t x = 0; x < kBarWidth; ++x)
      set_pixel(all, y, picture.width + kGap + x,
                scale_colour(1 - static_cast<double>(y) / static_cast<double>(all.height - 1)));
  write(all, high, 0, text_left);
  write(all, low, all.height - 5 * kFontScale, text_left);
  return all;
}

std::string high_text(Range range) { return share_text(range.high) + (range.more ? "+" : ""); }

std::string share_text(double share) {
  if (share < 0.005) return "0x";
  if (share >= 9.95) return fmt::format("{:.0f}x", share);
  return fmt::format("{:.{}f}x", share, share >= 0.995 ? 1 : 2);
}

}  // namespace fovea

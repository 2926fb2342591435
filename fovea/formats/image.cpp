#include "fovea/formats/image.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "fovea/base/error.h"
#include "fovea/formats/file.h"
#include "fovea/formats/image_codec.h"

namespace fovea {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 28;

bool starts_with(std::span<const std::byte> file, std::span<const uint8_t> signature) {
  return file.size() >= signature.size() &&
         std::memcmp(file.data(), signature.data(), signature.size()) == 0;
}

void check(const Image& image, const char* place) {
  const bool sizes = image.height > 0 && image.width > 0 && image.height <= kMaxPixels &&
                     image.width <= kMaxPixels / image.height &&
                     (image.channels == 1 || image.channels == 3);
  if (!sizes ||
      image.pixels.size() != static_cast<size_t>(image.height * image.width * image.channels)) {
    throw Error{
        ErrorCode::invalid_argument,
        fmt::format("[{}] expected an image of 1 or 3 channels, got {} bytes for {} x {} x {}",
                    place, image.pixels.size(), image.height, image.width, image.channels)};
  }
}

// Which source pixels an output pixel sees along one axis, and how much of each.
struct Taps {
  int64_t first = 0;
  std::vector<float> weights;
};

std::vector<Taps> make_taps(int64_t from, int64_t to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double radius = std::max(scale, 1.0);
  std::vector<Taps> taps(static_cast<size_t>(to));
  for (int64_t i = 0; i < to; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale - 0.5;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(std::ceil(centre - radius)));
    const auto last = std::min(from - 1, static_cast<int64_t>(std::floor(centre + radius)));
    std::vector<double> weights;
    double sum = 0;
    for (int64_t j = first; j <= last; ++j) {
      weights.push_back(std::max(0.0, 1.0 - std::abs(static_cast<double>(j) - centre) / radius));
      sum += weights.back();
    }
    Taps& t = taps[static_cast<size_t>(i)];
    t.first = first;
    for (double w : weights) t.weights.push_back(static_cast<float>(w / sum));
  }
  return taps;
}

uint8_t to_byte(float value) {
  return static_cast<uint8_t>(std::clamp(value + 0.5f, 0.0f, 255.0f));
}

}  // namespace

Image blank_image(uint64_t height, uint64_t width, int64_t channels, const std::string& name,
                  int64_t max_pixels) {
  if (height == 0 || width == 0) {
    throw Error{ErrorCode::corrupt,
                fmt::format("[image] {}: a side of 0 pixels (save it again)", name)};
  }
  const auto limit = static_cast<uint64_t>(std::clamp<int64_t>(max_pixels, 0, kMaxPixels));
  if (height > limit || width > limit / height) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[image] {}: expected at most {} pixels, got {} x {} (make it smaller)",
                            name, limit, height, width)};
  }
  Image image;
  image.height = static_cast<int64_t>(height);
  image.width = static_cast<int64_t>(width);
  image.channels = channels;
  image.pixels.resize(static_cast<size_t>(image.height * image.width * channels));
  return image;
}

void throw_broken_image(const std::string& name, const std::string& format,
                        const std::string& what) {
  throw Error{
      ErrorCode::corrupt,
      fmt::format("[image] {}: broken {} file: {} (copy or save it again)", name, format, what)};
}

Image decode_image(std::span<const std::byte> file, const std::string& name, int64_t max_pixels) {
  static constexpr std::array<uint8_t, 8> kPng = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  static constexpr std::array<uint8_t, 3> kJpeg = {0xff, 0xd8, 0xff};
  if (starts_with(file, kPng)) return decode_png(file, name, max_pixels);
  if (starts_with(file, kJpeg)) return decode_jpeg(file, name, max_pixels);
  throw Error{ErrorCode::unsupported,
              fmt::format("[image] {}: expected a PNG or JPEG file, got neither (convert it to "
                          "PNG)",
                          name)};
}

Image read_image(const std::filesystem::path& path, int64_t max_pixels) {
  return decode_image(read_file(path, kMaxFileBytes), path.string(), max_pixels);
}

Image to_grey(const Image& image) {
  check(image, "to_grey");
  if (image.channels == 1) return image;
  Image grey{image.height, image.width, 1, {}};
  grey.pixels.resize(static_cast<size_t>(image.height * image.width));
  for (size_t i = 0; i < grey.pixels.size(); ++i) {
    const uint8_t* p = &image.pixels[3 * i];
    // 0.299, 0.587 and 0.114 in 16 bits; they add up to 65536, so white stays white.
    grey.pixels[i] =
        static_cast<uint8_t>((19595u * p[0] + 38470u * p[1] + 7471u * p[2] + 32768u) >> 16);
  }
  return grey;
}

Image to_rgb(const Image& image) {
  check(image, "to_rgb");
  if (image.channels == 3) return image;
  Image rgb{image.height, image.width, 3, {}};
  rgb.pixels.reserve(3 * image.pixels.size());
  for (uint8_t p : image.pixels) rgb.pixels.insert(rgb.pixels.end(), 3, p);
  return rgb;
}

Image resize(const Image& image, int64_t height, int64_t width) {
  check(image, "resize");
  if (height < 1 || width < 1 || height > kMaxPixels || width > kMaxPixels / height) {
    throw Error{
        ErrorCode::invalid_argument,
        fmt::format("[resize] expected 1 to {} pixels, got {} x {}", kMaxPixels, height, width)};
  }
  if (height == image.height && width == image.width) return image;
  const std::vector<Taps> rows = make_taps(image.height, height);
  const std::vector<Taps> columns = make_taps(image.width, width);
  const auto channels = static_cast<size_t>(image.channels);
  const size_t stride = static_cast<size_t>(image.width) * channels;
  Image result{height, width, image.channels, {}};
  result.pixels.reserve(static_cast<size_t>(height * width) * channels);
  // One output row at a time: first the rows that it sees are mixed, then the columns.
  std::vector<float> mixed(stride);
  for (const Taps& row : rows) {
    std::fill(mixed.begin(), mixed.end(), 0.0f);
    for (size_t k = 0; k < row.weights.size(); ++k) {
      const uint8_t* source = image.pixels.data() + (static_cast<size_t>(row.first) + k) * stride;
      const float weight = row.weights[k];
      for (size_t i = 0; i < stride; ++i) mixed[i] += weight * static_cast<float>(source[i]);
    }
    for (const Taps& column : columns) {
      for (size_t c = 0; c < channels; ++c) {
        const float* source = mixed.data() + static_cast<size_t>(column.first) * channels + c;
        float sum = 0;
        for (size_t k = 0; k < column.weights.size(); ++k) {
          sum += column.weights[k] * source[k * channels];
        }
        result.pixels.push_back(to_byte(sum));
      }
    }
  }
  return result;
}

}  // namespace fovea

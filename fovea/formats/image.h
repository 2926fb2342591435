// Pictures in memory: PNG and JPEG decoded, PNG written, grey and other sizes made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace fovea {

struct Image {  // in memory, decoded
  int64_t height = 0, width = 0;
  int64_t channels = 0;         // 1: grey, 3: red, green, blue
  std::vector<uint8_t> pixels;  // [height, width, channels]
};

// More than this is refused before memory is taken; 64 million fit any camera.
inline constexpr int64_t kMaxPixels = int64_t{1} << 26;

// Decodes a PNG or JPEG file in memory, told apart by its signature; name stands for it in errors.
// 16 bits are scaled to 8, palettes become colours, what is transparent is laid on black, CMYK
// becomes RGB; gamma, colour profiles and the orientation tag are not applied. Errors: corrupt
// where the file is broken or truncated, unsupported for another format, invalid_argument beyond
// max_pixels.
Image decode_image(std::span<const std::byte> file, const std::string& name,
                   int64_t max_pixels = kMaxPixels);
// The same for a file of at most 256 MiB.
Image read_image(const std::filesystem::path& path, int64_t max_pixels = kMaxPixels);

// ITU-R BT.601 luma, rounded; grey images are returned as they are.
Image to_grey(const Image& image);
// Grey becomes three equal channels; colour is returned as it is.
Image to_rgb(const Image& image);

// Bilinear, pixel centres at half integers. Where the image shrinks, the triangle widens by the
// factor, so that each source pixel counts (area filtering, no aliasing).
Image resize(const Image& image, int64_t height, int64_t width);

// A PNG file of 8 bits for each channel.
std::vector<std::byte> encode_png(const Image& image);

}  // namespace fovea

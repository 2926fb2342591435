// The decoders behind decode_image, one for each format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "fovea/formats/image.h"

namespace fovea {

// An image of this size without content; Error (invalid_argument) beyond max_pixels, (corrupt)
// where a side is 0.
Image blank_image(uint64_t height, uint64_t width, int64_t channels, const std::string& name,
                  int64_t max_pixels);

[[noreturn]] void throw_broken_image(const std::string& name, const std::string& format,
                                     const std::string& what);

Image decode_png(std::span<const std::byte> file, const std::string& name, int64_t max_pixels);
Image decode_jpeg(std::span<const std::byte> file, const std::string& name, int64_t max_pixels);

}  // namespace fovea

// Pictures are decoded, made grey, colour and small; written as PNG they are read again to the
// same.
#include "fovea/formats/image.h"

#include "fovea/base/error.h"
#include "fuzz/property.h"

using namespace fovea;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr int64_t kPixels = int64_t{1} << 20;  // fewer than in earnest: inputs per second count
  // Up to four bytes a pixel, and for progressive JPEG its coefficients; one byte of a file can
  // hold 8256 pixels of a palette.
  const size_t pixels = std::min(static_cast<size_t>(kPixels), 8256 * size);
  const fuzz::MemoryBound bound((size_t{4} << 20) + 32 * pixels);
  Image image;
  try {
    image = decode_image(fuzz::as_bytes(data, size), "input", kPixels);
  } catch (const Error&) {
    bound.check();
    return 0;
  }
  bound.check();
  fuzz::expect(
      image.pixels.size() == static_cast<size_t>(image.height * image.width * image.channels),
      "an image has as many pixels as it says");
  const Image again = decode_image(encode_png(image), "written");
  fuzz::expect(again.height == image.height && again.width == image.width &&
                   again.channels == image.channels && again.pixels == image.pixels,
               "an image is read as it was written");
  fuzz::expect(to_grey(to_rgb(image)).pixels.size() * 3 == to_rgb(image).pixels.size(),
               "grey has a third of the bytes of colour");
  resize(image, 28, 28);
  return 0;
}

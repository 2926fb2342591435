// JPEG through libjpeg-turbo. Its errors come back by longjmp, so the functions that call setjmp
// hold no object with a destructor: what they use is owned by their callers.
#include <algorithm>
#include <csetjmp>
#include <cstdio>
// jpeglib.h needs FILE and size_t declared before it.
#include <fmt/format.h>
#include <jerror.h>
#include <jpeglib.h>

#include <vector>

#include "fovea/base/error.h"
#include "fovea/formats/image_codec.h"

namespace fovea {
namespace {

// A block of 8 x 8 samples takes a bit at least, and covers at most 32 x 8 pixels (of a picture
// whose components are sampled in different directions), so no file holds more in a byte.
constexpr uint64_t kMaxPixelsOfByte = 1024;

// A progressive file may repeat scans without end; no honest one has as many.
constexpr int kMaxScans = 500;

struct Reader {
  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf jump{};
  char message[JMSG_LENGTH_MAX] = "out of memory";
  bool created = false;

  ~Reader() {
    if (created) jpeg_destroy_decompress(&jpeg);
  }
};

extern "C" {
void fovea_jpeg_error(j_common_ptr jpeg) {
  auto* reader = static_cast<Reader*>(jpeg->client_data);
  jpeg->err->format_message(jpeg, reader->message);
  std::longjmp(reader->jump, 1);
}
// The library goes on after a warning, with grey where pixels are missing. These mean lost pixels;
// others, such as stray bytes between markers, do no harm.
void fovea_jpeg_message(j_common_ptr jpeg, int level) {
  if (level >= 0) return;
  switch (jpeg->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_MUST_RESYNC:
      fovea_jpeg_error(jpeg);
  }
}
void fovea_jpeg_progress(j_common_ptr jpeg) {
  auto* reader = static_cast<Reader*>(jpeg->client_data);
  if (reader->jpeg.input_scan_number > kMaxScans) {
    std::snprintf(reader->message, sizeof reader->message, "more than %d scans", kMaxScans);
    std::longjmp(reader->jump, 1);
  }
}
}

bool read_header(Reader& reader, std::span<const std::byte> file) {
  reader.jpeg.err = jpeg_std_error(&reader.errors);
  reader.errors.error_exit = fovea_jpeg_error;
  reader.errors.emit_message = fovea_jpeg_message;
  reader.progress.progress_monitor = fovea_jpeg_progress;
  reader.jpeg.client_data = &reader;
  if (setjmp(reader.jump)) return false;
  jpeg_create_decompress(&reader.jpeg);
  reader.created = true;
  reader.jpeg.progress = &reader.progress;
  jpeg_mem_src(&reader.jpeg, reinterpret_cast<const unsigned char*>(file.data()), file.size());
  jpeg_read_header(&reader.jpeg, TRUE);
  switch (reader.jpeg.jpeg_color_space) {
    case JCS_GRAYSCALE:
      reader.jpeg.out_color_space = JCS_GRAYSCALE;
      break;
    case JCS_CMYK:
    case JCS_YCCK:
      reader.jpeg.out_color_space = JCS_CMYK;
      break;
    default:
      reader.jpeg.out_color_space = JCS_RGB;
      break;
  }
  jpeg_calc_output_dimensions(&reader.jpeg);
  return true;
}

bool read_pixels(Reader& reader, uint8_t* pixels, size_t stride) {
  if (setjmp(reader.jump)) return false;
  jpeg_start_decompress(&reader.jpeg);
  while (reader.jpeg.output_scanline < reader.jpeg.output_height) {
    JSAMPROW row = pixels + reader.jpeg.output_scanline * stride;
    jpeg_read_scanlines(&reader.jpeg, &row, 1);
  }
  jpeg_finish_decompress(&reader.jpeg);
  return true;
}

}  // namespace

Image decode_jpeg(std::span<const std::byte> file, const std::string& name, int64_t max_pixels) {
  Reader reader;
  if (!read_header(reader, file)) throw_broken_image(name, "JPEG", reader.message);
  const int stored = reader.jpeg.output_components;
  FOVEA_ASSERT(stored == 1 || stored == 3 || stored == 4);
  // Adobe writes inverted CMYK, and says so by its marker.
  const bool inverted = reader.jpeg.saw_Adobe_marker != 0;
  // Its blocks may take less than a bit, and no camera writes it.
  if (reader.jpeg.arith_code != 0) {
    throw Error{
        ErrorCode::unsupported,
        fmt::format("[image] {}: JPEG with arithmetic coding (save it as an ordinary JPEG)", name)};
  }
  const uint64_t pixels = uint64_t{reader.jpeg.output_height} * reader.jpeg.output_width;
  if (pixels / kMaxPixelsOfByte > file.size()) {
    throw_broken_image(name, "JPEG", "it promises more pixels than it can hold");
  }
  Image image =
      blank_image(reader.jpeg.output_height, reader.jpeg.output_width, stored, name, max_pixels);
  if (!read_pixels(reader, image.pixels.data(), static_cast<size_t>(image.width * stored))) {
    throw_broken_image(name, "JPEG", reader.message);
  }
  if (stored == 4) {  // packed in place: the target never passes the source
    const size_t count = static_cast<size_t>(image.height * image.width);
    for (size_t i = 0; i < count; ++i) {
      const uint8_t* ink = &image.pixels[4 * i];
      const unsigned black = inverted ? ink[3] : 255u - ink[3];
      for (size_t c = 0; c < 3; ++c) {
        const unsigned light = inverted ? ink[c] : 255u - ink[c];
        image.pixels[3 * i + c] = static_cast<uint8_t>((light * black + 127) / 255);
      }
    }
    image.pixels.resize(3 * count);
    image.channels = 3;
  }
  return image;
}

}  // namespace fovea

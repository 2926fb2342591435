// PNG through libpng. Its errors come back by longjmp, so the functions that call setjmp hold no
// object with a destructor: what they use is owned by their callers.
#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "fovea/base/error.h"
#include "fovea/formats/image_codec.h"

namespace fovea {
namespace {

// What a text or a profile may grow to when it is inflated.
constexpr size_t kMaxText = size_t{1} << 20;

struct Reader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::span<const std::byte> rest;
  size_t largest = 0;  // what libpng may ask for at once; 0: as much as it likes
  char message[128] = "out of memory";

  ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
};

extern "C" {
void fovea_png_error(png_structp png, png_const_charp message) {
  auto* reader = static_cast<Reader*>(png_get_error_ptr(png));
  std::snprintf(reader->message, sizeof reader->message, "%s", message);
  png_longjmp(png, 1);
}
void fovea_png_warning(png_structp, png_const_charp) {}
// libpng takes memory for a chunk as its length says, however short the file is. What it does not
// get, it does without, or it calls fovea_png_error.
png_voidp fovea_png_malloc(png_structp png, png_alloc_size_t size) {
  const auto* reader = static_cast<const Reader*>(png_get_mem_ptr(png));
  if (reader->largest != 0 && size > reader->largest) return nullptr;
  return std::malloc(size);
}
void fovea_png_free(png_structp, png_voidp block) { std::free(block); }
void fovea_png_read(png_structp png, png_bytep target, size_t size) {
  auto* reader = static_cast<Reader*>(png_get_io_ptr(png));
  if (size > reader->rest.size()) png_error(png, "truncated");
  std::memcpy(target, reader->rest.data(), size);
  reader->rest = reader->rest.subspan(size);
}
}

// Reads up to the pixels and asks for 8 bits of grey or RGB, with or without alpha.
bool read_header(Reader& reader) {
  reader.largest = reader.rest.size() + kMaxText;
  reader.png =
      png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &reader, fovea_png_error, fovea_png_warning,
                               &reader, fovea_png_malloc, fovea_png_free);
  if (reader.png == nullptr) return false;
  reader.info = png_create_info_struct(reader.png);
  if (reader.info == nullptr) return false;
  if (setjmp(png_jmpbuf(reader.png))) return false;
  png_set_read_fn(reader.png, &reader, fovea_png_read);
  // Sides are checked by the caller; text and profiles are of no use here.
  png_set_user_limits(reader.png, 0x7fffffff, 0x7fffffff);
  png_set_chunk_malloc_max(reader.png, kMaxText);
  png_set_keep_unknown_chunks(reader.png, PNG_HANDLE_CHUNK_NEVER, nullptr, 0);
  png_read_info(reader.png, reader.info);
  png_set_expand(reader.png);
  png_set_scale_16(reader.png);
  reader.largest = 0;  // rows, whose size the caller checks
  return true;
}

bool read_pixels(Reader& reader, png_bytepp rows) {
  if (setjmp(png_jmpbuf(reader.png))) return false;
  png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  png_read_image(reader.png, rows);
  png_read_end(reader.png, nullptr);
  return true;
}

}  // namespace

Image decode_png(std::span<const std::byte> file, const std::string& name, int64_t max_pixels) {
  Reader reader;
  reader.rest = file;
  if (!read_header(reader)) throw_broken_image(name, "PNG", reader.message);
  const bool colour = (png_get_color_type(reader.png, reader.info) & PNG_COLOR_MASK_COLOR) != 0;
  const bool alpha = (png_get_color_type(reader.png, reader.info) & PNG_COLOR_MASK_ALPHA) != 0 ||
                     png_get_valid(reader.png, reader.info, PNG_INFO_tRNS) != 0;
  const int64_t channels = colour ? 3 : 1;
  const int64_t stored = channels + (alpha ? 1 : 0);
  // Deflate makes at most 1032 bytes of one (RFC 1951), so a small file cannot promise a large
  // image.
  const uint64_t packed = uint64_t{png_get_rowbytes(reader.png, reader.info)} *
                          png_get_image_height(reader.png, reader.info);
  if (packed / 1032 > file.size()) {
    throw_broken_image(name, "PNG", "it promises more pixels than it can hold");
  }
  Image image = blank_image(png_get_image_height(reader.png, reader.info),
                            png_get_image_width(reader.png, reader.info), stored, name, max_pixels);
  std::vector<png_bytep> rows(static_cast<size_t>(image.height));
  for (size_t y = 0; y < rows.size(); ++y) {
    rows[y] = image.pixels.data() + y * static_cast<size_t>(image.width * stored);
  }
  if (!read_pixels(reader, rows.data())) throw_broken_image(name, "PNG", reader.message);
  FOVEA_ASSERT(png_get_channels(reader.png, reader.info) == stored);
  if (alpha) {  // packed in place: the target never passes the source
    const size_t count = static_cast<size_t>(image.height * image.width);
    const auto from = static_cast<size_t>(stored), to = static_cast<size_t>(channels);
    for (size_t i = 0; i < count; ++i) {
      const unsigned opacity = image.pixels[i * from + to];
      for (size_t c = 0; c < to; ++c) {
        image.pixels[i * to + c] =
            static_cast<uint8_t>((image.pixels[i * from + c] * opacity + 127) / 255);
      }
    }
    image.pixels.resize(count * to);
  }
  image.channels = channels;
  return image;
}

std::vector<std::byte> encode_png(const Image& image) {
  if (image.height < 1 || image.width < 1 || image.height > kMaxPixels ||
      image.width > kMaxPixels / image.height || (image.channels != 1 && image.channels != 3) ||
      image.pixels.size() != static_cast<size_t>(image.height * image.width * image.channels)) {
    throw Error{ErrorCode::invalid_argument,
                "[encode_png] expected pixels for height, width and 1 or 3 channels"};
  }
  // libpng's simplified interface reports errors by its result.
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = image.channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
  std::vector<std::byte> file(size);
  if (png_image_write_to_memory(&png, file.data(), &size, 0, image.pixels.data(), 0, nullptr) ==
      0) {
    throw Error{ErrorCode::out_of_memory, std::string("[encode_png] ") + png.message};
  }
  file.resize(size);
  return file;
}

}  // namespace fovea

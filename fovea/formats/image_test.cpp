#include "fovea/formats/image.h"

#include <gtest/gtest.h>
#include <png.h>
#include <zlib.h>

#include <cstdio>
// jpeglib.h needs FILE and size_t declared before it.
#include <jpeglib.h>

#include <cstdlib>
#include <cstring>

#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

Image gradient(int64_t height, int64_t width, int64_t channels) {
  Image image{height, width, channels, {}};
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      for (int64_t c = 0; c < channels; ++c) {
        image.pixels.push_back(static_cast<uint8_t>((7 * y + 3 * x + 50 * c) & 0xff));
      }
    }
  }
  return image;
}

// A PNG file of any type; the rows are as libpng stores them.
struct PngOptions {
  int width = 1, height = 1, depth = 8, type = PNG_COLOR_TYPE_GRAY;
  bool interlaced = false;
  std::vector<png_color> palette = {};
  std::vector<uint8_t> transparent = {};  // opacity of the palette's entries
};

std::vector<std::byte> png_of(const PngOptions& options, std::vector<uint8_t> rows) {
  std::vector<std::byte> file;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &file,
      [](png_structp p, png_bytep data, size_t size) {
        auto& target = *static_cast<std::vector<std::byte>*>(png_get_io_ptr(p));
        const auto* bytes = reinterpret_cast<const std::byte*>(data);
        target.insert(target.end(), bytes, bytes + size);
      },
      nullptr);
  png_set_IHDR(png, info, static_cast<png_uint_32>(options.width),
               static_cast<png_uint_32>(options.height), options.depth, options.type,
               options.interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  if (!options.palette.empty()) {
    png_set_PLTE(png, info, options.palette.data(), static_cast<int>(options.palette.size()));
  }
  if (!options.transparent.empty()) {
    png_set_tRNS(png, info, options.transparent.data(),
                 static_cast<int>(options.transparent.size()), nullptr);
  }
  png_write_info(png, info);
  std::vector<png_bytep> pointers;
  const size_t stride = rows.size() / static_cast<size_t>(options.height);
  for (int y = 0; y < options.height; ++y) {
    pointers.push_back(rows.data() + static_cast<size_t>(y) * stride);
  }
  png_write_image(png, pointers.data());
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  return file;
}

std::vector<std::byte> jpeg_of(const Image& image, J_COLOR_SPACE space, bool progressive = false,
                               bool arithmetic = false) {
  jpeg_compress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* target = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&jpeg, &target, &size);
  jpeg.image_width = static_cast<JDIMENSION>(image.width);
  jpeg.image_height = static_cast<JDIMENSION>(image.height);
  jpeg.input_components = static_cast<int>(image.channels);
  jpeg.in_color_space = space;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, 95, TRUE);
  if (progressive) jpeg_simple_progression(&jpeg);
  jpeg.arith_code = arithmetic ? TRUE : FALSE;
  jpeg_start_compress(&jpeg, TRUE);
  std::vector<uint8_t> pixels = image.pixels;
  while (jpeg.next_scanline < jpeg.image_height) {
    JSAMPROW row = pixels.data() + jpeg.next_scanline * image.width * image.channels;
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  const auto* bytes = reinterpret_cast<const std::byte*>(target);
  const std::vector<std::byte> file(bytes, bytes + size);
  std::free(target);
  return file;
}

TEST(Image, PngGivesBackEveryPixel) {
  for (int64_t channels : {1, 3}) {
    const Image image = gradient(13, 17, channels);
    const Image back = decode_image(encode_png(image), "x");
    EXPECT_EQ(back.height, 13);
    EXPECT_EQ(back.width, 17);
    EXPECT_EQ(back.channels, channels);
    EXPECT_EQ(back.pixels, image.pixels);
  }
}

TEST(Image, InterlacedPngGivesTheSamePixels) {
  const Image image = gradient(9, 11, 3);
  const PngOptions options = {
      .width = 11, .height = 9, .type = PNG_COLOR_TYPE_RGB, .interlaced = true};
  EXPECT_EQ(decode_image(png_of(options, image.pixels), "x").pixels, image.pixels);
}

TEST(Image, PngOfSixteenBitsIsScaledToEight) {
  const PngOptions options = {.width = 3, .depth = 16};
  const Image image = decode_image(png_of(options, {0, 0, 0x80, 0x80, 0xff, 0xff}), "x");
  EXPECT_EQ(image.channels, 1);
  EXPECT_EQ(image.pixels, (std::vector<uint8_t>{0, 0x80, 0xff}));
}

TEST(Image, PngOfOneBitIsSpreadToBlackAndWhite) {
  const PngOptions options = {.width = 4, .depth = 1};
  EXPECT_EQ(decode_image(png_of(options, {0b01010000}), "x").pixels,
            (std::vector<uint8_t>{0, 255, 0, 255}));
}

TEST(Image, PalettesBecomeColoursAndTheirTransparencyLiesOnBlack) {
  PngOptions options = {.width = 2, .type = PNG_COLOR_TYPE_PALETTE};
  options.palette = {{10, 20, 30}, {200, 100, 50}};
  EXPECT_EQ(decode_image(png_of(options, {1, 0}), "x").pixels,
            (std::vector<uint8_t>{200, 100, 50, 10, 20, 30}));
  options.transparent = {255, 51};
  const Image image = decode_image(png_of(options, {1, 0}), "x");
  EXPECT_EQ(image.channels, 3);
  EXPECT_EQ(image.pixels, (std::vector<uint8_t>{40, 20, 10, 10, 20, 30}));
}

TEST(Image, AlphaIsLaidOnBlack) {
  const PngOptions colour = {.width = 2, .type = PNG_COLOR_TYPE_RGB_ALPHA};
  EXPECT_EQ(decode_image(png_of(colour, {100, 50, 10, 0, 100, 50, 10, 255}), "x").pixels,
            (std::vector<uint8_t>{0, 0, 0, 100, 50, 10}));
  const PngOptions grey = {.width = 2, .type = PNG_COLOR_TYPE_GRAY_ALPHA};
  const Image image = decode_image(png_of(grey, {100, 51, 7, 255}), "x");
  EXPECT_EQ(image.channels, 1);
  EXPECT_EQ(image.pixels, (std::vector<uint8_t>{20, 7}));
}

TEST(Image, JpegComesNearToWhatWasEncoded) {
  for (bool progressive : {false, true}) {
    for (int64_t channels : {1, 3}) {
      Image image{32, 24, channels, {}};
      for (int64_t i = 0; i < 32 * 24 * channels; ++i) {
        image.pixels.push_back(static_cast<uint8_t>(40 + 60 * (i % channels) + i / 24 / channels));
      }
      const Image back =
          decode_image(jpeg_of(image, channels == 1 ? JCS_GRAYSCALE : JCS_RGB, progressive), "x");
      ASSERT_EQ(back.channels, channels);
      ASSERT_EQ(back.pixels.size(), image.pixels.size());
      for (size_t i = 0; i < image.pixels.size(); ++i) {
        ASSERT_NEAR(back.pixels[i], image.pixels[i], 8);
      }
    }
  }
}

TEST(Image, CmykJpegBecomesRgb) {
  Image ink{8, 8, 4, {}};
  for (int i = 0; i < 64; ++i) ink.pixels.insert(ink.pixels.end(), {255, 128, 0, 255});
  const Image image = decode_image(jpeg_of(ink, JCS_CMYK), "x");
  ASSERT_EQ(image.channels, 3);
  EXPECT_NEAR(image.pixels[0], 255, 3);
  EXPECT_NEAR(image.pixels[1], 128, 3);
  EXPECT_NEAR(image.pixels[2], 0, 3);
}

TEST(Image, ReadsRealFiles) {
  const auto photo = shared_data(
      "driving_sample/nuscenes/"
      "n015-2018-07-24-11-22-45+0800__CAM_FRONT_LEFT__1532402927604844.jpg");
  const auto png = shared_data("driving_sample/kitti/000008.png");
  if (photo.empty() || png.empty()) GTEST_SKIP() << "no shared data here";
  const Image a = read_image(photo);
  EXPECT_EQ(a.channels, 3);
  EXPECT_EQ(a.height, 900);
  EXPECT_EQ(a.width, 1600);
  EXPECT_EQ(read_image(png).channels, 3);
}

TEST(Image, TheSignatureCountsAndNotTheName) {
  TemporaryFolder folder;
  write_file_atomically(folder / "a.jpg", encode_png(gradient(2, 2, 1)));
  EXPECT_EQ(read_image(folder / "a.jpg").width, 2);
  write_file_atomically(folder / "b.png", "GIF89a");
  expect_error(ErrorCode::unsupported, (folder / "b.png").string() + ": expected a PNG or JPEG",
               [&] { read_image(folder / "b.png"); });
  expect_error(ErrorCode::unsupported, "got neither", [] { decode_image({}, "x"); });
  expect_error(ErrorCode::not_found, "c.png", [&] { read_image(folder / "c.png"); });
}

TEST(Image, EveryCutOfAPngIsAnError) {
  const auto file = encode_png(gradient(20, 20, 3));
  for (size_t size = 8; size < file.size(); ++size) {
    expect_error(ErrorCode::corrupt, "[image] cut.png: broken PNG file",
                 [&] { decode_image(std::span(file).first(size), "cut.png"); });
  }
}

TEST(Image, EveryCutOfAJpegIsAnError) {
  for (bool progressive : {false, true}) {
    const auto file = jpeg_of(gradient(20, 20, 3), JCS_RGB, progressive);
    for (size_t size = 3; size + 2 < file.size(); ++size) {
      SCOPED_TRACE(size);
      expect_error(ErrorCode::corrupt, "[image] cut.jpg: broken JPEG file",
                   [&] { decode_image(std::span(file).first(size), "cut.jpg"); });
    }
  }
}

TEST(Image, DamagedFilesGiveAnErrorOrAnImageAndNeverACrash) {
  std::srand(1);
  const std::vector<std::vector<std::byte>> files = {encode_png(gradient(16, 16, 3)),
                                                     jpeg_of(gradient(16, 16, 3), JCS_RGB),
                                                     jpeg_of(gradient(16, 16, 3), JCS_RGB, true)};
  for (const auto& file : files) {
    for (int trial = 0; trial < 1000; ++trial) {
      auto damaged = file;
      for (int i = 0; i < 3; ++i) {
        damaged[3 + static_cast<size_t>(std::rand()) % (file.size() - 3)] =
            static_cast<std::byte>(std::rand());
      }
      try {
        const Image image = decode_image(damaged, "x", 1 << 20);
        EXPECT_EQ(image.pixels.size(),
                  static_cast<size_t>(image.height * image.width * image.channels));
      } catch (const Error&) {
      }
    }
  }
}

TEST(Image, TooManyPixelsAreAnErrorBeforeMemoryIsTaken) {
  const Image image = gradient(20, 30, 1);
  for (const auto& file : {encode_png(image), jpeg_of(image, JCS_GRAYSCALE)}) {
    expect_error(ErrorCode::invalid_argument, "expected at most 599 pixels, got 20 x 30",
                 [&] { decode_image(file, "x", 599); });
    EXPECT_NO_THROW(decode_image(file, "x", 600));
  }
}

TEST(Image, APngThatPromisesMoreThanItCanHoldIsAnError) {
  auto file = encode_png(gradient(2, 2, 1));
  for (size_t i : {18u, 22u}) file[i] = std::byte{0x10};  // 4098 x 4098
  const auto* header = reinterpret_cast<const Bytef*>(file.data());
  const uint32_t checksum = static_cast<uint32_t>(crc32(0, header + 12, 17));
  for (size_t i = 0; i < 4; ++i) file[29 + i] = static_cast<std::byte>(checksum >> (24 - 8 * i));
  expect_error(ErrorCode::corrupt, "promises more pixels than it can hold",
               [&] { decode_image(file, "x"); });
}

TEST(Image, AJpegThatPromisesMoreThanItCanHoldIsAnError) {
  auto jpeg = jpeg_of(gradient(20, 30, 1), JCS_GRAYSCALE);
  for (size_t i = 0; i + 9 < jpeg.size(); ++i) {
    if (jpeg[i] == std::byte{0xff} && jpeg[i + 1] == std::byte{0xc0}) {
      for (size_t k = 5; k < 9; ++k) jpeg[i + k] = std::byte{0x10};  // height and width
      break;
    }
  }
  expect_error(ErrorCode::corrupt, "promises more pixels than it can hold",
               [&] { decode_image(jpeg, "x"); });
}

TEST(Image, AJpegOfOneColourIsAsLargeAsItSays) {
  const Image flat = {2000, 2000, 1, std::vector<uint8_t>(4'000'000, 7)};
  for (bool progressive : {false, true})
    EXPECT_EQ(decode_image(jpeg_of(flat, JCS_GRAYSCALE, progressive), "x").pixels.size(),
              flat.pixels.size());
}

TEST(Image, AJpegWithArithmeticCodingIsUnsupported) {
  const auto jpeg = jpeg_of(gradient(20, 30, 1), JCS_GRAYSCALE, false, true);
  expect_error(ErrorCode::unsupported, "save it as an ordinary JPEG",
               [&] { decode_image(jpeg, "x"); });
}

TEST(Image, GreyWeighsTheColoursAndKeepsWhite) {
  const Image image = {1, 4, 3, {255, 255, 255, 255, 0, 0, 0, 255, 0, 0, 0, 255}};
  EXPECT_EQ(to_grey(image).pixels, (std::vector<uint8_t>{255, 76, 150, 29}));
  const Image grey = {1, 2, 1, {3, 4}};
  EXPECT_EQ(to_grey(grey).pixels, grey.pixels);
  EXPECT_EQ(to_rgb(grey).pixels, (std::vector<uint8_t>{3, 3, 3, 4, 4, 4}));
  EXPECT_EQ(to_rgb(image).pixels, image.pixels);
}

TEST(Resize, KeepsFlatImagesFlatAndTheSameSizeTheSame) {
  const Image flat = {5, 7, 3, std::vector<uint8_t>(5 * 7 * 3, 200)};
  for (const auto& [h, w] : {std::pair<int64_t, int64_t>{3, 3}, {10, 2}, {1, 1}, {11, 29}}) {
    const Image image = resize(flat, h, w);
    EXPECT_EQ(image.height, h);
    EXPECT_EQ(image.width, w);
    EXPECT_EQ(image.pixels, std::vector<uint8_t>(static_cast<size_t>(h * w * 3), 200));
  }
  const Image image = gradient(5, 7, 1);
  EXPECT_EQ(resize(image, 5, 7).pixels, image.pixels);
}

TEST(Resize, InterpolatesBetweenPixelCentres) {
  const Image image = {1, 2, 1, {0, 100}};
  EXPECT_EQ(resize(image, 1, 4).pixels, (std::vector<uint8_t>{0, 25, 75, 100}));
  const Image column = {2, 1, 1, {0, 100}};
  EXPECT_EQ(resize(column, 4, 1).pixels, (std::vector<uint8_t>{0, 25, 75, 100}));
}

TEST(Resize, ShrinkingCountsEveryPixel) {
  Image stripes = {1, 64, 1, {}};
  for (int i = 0; i < 64; ++i) stripes.pixels.push_back(i % 2 == 0 ? 0 : 200);
  for (uint8_t p : resize(stripes, 1, 8).pixels) EXPECT_NEAR(p, 100, 7);
}

TEST(Image, WrongSizesFromTheCallerAreErrors) {
  const Image image = gradient(4, 4, 1);
  Image lying = image;
  lying.width = 5;
  Image two = image;
  two.channels = 2;
  expect_error(ErrorCode::invalid_argument, "[resize]", [&] { resize(image, 0, 3); });
  expect_error(ErrorCode::invalid_argument, "[resize]",
               [&] { resize(image, int64_t{1} << 40, int64_t{1} << 40); });
  expect_error(ErrorCode::invalid_argument, "[resize]", [&] { resize(lying, 2, 2); });
  expect_error(ErrorCode::invalid_argument, "[to_grey]", [&] { to_grey(two); });
  expect_error(ErrorCode::invalid_argument, "[to_rgb]", [&] { to_rgb(Image{}); });
  expect_error(ErrorCode::invalid_argument, "[encode_png]", [&] { encode_png(lying); });
}

}  // namespace
}  // namespace fovea

#include "fovea/formats/idx.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (int v : values) bytes.push_back(static_cast<std::byte>(v));
  return bytes;
}

std::vector<std::byte> gzip(std::span<const std::byte> plain) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 16 + 15, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::vector<std::byte> target(plain.size() + 1000);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(plain.data()));
  stream.avail_in = static_cast<uInt>(plain.size());
  stream.next_out = reinterpret_cast<Bytef*>(target.data());
  stream.avail_out = static_cast<uInt>(target.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  target.resize(stream.total_out);
  deflateEnd(&stream);
  return target;
}

const std::vector<std::byte> kSmall =
    bytes_of({0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6});

TEST(Idx, ReadsPlainAndCompressedFiles) {
  TemporaryFolder folder;
  write_file_atomically(folder / "plain", kSmall);
  write_file_atomically(folder / "packed", gzip(kSmall));
  for (const char* name : {"plain", "packed"}) {
    const IdxArray array = read_idx(folder / name);
    EXPECT_EQ(array.shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(array.values, (std::vector<uint8_t>{1, 2, 3, 4, 5, 6}));
  }
  EXPECT_TRUE(parse_idx(bytes_of({0, 0, 8, 1, 0, 0, 0, 0}), "x").values.empty());
}

TEST(Idx, AWrongMagicNumberIsAnError) {
  expect_error(ErrorCode::corrupt, "[idx] x: expected the magic number", [] {
    parse_idx(bytes_of({1, 0, 8, 1, 0, 0, 0, 0}), "x");
  });
  expect_error(ErrorCode::corrupt, "magic", [] { parse_idx(bytes_of({0, 0, 8, 0}), "x"); });
  expect_error(ErrorCode::corrupt, "magic", [] { parse_idx(bytes_of({0, 0, 8, 9}), "x"); });
}

TEST(Idx, OtherElementsAreUnsupported) {
  expect_error(ErrorCode::unsupported, "got type 0x0d", [] {
    parse_idx(bytes_of({0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0}), "x");
  });
}

TEST(Idx, EveryCutOfAFileIsAnError) {
  const auto packed = gzip(kSmall);
  for (const auto& file : {kSmall, packed}) {
    for (size_t size = 0; size < file.size(); ++size) {
      SCOPED_TRACE(size);
      expect_error(ErrorCode::corrupt, "truncated",
                   [&] { parse_idx(std::span(file).first(size), "x"); });
    }
  }
}

TEST(Idx, BytesAfterTheEndAreAnError) {
  auto plain = kSmall;
  plain.push_back(std::byte{1});
  auto packed = gzip(kSmall);
  packed.push_back(std::byte{1});
  for (const auto& file : {plain, gzip(plain), packed}) {
    expect_error(ErrorCode::corrupt, "bytes after its 6 elements", [&] { parse_idx(file, "x"); });
  }
}

TEST(Idx, DamagedCompressionIsAnError) {
  auto file = gzip(kSmall);
  file[file.size() - 8] ^= std::byte{1};  // the checksum
  expect_error(ErrorCode::corrupt, "damaged", [&] { parse_idx(file, "x"); });
  file = gzip(kSmall);
  file[2] = std::byte{7};  // the method
  expect_error(ErrorCode::corrupt, "damaged", [&] { parse_idx(file, "x"); });
}

TEST(Idx, LyingSizesAreAnErrorBeforeMemoryIsTaken) {
  const auto large = bytes_of({0, 0, 8, 2, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, 1});
  for (const auto& file : {large, gzip(large)}) {
    expect_error(ErrorCode::corrupt, "more than the file can hold", [&] { parse_idx(file, "x"); });
  }
  const auto overflowing =
      bytes_of({0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255});
  expect_error(ErrorCode::corrupt, "its sizes overflow", [&] { parse_idx(overflowing, "x"); });
}

TEST(Idx, AMissingFileIsAnError) {
  expect_error(ErrorCode::not_found, "/none/idx", [] { read_idx("/none/idx"); });
}

}  // namespace
}  // namespace fovea

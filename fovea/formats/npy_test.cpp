#include "fovea/formats/npy.h"

#include <gtest/gtest.h>
#include <zip.h>

#include <algorithm>

#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

std::string little(uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
  return text;
}

std::string npy(const std::string& header, const std::string& data, int version = 1) {
  return "\x93NUMPY" + little(static_cast<uint64_t>(version), 1) + little(0, 1) +
         little(header.size(), version == 1 ? 2 : 4) + header + data;
}
std::string dictionary(const std::string& type, const std::string& shape,
                       const std::string& fortran = "False") {
  return "{'descr': '" + type + "', 'fortran_order': " + fortran + ", 'shape': " + shape +
         ", }  \n";
}

NpyArray parse(const std::string& file) { return parse_npy(to_bytes(file), "a.npy"); }

TEST(Npy, ReadsVersionsOneToThree) {
  for (int version : {1, 2, 3}) {
    const NpyArray a = parse(npy(dictionary("<i2", "(2, 3)"),
                                 little(0x0005fffe0001, 6) + little(0x000700060005, 6), version));
    EXPECT_EQ(a.type, NpyType::i16);
    EXPECT_EQ(a.shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(a.elements(), 6);
    EXPECT_EQ(npy_to_i32(a, "a"), (std::vector<int32_t>{1, -2, 5, 5, 6, 7}));
    EXPECT_EQ(npy_to_f32(a)[1], -2.0f);
  }
}

TEST(Npy, ReadsEveryTypeOfElement) {
  const std::vector<std::pair<std::string, int>> types = {{"|b1", 1}, {"|u1", 1}, {"|i1", 1},
                                                          {"<u2", 2}, {"<i2", 2}, {"<u4", 4},
                                                          {"<i4", 4}, {"<u8", 8}, {"<i8", 8}};
  for (const auto& [type, bytes] : types) {
    const NpyArray a = parse(npy(dictionary(type, "(1,)"), little(1, bytes)));
    EXPECT_EQ(npy_to_i32(a, "a"), std::vector<int32_t>{1}) << type;
    EXPECT_EQ(npy_to_f32(a), std::vector<float>{1}) << type;
  }
  const std::string half = little(0x3f000000, 4);
  EXPECT_EQ(npy_to_f32(parse(npy(dictionary("<f4", "(1,)"), half)))[0], 0.5f);
  EXPECT_EQ(npy_to_f32(parse(npy(dictionary("<f8", "()"), little(0x3fe0000000000000, 8))))[0],
            0.5f);
}

TEST(Npy, FewerThanTwoAxesMayBeInFortranOrder) {
  EXPECT_EQ(parse(npy(dictionary("|u1", "(3,)", "True"), "abc")).elements(), 3);
  EXPECT_EQ(parse(npy(dictionary("|u1", "(1, 3)", "True"), "abc")).elements(), 3);
  expect_error(ErrorCode::unsupported, "ascontiguousarray",
               [] { parse(npy(dictionary("|u1", "(2, 2)", "True"), "abcd")); });
}

TEST(Npy, ArraysWithoutElementsAreRead) {
  EXPECT_EQ(parse(npy(dictionary("<f4", "(0, 7)"), "")).elements(), 0);
}

TEST(Npy, BrokenAndUnknownFilesAreErrors) {
  const auto corrupt = ErrorCode::corrupt, unsupported = ErrorCode::unsupported;
  expect_error(corrupt, "a.npy: expected a .npy file", [] { parse("PK\3\4 something else"); });
  expect_error(corrupt, "expected a .npy file", [] { parse(""); });
  const std::string good = npy(dictionary("<f4", "(2,)"), little(0, 8));
  EXPECT_EQ(parse(good).elements(), 2);
  for (size_t n = 0; n < good.size(); ++n) {
    expect_error(corrupt, "[npy]", [&] { parse(good.substr(0, n)); });
  }
  expect_error(corrupt, "needs 8 bytes, it has 9", [&] { parse(good + "x"); });
  expect_error(corrupt, "a shape that cannot be",
               [] { parse(npy(dictionary("<f4", "(4611686018427387904, 16)"), "")); });
  expect_error(corrupt, "a shape that cannot be",
               [] { parse(npy(dictionary("<f4", "(-1,)"), "")); });
  expect_error(corrupt, "unknown or repeated key 'x'", [] { parse(npy("{'x': 1}", "")); });
  expect_error(corrupt, "damaged header", [] { parse(npy("{'descr': '<f4'}", "")); });
  expect_error(corrupt, "a header of", [] {
    parse("\x93NUMPY\x02" + std::string(1, '\0') + little(0xffffffff, 4) + "{}");
  });
  expect_error(unsupported, "version 4", [] { parse(npy("{}", "", 4)); });
  expect_error(unsupported, "astype('<f4')", [] { parse(npy(dictionary(">f4", "(1,)"), "abcd")); });
  expect_error(unsupported, "'|O'", [] { parse(npy(dictionary("|O", "(1,)"), "x")); });
  expect_error(unsupported, "'<U3'", [] { parse(npy(dictionary("<U3", "(1,)"), "x")); });
  expect_error(unsupported, "several fields", [] {
    parse(npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "abcd"));
  });
}

TEST(Npy, NumbersThatAreNoIntegersOfThirtyTwoBitsAreErrors) {
  const NpyArray half = parse(npy(dictionary("<f4", "(1,)"), little(0x3f000000, 4)));
  expect_error(ErrorCode::corrupt, "labels: expected integers",
               [&] { npy_to_i32(half, "labels"); });
  const NpyArray large = parse(npy(dictionary("<u4", "(1,)"), little(0xffffffff, 4)));
  expect_error(ErrorCode::corrupt, "expected integers", [&] { npy_to_i32(large, "x"); });
}

// An archive of files, stored or deflated.
std::vector<std::byte> archive(const std::vector<std::pair<std::string, std::string>>& files,
                               int method = ZIP_CM_DEFLATE) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.npz";
  zip_t* zip = zip_open(path.c_str(), ZIP_CREATE, nullptr);
  for (const auto& [name, text] : files) {
    zip_source_t* source = zip_source_buffer(zip, text.data(), text.size(), 0);
    const zip_int64_t i = zip_file_add(zip, name.c_str(), source, 0);
    zip_set_file_compression(zip, static_cast<zip_uint64_t>(i), method, 0);
  }
  EXPECT_EQ(zip_close(zip), 0);
  return read_file(path, 1 << 20);
}

TEST(Npz, ReadsStoredAndDeflatedArraysByName) {
  const std::string a = npy(dictionary("|u1", "(3,)"), "abc");
  const std::string b = npy(dictionary("<f4", "(0,)"), "");
  for (int method : {ZIP_CM_STORE, ZIP_CM_DEFLATE}) {
    const auto arrays =
        parse_npz(archive({{"a.npy", a}, {"b.npy", b}, {"readme.txt", "x"}}, method), "x.npz");
    ASSERT_EQ(arrays.size(), 2u);
    EXPECT_EQ(arrays.at("a").shape, std::vector<int64_t>{3});
    EXPECT_EQ(arrays.at("b").type, NpyType::f32);
  }
}

TEST(Npz, BrokenArchivesAreErrors) {
  const auto corrupt = ErrorCode::corrupt;
  expect_error(corrupt, "x.npz: expected a ZIP archive",
               [] { parse_npz(to_bytes("no archive at all"), "x.npz"); });
  expect_error(corrupt, "no .npy file", [] { parse_npz(archive({{"a.txt", "x"}}), "x.npz"); });
  expect_error(corrupt, "x.npz:a.npy", [] { parse_npz(archive({{"a.npy", "x"}}), "x.npz"); });
  // A damaged byte of the data: the check sum tells.
  const std::string a = npy(dictionary("|u1", "(3,)"), "abc");
  std::vector<std::byte> file = archive({{"a.npy", a}}, ZIP_CM_STORE);
  std::vector<std::byte> text = to_bytes("abc");
  const auto place = std::search(file.begin(), file.end(), text.begin(), text.end());
  ASSERT_NE(place, file.end());
  *place = std::byte{'z'};
  expect_error(corrupt, "x.npz:a.npy", [&] { parse_npz(file, "x.npz"); });
  file = archive({{"a.npy", a}});
  for (size_t n = 0; n < file.size(); n += 7) {
    expect_error(corrupt, "x.npz", [&] { parse_npz(std::span(file).first(n), "x.npz"); });
  }
}

TEST(Npz, ReadsTheSharedMedicalImages) {
  const std::filesystem::path path = shared_data("medmnist/pneumoniamnist_a.npz");
  if (path.empty()) GTEST_SKIP() << "the shared data are not here";
  const auto arrays = read_npz(path);
  EXPECT_EQ(arrays.at("test_images").shape, (std::vector<int64_t>{624, 28, 28}));
  int64_t ill = 0;
  for (int32_t label : npy_to_i32(arrays.at("test_labels"), "labels")) ill += label;
  EXPECT_EQ(ill, 390);
}

}  // namespace
}  // namespace fovea

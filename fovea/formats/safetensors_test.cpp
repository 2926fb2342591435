#include "fovea/formats/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

// A file with this header and this many bytes of data.
std::vector<std::byte> file_of(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string text(8, '\0');
  std::memcpy(text.data(), &length, 8);
  return to_bytes(text + header + std::string(data_bytes, '\1'));
}

void expect_corrupt(std::string_view what, const std::string& header, size_t data_bytes) {
  SCOPED_TRACE(header);
  expect_error(ErrorCode::corrupt, what,
               [&] { Safetensors::parse(file_of(header, data_bytes), "x.safetensors"); });
  expect_error(ErrorCode::corrupt, "[safetensors] x.safetensors: ", [&] {
    Safetensors::parse(file_of(header, data_bytes), "x.safetensors");
  });
}

TEST(Safetensors, GivesBackWhatWasWritten) {
  TemporaryFolder folder;
  const std::vector<float> weights = {1.0f, -2.5f, 3.0f, 0.0f, 5.0f, 6.0f};
  const std::vector<int8_t> small = {-1, 2, 3};
  const double scalar = 0.1;
  const std::vector<TensorView> tensors = {
      {"z.small", DType::i8, {3}, std::as_bytes(std::span(small))},
      {"enc.0.weight", DType::f32, {2, 3}, std::as_bytes(std::span(weights))},
      {"scalar", DType::f64, {}, std::as_bytes(std::span(&scalar, 1))},
      {"none", DType::bf16, {4, 0}, {}},
      {"quote \" and \xc3\xa9", DType::boolean, {1}, std::as_bytes(std::span(small)).first(1)}};
  write_safetensors(folder / "a", tensors, {{"format", "pt"}, {"step", "12"}});

  const Safetensors back = Safetensors::read(folder / "a");
  ASSERT_EQ(back.tensors().size(), tensors.size());
  EXPECT_EQ(back.metadata(), (TensorMetadata{{"format", "pt"}, {"step", "12"}}));
  for (const TensorView& expected : tensors) {
    const TensorView& got = back.at(expected.name);
    EXPECT_EQ(got.dtype, expected.dtype);
    EXPECT_EQ(got.shape, expected.shape);
    ASSERT_EQ(got.bytes.size(), expected.bytes.size());
    EXPECT_TRUE(std::equal(got.bytes.begin(), got.bytes.end(), expected.bytes.begin()));
    if (!got.bytes.empty()) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(got.bytes.data()) % dtype_size(got.dtype), 0u);
    }
  }
  EXPECT_EQ(back.find("other"), nullptr);
}

TEST(Safetensors, HeadersArePaddedAndTheSameTensorsGiveTheSameBytes) {
  TemporaryFolder folder;
  const std::vector<int8_t> a = {1}, b = {2, 3};
  std::vector<TensorView> tensors = {{"a", DType::i8, {1}, std::as_bytes(std::span(a))},
                                     {"b", DType::u8, {2}, std::as_bytes(std::span(b))}};
  write_safetensors(folder / "x", tensors);
  std::swap(tensors[0], tensors[1]);
  write_safetensors(folder / "y", tensors);
  const std::vector<std::byte> x = read_file(folder / "x", 1000);
  EXPECT_EQ(x, read_file(folder / "y", 1000));
  uint64_t length = 0;
  std::memcpy(&length, x.data(), 8);
  EXPECT_EQ(length % 8, 0u);
  EXPECT_EQ(x.size(), 8 + length + 3);
}

TEST(Safetensors, NoTensorsAreAFileToo) {
  TemporaryFolder folder;
  write_safetensors(folder / "a", {});
  EXPECT_TRUE(Safetensors::read(folder / "a").tensors().empty());
}

TEST(Safetensors, ReadsAFileOfTheReferenceImplementation) {
  const auto path = shared_data("models/tinystories_656k/model.safetensors");
  if (path.empty()) GTEST_SKIP() << "no shared data here";
  const Safetensors file = Safetensors::read(path);
  ASSERT_FALSE(file.tensors().empty());
  for (const TensorView& tensor : file.tensors()) {
    ASSERT_EQ(tensor.dtype, DType::f32);
    float value = 0;
    for (size_t i = 0; i + 4 <= tensor.bytes.size(); i += 4) {
      std::memcpy(&value, tensor.bytes.data() + i, 4);
      ASSERT_TRUE(std::isfinite(value)) << tensor.name;
    }
  }

  TemporaryFolder folder;
  write_safetensors(folder / "copy", file.tensors(), file.metadata());
  const Safetensors copy = Safetensors::read(folder / "copy");
  for (const TensorView& tensor : file.tensors()) {
    const TensorView& other = copy.at(tensor.name);
    EXPECT_EQ(other.shape, tensor.shape);
    EXPECT_TRUE(std::equal(tensor.bytes.begin(), tensor.bytes.end(), other.bytes.begin(),
                           other.bytes.end()));
  }
}

TEST(Safetensors, EveryCutOfAFileIsAnError) {
  const auto whole = file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  EXPECT_NO_THROW(Safetensors::parse(whole, "x"));
  TemporaryFolder folder;
  for (size_t size = 0; size < whole.size(); ++size) {
    const auto cut = std::span(whole).first(size);
    EXPECT_THROW(Safetensors::parse(cut, "x"), Error) << size;
  }
  write_file_atomically(folder / "cut", std::span<const std::byte>(whole).first(whole.size() - 1));
  expect_error(ErrorCode::corrupt, (folder / "cut").string() + ": truncated",
               [&] { Safetensors::read(folder / "cut"); });
  write_file_atomically(folder / "cut", std::span<const std::byte>(whole).first(7));
  expect_error(ErrorCode::corrupt, "at least 8 bytes", [&] { Safetensors::read(folder / "cut"); });
}

TEST(Safetensors, ALyingHeaderLengthIsAnError) {
  auto file = file_of("{}      ", 0);
  file[0] = std::byte{9};
  expect_error(ErrorCode::corrupt, "truncated: the header says 9 bytes, the file has 8 more",
               [&] { Safetensors::parse(file, "x"); });
  for (size_t i = 0; i < 8; ++i) file[i] = std::byte{0xff};
  expect_error(ErrorCode::corrupt, "expected a header of at most 100000000 bytes",
               [&] { Safetensors::parse(file, "x"); });
}

TEST(Safetensors, BadJsonIsAnError) {
  expect_corrupt("expected a JSON object", "", 0);
  expect_corrupt("expected a JSON object", "[]", 0);
  expect_corrupt("expected a JSON object", " {}", 0);
  expect_corrupt("not valid JSON", "{\"a\":", 0);
  expect_corrupt("not valid JSON", "{\"a\xff\":1}", 0);
  expect_corrupt("expected an object", "{\"a\":1}", 0);
  expect_corrupt("nested too deep", "{\"a\":" + std::string(100000, '['), 0);
}

TEST(Safetensors, ANameThatStandsTwiceIsAnError) {
  const std::string a = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  expect_corrupt("'a' stands twice", "{" + a + "," + a + "}", 1);
  expect_corrupt("'dtype' stands twice", R"({"a":{"dtype":"U8","dtype":"I8"}})", 1);
}

TEST(Safetensors, FieldsOfTheWrongKindAreErrors) {
  expect_corrupt("'dtype'", R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1);
  expect_corrupt("'dtype'", R"({"a":{"dtype":3,"shape":[1],"data_offsets":[0,1]}})", 1);
  expect_corrupt("'shape'", R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1);
  expect_corrupt("'shape'", R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1);
  expect_corrupt("'shape'", R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1);
  expect_corrupt("'shape'",
                 R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,1]}})", 1);
  expect_corrupt("'data_offsets'", R"({"a":{"dtype":"U8","shape":[1]}})", 1);
  expect_corrupt("'data_offsets'", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1);
  expect_corrupt("'data_offsets'", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}})", 1);
  expect_corrupt("expected an object '__metadata__'", R"({"__metadata__":[]})", 0);
  expect_corrupt("expected text for 'a'", R"({"__metadata__":{"a":1}})", 0);
}

TEST(Safetensors, OffsetsThatOverlapLeaveHolesOrPassTheEndAreErrors) {
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
  };
  EXPECT_NO_THROW(Safetensors::parse(file_of(two("[4,8]", "[0,4]"), 8), "x"));
  expect_corrupt("tensors overlap", two("[0,4]", "[3,7]"), 7);
  expect_corrupt("tensors overlap", two("[0,4]", "[0,4]"), 4);
  expect_corrupt("there is a hole", two("[0,4]", "[5,9]"), 9);
  expect_corrupt("there is a hole", two("[1,5]", "[5,9]"), 9);
  expect_corrupt("a hole at the end", two("[0,4]", "[4,8]"), 9);
  expect_corrupt("truncated: tensor 'b'", two("[0,4]", "[4,8]"), 7);
  expect_corrupt("ends before it begins", two("[4,0]", "[4,8]"), 8);
  expect_corrupt("truncated", two("[0,4]", "[4,18446744073709551615]"), 8);
}

TEST(Safetensors, OffsetsThatDoNotMatchTheShapeAreErrors) {
  expect_corrupt("need 8 bytes, data_offsets give 4",
                 R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4);
}

TEST(Safetensors, AShapeThatOverflowsIsAnError) {
  for (const char* shape : {"[4611686018427387904,4]", "[9223372036854775807,9223372036854775807]",
                            "[4611686018427387904,16,0]"}) {
    expect_corrupt(
        "its shape overflows",
        std::string(R"({"a":{"dtype":"F32","shape":)") + shape + R"(,"data_offsets":[0,0]}})", 0);
  }
}

TEST(Safetensors, AnUnsupportedTypeNamesTheTensor) {
  expect_error(ErrorCode::unsupported, "tensor 'ids': unsupported dtype 'I64'", [] {
    Safetensors::parse(file_of(R"({"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", 8),
                       "x");
  });
}

TEST(Safetensors, AMissingTensorIsAnErrorWithTheNearestName) {
  const auto file = Safetensors::parse(
      file_of(R"({"enc.0.weight":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1), "x");
  expect_error(ErrorCode::not_found, "did you mean 'enc.0.weight'?",
               [&] { file.at("enc.0.weigth"); });
}

TEST(Safetensors, TheWriterRefusesWhatNoReaderCouldRead) {
  TemporaryFolder folder;
  const std::vector<std::byte> bytes(4);
  const TensorView right = {"a", DType::f32, {1}, bytes};
  const auto refuses = [&](std::string_view what, const std::vector<TensorView>& tensors,
                           const TensorMetadata& metadata = {}) {
    expect_error(ErrorCode::invalid_argument, what,
                 [&] { write_safetensors(folder / "x", tensors, metadata); });
  };
  refuses("stands twice", {right, right});
  refuses("__metadata__", {{"__metadata__", DType::f32, {1}, bytes}});
  refuses("got 4 bytes", {{"a", DType::f32, {2}, bytes}});
  refuses("got 4 bytes", {{"a", DType::f32, {-1}, bytes}});
  refuses("UTF-8", {{"\xff", DType::f32, {1}, bytes}});
  refuses("UTF-8", {right}, {{"a", "\xff"}});
  EXPECT_EQ(folder.entries(), 0u);
}

}  // namespace
}  // namespace fovea

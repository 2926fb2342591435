#include "fovea/formats/npy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "fovea/base/error.h"
#include "fovea/formats/file.h"

namespace fovea {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 32;
constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kMaxHeader = 1 << 16;
constexpr size_t kMaxAxes = 32;

[[noreturn]] void broken(const std::string& name, const std::string& what) {
  throw Error{ErrorCode::corrupt, fmt::format("[npy] {}: {}", name, what)};
}
[[noreturn]] void unsupported(const std::string& name, const std::string& what) {
  throw Error{ErrorCode::unsupported, fmt::format("[npy] {}: {}", name, what)};
}

struct TypeRow {
  NpyType type;
  std::string_view code;  // as in descr, without the byte order
  std::string_view name;
  size_t bytes;
};
constexpr std::array<TypeRow, 11> kTypes = {{{NpyType::boolean, "b1", "bool", 1},
                                             {NpyType::u8, "u1", "u8", 1},
                                             {NpyType::i8, "i1", "i8", 1},
                                             {NpyType::u16, "u2", "u16", 2},
                                             {NpyType::i16, "i2", "i16", 2},
                                             {NpyType::u32, "u4", "u32", 4},
                                             {NpyType::i32, "i4", "i32", 4},
                                             {NpyType::u64, "u8", "u64", 8},
                                             {NpyType::i64, "i8", "i64", 8},
                                             {NpyType::f32, "f4", "f32", 4},
                                             {NpyType::f64, "f8", "f64", 8}}};

const TypeRow& row_of(NpyType type) { return kTypes[static_cast<size_t>(type)]; }

// The header is a Python dictionary of strings, booleans and one tuple of integers.
class HeaderReader {
 public:
  HeaderReader(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  void read() {
    expect('{');
    while (!take('}')) {
      const std::string_view key = string();
      expect(':');
      if (key == "descr" && descr_.empty()) {
        if (peek() != '\'' && peek() != '"') {
          unsupported(name_, "records of several fields (save each field as an array of its own)");
        }
        descr_ = string();
      } else if (key == "fortran_order" && !fortran_) {
        fortran_ = boolean();
      } else if (key == "shape" && !shape_) {
        shape_ = tuple();
      } else {
        broken(name_, fmt::format("a header with an unknown or repeated key '{}'", key));
      }
      if (!take(',') && peek() != '}') broken(name_, "a damaged header");
    }
    skip();
    if (at_ != text_.size() || descr_.empty() || !fortran_ || !shape_) {
      broken(name_, "a damaged header");
    }
  }

  NpyType type() const {
    const char order = descr_.front();
    const std::string_view code = descr_.substr(1);
    if (order == '>') {
      unsupported(name_, fmt::format("big-endian numbers ('{}'); save it with array.astype('<{}')",
                                     descr_, code));
    }
    for (const TypeRow& row : kTypes) {
      if (row.code == code && (order == '<' || (row.bytes == 1 && order == '|'))) return row.type;
    }
    unsupported(name_, fmt::format("elements of type '{}' (expected booleans, integers of 8 to 64 "
                                   "bits, or floats of 32 or 64)",
                                   descr_));
  }
  bool fortran() const { return *fortran_; }
  const std::vector<int64_t>& shape() const { return *shape_; }

 private:
  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  char peek() {
    skip();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) broken(name_, "a damaged header");
  }
  std::string_view string() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') broken(name_, "a damaged header");
    const size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) broken(name_, "a damaged header");
    const std::string_view inside = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return inside;
  }
  bool boolean() {
    skip();
    for (const bool value : {true, false}) {
      const std::string_view word = value ? "True" : "False";
      if (!text_.substr(at_).starts_with(word)) continue;
      at_ += word.size();
      return value;
    }
    broken(name_, "a damaged header");
  }
  std::vector<int64_t> tuple() {
    std::vector<int64_t> numbers;
    expect('(');
    while (!take(')')) {
      skip();
      int64_t n = 0;
      const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), n);
      if (error != std::errc() || n < 0 || numbers.size() == kMaxAxes) {
        broken(name_, "a shape that cannot be");
      }
      at_ = static_cast<size_t>(end - text_.data());
      take('L');  // as Python 2 wrote it
      numbers.push_back(n);
      if (!take(',') && peek() != ')') broken(name_, "a damaged header");
    }
    return numbers;
  }

  std::string_view text_;
  const std::string& name_;
  size_t at_ = 0;
  std::string_view descr_;
  std::optional<bool> fortran_;
  std::optional<std::vector<int64_t>> shape_;
};

uint32_t little_endian(std::span<const std::byte> bytes) {
  uint32_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<uint32_t>(bytes[i]);
  return value;
}

template <class To, class From>
std::vector<To> converted(const NpyArray& array) {
  std::vector<To> result(array.bytes.size() / sizeof(From));
  for (size_t i = 0; i < result.size(); ++i) {
    From value;
    std::memcpy(&value, array.bytes.data() + i * sizeof(From), sizeof(From));
    result[i] = static_cast<To>(value);
  }
  return result;
}

template <class To>
std::vector<To> converted(const NpyArray& array) {
  switch (array.type) {
    case NpyType::boolean:
    case NpyType::u8:
      return converted<To, uint8_t>(array);
    case NpyType::i8:
      return converted<To, int8_t>(array);
    case NpyType::u16:
      return converted<To, uint16_t>(array);
    case NpyType::i16:
      return converted<To, int16_t>(array);
    case NpyType::u32:
      return converted<To, uint32_t>(array);
    case NpyType::i32:
      return converted<To, int32_t>(array);
    case NpyType::u64:
      return converted<To, uint64_t>(array);
    case NpyType::i64:
      return converted<To, int64_t>(array);
    case NpyType::f32:
      return converted<To, float>(array);
    case NpyType::f64:
      return converted<To, double>(array);
  }
  FOVEA_ASSERT(false);
  return {};
}

}  // namespace

static_assert(std::endian::native == std::endian::little);

int64_t NpyArray::elements() const {
  return static_cast<int64_t>(bytes.size() / row_of(type).bytes);
}

std::string_view npy_type_name(NpyType type) { return row_of(type).name; }

NpyArray parse_npy(std::span<const std::byte> file, const std::string& name) {
  if (file.size() < 10 || std::memcmp(file.data(), kMagic.data(), kMagic.size()) != 0) {
    broken(name, "expected a .npy file, which begins with \\x93NUMPY");
  }
  const auto version = static_cast<int>(file[6]);
  if (version < 1 || version > 3) {
    unsupported(name, fmt::format("version {} of the format (1 to 3 can be read)", version));
  }
  const size_t length_bytes = version == 1 ? 2 : 4;
  const size_t start = 8 + length_bytes;
  if (file.size() < start) broken(name, "truncated");
  const size_t length = little_endian(file.subspan(8, length_bytes));
  if (length > kMaxHeader) broken(name, fmt::format("a header of {} bytes", length));
  if (length > file.size() - start) broken(name, "truncated");
  HeaderReader header({reinterpret_cast<const char*>(file.data() + start), length}, name);
  header.read();

  NpyArray array;
  array.type = header.type();
  array.shape = header.shape();
  const std::span<const std::byte> data = file.subspan(start + length);
  const auto large_axes =
      std::count_if(array.shape.begin(), array.shape.end(), [](int64_t n) { return n > 1; });
  if (header.fortran() && large_axes > 1) {
    unsupported(name,
                "columns stand before rows (Fortran order); save it with "
                "numpy.ascontiguousarray(array)");
  }
  uint64_t bytes = row_of(array.type).bytes;
  for (int64_t n : array.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(n), &bytes)) {
      broken(name, "a shape that cannot be");
    }
  }
  if (bytes != data.size()) {
    broken(name, fmt::format("its shape ({}) of {} needs {} bytes, it has {}",
                             fmt::join(array.shape, ", "), npy_type_name(array.type), bytes,
                             data.size()));
  }
  array.bytes.assign(data.begin(), data.end());
  return array;
}

NpyArray read_npy(const std::filesystem::path& path) {
  return parse_npy(read_file(path, kMaxFileBytes), path.string());
}

std::vector<float> npy_to_f32(const NpyArray& array) { return converted<float>(array); }

std::vector<int32_t> npy_to_i32(const NpyArray& array, const std::string& name) {
  // f64 holds every number that i32 holds.
  std::vector<int32_t> result;
  result.reserve(static_cast<size_t>(array.elements()));
  for (const double value : converted<double>(array)) {
    if (!(value >= std::numeric_limits<int32_t>::min() &&
          value <= std::numeric_limits<int32_t>::max()) ||
        value != std::floor(value)) {
      broken(name, fmt::format("expected integers of 32 bits, got {}", value));
    }
    result.push_back(static_cast<int32_t>(value));
  }
  return result;
}

}  // namespace fovea

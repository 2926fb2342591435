#include "fovea/formats/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>

#include "fovea/base/error.h"
#include "fovea/base/text.h"
#include "fovea/formats/file.h"

namespace fovea {
namespace {

using Json = nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr size_t kAlignment = 64;
constexpr std::string_view kMetadataKey = "__metadata__";

struct TypeName {
  DType dtype;
  std::string_view name;
};
constexpr std::array<TypeName, 8> kTypeNames = {{{DType::f64, "F64"},
                                                 {DType::f32, "F32"},
                                                 {DType::f16, "F16"},
                                                 {DType::bf16, "BF16"},
                                                 {DType::i32, "I32"},
                                                 {DType::i8, "I8"},
                                                 {DType::u8, "U8"},
                                                 {DType::boolean, "BOOL"}}};

std::string_view format_name(DType dtype) {
  for (const TypeName& t : kTypeNames) {
    if (t.dtype == dtype) return t.name;
  }
  FOVEA_ASSERT(false);
  return {};
}

template <class... Args>
[[noreturn]] void corrupt(const std::string& file, fmt::format_string<Args...> format,
                          Args&&... args) {
  throw Error{ErrorCode::corrupt,
              fmt::format("[safetensors] {}: {} (copy or write the file again)", file,
                          fmt::format(format, std::forward<Args>(args)...))};
}

// What a hostile header calls a name, cut so that the error stays one line.
std::string shown(std::string_view name) {
  std::string text;
  for (char c : name.substr(0, 80)) text += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  return name.size() > 80 ? text + "..." : text;
}

// Bytes of a tensor; nullopt where the product passes 63 bits. Checked from the left, as the
// reference does, so that a zero at the end does not excuse an overflow before it.
std::optional<uint64_t> byte_size(std::span<const int64_t> shape, DType dtype) {
  uint64_t size = dtype_size(dtype);
  for (int64_t dim : shape) {
    if (dim < 0 || __builtin_mul_overflow(size, static_cast<uint64_t>(dim), &size) ||
        size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return std::nullopt;
    }
  }
  return size;
}

// Parses the header; the callback sees what a finished object hides: keys that stand twice, and
// depth.
Json parse_json(std::string_view text, const std::string& file) {
  if (text.empty() || text.front() != '{') corrupt(file, "expected a JSON object as header");
  std::array<std::set<std::string>, 4> keys;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    const auto level = static_cast<size_t>(depth);
    const bool opens =
        event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    if (opens && level + 1 >= keys.size()) corrupt(file, "the header is nested too deep");
    if (opens) keys[level + 1].clear();
    if (event == Json::parse_event_t::key &&
        !keys[level].insert(parsed.get<std::string>()).second) {
      corrupt(file, "the name '{}' stands twice in the header", shown(parsed.get<std::string>()));
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const Json::exception& error) {
    corrupt(file, "the header is not valid JSON: {}", shown(error.what()));
  }
}

uint64_t header_length(std::span<const std::byte, 8> bytes, uint64_t file_size,
                       const std::string& file) {
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kMaxHeader) {
    corrupt(file, "expected a header of at most {} bytes, got {}", kMaxHeader, length);
  }
  if (length > file_size - 8) {
    corrupt(file, "truncated: the header says {} bytes, the file has {} more", length,
            file_size - 8);
  }
  return length;
}

void check_size(uint64_t file_size, const std::string& file) {
  if (file_size < 8) corrupt(file, "truncated: expected at least 8 bytes, got {}", file_size);
}

DType parse_dtype(const Json& entry, const std::string& tensor, const std::string& file) {
  const auto it = entry.find("dtype");
  if (it == entry.end() || !it->is_string()) {
    corrupt(file, "tensor '{}': expected a string 'dtype'", tensor);
  }
  const auto& text = it->get_ref<const std::string&>();
  std::string known;
  for (const TypeName& t : kTypeNames) {
    if (t.name == text) return t.dtype;
    known += (known.empty() ? "" : " ") + std::string(t.name);
  }
  throw Error{
      ErrorCode::unsupported,
      fmt::format("[safetensors] {}: tensor '{}': unsupported dtype '{}' (convert it to one of {})",
                  file, tensor, shown(text), known)};
}

std::vector<int64_t> parse_shape(const Json& entry, const std::string& tensor,
                                 const std::string& file) {
  const auto it = entry.find("shape");
  if (it == entry.end() || !it->is_array()) {
    corrupt(file, "tensor '{}': expected an array 'shape'", tensor);
  }
  std::vector<int64_t> shape;
  for (const Json& dim : *it) {
    if (!dim.is_number_unsigned() ||
        dim.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      corrupt(file, "tensor '{}': expected whole numbers in 'shape'", tensor);
    }
    shape.push_back(static_cast<int64_t>(dim.get<uint64_t>()));
  }
  return shape;
}

std::array<uint64_t, 2> parse_offsets(const Json& entry, const std::string& tensor,
                                      uint64_t data_size, const std::string& file) {
  const auto it = entry.find("data_offsets");
  if (it == entry.end() || !it->is_array() || it->size() != 2 || !(*it)[0].is_number_unsigned() ||
      !(*it)[1].is_number_unsigned()) {
    corrupt(file, "tensor '{}': expected two whole numbers 'data_offsets'", tensor);
  }
  const std::array<uint64_t, 2> offsets = {(*it)[0].get<uint64_t>(), (*it)[1].get<uint64_t>()};
  if (offsets[0] > offsets[1]) {
    corrupt(file, "tensor '{}': its data ends before it begins", tensor);
  }
  if (offsets[1] > data_size) {
    corrupt(file, "truncated: tensor '{}' ends at byte {} of the data, the file has {}", tensor,
            offsets[1], data_size);
  }
  return offsets;
}

}  // namespace

void Safetensors::Free::operator()(std::byte* p) const {
  ::operator delete[](p, std::align_val_t{kAlignment});
}

void Safetensors::take_data(uint64_t size) {
  void* data = ::operator new[](static_cast<size_t>(std::max<uint64_t>(size, 1)),
                                std::align_val_t{kAlignment}, std::nothrow);
  if (data == nullptr) {
    throw Error{ErrorCode::out_of_memory,
                fmt::format("[safetensors] {}: not enough memory for its {} bytes (end other "
                            "programs, or take a smaller model)",
                            name_, size)};
  }
  data_.reset(static_cast<std::byte*>(data));
  for (size_t i = 0; i < tensors_.size(); ++i) {
    tensors_[i].bytes = {data_.get() + offsets_[i],
                         static_cast<size_t>(*byte_size(tensors_[i].shape, tensors_[i].dtype))};
  }
}

void Safetensors::parse_header(std::string_view text, uint64_t data_size) {
  const Json header = parse_json(text, name_);
  struct Found {
    TensorView view;
    std::array<uint64_t, 2> offsets;
  };
  std::vector<Found> found;
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadataKey) {
      if (!entry.is_object()) corrupt(name_, "expected an object '{}'", kMetadataKey);
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) {
          corrupt(name_, "expected text for '{}' in '{}'", shown(key), kMetadataKey);
        }
        metadata_.emplace(key, value.get<std::string>());
      }
      continue;
    }
    const std::string tensor = shown(name);
    if (!entry.is_object()) corrupt(name_, "tensor '{}': expected an object", tensor);
    Found f;
    f.view.name = name;
    f.view.dtype = parse_dtype(entry, tensor, name_);
    f.view.shape = parse_shape(entry, tensor, name_);
    f.offsets = parse_offsets(entry, tensor, data_size, name_);
    const std::optional<uint64_t> size = byte_size(f.view.shape, f.view.dtype);
    if (!size) corrupt(name_, "tensor '{}': its shape overflows", tensor);
    if (*size != f.offsets[1] - f.offsets[0]) {
      corrupt(name_, "tensor '{}': shape and dtype need {} bytes, data_offsets give {}", tensor,
              *size, f.offsets[1] - f.offsets[0]);
    }
    found.push_back(std::move(f));
  }

  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.offsets < b.offsets; });
  uint64_t end = 0;
  for (Found& f : found) {
    if (f.offsets[0] != end) {
      corrupt(name_, "tensor '{}': expected its data at byte {}, got {}: {}", shown(f.view.name),
              end, f.offsets[0], f.offsets[0] < end ? "tensors overlap" : "there is a hole");
    }
    end = f.offsets[1];
    by_name_.emplace(f.view.name, tensors_.size());
    tensors_.push_back(std::move(f.view));
    offsets_.push_back(f.offsets[0]);
  }
  if (end != data_size) {
    corrupt(name_, "expected {} bytes of data, got {}: there is a hole at the end", end, data_size);
  }
}

Safetensors Safetensors::read(const std::filesystem::path& path) {
  Safetensors result;
  result.name_ = path.string();
  FileReader file(path);
  check_size(file.size(), result.name_);
  std::array<std::byte, 8> start;
  file.read(start);
  const uint64_t length = header_length(start, file.size(), result.name_);
  std::string header(static_cast<size_t>(length), '\0');
  file.read(std::as_writable_bytes(std::span(header.data(), header.size())));
  const uint64_t data_size = file.size() - 8 - length;
  result.parse_header(header, data_size);
  result.take_data(data_size);
  file.read({result.data_.get(), static_cast<size_t>(data_size)});
  return result;
}

Safetensors Safetensors::parse(std::span<const std::byte> file, const std::string& name) {
  Safetensors result;
  result.name_ = name;
  check_size(file.size(), name);
  const auto length = static_cast<size_t>(header_length(file.first<8>(), file.size(), name));
  const std::span<const std::byte> data = file.subspan(8 + length);
  result.parse_header({reinterpret_cast<const char*>(file.data()) + 8, length}, data.size());
  result.take_data(data.size());
  std::copy(data.begin(), data.end(), result.data_.get());
  return result;
}

const TensorView* Safetensors::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

const TensorView& Safetensors::at(std::string_view name) const {
  if (const TensorView* tensor = find(name)) return *tensor;
  std::vector<std::string_view> names;
  for (const TensorView& tensor : tensors_) names.push_back(tensor.name);
  throw Error{ErrorCode::not_found, fmt::format("[safetensors] {}: no tensor '{}'{}", name_, name,
                                                did_you_mean(name, names))};
}

namespace {

// What a file begins with, and its tensors in the order of their data.
struct Layout {
  std::string header;
  std::vector<const TensorView*> order;
};

Layout lay_out(std::span<const TensorView> tensors, const TensorMetadata& metadata,
               const std::string& file) {
  const auto refuse = [&](const std::string& what) {
    throw Error{ErrorCode::invalid_argument, fmt::format("[safetensors] {}: {}", file, what)};
  };
  Layout layout;
  for (const TensorView& tensor : tensors) {
    const std::optional<uint64_t> size = byte_size(tensor.shape, tensor.dtype);
    if (tensor.name == kMetadataKey) refuse(fmt::format("no tensor may be named {}", kMetadataKey));
    if (!size || *size != tensor.bytes.size()) {
      refuse(fmt::format("tensor '{}': expected {} of shape [{}], got {} bytes", tensor.name,
                         dtype_name(tensor.dtype), fmt::join(tensor.shape, ", "),
                         tensor.bytes.size()));
    }
    layout.order.push_back(&tensor);
  }
  std::sort(layout.order.begin(), layout.order.end(), [](const TensorView* a, const TensorView* b) {
    const size_t x = dtype_size(a->dtype), y = dtype_size(b->dtype);
    return x != y ? x > y : a->name < b->name;
  });

  std::string& header = layout.header;
  header = "{";
  std::set<std::string_view> names;
  try {
    if (!metadata.empty()) {
      header += fmt::format("\"{}\":{}", kMetadataKey, Json(metadata).dump());
    }
    uint64_t offset = 0;
    for (const TensorView* tensor : layout.order) {
      if (!names.insert(tensor->name).second) {
        refuse(fmt::format("the name '{}' stands twice", tensor->name));
      }
      header += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                            header.size() > 1 ? "," : "", Json(tensor->name).dump(),
                            format_name(tensor->dtype), fmt::join(tensor->shape, ","), offset,
                            offset + tensor->bytes.size());
      offset += tensor->bytes.size();
    }
  } catch (const Json::exception& error) {
    refuse(fmt::format("names and metadata must be UTF-8: {}", error.what()));
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  if (header.size() > kMaxHeader) refuse("too many tensors: the header passes 100 MB");
  return layout;
}

// Calls write for one piece of the file after another.
template <class F>
void put(const Layout& layout, F&& write) {
  const uint64_t length = layout.header.size();
  write(std::as_bytes(std::span(&length, 1)));
  write(std::as_bytes(std::span(layout.header.data(), layout.header.size())));
  for (const TensorView* tensor : layout.order) write(tensor->bytes);
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const TensorMetadata& metadata) {
  const Layout layout = lay_out(tensors, metadata, path.string());
  write_file_atomically(path, [&](FileWriter& writer) {
    put(layout, [&](std::span<const std::byte> bytes) { writer.write(bytes); });
  });
}

std::vector<std::byte> encode_safetensors(std::span<const TensorView> tensors,
                                          const TensorMetadata& metadata, const std::string& name) {
  std::vector<std::byte> file;
  put(lay_out(tensors, metadata, name), [&](std::span<const std::byte> bytes) {
    file.insert(file.end(), bytes.begin(), bytes.end());
  });
  return file;
}

}  // namespace fovea

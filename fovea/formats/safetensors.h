// Files of named tensors in the safetensors format (https://github.com/huggingface/safetensors):
// eight bytes of header length, a JSON header, then the data of all tensors without holes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fovea/base/dtype.h"

namespace fovea {

// A tensor in memory that another owns: dense, row-major, little-endian.
struct TensorView {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape = {};        // empty: one element
  std::span<const std::byte> bytes = {};  // product of the shape times dtype_size(dtype)
};

using TensorMetadata = std::map<std::string, std::string>;

// What a file held. Owns the bytes that its views show; the data begins at a multiple of 64 bytes,
// but one tensor in it may lie at any address, so copy or check before casting.
class Safetensors {
 public:
  // Errors (corrupt): truncated, a header length that lies or passes 100 MB, bad JSON, a name
  // twice, offsets that overlap, leave holes, pass the end or do not match shape and type. Error
  // (unsupported): a type other than F64 F32 F16 BF16 I32 I8 U8 BOOL. Each names the file and the
  // tensor.
  static Safetensors read(const std::filesystem::path& path);
  // The same for a file in memory, which is copied; name stands for the path in errors.
  static Safetensors parse(std::span<const std::byte> file, const std::string& name);

  // In the order of their data.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  // nullptr where there is none.
  const TensorView* find(std::string_view name) const;
  // Error (not_found) with the nearest name where there is none.
  const TensorView& at(std::string_view name) const;
  // The free text under "__metadata__".
  const TensorMetadata& metadata() const { return metadata_; }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  Safetensors() = default;
  void parse_header(std::string_view json, uint64_t data_size);
  void take_data(uint64_t size);

  std::string name_;  // of the file
  std::vector<TensorView> tensors_;
  std::vector<uint64_t> offsets_;  // of each tensor in the data
  std::map<std::string, size_t, std::less<>> by_name_;
  TensorMetadata metadata_;
  std::unique_ptr<std::byte[], Free> data_;
};

// Writes the file atomically (write_file_atomically). The data is ordered by size of element,
// largest first, then by name, so that every tensor is aligned; the same tensors give the same
// bytes. Errors (invalid_argument): a name twice, "__metadata__" as a name, text that is not UTF-8,
// bytes that do not match shape and type.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const TensorMetadata& metadata = {});
// The same bytes in memory; name stands for the path in errors.
std::vector<std::byte> encode_safetensors(std::span<const TensorView> tensors,
                                          const TensorMetadata& metadata, const std::string& name);

}  // namespace fovea

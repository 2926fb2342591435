// IDX files, the format of MNIST (http://yann.lecun.com/exdb/mnist/): a magic number, sizes, then
// the elements, all big-endian; plain or compressed with gzip.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace fovea {

struct IdxArray {
  std::vector<int64_t> shape;
  std::vector<uint8_t> values;  // dense, row-major
};

// gzip is told by its signature, not by the name. Errors: corrupt for a wrong magic number, sizes
// that lie, a truncated or damaged file, bytes after the end; unsupported for elements other than
// u8.
IdxArray read_idx(const std::filesystem::path& path);
// The same for a file in memory; name stands for it in errors.
IdxArray parse_idx(std::span<const std::byte> file, const std::string& name);

}  // namespace fovea

// Memory aligned to 64 bytes, for arenas and variables.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace fovea {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Uninitialised. Throws Error (out_of_memory) naming `what` and the size asked for.
  AlignedBuffer(size_t bytes, const char* what);

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  std::span<std::byte> bytes() { return {data_.get(), size_}; }
  std::span<const std::byte> bytes() const { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t size_ = 0;
};

}  // namespace fovea

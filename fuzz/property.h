// What the fuzz targets share: how a broken promise is told, and how much memory an input took.
// A target lets everything but fovea::Error escape; libFuzzer and the replay both take that as
// found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace fovea::fuzz {

// Our bug: no Error, so nothing between here and the fuzzer takes it for one.
inline void expect(bool condition, const std::string& what) {
  if (!condition) throw std::logic_error("broken promise: " + what);
}

inline std::span<const std::byte> as_bytes(const uint8_t* data, size_t size) {
  return std::as_bytes(std::span(data, size));
}
inline std::string_view as_text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Bytes that live now, and the most that lived since the last start_peak(). Under the sanitizers
// all of malloc is counted, else operator new.
void start_peak();
size_t peak_bytes();

// Throws where what ran since it was made took more than `bytes` at once: a header must not make us
// take more memory than its file can account for.
class MemoryBound {
 public:
  explicit MemoryBound(size_t bytes) : bytes_(bytes) { start_peak(); }
  void check() const {
    expect(peak_bytes() <= bytes_, "memory: at most " + std::to_string(bytes_) +
                                       " bytes for this input, took " +
                                       std::to_string(peak_bytes()));
  }

 private:
  size_t bytes_;
};

}  // namespace fovea::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

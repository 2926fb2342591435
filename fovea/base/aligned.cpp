#include "fovea/base/aligned.h"

#include <fmt/format.h>

#include <cstdlib>

#include "fovea/base/error.h"
#include "fovea/base/memory.h"

namespace fovea {

namespace {

// Below this, asking the system what is left costs more than it saves.
constexpr size_t kLarge = size_t{64} << 20;

}  // namespace

void AlignedBuffer::Free::operator()(std::byte* p) const { std::free(p); }

AlignedBuffer::AlignedBuffer(size_t bytes, const char* what) : size_(bytes) {
  if (bytes == 0) return;
  const size_t rounded = (bytes + 63) / 64 * 64;
  const auto fail = [&](const std::string& why) {
    throw Error(
        ErrorCode::out_of_memory,
        fmt::format("[{}] {:.1f} MB of memory are not to be had{}; a smaller batch, shorter "
                    "sequences, smaller images or a smaller model need less",
                    what, static_cast<double>(bytes) / 1e6, why));
  };
  // The kernel hands out addresses for more than it has, and kills whoever writes to them all.
  if (bytes > kLarge)
    if (const uint64_t available = available_memory(); bytes > available)
      fail(fmt::format(", only {:.1f} MB are free", static_cast<double>(available) / 1e6));
  if (rounded >= bytes) data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, rounded)));
  if (!data_) fail("");
}

}  // namespace fovea

#include "fovea/base/aligned.h"

#include <fmt/format.h>

#include <cstdlib>

#include "fovea/base/error.h"

namespace fovea {

void AlignedBuffer::Free::operator()(std::byte* p) const { std::free(p); }

AlignedBuffer::AlignedBuffer(size_t bytes, const char* what) : size_(bytes) {
  if (bytes == 0) return;
  const size_t rounded = (bytes + 63) / 64 * 64;
  if (rounded >= bytes) data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, rounded)));
  if (!data_)
    throw Error(
        ErrorCode::out_of_memory,
        fmt::format("[{}] {:.1f} MB of memory are not to be had; a smaller batch or shorter "
                    "sequences need less",
                    what, static_cast<double>(bytes) / 1e6));
}

}  // namespace fovea

#include "fovea/base/aligned.h"

#include <fmt/format.h>

#include <cstdlib>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "fovea/base/error.h"
#include "fovea/base/memory.h"

namespace fovea {

namespace {

// Below this, asking the system what is left costs more than it saves.
constexpr size_t kLarge = size_t{64} << 20;

// Pages of 2 MB, where the system has them on request: rows of a cache or of weights that are read
// in strides would miss the tables of small ones.
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kWorthHugePages = 2 * kHugePage;

void ask_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#ifdef MADV_HUGEPAGE
  // The last part of one stays small, so that no more memory is taken than is asked for. A system
  // that refuses costs speed only.
  static_cast<void>(madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE));
#endif
}

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
  const bool huge = bytes >= kWorthHugePages;
  if (rounded >= bytes)
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(huge ? kHugePage : 64, rounded)));
  if (!data_) fail("");
  if (huge) ask_for_huge_pages(data_.get(), bytes);
}

}  // namespace fovea

// An archive of arrays: each is what it says, and is read again as it was written.
#include "fovea/base/error.h"
#include "fuzz/npy.h"

using namespace fovea;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Deflate makes at most 1032 bytes of one, and several entries may share theirs.
  const fuzz::MemoryBound bound((size_t{4} << 20) + 4096 * size);
  try {
    for (const auto& [name, array] : parse_npz(fuzz::as_bytes(data, size), "input"))
      fuzz::check(array);
  } catch (const Error&) {
  }
  bound.check();
  return 0;
}

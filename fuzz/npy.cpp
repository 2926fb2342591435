// Whatever is read as an array is written plainly and read again to the same; as numbers it has one
// for each element.
#include "fovea/formats/npy.h"

#include <algorithm>

#include "fovea/base/error.h"
#include "fuzz/npy.h"

using namespace fovea;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::MemoryBound bound((size_t{1} << 20) + 64 * size);
  NpyArray array;
  try {
    array = parse_npy(fuzz::as_bytes(data, size), "input");
  } catch (const Error&) {
    bound.check();
    return 0;
  }
  bound.check();
  fuzz::check(array);
  return 0;
}

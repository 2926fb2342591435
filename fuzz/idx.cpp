// Whatever is read is written plainly and read again to the same.
#include "fovea/formats/idx.h"

#include "fovea/base/error.h"
#include "fuzz/property.h"

using namespace fovea;

namespace {

std::vector<std::byte> plain(const IdxArray& array) {
  std::vector<std::byte> file = {std::byte{0}, std::byte{0}, std::byte{8},
                                 static_cast<std::byte>(array.shape.size())};
  for (const int64_t size : array.shape)
    for (int shift = 24; shift >= 0; shift -= 8)
      file.push_back(static_cast<std::byte>(size >> shift));
  for (const uint8_t value : array.values) file.push_back(static_cast<std::byte>(value));
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Deflate makes at most 1032 bytes of one; zlib's window stands beside.
  const fuzz::MemoryBound bound((size_t{1} << 20) + 1100 * size);
  try {
    const IdxArray array = parse_idx(fuzz::as_bytes(data, size), "input");
    bound.check();
    const IdxArray again = parse_idx(plain(array), "written");
    fuzz::expect(again.shape == array.shape && again.values == array.values,
                 "an array is read as it was written");
  } catch (const Error&) {
    bound.check();
  }
  return 0;
}

// Whatever is read is written and read again to the same.
#include "fovea/formats/safetensors.h"

#include <algorithm>

#include "fovea/base/error.h"
#include "fuzz/property.h"

using namespace fovea;

namespace {

bool same(const Safetensors& a, const Safetensors& b) {
  if (a.metadata() != b.metadata() || a.tensors().size() != b.tensors().size()) return false;
  return std::all_of(a.tensors().begin(), a.tensors().end(), [&](const TensorView& tensor) {
    const TensorView* other = b.find(tensor.name);
    return other != nullptr && other->dtype == tensor.dtype && other->shape == tensor.shape &&
           std::ranges::equal(other->bytes, tensor.bytes);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A header is held as text, as JSON and as our list.
  const fuzz::MemoryBound bound((size_t{1} << 20) + 512 * size);
  try {
    const Safetensors file = Safetensors::parse(fuzz::as_bytes(data, size), "input");
    bound.check();
    std::vector<std::byte> written;
    written = encode_safetensors(file.tensors(), file.metadata(), "written");
    const Safetensors again = Safetensors::parse(written, "written");
    fuzz::expect(same(file, again), "safetensors are read as they were written");
    fuzz::expect(encode_safetensors(again.tensors(), again.metadata(), "again") == written,
                 "the same tensors give the same bytes");
    for (const TensorView& tensor : file.tensors()) file.at(tensor.name);
  } catch (const Error&) {
  }
  bound.check();
  return 0;
}

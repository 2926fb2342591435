#include "fovea/data/permutation.h"

#include <numeric>
#include <utility>

#include "fovea/base/error.h"
#include "fovea/base/philox.h"

namespace fovea {

void philox_permutation(int64_t n, uint64_t seed, std::string_view stream, uint64_t substream,
                        std::vector<int64_t>& order) {
  FOVEA_ASSERT(n >= 0 && n <= int64_t{0xffffffff});
  order.resize(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  PhiloxStream random(seed, stream_id(stream), substream);
  for (int64_t i = n - 1; i > 0; --i) {
    std::swap(order[static_cast<size_t>(i)], order[random.below(static_cast<uint32_t>(i) + 1)]);
  }
}

}  // namespace fovea

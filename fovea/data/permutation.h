// Orders drawn at random, the same on every machine.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace fovea {

// Replaces order by a uniform permutation of 0 .. n-1 that depends on (n, seed, stream, substream)
// alone (Fisher and Yates 1938; Durstenfeld 1964). Its memory is reused. n is below 2^32.
void philox_permutation(int64_t n, uint64_t seed, std::string_view stream, uint64_t substream,
                        std::vector<int64_t>& order);

}  // namespace fovea

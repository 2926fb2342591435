#include "fovea/data/permutation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

namespace fovea {
namespace {

std::vector<int64_t> permutation(int64_t n, uint64_t seed, std::string_view stream, uint64_t sub) {
  std::vector<int64_t> order;
  philox_permutation(n, seed, stream, sub, order);
  return order;
}

TEST(Permutation, HoldsEachNumberOnce) {
  for (int64_t n : {0, 1, 2, 1000}) {
    std::vector<int64_t> order = permutation(n, 7, "shuffle", 3);
    std::sort(order.begin(), order.end());
    ASSERT_EQ(static_cast<int64_t>(order.size()), n);
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
  }
}

TEST(Permutation, DependsOnSeedStreamAndSubstreamAlone) {
  const auto order = permutation(100, 7, "shuffle", 3);
  EXPECT_EQ(permutation(100, 7, "shuffle", 3), order);
  EXPECT_NE(permutation(100, 8, "shuffle", 3), order);
  EXPECT_NE(permutation(100, 7, "other", 3), order);
  EXPECT_NE(permutation(100, 7, "shuffle", 4), order);
}

TEST(Permutation, PutsEveryNumberAtEveryPlaceEquallyOften) {
  constexpr int kTrials = 6000;
  std::array<std::array<int, 3>, 3> counts{};
  for (int trial = 0; trial < kTrials; ++trial) {
    const auto order = permutation(3, 1, "x", static_cast<uint64_t>(trial));
    for (size_t i = 0; i < 3; ++i) ++counts[i][static_cast<size_t>(order[i])];
  }
  for (const auto& row : counts) {
    for (int count : row) EXPECT_NEAR(count, kTrials / 3, 200);
  }
}

}  // namespace
}  // namespace fovea

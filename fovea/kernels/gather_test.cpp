#include "fovea/kernels/gather.h"

#include "fovea/kernels/leaf_test.h"

namespace fovea {
namespace {

using leaf::numbers;
using leaf::run;

std::vector<int32_t> random_indices(int64_t n, int64_t rows, uint64_t seed) {
  PhiloxStream stream(seed, 1);
  std::vector<int32_t> v(static_cast<size_t>(n));
  for (auto& i : v) i = static_cast<int32_t>(stream.below(static_cast<uint32_t>(rows)));
  return v;
}

template <class T>
std::vector<T> scatter(const GatherProblem& p, const std::vector<T>& updates,
                       const std::vector<int32_t>& indices, int threads = 1) {
  std::vector<T> table(static_cast<size_t>(p.rows * p.cols), T(77));
  run(scatter_add_kernels(), p, {updates.data(), indices.data(), table.data()}, threads);
  return table;
}

TEST(Gather, TakesRowsOfAnyType) {
  const std::vector<int32_t> indices = {2, 0, 2};
  const std::vector<float> table = {1, 2, 3, 4, 5, 6};
  std::vector<float> y(6);
  run(gather_kernels(), {DType::f32, 3, 2, 3}, {table.data(), indices.data(), y.data()});
  EXPECT_EQ(y, (std::vector<float>{5, 6, 1, 2, 5, 6}));
  const std::vector<int8_t> bytes = {1, 2, 3};
  std::vector<int8_t> z(3);
  run(gather_kernels(), {DType::i8, 3, 1, 3}, {bytes.data(), indices.data(), z.data()});
  EXPECT_EQ(z, (std::vector<int8_t>{3, 1, 3}));
}

TEST(Gather, AnIndexOutOfRangeGivesZerosAndIsSkippedOnTheWayBack) {
  const std::vector<int32_t> indices = {-1, 1, 2, INT32_MIN, INT32_MAX};
  const std::vector<double> table = {1, 2};
  std::vector<double> y(5, 9);
  run(gather_kernels(), {DType::f64, 2, 1, 5}, {table.data(), indices.data(), y.data()});
  EXPECT_EQ(y, (std::vector<double>{0, 2, 0, 0, 0}));
  EXPECT_EQ(scatter<double>({DType::f64, 2, 1, 5}, {1, 2, 3, 4, 5}, indices),
            (std::vector<double>{0, 2}));
}

TEST(Gather, ScatterAddSumsRowsOfEqualIndex) {
  const GatherProblem p{DType::f64, 100, 300, 1000};
  const auto indices = random_indices(1000, 100, 51);
  const auto updates = numbers<double>(1000 * 300, 52);
  std::vector<double> expected(100 * 300);
  for (size_t i = 0; i < 1000; ++i)
    for (size_t c = 0; c < 300; ++c)
      expected[static_cast<size_t>(indices[i]) * 300 + c] += updates[i * 300 + c];
  EXPECT_TRUE(leaf::same_bits(scatter(p, updates, indices, 2), expected));
  EXPECT_EQ(scatter<int32_t>({DType::i32, 3, 1, 4}, {1, 2, 3, 4}, {0, 2, 0, 2}),
            (std::vector<int32_t>{4, 0, 6}));
}

TEST(Gather, ScatterAddOfNothingGivesZeros) {
  EXPECT_EQ(scatter<float>({DType::f32, 2, 2, 0}, {}, {}), (std::vector<float>(4, 0)));
}

TEST(Gather, ScatterAddIsTheGradientOfGather) {
  const GatherProblem p{DType::f64, 7, 3, 20};
  const auto indices = random_indices(20, 7, 53);
  auto table = numbers<double>(21, 54);
  const auto dy = numbers<double>(60, 55);
  const auto expected = leaf::finite_differences(table, [&] {
    std::vector<double> y(60);
    run(gather_kernels(), p, {table.data(), indices.data(), y.data()});
    return leaf::dot(y, dy);
  });
  leaf::expect_close(scatter(p, dy, indices), expected, 1e-8, "table");
}

TEST(Gather, TheBitsDoNotDependOnTheThreads) {
  const GatherProblem p{DType::f32, 50, 64, 5000};
  const auto indices = random_indices(5000, 50, 56);
  const auto updates = numbers<float>(5000 * 64, 57);
  leaf::expect_same_bits_for_any_threads(
      [&](int threads) { return scatter(p, updates, indices, threads); });
}

TEST(Gather, WhatIsNotSupportedHasNoPlan) {
  EXPECT_FALSE(leaf::supported(scatter_add_kernels(), {DType::u8, 2, 2, 2}));
  EXPECT_FALSE(leaf::supported(scatter_add_kernels(), {DType::f32, -2, 2, 2}));
  EXPECT_FALSE(leaf::supported(gather_kernels(), {DType::f32, 2, 2, -2}));
}

}  // namespace
}  // namespace fovea

#include "fovea/kernels/dropout.h"

#include "fovea/kernels/leaf_test.h"

namespace fovea {
namespace {

using leaf::numbers;
using leaf::run;

using Rng = std::vector<int32_t>;  // seed, step, first sample

template <class T>
std::vector<T> dropout(const DropoutProblem& p, const std::vector<T>& x, const Rng& rng,
                       int threads = 1) {
  std::vector<T> y(x.size());
  run(dropout_kernels(), p, {x.data(), rng.data(), y.data()}, threads);
  return y;
}

TEST(Dropout, FollowsThePhiloxNumbersOfTheElement) {
  constexpr uint64_t stream = 0x123456789abcdef0ull;
  const DropoutProblem p{DType::f64, 3, 55, 0.4, stream};
  const auto x = numbers<double>(165, 61, 1, 2);
  const auto y = dropout(p, x, {7, 9, 11});
  for (size_t i = 0; i < x.size(); ++i) {
    const uint64_t e = 11 * 55 + i;
    const auto block =
        philox4x32({static_cast<uint32_t>(e / 4), 0, 0x9abcdef0u, 0x12345678u}, 7, 9);
    const bool keep = philox_unit(block[e % 4]) >= 0.4f;
    EXPECT_DOUBLE_EQ(y[i], keep ? x[i] / 0.6 : 0.0) << i;
  }
}

TEST(Dropout, ElementsBeyondFourBillionHaveNumbersOfTheirOwn) {
  const DropoutProblem p{DType::f64, 1, 400, 0.5, 3};
  const DropoutProblem large{DType::f64, 1, int64_t{1} << 20, 0.5, 3};
  const std::vector<double> x(size_t{1} << 20, 1.0);
  // Sample 2^14 of 2^20 elements begins at 2^34, so its blocks have a counter of more than 32 bits.
  const auto far = dropout(large, x, {1, 2, 1 << 14});
  const auto near = dropout(p, std::vector<double>(400, 1.0), {1, 2, 0});
  EXPECT_FALSE(std::equal(near.begin(), near.end(), far.begin()));
}

TEST(Dropout, KeepsItsShareAndItsMean) {
  const std::vector<float> x(100000, 1.0f);
  const auto y = dropout({DType::f32, 100, 1000, 0.3, 5}, x, {1, 1, 0});
  double sum = 0, zeros = 0;
  for (float v : y) {
    sum += static_cast<double>(v);
    zeros += v == 0;
  }
  EXPECT_NEAR(zeros / 1e5, 0.3, 0.01);
  EXPECT_NEAR(sum / 1e5, 1.0, 0.02);
}

TEST(Dropout, MicroBatchesAgreeWithTheWholeBatch) {
  constexpr int64_t per = 37;
  const auto x = numbers<float>(10 * per, 62);
  const auto whole = dropout({DType::f32, 10, per, 0.5, 8}, x, {3, 4, 20});
  const std::vector<float> tail(x.begin() + 4 * per, x.end());
  const auto part = dropout({DType::f32, 6, per, 0.5, 8}, tail, {3, 4, 24});
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 4 * per));
}

TEST(Dropout, SeedStepAndStreamChangeTheMask) {
  const std::vector<float> x(200, 1.0f);
  const DropoutProblem p{DType::f32, 1, 200, 0.5, 8};
  const auto y = dropout(p, x, {3, 4, 0});
  EXPECT_NE(y, dropout(p, x, {4, 4, 0}));
  EXPECT_NE(y, dropout(p, x, {3, 5, 0}));
  EXPECT_NE(y, dropout({DType::f32, 1, 200, 0.5, 9}, x, {3, 4, 0}));
  EXPECT_EQ(y, dropout(p, x, {3, 4, 0}));
}

TEST(Dropout, RateZeroCopiesAndRateOneClears) {
  const auto x = numbers<float>(50, 63);
  EXPECT_EQ(dropout({DType::f32, 5, 10, 0, 8}, x, {3, 4, 0}), x);
  EXPECT_EQ(dropout({DType::f32, 5, 10, 1, 8}, x, {3, 4, 0}), std::vector<float>(50, 0.0f));
}

TEST(Dropout, IsItsOwnGradient) {
  auto x = numbers<double>(40, 64);
  const auto dy = numbers<double>(40, 65);
  const DropoutProblem p{DType::f64, 4, 10, 0.5, 8};
  const Rng rng = {3, 4, 0};
  const auto expected =
      leaf::finite_differences(x, [&] { return leaf::dot(dropout(p, x, rng), dy); });
  leaf::expect_close(dropout(p, dy, rng), expected, 1e-8, "dx");
}

TEST(Dropout, MayWorkInPlaceWithAnyNumberOfThreads) {
  const auto x = numbers<float>(70001, 66);
  const DropoutProblem p{DType::f32, 1, 70001, 0.5, 8};
  const Rng rng = {3, 4, 1};
  leaf::expect_same_bits_for_any_threads([&](int t) { return dropout(p, x, rng, t); });
  auto y = x;
  run(dropout_kernels(), p, {y.data(), rng.data(), y.data()}, 2);
  EXPECT_TRUE(leaf::same_bits(y, dropout(p, x, rng)));
}

TEST(Dropout, WhatIsNotSupportedHasNoPlan) {
  EXPECT_FALSE(leaf::supported(dropout_kernels(), {DType::i32, 1, 1, 0.5, 0}));
  EXPECT_FALSE(leaf::supported(dropout_kernels(), {DType::f32, 1, 1, 1.5, 0}));
  EXPECT_FALSE(leaf::supported(dropout_kernels(), {DType::f32, 1, 1, -0.5, 0}));
  EXPECT_FALSE(leaf::supported(dropout_kernels(), {DType::f32, 1, 1, NAN, 0}));
  EXPECT_FALSE(leaf::supported(dropout_kernels(), {DType::f32, -1, 1, 0.5, 0}));
}

}  // namespace
}  // namespace fovea

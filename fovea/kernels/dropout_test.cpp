#include "fovea/kernels/dropout.h"

#include "fovea/base/philox.h"
#include "fovea/kernels/every_kernel_test.h"

namespace fovea {
namespace {

using leaf::numbers;

class Dropout : public leaf::EveryKernel {};
INSTANTIATE_TEST_SUITE_P(Kernels, Dropout, testing::ValuesIn(leaf::kernel_names(dropout_kernels())),
                         leaf::name_of);

using Rng = std::vector<int32_t>;  // seed, step, first sample

template <class T>
std::vector<T> dropout(const DropoutProblem& p, const std::vector<T>& x, const Rng& rng,
                       int threads = 1) {
  std::vector<T> y(x.size());
  leaf::run_current(dropout_kernels(), p, {x.data(), rng.data(), y.data()}, threads);
  return y;
}

TEST_P(Dropout, FollowsThePhiloxNumbersOfTheElement) {
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

TEST_P(Dropout, GivesTheBitsOfTheReference) {
  constexpr uint64_t stream = 0xfedcba9876543210ull;
  for (int64_t per : {1, 3, 16, 61, 513, 20003})
    for (double rate : {0.0, 0.1, 0.5, 0.999, 1.0})
      // The first element stands anywhere in its block of four, and beyond 2^32.
      for (int32_t first : {0, 1, 3, 1 << 30}) {
        const DropoutProblem p{DType::f32, 3, per, rate, stream};
        auto x = numbers<float>(3 * per, 67);
        x[0] = INFINITY;
        const Rng rng = {-7, 9, first};
        std::vector<float> expected(x.size());
        leaf::run(dropout_kernels(), p, {x.data(), rng.data(), expected.data()});
        ASSERT_TRUE(leaf::same_bits(dropout(p, x, rng, 2), expected)) << per << " at " << rate;
      }
}

TEST_P(Dropout, CountersMayCrossTheirLowerWord) {
  // Element 2^34, where the block's number passes 2^32, lies within the samples.
  constexpr int64_t part = 200;
  constexpr auto first = static_cast<int32_t>((int64_t{1} << 34) / part) - 3;
  const auto x = numbers<float>(10 * part, 68);
  const DropoutProblem p{DType::f32, 10, part, 0.5, 11};
  std::vector<float> expected(x.size());
  const Rng rng = {1, 2, first};
  leaf::run(dropout_kernels(), p, {x.data(), rng.data(), expected.data()});
  EXPECT_TRUE(leaf::same_bits(dropout(p, x, rng), expected));
}

TEST_P(Dropout, ElementsBeyondFourBillionHaveNumbersOfTheirOwn) {
  const DropoutProblem p{DType::f64, 1, 400, 0.5, 3};
  const DropoutProblem large{DType::f64, 1, int64_t{1} << 20, 0.5, 3};
  const std::vector<double> x(size_t{1} << 20, 1.0);
  // Sample 2^14 of 2^20 elements begins at 2^34, so its blocks have a counter of more than 32 bits.
  const auto far = dropout(large, x, {1, 2, 1 << 14});
  const auto near = dropout(p, std::vector<double>(400, 1.0), {1, 2, 0});
  EXPECT_FALSE(std::equal(near.begin(), near.end(), far.begin()));
}

TEST_P(Dropout, KeepsItsShareAndItsMean) {
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

TEST_P(Dropout, MicroBatchesAgreeWithTheWholeBatch) {
  constexpr int64_t per = 37;
  const auto x = numbers<float>(10 * per, 62);
  const auto whole = dropout({DType::f32, 10, per, 0.5, 8}, x, {3, 4, 20});
  const std::vector<float> tail(x.begin() + 4 * per, x.end());
  const auto part = dropout({DType::f32, 6, per, 0.5, 8}, tail, {3, 4, 24});
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 4 * per));
}

TEST_P(Dropout, SeedStepAndStreamChangeTheMask) {
  const std::vector<float> x(200, 1.0f);
  const DropoutProblem p{DType::f32, 1, 200, 0.5, 8};
  const auto y = dropout(p, x, {3, 4, 0});
  EXPECT_NE(y, dropout(p, x, {4, 4, 0}));
  EXPECT_NE(y, dropout(p, x, {3, 5, 0}));
  EXPECT_NE(y, dropout({DType::f32, 1, 200, 0.5, 9}, x, {3, 4, 0}));
  EXPECT_EQ(y, dropout(p, x, {3, 4, 0}));
}

TEST_P(Dropout, RateZeroCopiesAndRateOneClears) {
  const auto x = numbers<float>(50, 63);
  EXPECT_EQ(dropout({DType::f32, 5, 10, 0, 8}, x, {3, 4, 0}), x);
  EXPECT_EQ(dropout({DType::f32, 5, 10, 1, 8}, x, {3, 4, 0}), std::vector<float>(50, 0.0f));
}

TEST_P(Dropout, IsItsOwnGradient) {
  auto x = numbers<double>(40, 64);
  const auto dy = numbers<double>(40, 65);
  const DropoutProblem p{DType::f64, 4, 10, 0.5, 8};
  const Rng rng = {3, 4, 0};
  const auto expected =
      leaf::finite_differences(x, [&] { return leaf::dot(dropout(p, x, rng), dy); });
  leaf::expect_close(dropout(p, dy, rng), expected, 1e-8, "dx");
}

TEST_P(Dropout, MayWorkInPlaceWithAnyNumberOfThreads) {
  const auto x = numbers<float>(70001, 66);
  const DropoutProblem p{DType::f32, 1, 70001, 0.5, 8};
  const Rng rng = {3, 4, 1};
  leaf::expect_same_bits_for_any_threads([&](int t) { return dropout(p, x, rng, t); });
  auto y = x;
  leaf::run_current(dropout_kernels(), p, {y.data(), rng.data(), y.data()}, 2);
  EXPECT_TRUE(leaf::same_bits(y, dropout(p, x, rng)));
}

TEST_P(Dropout, WhatIsNotSupportedHasNoPlan) {
  EXPECT_TRUE(leaf::current_supports(dropout_kernels(), {DType::f32, 1, 1, 0.5, 0}));
  EXPECT_FALSE(leaf::supported(dropout_kernels(), {DType::i32, 1, 1, 0.5, 0}));
  EXPECT_FALSE(leaf::supported(dropout_kernels(), {DType::f32, 1, 1, 1.5, 0}));
  EXPECT_FALSE(leaf::supported(dropout_kernels(), {DType::f32, 1, 1, -0.5, 0}));
  EXPECT_FALSE(leaf::supported(dropout_kernels(), {DType::f32, 1, 1, NAN, 0}));
  EXPECT_FALSE(leaf::supported(dropout_kernels(), {DType::f32, -1, 1, 0.5, 0}));
}

}  // namespace
}  // namespace fovea

#include "fovea/kernels/pool.h"

#include <limits>

#include "fovea/base/error.h"
#include "fovea/kernels/leaf_test.h"

namespace fovea {
namespace {

using leaf::numbers;

struct Sizes {
  size_t x, y;
  explicit Sizes(const PoolProblem& p)
      : x(static_cast<size_t>(p.batch * p.h * p.w * p.c)),
        y(static_cast<size_t>(p.batch * p.out_h() * p.out_w() * p.c)) {}
};

template <class T>
struct Result {
  std::vector<T> y;
  std::vector<int32_t> indices;
};

template <class T>
Result<T> forward(PoolProblem p, const std::vector<T>& x, int threads = 1) {
  p.dtype = leaf::dtype_of<T>();
  Result<T> r{std::vector<T>(Sizes(p).y, T(-99)), std::vector<int32_t>(Sizes(p).y, -1)};
  leaf::run(pool_kernels(), p, {x.data(), r.y.data(), r.indices.data()}, threads);
  return r;
}

template <class T>
std::vector<T> gradient(PoolProblem p, const std::vector<T>& dy,
                        const std::vector<int32_t>& indices, int threads = 1) {
  p.dtype = leaf::dtype_of<T>();
  std::vector<T> dx(Sizes(p).x, T(-99));
  leaf::run(pool_grad_kernels(), p, {dy.data(), indices.data(), dx.data()}, threads);
  return dx;
}

// Overlapping windows, a padded border, axes that differ, channels that fill no vector.
PoolProblem uneven(PoolKind kind) {
  return {.kind = kind,
          .batch = 5,
          .h = 7,
          .w = 6,
          .c = 19,
          .size_h = 3,
          .size_w = 2,
          .stride_h = 2,
          .stride_w = 1,
          .pad_h = 1,
          .pad_w = 1};
}

TEST(Pool, TheMaximumAndItsPlaceByHand) {
  const PoolProblem p{
      .batch = 1, .h = 2, .w = 4, .c = 1, .size_h = 2, .size_w = 2, .stride_h = 2, .stride_w = 2};
  const auto r = forward<float>(p, {1, 5, 2, 2, 5, 0, 2, -1});
  EXPECT_EQ(r.y, (std::vector<float>{5, 2}));
  EXPECT_EQ(r.indices, (std::vector<int32_t>{1, 2})) << "the first of equal maxima";
}

TEST(Pool, TheMaximumNeedsNoIndices) {
  PoolProblem p = uneven(PoolKind::max);
  const auto x = numbers<float>(static_cast<int64_t>(Sizes(p).x), 1);
  std::vector<float> y(Sizes(p).y);
  leaf::run(pool_kernels(), p, {x.data(), y.data(), nullptr});
  EXPECT_EQ(y, forward(p, x).y);
}

TEST(Pool, TheAverageCountsOnlyTheImage) {
  const PoolProblem p{.kind = PoolKind::average,
                      .batch = 1,
                      .h = 2,
                      .w = 2,
                      .c = 1,
                      .size_h = 2,
                      .size_w = 2,
                      .pad_h = 1,
                      .pad_w = 1};
  EXPECT_EQ(forward<double>(p, {1, 2, 3, 4}).y,
            (std::vector<double>{1, 1.5, 2, 2, 2.5, 3, 3, 3.5, 4}));
}

TEST(Pool, ANanIsSeen) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  PoolProblem p{.batch = 1, .h = 1, .w = 4, .c = 1, .size_w = 4};
  const auto r = forward<float>(p, {7, nan, 9, nan});
  EXPECT_TRUE(std::isnan(r.y[0]));
  EXPECT_EQ(r.indices[0], 1);
  p.kind = PoolKind::average;
  EXPECT_TRUE(std::isnan(forward<float>(p, {7, nan, 9, 1}).y[0]));
}

TEST(Pool, TheLowestNumbersAreMaximaToo) {
  const float low = -std::numeric_limits<float>::infinity();
  const auto r = forward<float>({.batch = 1, .h = 2, .w = 1, .c = 1, .size_h = 2}, {low, low});
  EXPECT_EQ(r.y[0], low);
  EXPECT_EQ(r.indices[0], 0);
}

TEST(Pool, EveryKernelAgreesWithDoublePrecision) {
  for (PoolKind kind : {PoolKind::max, PoolKind::average}) {
    const PoolProblem p = uneven(kind);
    const auto x = numbers<float>(static_cast<int64_t>(Sizes(p).x), 1);
    const auto dy = numbers<float>(static_cast<int64_t>(Sizes(p).y), 2);
    const auto single = forward(p, x);
    const auto twice = forward(p, std::vector<double>(x.begin(), x.end()));
    leaf::expect_close(single.y, twice.y, 1e-6, "y");
    EXPECT_EQ(single.indices, twice.indices);
    leaf::expect_close(gradient(p, dy, single.indices),
                       gradient(p, std::vector<double>(dy.begin(), dy.end()), twice.indices), 1e-6,
                       "dx");
  }
}

TEST(Pool, GradientsAreWhatFiniteDifferencesSay) {
  for (PoolKind kind : {PoolKind::max, PoolKind::average}) {
    PoolProblem p = uneven(kind);
    p.batch = 2;
    p.c = 3;
    auto x = numbers<double>(static_cast<int64_t>(Sizes(p).x), 1);
    const auto dy = numbers<double>(static_cast<int64_t>(Sizes(p).y), 2);
    const auto dx = gradient(p, dy, forward(p, x).indices);
    const auto loss = [&] {
      const auto y = forward(p, x).y;
      double sum = 0;
      for (size_t i = 0; i < y.size(); ++i) sum += dy[i] * y[i];
      return sum;
    };
    constexpr double kStep = 1e-7;  // less than the distance of any two numbers
    for (size_t i = 0; i < x.size(); ++i) {
      const double kept = x[i];
      x[i] = kept + kStep;
      const double above = loss();
      x[i] = kept - kStep;
      const double below = loss();
      x[i] = kept;
      EXPECT_NEAR((above - below) / (2 * kStep), dx[i], 1e-6) << i;
    }
  }
}

TEST(Pool, IndicesOutsideTheImageAreSkipped) {
  const PoolProblem p{
      .batch = 1, .h = 2, .w = 4, .c = 1, .size_h = 2, .size_w = 1, .stride_h = 2, .stride_w = 1};
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(gradient<float>(p, {1, 2, 3, 4}, {-1, 7, 8, kMost}),
            (std::vector<float>{0, 0, 0, 0, 0, 0, 0, 2}));
}

TEST(Pool, AnyNumberOfThreadsGivesTheSameBits) {
  for (PoolKind kind : {PoolKind::max, PoolKind::average}) {
    const PoolProblem p = uneven(kind);
    const auto x = numbers<float>(static_cast<int64_t>(Sizes(p).x), 1);
    const auto dy = numbers<float>(static_cast<int64_t>(Sizes(p).y), 2);
    const auto indices = forward(p, x).indices;
    leaf::expect_same_bits_for_any_threads([&](int threads) { return forward(p, x, threads).y; });
    leaf::expect_same_bits_for_any_threads(
        [&](int threads) { return gradient(p, dy, indices, threads); });
  }
}

TEST(Pool, OtherTypesAreNotSupported) {
  PoolProblem p = uneven(PoolKind::max);
  p.dtype = DType::bf16;
  EXPECT_FALSE(leaf::supported(pool_kernels(), p));
  EXPECT_FALSE(leaf::supported(pool_grad_kernels(), p));
}

void expect_error(const PoolProblem& p, const char* message) {
  const auto check = [&](const auto& kernels) {
    try {
      kernels.back().plan(p);
      ADD_FAILURE() << "no error, but expected " << message;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
      EXPECT_STREQ(e.what(), message);
    }
  };
  check(pool_kernels());
  check(pool_grad_kernels());
}

TEST(Pool, SizesAndStridesBelowOneAreErrors) {
  PoolProblem p = uneven(PoolKind::max);
  p.batch = 0;
  expect_error(p, "[pool] expected batch of at least 1, got 0");
  p = uneven(PoolKind::max);
  p.stride_w = 0;
  expect_error(p, "[pool] expected horizontal stride of at least 1, got 0");
}

TEST(Pool, PaddingMustBeLessThanTheWindow) {
  PoolProblem p = uneven(PoolKind::max);
  p.pad_w = 2;
  expect_error(p, "[pool] expected padding less than the window of 3 x 2, got 1 x 2");
  p.pad_w = -1;
  expect_error(p, "[pool] expected horizontal padding of at least 0, got -1");
}

TEST(Pool, AWindowLargerThanThePaddedImageIsAnError) {
  PoolProblem p = uneven(PoolKind::max);
  p.size_h = 10;
  expect_error(p, "[pool] expected a window within the padded image of 9 x 8, got 10 x 2");
}

TEST(Pool, PlacesMustFitTheirIndices) {
  PoolProblem p = uneven(PoolKind::max);
  p.h = int64_t{1} << 20;
  p.w = int64_t{1} << 12;
  expect_error(p, "[pool] expected an image of less than 2^31 places, got 1048576 x 4096");
}

}  // namespace
}  // namespace fovea

#include "fovea/kernels/reduce.h"

#include <limits>

#include "fovea/base/visit.h"
#include "fovea/kernels/every_kernel_test.h"

namespace fovea {
namespace {

using leaf::numbers;

class Reduce : public leaf::EveryKernel {};
INSTANTIATE_TEST_SUITE_P(Kernels, Reduce, testing::ValuesIn(leaf::kernel_names(reduce_kernels())),
                         leaf::name_of);

// One element after another, in double.
std::vector<double> slow(const ReduceProblem& p, const std::vector<double>& x) {
  int64_t results = 1, group = 1;
  for (size_t i = 0; i < p.dims.size(); ++i) (p.reduced[i] ? group : results) *= p.dims[i];
  const double first = p.op == ReduceOp::max   ? -std::numeric_limits<double>::infinity()
                       : p.op == ReduceOp::min ? std::numeric_limits<double>::infinity()
                                               : 0.0;
  std::vector<double> y(static_cast<size_t>(results), first);
  for (size_t e = 0; e < x.size(); ++e) {
    int64_t rest = static_cast<int64_t>(e), to = 0, stride = 1;
    for (size_t i = p.dims.size(); i-- > 0; rest /= p.dims[i]) {
      if (p.reduced[i]) continue;
      to += rest % p.dims[i] * stride;
      stride *= p.dims[i];
    }
    double& r = y[static_cast<size_t>(to)];
    if (p.op == ReduceOp::max)
      r = std::max(r, x[e]);
    else if (p.op == ReduceOp::min)
      r = std::min(r, x[e]);
    else
      r += x[e] / (p.op == ReduceOp::mean ? static_cast<double>(group) : 1.0);
  }
  return y;
}

template <class T>
std::vector<T> reduce(const ReduceProblem& p, const std::vector<T>& x, size_t results,
                      int threads = 1) {
  std::vector<T> y(results);
  leaf::run_current(reduce_kernels(), p, {x.data(), y.data()}, threads);
  return y;
}

struct Case {
  std::vector<int64_t> dims;
  std::vector<bool> reduced;
};
std::vector<Case> cases() {
  return {
      {{300, 64}, {false, true}},   // rows
      {{1300, 64}, {true, false}},  // columns: the gradient of a bias
      {{700, 300}, {true, false}},  // more columns than a block takes
      {{90000}, {true}},            // everything
      {{30, 40, 50}, {true, true, true}},
      {{5, 40, 50}, {true, false, true}},  // one number a channel
      {{5, 40, 50}, {false, true, false}},
      {{3, 40000}, {false, true}},            // long rows
      {{128, 49, 64}, {false, true, false}},  // the mean of the tokens
      {{6, 301, 37}, {false, true, false}},   // the last vector is not whole
      {{301, 37}, {true, false}},
      {{57, 10}, {true, false}},
      {{9, 600}, {true, false}},
      {{57, 37}, {false, true}},
      {{3, 1}, {true, false}},
      {{2, 3, 4, 5, 6}, {true, false, true, false, true}},
      {{2, 3, 4, 5, 6}, {false, true, false, true, false}},
      {{7, 1, 9}, {false, true, false}},  // an axis of one element
      {{7, 9}, {false, false}},
      {{}, {}},
  };
}

template <class T>
void check() {
  for (const Case& c : cases())
    for (ReduceOp op : {ReduceOp::sum, ReduceOp::mean, ReduceOp::max, ReduceOp::min}) {
      int64_t count = 1;
      for (int64_t d : c.dims) count *= d;
      const auto x = numbers<T>(count, 11, -1, 3);
      const ReduceProblem p{leaf::dtype_of<T>(), op, c.dims, c.reduced};
      const auto expected = slow(p, std::vector<double>(x.begin(), x.end()));
      const double relative = std::is_same_v<T, double> ? 1e-12 : 1e-6;
      leaf::expect_close(reduce(p, x, expected.size(), 2), expected, relative,
                         enum_name(op).data());
    }
}

TEST_P(Reduce, AnySetOfAxesIsRightInF32) { check<float>(); }
TEST_P(Reduce, AnySetOfAxesIsRightInF64) { check<double>(); }

TEST_P(Reduce, WholeNumbersAddUpExactlyAndWrapAround) {
  std::vector<int32_t> x(100000, 3);
  const ReduceProblem all{DType::i32, ReduceOp::sum, {100000}, {true}};
  EXPECT_EQ(reduce(all, x, 1)[0], 300000);
  x.assign(4, 1 << 30);
  EXPECT_EQ(reduce({DType::i32, ReduceOp::sum, {4}, {true}}, x, 1)[0], 0);
  x = {5, -7, 9, 2};
  EXPECT_EQ(reduce({DType::i32, ReduceOp::max, {2, 2}, {true, false}}, x, 2),
            (std::vector<int32_t>{9, 2}));
  EXPECT_EQ(reduce({DType::i32, ReduceOp::min, {2, 2}, {false, true}}, x, 2),
            (std::vector<int32_t>{-7, 2}));
}

TEST_P(Reduce, MaxAndMinOfANanAreNan) {
  for (size_t at : {size_t{0}, size_t{17}, size_t{39}}) {
    std::vector<float> x(40, 1.0f);
    x[at] = NAN;
    for (ReduceOp op : {ReduceOp::max, ReduceOp::min}) {
      EXPECT_TRUE(std::isnan(reduce<float>({DType::f32, op, {40}, {true}}, x, 1)[0]));
      EXPECT_TRUE(std::isnan(reduce<float>({DType::f32, op, {40, 1}, {true, false}}, x, 1)[0]));
    }
  }
}

TEST_P(Reduce, OverNoElementsGivesTheNeutralElement) {
  const std::vector<float> none;
  const auto over_nothing = [&](ReduceOp op) {
    return reduce<float>({DType::f32, op, {0, 3}, {true, false}}, none, 3);
  };
  EXPECT_EQ(over_nothing(ReduceOp::sum), (std::vector<float>{0, 0, 0}));
  EXPECT_EQ(over_nothing(ReduceOp::max)[2], -INFINITY);
  EXPECT_EQ(over_nothing(ReduceOp::min)[1], INFINITY);
  EXPECT_TRUE(std::isnan(over_nothing(ReduceOp::mean)[0]));
  EXPECT_EQ(reduce<float>({DType::f32, ReduceOp::sum, {3, 0}, {false, true}}, none, 3),
            (std::vector<float>{0, 0, 0}));
  EXPECT_TRUE(reduce<float>({DType::f32, ReduceOp::sum, {0, 3}, {false, true}}, none, 0).empty());
}

TEST_P(Reduce, TheBitsDoNotDependOnTheThreads) {
  const auto x = numbers<float>(6272 * 64, 12);
  for (const auto& reduced : {std::vector<bool>{true, false}, {false, true}, {true, true}}) {
    const size_t results = static_cast<size_t>((reduced[0] ? 1 : 6272) * (reduced[1] ? 1 : 64));
    leaf::expect_same_bits_for_any_threads([&](int threads) {
      return reduce<float>({DType::f32, ReduceOp::sum, {6272, 64}, reduced}, x, results, threads);
    });
  }
}

TEST_P(Reduce, HighwayTakesSumsAndMeansOfOneRunOfAxes) {
  if (GetParam() == "ref") GTEST_SKIP() << "of the Highway kernels";
  const auto takes = [](ReduceOp op, std::vector<int64_t> dims, std::vector<bool> reduced) {
    return leaf::current_supports(reduce_kernels(), {DType::f32, op, dims, reduced});
  };
  EXPECT_TRUE(takes(ReduceOp::sum, {8, 49, 64}, {true, true, false}));
  EXPECT_TRUE(takes(ReduceOp::mean, {8, 49, 64}, {false, true, false}));
  EXPECT_TRUE(takes(ReduceOp::mean, {8, 49, 64}, {false, false, true}));
  EXPECT_TRUE(takes(ReduceOp::sum, {8, 49}, {true, true}));
  EXPECT_FALSE(takes(ReduceOp::sum, {8, 49, 64}, {true, false, true}));
  EXPECT_FALSE(takes(ReduceOp::max, {8, 49}, {true, false}));
}

TEST_P(Reduce, LongSumsKeepTheAccuracyOfF64) {
  // In f32 alone, the ones would be lost beside 2^24.
  std::vector<float> x(200000, 1.0f);
  x[0] = 16777216.0f;
  EXPECT_NEAR(reduce<float>({DType::f32, ReduceOp::sum, {200000}, {true}}, x, 1)[0],
              16777216.0f + 199999.0f, 16);
}

TEST_P(Reduce, ANanInTheSumIsSeen) {
  std::vector<float> x(33 * 19, 1.0f);
  x[32 * 19 + 18] = NAN;
  const auto columns = reduce<float>({DType::f32, ReduceOp::sum, {33, 19}, {true, false}}, x, 19);
  for (size_t i = 0; i < 18; ++i) EXPECT_EQ(columns[i], 33);
  EXPECT_TRUE(std::isnan(columns[18]));
  EXPECT_TRUE(
      std::isnan(reduce<float>({DType::f32, ReduceOp::mean, {33, 19}, {false, true}}, x, 33)[32]));
}

TEST_P(Reduce, WhatIsNotSupportedHasNoPlan) {
  EXPECT_FALSE(leaf::supported(reduce_kernels(), {DType::i32, ReduceOp::mean, {3}, {true}}));
  EXPECT_FALSE(leaf::supported(reduce_kernels(), {DType::bf16, ReduceOp::sum, {3}, {true}}));
  EXPECT_FALSE(leaf::supported(reduce_kernels(), {DType::f32, ReduceOp::sum, {3, 3}, {true}}));
  EXPECT_FALSE(leaf::supported(reduce_kernels(), {DType::f32, ReduceOp::sum, {-3}, {true}}));
}

class SumSquares : public leaf::EveryKernel {};
INSTANTIATE_TEST_SUITE_P(Kernels, SumSquares,
                         testing::ValuesIn(leaf::kernel_names(sum_squares_kernels())),
                         leaf::name_of);

template <class T>
T sum_squares(const std::vector<std::vector<T>>& arrays, int threads = 1) {
  SumSquaresProblem p{leaf::dtype_of<T>(), {}};
  std::vector<const void*> x;
  for (const auto& a : arrays) {
    p.sizes.push_back(static_cast<int64_t>(a.size()));
    x.push_back(a.data());
  }
  T y = -1;
  leaf::run_current(sum_squares_kernels(), p, {x.data(), &y}, threads);
  return y;
}

template <class T>
std::vector<std::vector<T>> arrays_of_many_sizes() {
  std::vector<std::vector<T>> arrays;
  for (int64_t n : {0, 1, 5, 16, 63, 1000, 0, 16384, 50001, 7, 0})
    arrays.push_back(numbers<T>(n, 13 + static_cast<uint64_t>(n)));
  return arrays;
}

template <class T>
void check_sum_squares() {
  double expected = 0;
  for (const auto& a : arrays_of_many_sizes<T>())
    for (T v : a) expected += static_cast<double>(v) * static_cast<double>(v);
  EXPECT_NEAR(static_cast<double>(sum_squares(arrays_of_many_sizes<T>())), expected,
              expected * (std::is_same_v<T, double> ? 1e-12 : 1e-7));
}
TEST_P(SumSquares, AllArraysTogetherAreRight) {
  check_sum_squares<float>();
  check_sum_squares<double>();
}

TEST_P(SumSquares, OfNothingAreZero) {
  EXPECT_EQ(sum_squares<float>({}), 0);
  EXPECT_EQ(sum_squares<float>({{}, {}}), 0);
}

TEST_P(SumSquares, AreAddedInF64) {
  // In f32 alone, the ones would be lost beside 2^24.
  EXPECT_EQ(sum_squares<float>({{4096}, std::vector<float>(1 << 20, 1.0f)}), 0x1p24f + 0x1p20f);
  EXPECT_EQ(sum_squares<float>({{2e19f}}), INFINITY);
  EXPECT_TRUE(std::isnan(sum_squares<float>({{1, 2}, {NAN}, {3}})));
}

TEST_P(SumSquares, TheBitsDoNotDependOnTheThreads) {
  const auto arrays = arrays_of_many_sizes<float>();
  leaf::expect_same_bits_for_any_threads(
      [&](int threads) { return std::vector<float>{sum_squares(arrays, threads)}; });
}

TEST_P(SumSquares, WhatIsNotSupportedHasNoPlan) {
  EXPECT_TRUE(leaf::current_supports(sum_squares_kernels(), {DType::f32, {3, 0}}));
  EXPECT_FALSE(leaf::supported(sum_squares_kernels(), {DType::bf16, {3}}));
  EXPECT_FALSE(leaf::supported(sum_squares_kernels(), {DType::f32, {3, -1}}));
}

}  // namespace
}  // namespace fovea

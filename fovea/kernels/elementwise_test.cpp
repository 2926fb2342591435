#include "fovea/kernels/elementwise.h"

#include <cmath>
#include <functional>
#include <limits>
#include <numbers>

#include "fovea/base/visit.h"
#include "fovea/kernels/every_kernel_test.h"

namespace fovea {
namespace {

using leaf::numbers;

class Elementwise : public leaf::EveryKernel {};
INSTANTIATE_TEST_SUITE_P(Kernels, Elementwise,
                         testing::ValuesIn(leaf::kernel_names(unary_kernels())), leaf::name_of);

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

double cumulative(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double logistic(double x) { return 1 / (1 + std::exp(-x)); }

struct UnaryCase {
  UnaryOp op;
  std::function<double(double)> f;
  double low = -6, high = 6;
};

std::vector<UnaryCase> unary_cases() {
  return {
      {UnaryOp::neg, [](double x) { return -x; }},
      {UnaryOp::abs, [](double x) { return std::fabs(x); }},
      {UnaryOp::exp, [](double x) { return std::exp(x); }, -80, 80},
      {UnaryOp::log, [](double x) { return std::log(x); }, 0.001, 9},
      {UnaryOp::sqrt, [](double x) { return std::sqrt(x); }, 0, 9},
      {UnaryOp::rsqrt, [](double x) { return 1 / std::sqrt(x); }, 0.01, 9},
      {UnaryOp::tanh, [](double x) { return std::tanh(x); }},
      {UnaryOp::sigmoid, logistic, -30, 30},
      {UnaryOp::relu, [](double x) { return x > 0 ? x : 0; }},
      {UnaryOp::silu, [](double x) { return x * logistic(x); }, -30, 30},
      {UnaryOp::gelu, [](double x) { return x * cumulative(x); }, -13, 13},
      {UnaryOp::square, [](double x) { return x * x; }},
      {UnaryOp::reciprocal, [](double x) { return 1 / x; }, 0.1, 4},
      {UnaryOp::erf, [](double x) { return std::erf(x); }},
      {UnaryOp::sin, [](double x) { return std::sin(x); }},
      {UnaryOp::cos, [](double x) { return std::cos(x); }},
      {UnaryOp::sign, [](double x) { return x > 0   ? 1.0
                                            : x < 0 ? -1.0
                                                    : 0.0; }},
      {UnaryOp::floor, [](double x) { return std::floor(x); }},
  };
}

template <class T, class R = T>
std::vector<R> unary(UnaryOp op, const std::vector<T>& x, int threads = 1) {
  std::vector<R> y(x.size());
  leaf::run_current(unary_kernels(),
                    {op, leaf::dtype_of<T>(), {static_cast<int64_t>(x.size())}, {}},
                    {x.data(), y.data()}, threads);
  return y;
}

template <class T>
void check_unary(double relative) {
  for (const auto& c : unary_cases()) {
    const auto x = numbers<T>(1003, 1, c.low, c.high);
    const auto y = unary(c.op, x);
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = c.f(static_cast<double>(x[i]));
      // Relative, so that the tails of gelu and exp count.
      ASSERT_NEAR(y[i], expected, relative * std::abs(expected) + 1e-30)
          << enum_name(c.op) << " of " << x[i];
    }
  }
}

TEST_P(Elementwise, UnaryFunctionsAgreeWithTheStandardLibraryInF64) { check_unary<double>(1e-13); }
TEST_P(Elementwise, UnaryFunctionsAgreeWithTheStandardLibraryInF32) { check_unary<float>(2e-5); }

TEST_P(Elementwise, ExpKeepsItsRelativeAccuracyAndItsEnds) {
  const std::vector<float> x = {0, -INFINITY, INFINITY, 1e30f, -1e30f, 89, -88, 88, 1e-30f};
  const auto y = unary(UnaryOp::exp, x);
  EXPECT_EQ(y[0], 1);
  EXPECT_EQ(y[1], 0);
  EXPECT_EQ(y[2], INFINITY);
  EXPECT_EQ(y[3], INFINITY);
  EXPECT_EQ(y[4], 0);
  EXPECT_EQ(y[5], INFINITY);
  EXPECT_LT(y[6], 1e-38f);
  EXPECT_NEAR(y[7] / std::exp(88.0), 1, 4e-7);
  EXPECT_EQ(y[8], 1);
}

TEST_P(Elementwise, NanPassesThroughEveryUnaryFunction) {
  for (const auto& c : unary_cases()) {
    for (float y : unary(c.op, std::vector<float>(17, NAN)))
      EXPECT_TRUE(std::isnan(y)) << enum_name(c.op);
    EXPECT_TRUE(std::isnan(unary(c.op, std::vector<double>{kNan})[0])) << enum_name(c.op);
  }
}

TEST_P(Elementwise, IsFiniteAndLogicalNotGiveBools) {
  const auto finite = unary<double, uint8_t>(
      UnaryOp::is_finite, {1, kNan, kInf, -kInf, 0, std::numeric_limits<double>::max()});
  EXPECT_EQ(finite, (std::vector<uint8_t>{1, 0, 0, 0, 1, 1}));
  const std::vector<uint8_t> x = {0, 1, 1, 0};
  std::vector<uint8_t> y(4);
  leaf::run_current(unary_kernels(), {UnaryOp::logical_not, DType::boolean, {4}, {}},
                    {x.data(), y.data()});
  EXPECT_EQ(y, (std::vector<uint8_t>{1, 0, 0, 1}));
}

TEST_P(Elementwise, WholeNumbersWrapAround) {
  constexpr int32_t low = std::numeric_limits<int32_t>::min();
  EXPECT_EQ(unary<int32_t>(UnaryOp::neg, {3, low}), (std::vector<int32_t>{-3, low}));
  EXPECT_EQ(unary<int32_t>(UnaryOp::abs, {-3, 4, low}), (std::vector<int32_t>{3, 4, low}));
  EXPECT_EQ(unary<int32_t>(UnaryOp::square, {-3, 65536}), (std::vector<int32_t>{9, 0}));
  EXPECT_EQ(unary<int32_t>(UnaryOp::sign, {-3, 0, 9}), (std::vector<int32_t>{-1, 0, 1}));
}

struct BinaryCase {
  BinaryOp op;
  std::function<double(double, double)> f;
};

std::vector<BinaryCase> binary_cases() {
  return {
      {BinaryOp::add, [](double a, double b) { return a + b; }},
      {BinaryOp::sub, [](double a, double b) { return a - b; }},
      {BinaryOp::mul, [](double a, double b) { return a * b; }},
      {BinaryOp::div, [](double a, double b) { return a / b; }},
      {BinaryOp::max, [](double a, double b) { return std::max(a, b); }},
      {BinaryOp::min, [](double a, double b) { return std::min(a, b); }},
      {BinaryOp::pow, [](double a, double b) { return std::pow(a, b); }},
  };
}

template <class T>
void check_binary() {
  const auto a = numbers<T>(517, 2, 0.1, 3), b = numbers<T>(517, 3, 0.1, 3);
  for (const auto& c : binary_cases()) {
    std::vector<T> y(a.size());
    leaf::run_current(binary_kernels(), {c.op, leaf::dtype_of<T>(), {517}, {}, {}},
                      {a.data(), b.data(), y.data()});
    for (size_t i = 0; i < y.size(); ++i)
      leaf::expect_close(y[i], c.f(a[i], b[i]), leaf::tolerance<T>(), enum_name(c.op).data(),
                         static_cast<int64_t>(i));
  }
}
TEST_P(Elementwise, BinaryFunctionsAreRightInF32AndF64) {
  check_binary<float>();
  check_binary<double>();
}

template <class T>
std::vector<uint8_t> compare(BinaryOp op, DType dtype, const std::vector<T>& a,
                             const std::vector<T>& b) {
  std::vector<uint8_t> y(a.size());
  leaf::run_current(binary_kernels(), {op, dtype, {static_cast<int64_t>(a.size())}, {}, {}},
                    {a.data(), b.data(), y.data()});
  return y;
}
using Bools = std::vector<uint8_t>;

TEST_P(Elementwise, ComparisonsGiveBoolsAndNanIsUnequalToAll) {
  const std::vector<float> a = {1, 2, 3, NAN}, b = {2, 2, 2, 1};
  EXPECT_EQ(compare(BinaryOp::equal, DType::f32, a, b), (Bools{0, 1, 0, 0}));
  EXPECT_EQ(compare(BinaryOp::not_equal, DType::f32, a, b), (Bools{1, 0, 1, 1}));
  EXPECT_EQ(compare(BinaryOp::less, DType::f32, a, b), (Bools{1, 0, 0, 0}));
  EXPECT_EQ(compare(BinaryOp::less_equal, DType::f32, a, b), (Bools{1, 1, 0, 0}));
  EXPECT_EQ(compare(BinaryOp::greater, DType::f32, a, b), (Bools{0, 0, 1, 0}));
  EXPECT_EQ(compare(BinaryOp::greater_equal, DType::f32, a, b), (Bools{0, 1, 1, 0}));
  EXPECT_EQ(compare<int32_t>(BinaryOp::less, DType::i32, {-1, 2}, {1, 2}), (Bools{1, 0}));
  EXPECT_EQ(compare<uint8_t>(BinaryOp::greater, DType::u8, {200, 2}, {100, 2}), (Bools{1, 0}));
  EXPECT_EQ(compare<uint8_t>(BinaryOp::logical_and, DType::boolean, {0, 0, 1, 1}, {0, 1, 0, 1}),
            (Bools{0, 0, 0, 1}));
  EXPECT_EQ(compare<uint8_t>(BinaryOp::logical_or, DType::boolean, {0, 0, 1, 1}, {0, 1, 0, 1}),
            (Bools{0, 1, 1, 1}));
  EXPECT_EQ(compare<uint8_t>(BinaryOp::not_equal, DType::boolean, {0, 0, 1, 1}, {0, 1, 0, 1}),
            (Bools{0, 1, 1, 0}));
}

TEST_P(Elementwise, MaxAndMinOfANanAreNan) {
  const std::vector<float> a = {NAN, 1, NAN}, b = {1, NAN, NAN};
  for (BinaryOp op : {BinaryOp::max, BinaryOp::min}) {
    std::vector<float> y(3);
    leaf::run_current(binary_kernels(), {op, DType::f32, {3}, {}, {}},
                      {a.data(), b.data(), y.data()});
    for (float v : y) EXPECT_TRUE(std::isnan(v));
  }
}

TEST_P(Elementwise, WholeQuotientsByZeroAreZero) {
  const std::vector<int32_t> a = {7, -7, 5, std::numeric_limits<int32_t>::min()}, b = {2, 2, 0, -1};
  std::vector<int32_t> y(4);
  leaf::run_current(binary_kernels(), {BinaryOp::div, DType::i32, {4}, {}, {}},
                    {a.data(), b.data(), y.data()});
  EXPECT_EQ(y, (std::vector<int32_t>{3, -3, 0, std::numeric_limits<int32_t>::min()}));
}

TEST_P(Elementwise, GradientsAgreeWithFiniteDifferences) {
  struct Pair {
    UnaryOp forward;
    BinaryOp grad;
    bool from_output;
  };
  for (const Pair& p : {Pair{UnaryOp::gelu, BinaryOp::gelu_grad, false},
                        Pair{UnaryOp::silu, BinaryOp::silu_grad, false},
                        Pair{UnaryOp::relu, BinaryOp::relu_grad, false},
                        Pair{UnaryOp::tanh, BinaryOp::tanh_grad, true},
                        Pair{UnaryOp::sigmoid, BinaryOp::sigmoid_grad, true}}) {
    auto x = numbers<double>(53, 4, -4, 4);
    const auto dy = numbers<double>(53, 5);
    const auto y = unary(p.forward, x);
    std::vector<double> dx(53);
    const auto& a = p.from_output ? y : x;
    leaf::run_current(binary_kernels(), {p.grad, DType::f64, {53}, {}, {}},
                      {a.data(), dy.data(), dx.data()});
    const auto expected =
        leaf::finite_differences(x, [&] { return leaf::dot(unary(p.forward, x), dy); });
    leaf::expect_close(dx, expected, 1e-7, enum_name(p.grad).data());
    std::vector<float> a32(a.begin(), a.end()), dy32(dy.begin(), dy.end()), dx32(53);
    leaf::run_current(binary_kernels(), {p.grad, DType::f32, {53}, {}, {}},
                      {a32.data(), dy32.data(), dx32.data()});
    leaf::expect_close(dx32, dx, 1e-5, enum_name(p.grad).data());
  }
}

// Adds b to a over dims with the given strides, one element after another.
std::vector<float> slow_add(const std::vector<int64_t>& dims, const std::vector<float>& a,
                            const std::vector<int64_t>& sa, const std::vector<float>& b,
                            const std::vector<int64_t>& sb) {
  int64_t count = 1;
  for (int64_t d : dims) count *= d;
  std::vector<float> y;
  for (int64_t e = 0; e < count; ++e) {
    int64_t rest = e, at_a = 0, at_b = 0;
    for (size_t i = dims.size(); i-- > 0; rest /= dims[i]) {
      at_a += rest % dims[i] * sa[i];
      at_b += rest % dims[i] * sb[i];
    }
    y.push_back(a[static_cast<size_t>(at_a)] + b[static_cast<size_t>(at_b)]);
  }
  return y;
}

TEST_P(Elementwise, OperandsAreBroadcastByStrides) {
  struct Case {
    std::vector<int64_t> dims, sa, sb;
  };
  const Case cases[] = {
      {{700, 64}, {64, 1}, {0, 1}},                        // a bias
      {{700, 64}, {64, 1}, {1, 0}},                        // one number a row
      {{700, 64}, {64, 1}, {0, 0}},                        // a scalar
      {{700, 64}, {0, 0}, {64, 1}},                        // and on the left
      {{3, 5, 7, 11}, {385, 77, 11, 1}, {0, 1, 0, 0}},     // one number a channel
      {{3, 5, 7, 11}, {1, 3, 15, 105}, {385, 77, 11, 1}},  // transposed
      {{2, 1, 40000}, {40000, 9, 1}, {0, 0, 1}},           // long rows
      {{1, 1}, {0, 0}, {5, 5}},                            // a single element
      {{}, {}, {}},
      {{0, 5}, {5, 1}, {0, 1}},
      {{2, 2, 2, 2, 2}, {0, 1, 0, 2, 0}, {1, 0, 2, 0, 4}},
  };
  const auto a = numbers<float>(80000, 6), b = numbers<float>(80000, 7);
  for (const Case& c : cases) {
    const auto expected = slow_add(c.dims, a, c.sa, b, c.sb);
    std::vector<float> y(expected.size());
    leaf::run_current(binary_kernels(), {BinaryOp::add, DType::f32, c.dims, c.sa, c.sb},
                      {a.data(), b.data(), y.data()}, 2);
    EXPECT_TRUE(leaf::same_bits(y, expected)) << c.dims.size() << " dimensions";
  }
}

TEST_P(Elementwise, TheOutputMayLieOnAnOperand) {
  const auto a = numbers<float>(33000, 8), b = numbers<float>(33000, 9);
  std::vector<float> expected(a.size());
  const BinaryProblem problem{BinaryOp::mul, DType::f32, {33, 1000}, {}, {}};
  leaf::run_current(binary_kernels(), problem, {a.data(), b.data(), expected.data()});
  auto left = a, right = b;
  leaf::run_current(binary_kernels(), problem, {left.data(), b.data(), left.data()}, 2);
  leaf::run_current(binary_kernels(), problem, {a.data(), right.data(), right.data()}, 2);
  EXPECT_TRUE(leaf::same_bits(left, expected));
  EXPECT_TRUE(leaf::same_bits(right, expected));
  const auto gelu = unary(UnaryOp::gelu, a);
  auto in_place = a;
  leaf::run_current(unary_kernels(), {UnaryOp::gelu, DType::f32, {33000}, {}},
                    {in_place.data(), in_place.data()});
  EXPECT_TRUE(leaf::same_bits(in_place, gelu));
}

TEST_P(Elementwise, TheBitsDoNotDependOnTheThreads) {
  const auto x = numbers<float>(100003, 10, -5, 5);
  leaf::expect_same_bits_for_any_threads(
      [&](int threads) { return unary(UnaryOp::gelu, x, threads); });
}

TEST_P(Elementwise, SelectTakesOneOrTheOther) {
  const std::vector<uint8_t> cond = {1, 0, 1};
  const std::vector<double> a = {1, 2, 3, 4, 5, 6}, b = {-9};
  std::vector<double> y(6);
  leaf::run_current(select_kernels(), {DType::f64, {2, 3}, {0, 1}, {}, {0, 0}},
                    {cond.data(), a.data(), b.data(), y.data()});
  EXPECT_EQ(y, (std::vector<double>{1, -9, 3, 4, -9, 6}));
  const std::vector<uint8_t> rows = {0, 1}, u = {1, 2, 3, 4}, v = {5, 6, 7, 8};
  std::vector<uint8_t> w(4);
  leaf::run_current(select_kernels(), {DType::u8, {2, 2}, {1, 0}, {}, {}},
                    {rows.data(), u.data(), v.data(), w.data()});
  EXPECT_EQ(w, (std::vector<uint8_t>{5, 6, 3, 4}));
}

template <class To, class From>
std::vector<To> cast(const std::vector<From>& x, DType to = leaf::dtype_of<To>()) {
  std::vector<To> y(x.size());
  leaf::run_current(cast_kernels(),
                    {leaf::dtype_of<From>(), to, {static_cast<int64_t>(x.size())}, {}},
                    {x.data(), y.data()});
  return y;
}

TEST_P(Elementwise, CastsRoundToEvenAndHoldAtTheEnds) {
  const std::vector<float> x = {1.7f, -1.7f, 300, -300, NAN, 1e20f, -INFINITY};
  constexpr int32_t low = std::numeric_limits<int32_t>::min(),
                    high = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(cast<int32_t>(x), (std::vector<int32_t>{1, -1, 300, -300, 0, high, low}));
  EXPECT_EQ(cast<int8_t>(x), (std::vector<int8_t>{1, -1, 127, -128, 0, 127, -128}));
  EXPECT_EQ(cast<uint8_t>(x), (std::vector<uint8_t>{1, 0, 255, 0, 0, 255, 0}));
  EXPECT_EQ(cast<uint8_t>(std::vector<int32_t>{-5, 7, 999}), (std::vector<uint8_t>{0, 7, 255}));
  EXPECT_EQ(cast<uint8_t>(std::vector<float>{0, 0.5f, -3}, DType::boolean), (Bools{0, 1, 1}));
  EXPECT_EQ(cast<double>(std::vector<int32_t>{-5, high}), (std::vector<double>{-5, 2147483647.0}));
  // 1 + 2^-8 lies half way between two bf16 numbers: the even one wins.
  const auto half = cast<bf16>(std::vector<float>{1 + 0x1p-8f, 1 + 3 * 0x1p-8f, -2});
  EXPECT_EQ(cast<float>(half), (std::vector<float>{1, 1 + 0x1p-6f, -2}));
  EXPECT_EQ(cast<int32_t>(half), (std::vector<int32_t>{1, 1, -2}));
  EXPECT_TRUE(std::isnan(cast<float>(cast<bf16>(std::vector<double>{kNan}))[0]));
}

TEST_P(Elementwise, GeluAndItsGradientEndAtZeroAndAtTheIdentity) {
  const std::vector<float> x = {-INFINITY, -1e30f, -40, 0, 40, 1e30f, INFINITY};
  const std::vector<float> dy(x.size(), 1.0f);
  std::vector<float> slope(x.size());
  leaf::run_current(binary_kernels(), {BinaryOp::gelu_grad, DType::f32, {7}, {}, {}},
                    {x.data(), dy.data(), slope.data()});
  const auto y = unary(UnaryOp::gelu, std::vector<float>(x.begin() + 1, x.end()));
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(y[i], 0);
  for (size_t i = 2; i < y.size(); ++i) EXPECT_EQ(y[i], x[i + 1]);
  for (size_t i = 1; i < 3; ++i) EXPECT_EQ(slope[i], 0);
  EXPECT_NEAR(slope[3], 0.5, 1e-7);
  for (size_t i = 4; i < 6; ++i) EXPECT_EQ(slope[i], 1);
}

TEST_P(Elementwise, LogKeepsItsEnds) {
  const auto y = unary<float>(UnaryOp::log, {0, -1, INFINITY, 1, 1e-30f, 1e30f});
  EXPECT_EQ(y[0], -INFINITY);
  EXPECT_TRUE(std::isnan(y[1]));
  EXPECT_EQ(y[2], INFINITY);
  EXPECT_EQ(y[3], 0);
  EXPECT_NEAR(y[4], std::log(1e-30), 1e-5);
  EXPECT_NEAR(y[5], std::log(1e30), 1e-5);
}

TEST_P(Elementwise, SmallArgumentsKeepTheirRelativeAccuracy) {
  const auto x = numbers<float>(1000, 13, -1e-3, 1e-3);
  const auto tanh = unary(UnaryOp::tanh, x), erf = unary(UnaryOp::erf, x);
  for (size_t i = 0; i < x.size(); ++i) {
    const double t = std::tanh(static_cast<double>(x[i])), e = std::erf(static_cast<double>(x[i]));
    EXPECT_NEAR(static_cast<double>(tanh[i]), t, 1e-6 * std::abs(t));
    EXPECT_NEAR(static_cast<double>(erf[i]), e, 1e-6 * std::abs(e));
  }
}

TEST_P(Elementwise, HighwayTakesF32AndTheCastsToAndFromIt) {
  if (GetParam() == "ref") GTEST_SKIP() << "of the Highway kernels";
  for (int op = 0; op < static_cast<int>(UnaryOp::logical_not); ++op)
    EXPECT_TRUE(leaf::current_supports(unary_kernels(),
                                       {static_cast<UnaryOp>(op), DType::f32, {3, 5}, {0, 1}}));
  for (int op = 0; op <= static_cast<int>(BinaryOp::relu_grad); ++op) {
    const auto binary = static_cast<BinaryOp>(op);
    const bool logical = binary == BinaryOp::logical_and || binary == BinaryOp::logical_or;
    EXPECT_EQ(!logical, leaf::current_supports(binary_kernels(),
                                               {binary, DType::f32, {3, 5}, {0, 1}, {1, 0}}));
  }
  EXPECT_TRUE(leaf::current_supports(select_kernels(), {DType::f32, {3}, {}, {}, {}}));
  for (DType t : {DType::f32, DType::bf16, DType::u8, DType::i32, DType::boolean})
    EXPECT_TRUE(leaf::current_supports(cast_kernels(), {t, DType::f32, {3}, {}}));
  for (DType t : {DType::bf16, DType::boolean})
    EXPECT_TRUE(leaf::current_supports(cast_kernels(), {DType::f32, t, {3}, {}}));
}

TEST_P(Elementwise, LongCastsGiveTheBitsOfTheReference) {
  constexpr int64_t n = 20011;
  const auto check = [&]<class From, class To>(const std::vector<From>& x, To, DType to) {
    std::vector<To> y(n), expected(n);
    const CastProblem p{leaf::dtype_of<From>(), to, {n}, {}};
    leaf::run_current(cast_kernels(), p, {x.data(), y.data()}, 2);
    leaf::run(cast_kernels(), p, {x.data(), expected.data()});
    EXPECT_TRUE(leaf::same_bits(y, expected)) << dtype_name(p.from) << " to " << dtype_name(to);
  };
  auto x = numbers<float>(n, 14, -1e3, 1e3);
  x[5] = NAN;
  x[6] = 0;
  x[n - 1] = -INFINITY;
  std::vector<bf16> half(x.begin(), x.end());
  check(x, bf16(), DType::bf16);
  check(half, float(), DType::f32);
  check(x, uint8_t(), DType::boolean);
  check(numbers<uint8_t>(n, 15, 0, 255), float(), DType::f32);
  check(numbers<int32_t>(n, 16, -2e9, 2e9), float(), DType::f32);
  const std::vector<float> one = {3};
  std::vector<bf16> many(70);
  leaf::run_current(cast_kernels(), {DType::f32, DType::bf16, {7, 10}, {0, 0}},
                    {one.data(), many.data()});
  for (bf16 v : many) EXPECT_EQ(static_cast<float>(v), 3);
}

TEST_P(Elementwise, WhatIsNotSupportedHasNoPlan) {
  EXPECT_FALSE(leaf::supported(unary_kernels(), {UnaryOp::exp, DType::i32, {3}, {}}));
  EXPECT_FALSE(leaf::supported(unary_kernels(), {UnaryOp::neg, DType::bf16, {3}, {}}));
  EXPECT_FALSE(leaf::supported(unary_kernels(), {UnaryOp::neg, DType::f32, {3, 3}, {1}}));
  EXPECT_FALSE(leaf::supported(unary_kernels(), {UnaryOp::neg, DType::f32, {-3}, {}}));
  EXPECT_FALSE(leaf::supported(binary_kernels(), {BinaryOp::pow, DType::i32, {3}, {}, {}}));
  EXPECT_FALSE(leaf::supported(binary_kernels(), {BinaryOp::logical_and, DType::f32, {3}, {}, {}}));
  EXPECT_FALSE(leaf::supported(cast_kernels(), {DType::f16, DType::f32, {3}, {}}));
  EXPECT_FALSE(leaf::supported(cast_kernels(), {DType::f32, DType::f16, {3}, {}}));
}

}  // namespace
}  // namespace fovea

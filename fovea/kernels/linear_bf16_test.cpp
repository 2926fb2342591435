// The kernels of linear on bf16 vectors and tiles against sums in double.
#include <array>
#include <cmath>

#include "fovea/base/error.h"
#include "fovea/base/visit.h"
#include "fovea/kernels/linear_bf16_test.h"

namespace fovea {
namespace {

using linear_test::Array;
using linear_test::array;
using linear_test::kFloats;
using linear_test::run;
using linear_test::to_bf16;

using LinearBf16 = linear_test::Bf16Kernel;
INSTANTIATE_TEST_SUITE_P(All, LinearBf16, testing::ValuesIn(linear_test::bf16_kernels()),
                         leaf::name_of);

double phi(double x) { return std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI); }
double normal(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double function(UnaryOp f, double x) {
  if (f == UnaryOp::relu) return x > 0 ? x : 0;
  return f == UnaryOp::silu ? x * sigmoid(x) : x * normal(x);
}
double slope(UnaryOp f, double x) {
  if (f == UnaryOp::relu) return x > 0 ? 1 : 0;
  if (f == UnaryOp::silu) return sigmoid(x) * (1 + x * (1 - sigmoid(x)));
  return normal(x) + x * phi(x);
}

struct LinearResult {
  Array y, pre;
  bool operator==(const LinearResult& o) const {
    return y.bytes == o.y.bytes && pre.bytes == o.pre.bytes;
  }
};

struct LinearCase {
  explicit LinearCase(const LinearProblem& problem)
      : p(problem),
        x(array(p.x, p.rows * p.k, 1)),
        w(array(DType::bf16, p.n * p.k, 2)),
        bias(array(DType::f32, p.n, 3)),
        residual(array(p.residual_type, p.rows * p.n, 4)),
        pre(array(p.pre, p.rows * p.n, 5, -4, 4)) {}

  LinearResult run_kernel(int threads = 1, bool packed = false) const {
    const auto plan = LinearBf16::plan(p);
    LinearResult r{array(p.y, p.rows * p.n, 6), array(p.pre, p.rows * p.n, 7)};
    if (!plan) {
      ADD_FAILURE() << "no plan";
      return r;
    }
    run<LinearArgs>(
        *plan,
        {x.data(), w.data(), bias.data(), residual.data(), pre.data(), r.y.data(), r.pre.data()},
        threads, packed);
    return r;
  }

  void check() const {
    SCOPED_TRACE(testing::Message()
                 << "rows " << p.rows << " n " << p.n << " k " << p.k << " x " << dtype_name(p.x)
                 << " y " << dtype_name(p.y) << " pre " << dtype_name(p.pre) << " transposed "
                 << p.transposed << " bias " << p.bias << " residual " << p.residual
                 << " activation " << static_cast<int>(p.activation) << " of "
                 << enum_names(p.function)[static_cast<size_t>(p.function)]);
    const LinearResult got = run_kernel();
    // f32 sums; what ends in bf16 rounds to 8 bits, its functions are exact to 1e-4.
    const bool rough = p.y == DType::bf16;
    int wrong = 0;
    for (int64_t r = 0; r < p.rows; ++r) {
      for (int64_t c = 0; c < p.n; ++c) {
        double h = p.bias ? bias.at(c) : 0, size = std::abs(h);
        for (int64_t l = 0; l < p.k; ++l) {
          const double term =
              to_bf16(x.at(r * p.k + l)) * w.at(p.transposed ? l * p.n + c : c * p.k + l);
          h += term;
          size += std::abs(term);
        }
        const int64_t i = r * p.n + c;
        if (p.save_pre) {
          const double allowed = 1e-5 * size + (p.pre == DType::bf16 ? std::abs(h) / 256 : 0);
          wrong += !(std::abs(got.pre.at(i) - h) <= allowed);
        }
        double y = h;
        if (p.activation == LinearActivation::forward) y = function(p.function, h);
        if (p.activation == LinearActivation::gradient) y = h * slope(p.function, pre.at(i));
        double allowed = 1.3e-5 * size + 1e-7 + (rough ? 1e-4 * std::abs(y) : 0);
        if (p.residual) y += residual.at(i);
        allowed += 1e-6 * std::abs(y) + (rough ? std::abs(y) / 256 : 0);
        wrong += !(std::abs(got.y.at(i) - y) <= allowed);
        if (wrong == 1)
          ADD_FAILURE() << "row " << r << " column " << c << ": " << got.y.at(i) << ", not " << y;
        if (wrong) return;
      }
    }
  }

  LinearProblem p;
  Array x, w, bias, residual, pre;
};

LinearProblem linear(int64_t rows, int64_t n, int64_t k) {
  LinearProblem p;
  p.w = DType::bf16;
  p.rows = rows, p.n = n, p.k = k;
  return p;
}

TEST_P(LinearBf16, AgreesWithSumsInDoubleForAnySize) {
  for (int64_t rows : {1, 15, 16, 17, 33, 49})
    for (int64_t n : {1, 16, 17, 32, 50})
      for (int64_t k : {1, 31, 32, 33, 64})
        for (DType type : kFloats)
          for (bool transposed : {false, true}) {
            LinearProblem p = linear(rows, n, k);
            p.x = type;
            p.y = rows % 2 ? type : DType::f32;
            p.transposed = transposed;
            p.bias = n % 2 == 0;
            LinearCase(p).check();
          }
}

TEST_P(LinearBf16, CutsLargeProblemsInRowsAndColumns) {
  // Many rows, weights beyond L1; few rows and many columns; a long sum.
  LinearProblem p = linear(300, 192, 160);
  p.bias = true;
  LinearCase(p).check();
  p = linear(40, 300, 300);
  p.x = DType::bf16;
  p.transposed = true;
  LinearCase(p).check();
  LinearCase(linear(70, 33, 4100)).check();
  LinearCase(linear(1100, 64, 64)).check();
}

TEST_P(LinearBf16, AppliesActivationsTheirGradientsAndResidualsOfAllTypes) {
  for (UnaryOp f : {UnaryOp::relu, UnaryOp::silu, UnaryOp::gelu})
    for (auto activation :
         {LinearActivation::none, LinearActivation::forward, LinearActivation::gradient})
      for (DType y : kFloats)
        for (DType pre : kFloats)
          for (int residual : {0, 1, 2})
            for (int64_t n : {64, 45}) {
              LinearProblem p = linear(37, n, 40);
              p.function = f;
              p.activation = activation;
              p.y = y;
              p.pre = pre;
              p.bias = activation != LinearActivation::gradient;
              p.residual = residual > 0;
              p.residual_type = residual == 2 ? DType::bf16 : DType::f32;
              p.save_pre = activation == LinearActivation::forward && residual < 2;
              LinearCase(p).check();
            }
}

TEST_P(LinearBf16, SavesNothingUnasked) {
  LinearProblem p = linear(20, 40, 32);
  p.activation = LinearActivation::forward;
  const LinearCase c(p);
  EXPECT_EQ(c.run_kernel().pre.bytes, array(p.pre, p.rows * p.n, 7).bytes);
}

TEST_P(LinearBf16, EmptySumsGiveTheBiasAndEmptyResultsNothing) {
  LinearProblem p = linear(35, 40, 0);
  p.bias = true;
  LinearCase(p).check();
  p.activation = LinearActivation::forward;
  p.y = DType::bf16;
  LinearCase(p).check();
  LinearCase(linear(0, 40, 64)).check();
  LinearCase(linear(35, 0, 64)).check();
  LinearCase(linear(0, 0, 0)).check();
}

TEST_P(LinearBf16, TheResidualMayBeTheResult) {
  for (DType type : kFloats)
    for (int64_t n : {45, 64}) {
      LinearProblem p = linear(90, n, 64);
      p.y = p.residual_type = type;
      p.residual = true;
      const LinearCase c(p);
      Array y = c.residual;
      run<LinearArgs>(*LinearBf16::plan(p),
                      {c.x.data(), c.w.data(), nullptr, y.data(), nullptr, y.data(), nullptr});
      EXPECT_EQ(y.bytes, c.run_kernel().y.bytes);
    }
}

TEST_P(LinearBf16, TheBitsDoNotDependOnThreadsOrOnPackingAhead) {
  for (const auto& [rows, n, k] :
       {std::array<int64_t, 3>{500, 64, 64}, {49, 192, 64}, {20, 300, 256}})
    for (bool transposed : {false, true}) {
      LinearProblem p = linear(rows, n, k);
      p.transposed = transposed;
      p.activation = LinearActivation::forward;
      p.save_pre = true;
      const LinearCase c(p);
      const LinearResult one = c.run_kernel();
      for (int threads : {1, 2, 3, 4})
        for (bool packed : {false, true})
          EXPECT_EQ(one, c.run_kernel(threads, packed)) << threads << " threads";
    }
}

TEST_P(LinearBf16, ARowsBitsDoNotDependOnHowManyThereAre) {
  for (DType type : kFloats)
    for (int64_t k : {64, 70, 256}) {
      LinearProblem p = linear(1100, 70, k);
      p.x = type;
      p.activation = LinearActivation::forward;
      const Array all = LinearCase(p).run_kernel().y;
      for (int64_t rows : {1, 20, 49, 300}) {
        p.rows = rows;
        const Array some = LinearCase(p).run_kernel().y;
        EXPECT_TRUE(std::equal(some.bytes.begin(), some.bytes.end(), all.bytes.begin()))
            << rows << " rows";
      }
    }
}

TEST_P(LinearBf16, FunctionsKeepTheirAccuracyInBothTails) {
  // k = 0, so that h is the bias.
  std::vector<double> at;
  for (float v = -12; v <= 12; v += 0.01171f) at.push_back(static_cast<double>(v));
  const auto n = static_cast<int64_t>(at.size());
  for (UnaryOp f : {UnaryOp::silu, UnaryOp::gelu}) {
    for (DType type : kFloats) {
      LinearProblem p = linear(1, n, 0);
      p.bias = true;
      p.activation = LinearActivation::forward;
      p.function = f;
      p.y = type;
      LinearCase c(p);
      c.bias = Array(DType::f32, at);
      const Array y = c.run_kernel().y;
      for (size_t i = 0; i < at.size(); ++i) {
        const double expected = function(f, at[i]);
        // x^2 / 2 alone is rounded to 2^-24 of itself.
        const double tail = f == UnaryOp::gelu ? 4e-8 * at[i] * at[i] : 0;
        const double allowed = type == DType::f32 ? 6e-7 + tail : 1.0 / 256 + 1e-4;
        // What ends in bf16 may be off where it is below 1e-17 (x < -9).
        const double nothing = type == DType::bf16 ? 1e-17 : 0;
        EXPECT_NEAR(y.at(static_cast<int64_t>(i)), expected, allowed * std::abs(expected) + nothing)
            << at[i];
      }
      p = linear(1, n, 0);
      p.bias = true;
      p.activation = LinearActivation::gradient;
      p.function = f;
      p.y = type;
      LinearCase g(p);
      g.bias = Array(DType::f32, std::vector<double>(at.size(), 1));
      g.pre = Array(DType::f32, at);
      const Array d = g.run_kernel().y;
      for (size_t i = 0; i < at.size(); ++i) {
        const double expected = slope(f, at[i]);
        const double allowed = type == DType::f32 ? 5e-7 : std::abs(expected) / 256 + 1e-4;
        EXPECT_NEAR(d.at(static_cast<int64_t>(i)), expected, allowed) << at[i];
      }
    }
  }
}

TEST_P(LinearBf16, NanAndInfinityPassThroughActivations) {
  const double inf = INFINITY;
  const Array special(DType::f32, std::vector<double>{NAN, inf, -inf, 1e30, -1e30});
  for (UnaryOp f : {UnaryOp::relu, UnaryOp::silu, UnaryOp::gelu}) {
    for (DType type : kFloats) {
      LinearProblem p = linear(1, 5, 0);
      p.bias = true;
      p.function = f;
      p.y = type;
      p.activation = LinearActivation::forward;
      LinearCase c(p);
      c.bias = special;
      const Array y = c.run_kernel().y;
      EXPECT_TRUE(std::isnan(y.at(0)));
      EXPECT_EQ(y.at(1), inf);
      EXPECT_NEAR(y.at(2), 0, 1e-30);
      EXPECT_NEAR(y.at(3), 1e30, 4e27);
      EXPECT_NEAR(y.at(4), 0, 1e-30);
      p.activation = LinearActivation::gradient;
      LinearCase g(p);
      g.bias = Array(DType::f32, std::vector<double>(5, 1));
      g.pre = special;
      const Array d = g.run_kernel().y;
      if (f != UnaryOp::relu) {
        EXPECT_TRUE(std::isnan(d.at(0)));
      }
      EXPECT_EQ(d.at(1), 1);
      EXPECT_NEAR(d.at(2), 0, 1e-30);
      EXPECT_EQ(d.at(3), 1);
      EXPECT_NEAR(d.at(4), 0, 1e-30);
    }
  }
}

TEST_P(LinearBf16, ANanStaysInItsRow) {
  for (DType type : kFloats)
    for (int64_t k : {64, 33}) {
      LinearProblem p = linear(40, 36, k);
      p.x = type;
      LinearCase c(p);
      c.x.set(35 * k + k - 1, NAN);
      const Array y = c.run_kernel().y;
      for (int64_t i = 0; i < 40 * 36; ++i) EXPECT_EQ(std::isnan(y.at(i)), i / 36 == 35) << i;
    }
}

TEST_P(LinearBf16, WhatIsNotSupportedHasNoPlan) {
  EXPECT_NE(LinearBf16::plan(linear(1, 1, 1)), nullptr);
  EXPECT_EQ(LinearBf16::plan(LinearProblem{.rows = 1, .n = 1, .k = 1}), nullptr);
  LinearProblem p = linear(1, 1, 1);
  p.activation = LinearActivation::forward;
  p.function = UnaryOp::tanh;
  EXPECT_EQ(LinearBf16::plan(p), nullptr);
}

TEST(LinearBf16Plan, IsThereWhereTheInstructionsAre) {
  EXPECT_EQ(linear_detail::plan_amx(linear(1, 1, 1)) != nullptr, amx::available());
  EXPECT_EQ(linear_detail::plan_avx512bf16(linear(1, 1, 1)) != nullptr, avx512_bf16::available());
  EXPECT_TRUE(avx512_bf16::available() || !avx512_bf16::pays());
}

TEST(LinearBf16Plan, ErrorsComeFirst) {
  LinearProblem p = linear(1, 1, 1);
  p.y = DType::f64;
  for (const auto plan : {linear_detail::plan_amx, linear_detail::plan_avx512bf16}) {
    EXPECT_THROW(plan(linear(-1, 1, 1)), Error);
    EXPECT_THROW(plan(p), Error);
  }
}

}  // namespace
}  // namespace fovea

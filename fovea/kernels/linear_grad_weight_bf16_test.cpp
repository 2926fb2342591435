// The kernels of linear_grad_weight on bf16 vectors and tiles against sums in double.
#include <array>
#include <cmath>

#include "fovea/base/error.h"
#include "fovea/kernels/linear_bf16_test.h"

namespace fovea {
namespace {

using linear_test::Array;
using linear_test::array;
using linear_test::run;
using linear_test::to_bf16;

using LinearGradWeightBf16 = linear_test::Bf16Kernel;
INSTANTIATE_TEST_SUITE_P(All, LinearGradWeightBf16, testing::ValuesIn(linear_test::bf16_kernels()),
                         leaf::name_of);

struct GradWeightCase {
  explicit GradWeightCase(const LinearGradWeightProblem& problem)
      : p(problem), dy(array(p.dy, p.rows * p.n, 11)), x(array(p.x, p.rows * p.k, 12)) {}

  // dw, then db.
  std::vector<float> run_kernel(int threads = 1) const {
    std::vector<float> dw(static_cast<size_t>(p.n * p.k), NAN), db(static_cast<size_t>(p.n), NAN);
    const auto plan = LinearGradWeightBf16::plan(p);
    if (!plan) {
      ADD_FAILURE() << "no plan";
      return {};
    }
    run<LinearGradWeightArgs>(*plan, {dy.data(), x.data(), dw.data(), db.data()}, threads);
    dw.insert(dw.end(), db.begin(), db.end());
    return dw;
  }

  void check() const {
    SCOPED_TRACE(testing::Message()
                 << "rows " << p.rows << " n " << p.n << " k " << p.k << " dy " << dtype_name(p.dy)
                 << " x " << dtype_name(p.x) << " bias " << p.bias);
    const std::vector<float> got = run_kernel();
    int wrong = 0;
    for (int64_t n = 0; n < p.n; ++n) {
      double db = 0, db_size = 0;
      for (int64_t r = 0; r < p.rows; ++r) {
        db += dy.at(r * p.n + n);
        db_size += std::abs(dy.at(r * p.n + n));
      }
      const float db_got = got[static_cast<size_t>(p.n * p.k + n)];
      if (p.bias)
        wrong += !(std::abs(static_cast<double>(db_got) - db) <= 1e-5 * db_size);
      else
        wrong += !std::isnan(db_got);
      for (int64_t k = 0; k < p.k; ++k) {
        double sum = 0, size = 0;
        for (int64_t r = 0; r < p.rows; ++r) {
          const double term = to_bf16(dy.at(r * p.n + n)) * to_bf16(x.at(r * p.k + k));
          sum += term;
          size += std::abs(term);
        }
        wrong += !(std::abs(static_cast<double>(got[static_cast<size_t>(n * p.k + k)]) - sum) <=
                   1e-5 * size);
        if (wrong == 1) ADD_FAILURE() << "n " << n << " k " << k << " wanted " << sum;
        if (wrong) return;
      }
      if (wrong == 1) ADD_FAILURE() << "db " << n;
    }
  }

  LinearGradWeightProblem p;
  Array dy, x;
};

TEST_P(LinearGradWeightBf16, AgreesWithSumsInDoubleForAnySize) {
  for (int64_t rows : {1, 31, 33, 49})
    for (int64_t n : {1, 17, 32, 50})
      for (int64_t k : {1, 16, 33, 64})
        for (bool bias : {false, true}) {
          GradWeightCase({DType::bf16, DType::bf16, rows, n, k, bias}).check();
          GradWeightCase({DType::f32, DType::bf16, rows, n, k, bias}).check();
          GradWeightCase({DType::bf16, DType::f32, rows, n, k, bias}).check();
        }
}

TEST_P(LinearGradWeightBf16, CutsLargeProblems) {
  GradWeightCase({DType::f32, DType::bf16, 1000, 70, 40, true}).check();
  GradWeightCase({DType::bf16, DType::f32, 70, 300, 290, true}).check();   // blocks of columns
  GradWeightCase({DType::bf16, DType::bf16, 9000, 10, 33, true}).check();  // pieces packed in parts
}

TEST_P(LinearGradWeightBf16, EmptySumsAreZeros) {
  GradWeightCase({DType::bf16, DType::bf16, 0, 40, 50, true}).check();
  GradWeightCase({DType::bf16, DType::f32, 300, 40, 0, true}).check();
  GradWeightCase({DType::bf16, DType::f32, 20, 40, 0, true}).check();
  GradWeightCase({DType::f32, DType::bf16, 300, 0, 40, true}).check();
  GradWeightCase({DType::bf16, DType::bf16, 0, 0, 0, true}).check();
}

TEST_P(LinearGradWeightBf16, TheBitsDoNotDependOnTheThreads) {
  for (const auto& [rows, n, k] : {std::array<int64_t, 3>{1500, 64, 40}, {70, 300, 290}}) {
    const GradWeightCase c({DType::f32, DType::bf16, rows, n, k, true});
    leaf::expect_same_bits_for_any_threads([&](int threads) { return c.run_kernel(threads); });
  }
}

TEST_P(LinearGradWeightBf16, ANanStaysInItsRowAndColumn) {
  GradWeightCase c({DType::bf16, DType::bf16, 40, 20, 37, true});
  c.dy.set(39 * 20 + 19, NAN);
  const std::vector<float> got = c.run_kernel();
  for (size_t i = 0; i < 20 * 37; ++i) EXPECT_EQ(std::isnan(got[i]), i / 37 == 19) << i;
  for (size_t i = 0; i < 20; ++i) EXPECT_EQ(std::isnan(got[20 * 37 + i]), i == 19) << i;
}

TEST_P(LinearGradWeightBf16, WhatIsNotSupportedHasNoPlan) {
  const auto plan = [](DType dy, DType x) {
    return LinearGradWeightBf16::plan(LinearGradWeightProblem{dy, x, 1, 1, 1, false});
  };
  EXPECT_NE(plan(DType::bf16, DType::f32), nullptr);
  EXPECT_EQ(plan(DType::f32, DType::f32), nullptr);
  EXPECT_EQ(plan(DType::f64, DType::f64), nullptr);
}

TEST(LinearGradWeightBf16Plan, ErrorsComeFirst) {
  for (const auto plan :
       {linear_detail::plan_grad_weight_amx, linear_detail::plan_grad_weight_avx512bf16})
    EXPECT_THROW(plan({DType::bf16, DType::bf16, 1, -1, 1, false}), Error);
}

}  // namespace
}  // namespace fovea

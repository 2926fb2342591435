#include "fovea/kernels/softmax.h"

#include <limits>
#include <string>

#include "fovea/base/visit.h"
#include "fovea/kernels/leaf_test.h"

namespace fovea {
namespace {

using leaf::numbers;
using leaf::run;

template <class T>
std::vector<T> forward(SoftmaxOp op, int64_t rows, int64_t cols, const std::vector<T>& x,
                       int threads = 1) {
  std::vector<T> y(x.size());
  run(softmax_kernels(), {op, leaf::dtype_of<T>(), rows, cols}, {x.data(), y.data()}, threads);
  return y;
}

template <class T>
std::vector<T> backward(SoftmaxOp op, int64_t rows, int64_t cols, const std::vector<T>& y,
                        const std::vector<T>& dy, int threads = 1) {
  std::vector<T> dx(y.size());
  run(softmax_grad_kernels(), {op, leaf::dtype_of<T>(), rows, cols},
      {y.data(), dy.data(), dx.data()}, threads);
  return dx;
}

template <class T>
void check(int64_t rows, int64_t cols) {
  const auto x = numbers<T>(rows * cols, 21, -20, 20);
  std::vector<double> softmax, log_softmax;
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = x.data() + r * cols;
    double total = 0;
    for (int64_t c = 0; c < cols; ++c) total += std::exp(double{row[c]} - 20);
    for (int64_t c = 0; c < cols; ++c) {
      softmax.push_back(std::exp(double{row[c]} - 20) / total);
      log_softmax.push_back(double{row[c]} - 20 - std::log(total));
    }
  }
  const double t = std::is_same_v<T, double> ? 1e-12 : 2e-6;
  leaf::expect_close(forward(SoftmaxOp::softmax, rows, cols, x), softmax, t, "softmax");
  leaf::expect_close(forward(SoftmaxOp::log_softmax, rows, cols, x), log_softmax, t, "log_softmax");
}

TEST(Softmax, AgreesWithItsDefinition) {
  for (int64_t cols : {1, 7, 16, 49, 1000}) {
    check<float>(19, cols);
    check<double>(19, cols);
  }
}

TEST(Softmax, LargeLogitsDoNotOverflow) {
  const auto y = forward<float>(SoftmaxOp::softmax, 1, 3, {1e30f, 1e30f, -1e30f});
  EXPECT_EQ(y, (std::vector<float>{0.5f, 0.5f, 0}));
}

TEST(Softmax, AnEmptiedRowGivesZerosAndANanRowNan) {
  const float low = -INFINITY;
  const std::vector<float> x = {low, low, low, 1, low, 1, NAN, low, low};
  const auto y = forward(SoftmaxOp::softmax, 3, 3, x);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(y[static_cast<size_t>(i)], 0);
  EXPECT_EQ(y[3], 0.5f);
  EXPECT_EQ(y[4], 0);
  EXPECT_TRUE(std::isnan(y[6]) && std::isnan(y[7]));
  const auto z = forward(SoftmaxOp::log_softmax, 3, 3, x);
  EXPECT_EQ(z[0], low);
  EXPECT_NEAR(z[3], -std::log(2.0), 1e-6);
  EXPECT_EQ(z[4], low);
  const auto dx = backward(SoftmaxOp::softmax, 3, 3, y, std::vector<float>(9, 2));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(dx[static_cast<size_t>(i)], 0);
}

TEST(Softmax, GradientsAgreeWithFiniteDifferences) {
  for (SoftmaxOp op : {SoftmaxOp::softmax, SoftmaxOp::log_softmax}) {
    auto x = numbers<double>(3 * 19, 22);
    const auto dy = numbers<double>(3 * 19, 23);
    const auto y = forward(op, 3, 19, x);
    const auto dx = backward(op, 3, 19, y, dy);
    const auto expected =
        leaf::finite_differences(x, [&] { return leaf::dot(forward(op, 3, 19, x), dy); });
    leaf::expect_close(dx, expected, 1e-8, enum_name(op).data());
    const std::vector<float> y32(y.begin(), y.end()), dy32(dy.begin(), dy.end());
    leaf::expect_close(backward(op, 3, 19, y32, dy32), dx, 1e-5, enum_name(op).data());
  }
}

TEST(Softmax, MayWorkInPlace) {
  const auto x = numbers<float>(10 * 37, 24), dy = numbers<float>(10 * 37, 25);
  for (SoftmaxOp op : {SoftmaxOp::softmax, SoftmaxOp::log_softmax}) {
    const SoftmaxProblem problem{op, DType::f32, 10, 37};
    const auto y = forward(op, 10, 37, x);
    auto z = x;
    run(softmax_kernels(), problem, {z.data(), z.data()});
    EXPECT_TRUE(leaf::same_bits(y, z));
    const auto dx = backward(op, 10, 37, y, dy);
    auto d = dy;
    run(softmax_grad_kernels(), problem, {y.data(), d.data(), d.data()});
    EXPECT_TRUE(leaf::same_bits(dx, d));
  }
}

TEST(Softmax, TheBitsDoNotDependOnTheThreads) {
  const auto x = numbers<float>(3000 * 49, 26);
  leaf::expect_same_bits_for_any_threads(
      [&](int threads) { return forward(SoftmaxOp::softmax, 3000, 49, x, threads); });
  leaf::expect_same_bits_for_any_threads(
      [&](int threads) { return backward(SoftmaxOp::log_softmax, 3000, 49, x, x, threads); });
}

template <class Args>
void run_one(const Kernel<SoftmaxProblem, Args>& kernel, const SoftmaxProblem& problem,
             const Args& args, int threads = 1) {
  const auto plan = kernel.plan(problem);
  ASSERT_NE(plan, nullptr) << kernel.name;
  leaf::run<SoftmaxProblem, Args>(*plan, args, threads);
}

constexpr SoftmaxOp kOps[] = {SoftmaxOp::softmax, SoftmaxOp::log_softmax};

// Each kernel beside the reference in double, of which the other tests are.
void compare(int64_t rows, int64_t cols) {
  SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(cols));
  const auto x = numbers<float>(rows * cols, 27, -30, 30), dy = numbers<float>(rows * cols, 28);
  const std::vector<double> x64(x.begin(), x.end()), dy64(dy.begin(), dy.end());
  for (SoftmaxOp op : kOps) {
    const SoftmaxProblem p{op, DType::f32, rows, cols};
    const auto y64 = forward(op, rows, cols, x64);
    const std::vector<float> y(y64.begin(), y64.end());
    const auto dx64 = backward(op, rows, cols, std::vector<double>(y.begin(), y.end()), dy64);
    for (const auto& kernel : softmax_kernels()) {
      std::vector<float> got(x.size());
      run_one(kernel, p, {x.data(), got.data()});
      leaf::expect_close(got, y64, 2e-6, kernel.name.data());
    }
    for (const auto& kernel : softmax_grad_kernels()) {
      std::vector<float> got(x.size());
      run_one(kernel, p, {y.data(), dy.data(), got.data()});
      leaf::expect_close(got, dx64, 2e-5, kernel.name.data());
    }
  }
}

TEST(Softmax, EachKernelAgreesWithTheReferenceInDouble) {
  for (int64_t cols : {1, 3, 4, 7, 10, 16, 17, 31, 49, 64, 65, 128, 129, 131, 513, 1000})
    for (int64_t rows : {1, 19}) compare(rows, cols);
  compare(3, 32000);
  compare(2, 32003);
  compare(40, 0);
}

TEST(Softmax, InEachKernelMaskedRowsAreZeroAndNanStaysInItsRow) {
  for (int64_t cols : {3, 49, 200, 2100})
    for (const auto& kernel : softmax_kernels())
      for (SoftmaxOp op : kOps) {
        SCOPED_TRACE(std::string(kernel.name) + " " + std::to_string(cols));
        const auto n = static_cast<size_t>(cols);
        const float low = -INFINITY, emptied = op == SoftmaxOp::softmax ? 0 : low;
        // Emptied; one hot, far down, at the end; NaN before masked ones; huge.
        std::vector<float> x(4 * n, low), y(4 * n);
        x[2 * n - 1] = -1000;
        x[2 * n] = NAN;
        for (size_t i = 3 * n; i < 4 * n; ++i) x[i] = i % 2 ? 1e30f : -1e30f;
        run_one(kernel, {op, DType::f32, 4, cols}, {x.data(), y.data()});
        size_t hot = 0;
        for (size_t i = 3 * n; i < 4 * n; ++i) hot += i % 2;
        const double share = 1 / static_cast<double>(hot);
        for (size_t i = 0; i < n; ++i) {
          EXPECT_EQ(y[i], emptied);
          EXPECT_EQ(y[n + i], i + 1 < n ? emptied : op == SoftmaxOp::softmax ? 1.0f : 0.0f);
          EXPECT_TRUE(std::isnan(y[2 * n + i]));
          const bool top = (3 * n + i) % 2;
          if (op == SoftmaxOp::softmax) {
            EXPECT_NEAR(y[3 * n + i], top ? share : 0, 1e-6);
          } else if (top) {
            EXPECT_NEAR(y[3 * n + i], std::log(share), 1e-5);
          }
        }
      }
}

TEST(Softmax, EachKernelMayWorkInPlaceWithAnyNumberOfThreads) {
  for (SoftmaxOp op : kOps)
    for (int64_t cols : {10, 49, 700}) {
      const int64_t rows = 30000 / cols;
      const auto x = numbers<float>(rows * cols, 29), dy = numbers<float>(rows * cols, 30);
      const SoftmaxProblem p{op, DType::f32, rows, cols};
      for (const auto& kernel : softmax_kernels()) {
        std::vector<float> y(x.size());
        run_one(kernel, p, {x.data(), y.data()});
        leaf::expect_same_bits_for_any_threads([&](int threads) {
          auto z = x;
          run_one(kernel, p, {z.data(), z.data()}, threads);
          EXPECT_TRUE(leaf::same_bits(y, z)) << kernel.name;
          return z;
        });
      }
      for (const auto& kernel : softmax_grad_kernels()) {
        std::vector<float> dx(x.size());
        run_one(kernel, p, {x.data(), dy.data(), dx.data()});
        leaf::expect_same_bits_for_any_threads([&](int threads) {
          auto d = dy;
          run_one(kernel, p, {x.data(), d.data(), d.data()}, threads);
          EXPECT_TRUE(leaf::same_bits(dx, d)) << kernel.name;
          return d;
        });
      }
    }
}

TEST(Softmax, WhatIsNotSupportedHasNoPlan) {
  EXPECT_FALSE(leaf::supported(softmax_kernels(), {SoftmaxOp::softmax, DType::i32, 1, 1}));
  EXPECT_FALSE(leaf::supported(softmax_grad_kernels(), {SoftmaxOp::softmax, DType::bf16, 1, 1}));
  EXPECT_FALSE(leaf::supported(softmax_kernels(), {SoftmaxOp::softmax, DType::f32, -1, 1}));
}

}  // namespace
}  // namespace fovea

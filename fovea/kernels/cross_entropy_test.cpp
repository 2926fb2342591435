#include "fovea/kernels/cross_entropy.h"

#include <string>

#include "fovea/kernels/leaf_test.h"

namespace fovea {
namespace {

using leaf::numbers;
using leaf::run;

template <class T>
std::vector<T> forward(const CrossEntropyProblem& p, const std::vector<T>& logits,
                       const std::vector<int32_t>& labels, int threads = 1) {
  std::vector<T> loss(labels.size());
  run(cross_entropy_kernels(), p, {logits.data(), labels.data(), loss.data()}, threads);
  return loss;
}

template <class T>
std::vector<T> backward(const CrossEntropyProblem& p, const std::vector<T>& logits,
                        const std::vector<int32_t>& labels, const std::vector<T>& dloss,
                        int threads = 1) {
  std::vector<T> d(logits.size());
  run(cross_entropy_grad_kernels(), p, {logits.data(), labels.data(), dloss.data(), d.data()},
      threads);
  return d;
}

std::vector<int32_t> labels_for(int64_t rows, int64_t classes) {
  std::vector<int32_t> labels;
  for (int64_t r = 0; r < rows; ++r)
    labels.push_back(static_cast<int32_t>(r * 7 % (classes + 1)) - 1);
  return labels;  // some are -1
}

template <class T>
void check(int64_t rows, int64_t classes, double smoothing) {
  const CrossEntropyProblem p{leaf::dtype_of<T>(), rows, classes, smoothing};
  const auto x = numbers<T>(rows * classes, 71, -9, 9);
  const auto labels = labels_for(rows, classes);
  std::vector<double> expected;
  for (size_t r = 0; r < labels.size(); ++r) {
    const T* row = x.data() + static_cast<int64_t>(r) * classes;
    double total = 0, loss = 0;
    for (int64_t c = 0; c < classes; ++c) total += std::exp(double{row[c]});
    for (int64_t c = 0; c < classes; ++c) {
      const double target =
          (c == labels[r] ? 1 - smoothing : 0) + smoothing / static_cast<double>(classes);
      loss -= target * (double{row[c]} - std::log(total));
    }
    expected.push_back(labels[r] < 0 ? 0 : loss);
  }
  leaf::expect_close(forward(p, x, labels), expected, leaf::tolerance<T>(), "loss");
}

TEST(CrossEntropy, AgreesWithItsDefinition) {
  for (double smoothing : {0.0, 0.1, 1.0})
    for (int64_t classes : {1, 2, 10, 33}) {
      check<float>(300, classes, smoothing);
      check<double>(300, classes, smoothing);
    }
}

TEST(CrossEntropy, TheGradientAgreesWithFiniteDifferences) {
  for (double smoothing : {0.0, 0.2}) {
    const CrossEntropyProblem p{DType::f64, 6, 17, smoothing};
    auto x = numbers<double>(6 * 17, 72);
    const auto labels = labels_for(6, 17);
    const auto dloss = numbers<double>(6, 73);
    const auto d = backward(p, x, labels, dloss);
    const auto expected =
        leaf::finite_differences(x, [&] { return leaf::dot(forward(p, x, labels), dloss); });
    leaf::expect_close(d, expected, 1e-8, "dlogits");
    const std::vector<float> x32(x.begin(), x.end()), dloss32(dloss.begin(), dloss.end());
    const CrossEntropyProblem p32{DType::f32, 6, 17, smoothing};
    leaf::expect_close(backward(p32, x32, labels, dloss32), d, 1e-6, "dlogits in f32");
  }
}

TEST(CrossEntropy, ANegativeLabelIsIgnoredAndALabelTooLargeIsNan) {
  const std::vector<float> x = {1, 2, 3, 4, 5, 6};
  const std::vector<int32_t> labels = {-100, 3};
  const CrossEntropyProblem p{DType::f32, 2, 3, 0.1};
  const auto loss = forward(p, x, labels);
  EXPECT_EQ(loss[0], 0);
  EXPECT_TRUE(std::isnan(loss[1]));
  const auto d = backward<float>(p, x, labels, {1, 1});
  for (size_t c = 0; c < 3; ++c) {
    EXPECT_EQ(d[c], 0);
    EXPECT_TRUE(std::isnan(d[3 + c]));
  }
}

TEST(CrossEntropy, LargeAndMaskedLogitsStayFinite) {
  const std::vector<float> x = {1e30f, 0, -INFINITY};
  const CrossEntropyProblem p{DType::f32, 1, 3, 0};
  EXPECT_EQ(forward(p, x, {0})[0], 0);
  EXPECT_EQ(forward(p, x, {1})[0], 1e30f);
  EXPECT_EQ(backward<float>(p, x, {0}, {1}), (std::vector<float>{0, 0, 0}));
}

TEST(CrossEntropy, TheGradientMayLieOnTheLogitsWithAnyNumberOfThreads) {
  const CrossEntropyProblem p{DType::f32, 3000, 10, 0.1};
  const auto x = numbers<float>(30000, 74), dloss = numbers<float>(3000, 75);
  const auto labels = labels_for(3000, 10);
  leaf::expect_same_bits_for_any_threads([&](int t) { return forward(p, x, labels, t); });
  leaf::expect_same_bits_for_any_threads([&](int t) { return backward(p, x, labels, dloss, t); });
  auto d = x;
  run(cross_entropy_grad_kernels(), p, {d.data(), labels.data(), dloss.data(), d.data()});
  EXPECT_TRUE(leaf::same_bits(d, backward(p, x, labels, dloss)));
}

template <class Args>
void run_one(const Kernel<CrossEntropyProblem, Args>& kernel, const CrossEntropyProblem& problem,
             const Args& args, int threads = 1) {
  const auto plan = kernel.plan(problem);
  ASSERT_NE(plan, nullptr) << kernel.name;
  leaf::run<CrossEntropyProblem, Args>(*plan, args, threads);
}

// Each kernel beside the reference in double, of which the other tests are.
void compare(int64_t rows, int64_t classes, double smoothing) {
  SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(classes));
  const CrossEntropyProblem p{DType::f32, rows, classes, smoothing};
  const CrossEntropyProblem p64{DType::f64, rows, classes, smoothing};
  const auto x = numbers<float>(rows * classes, 76, -15, 25), dloss = numbers<float>(rows, 77);
  auto labels = labels_for(rows, classes);
  for (size_t i = 5; i < labels.size(); i += 9) labels[i] = static_cast<int32_t>(classes);
  const std::vector<double> x64(x.begin(), x.end()), dloss64(dloss.begin(), dloss.end());
  const auto loss64 = forward(p64, x64, labels);
  const auto d64 = backward(p64, x64, labels, dloss64);
  for (const auto& kernel : cross_entropy_kernels()) {
    std::vector<float> loss(labels.size());
    run_one(kernel, p, {x.data(), labels.data(), loss.data()});
    leaf::expect_close(loss, loss64, 5e-6, kernel.name.data());
  }
  for (const auto& kernel : cross_entropy_grad_kernels()) {
    std::vector<float> d(x.size());
    run_one(kernel, p, {x.data(), labels.data(), dloss.data(), d.data()});
    leaf::expect_close(d, d64, 2e-6, kernel.name.data());
  }
}

TEST(CrossEntropy, EachKernelAgreesWithTheReferenceInDouble) {
  for (double smoothing : {0.0, 0.1, 1.0})
    for (int64_t classes : {1, 2, 5, 10, 16, 33, 64, 128, 129, 700, 1000})
      compare(31, classes, smoothing);
  compare(6, 32000, 0);
  compare(6, 32001, 0.1);
}

TEST(CrossEntropy, InEachKernelMaskedLogitsStayFiniteAndEmptiedRowsAreNan) {
  for (size_t n : {size_t{3}, size_t{50}, size_t{700}}) {
    std::vector<float> x(4 * n, -INFINITY);
    x[0] = x[n - 1] = -1000;  // two possible classes
    x[n] = 1e30f;             // label far from the maximum
    x[n + 1] = 0;
    x[2 * n + 1] = NAN;  // and a row wholly -infinity
    const std::vector<int32_t> labels = {0, 1, 0, 0};
    const CrossEntropyProblem p{DType::f32, 4, static_cast<int64_t>(n), 0};
    for (const auto& kernel : cross_entropy_kernels()) {
      std::vector<float> loss(4);
      run_one(kernel, p, {x.data(), labels.data(), loss.data()});
      EXPECT_NEAR(loss[0], std::log(2.0), 1e-6) << kernel.name;
      EXPECT_EQ(loss[1], 1e30f) << kernel.name;
      EXPECT_TRUE(std::isnan(loss[2]) && std::isnan(loss[3])) << kernel.name;
    }
    for (const auto& kernel : cross_entropy_grad_kernels()) {
      std::vector<float> d(4 * n);
      const std::vector<float> dloss(4, 2);
      run_one(kernel, p, {x.data(), labels.data(), dloss.data(), d.data()});
      for (size_t i = 0; i < n; ++i) {
        EXPECT_NEAR(d[i], i == 0 ? -1 : i + 1 == n ? 1 : 0, 1e-6) << kernel.name;
        EXPECT_EQ(d[n + i], i == 0 ? 2 : i == 1 ? -2 : 0) << kernel.name;
        EXPECT_TRUE(std::isnan(d[2 * n + i]) && std::isnan(d[3 * n + i])) << kernel.name;
      }
    }
  }
}

TEST(CrossEntropy, EachKernelMayWorkInPlaceWithAnyNumberOfThreads) {
  for (int64_t classes : {10, 700}) {
    const int64_t rows = 30000 / classes;
    const CrossEntropyProblem p{DType::f32, rows, classes, 0.1};
    const auto x = numbers<float>(rows * classes, 78), dloss = numbers<float>(rows, 79);
    const auto labels = labels_for(rows, classes);
    for (const auto& kernel : cross_entropy_kernels())
      leaf::expect_same_bits_for_any_threads([&](int threads) {
        std::vector<float> loss(labels.size());
        run_one(kernel, p, {x.data(), labels.data(), loss.data()}, threads);
        return loss;
      });
    for (const auto& kernel : cross_entropy_grad_kernels()) {
      std::vector<float> apart(x.size());
      run_one(kernel, p, {x.data(), labels.data(), dloss.data(), apart.data()});
      leaf::expect_same_bits_for_any_threads([&](int threads) {
        auto d = x;
        run_one(kernel, p, {d.data(), labels.data(), dloss.data(), d.data()}, threads);
        EXPECT_TRUE(leaf::same_bits(apart, d)) << kernel.name;
        return d;
      });
    }
  }
}

TEST(CrossEntropy, WhatIsNotSupportedHasNoPlan) {
  EXPECT_FALSE(leaf::supported(cross_entropy_kernels(), {DType::bf16, 1, 1, 0.0}));
  EXPECT_FALSE(leaf::supported(cross_entropy_kernels(), {DType::f32, 1, 0, 0.0}));
  EXPECT_FALSE(leaf::supported(cross_entropy_grad_kernels(), {DType::f32, 1, 1, 1.5}));
  EXPECT_FALSE(leaf::supported(cross_entropy_grad_kernels(), {DType::f32, -1, 1, 0.0}));
}

}  // namespace
}  // namespace fovea

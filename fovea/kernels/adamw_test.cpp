#include "fovea/kernels/adamw.h"

#include "fovea/kernels/leaf_test.h"
#include "fovea/kernels/sgd.h"

namespace fovea {
namespace {

using leaf::numbers;
using leaf::run;

template <class T>
struct State {
  std::vector<T> w, m, v;
};

// Steps in place.
template <class T>
void step_adamw(const AdamWProblem& p, State<T>& s, const std::vector<T>& g, float lr, int32_t step,
                const float* scale, int threads = 1) {
  run(adamw_kernels(), p,
      {s.w.data(), g.data(), s.m.data(), s.v.data(), &lr, &step, scale, s.w.data(), s.m.data(),
       s.v.data()},
      threads);
}

template <class T>
void check_adamw() {
  constexpr int64_t n = 1035;
  const AdamWProblem p{leaf::dtype_of<T>(), n, 0.9, 0.99, 1e-6, 0.05};
  const auto start = numbers<T>(n, 81);
  State<T> s{start, std::vector<T>(n), std::vector<T>(n)};
  std::vector<double> w(start.begin(), start.end()), m(n), v(n);
  const float lr = 0.01f, scale = 0.5f;
  for (int32_t t = 1; t <= 5; ++t) {
    const auto g = numbers<T>(n, 82 + static_cast<uint64_t>(t));
    step_adamw(p, s, g, lr, t, &scale);
    for (size_t i = 0; i < n; ++i) {
      const double gi = 0.5 * double{g[i]};
      m[i] = 0.9 * m[i] + 0.1 * gi;
      v[i] = 0.99 * v[i] + 0.01 * gi * gi;
      const double mh = m[i] / (1 - std::pow(0.9, t)), vh = v[i] / (1 - std::pow(0.99, t));
      w[i] -= double{lr} * (mh / (std::sqrt(vh) + 1e-6) + 0.05 * w[i]);
    }
    leaf::expect_close(s.w, w, leaf::tolerance<T>(), "w");
    leaf::expect_close(s.m, m, leaf::tolerance<T>(), "m");
    leaf::expect_close(s.v, v, leaf::tolerance<T>(), "v");
  }
}

TEST(AdamW, FiveStepsAgreeWithThePaper) {
  check_adamw<float>();
  check_adamw<double>();
}

TEST(AdamW, TheFirstStepIsTheLearningRateInTheGradientsDirection) {
  const AdamWProblem p{DType::f64, 2};
  State<double> s{{1, 1}, {0, 0}, {0, 0}};
  step_adamw<double>(p, s, {300, -0.02}, 0.125f, 1, nullptr);
  EXPECT_NEAR(s.w[0], 0.875, 1e-6);
  EXPECT_NEAR(s.w[1], 1.125, 1e-6);
}

TEST(AdamW, DecayDoesNotPassThroughTheMoments) {
  const AdamWProblem p{DType::f64, 1, 0.9, 0.999, 1e-8, 0.5};
  State<double> s{{2}, {0}, {0}};
  step_adamw<double>(p, s, {0}, 0.25f, 1, nullptr);
  EXPECT_DOUBLE_EQ(s.w[0], 2 - 0.25 * 0.5 * 2);
  EXPECT_EQ(s.m[0], 0);
  EXPECT_EQ(s.v[0], 0);
}

TEST(AdamW, ApartAndInPlaceAgreeWithAnyNumberOfThreads) {
  constexpr int64_t n = 50001;
  const AdamWProblem p{DType::f32, n, 0.9, 0.999, 1e-8, 0.1};
  const auto w = numbers<float>(n, 83), g = numbers<float>(n, 84), m = numbers<float>(n, 85),
             v = numbers<float>(n, 86, 0, 1);
  const float lr = 0.1f;
  const int32_t step = 3;
  const auto in_place = [&](int threads) {
    State<float> s{w, m, v};
    step_adamw(p, s, g, lr, step, nullptr, threads);
    return s;
  };
  leaf::expect_same_bits_for_any_threads([&](int t) { return in_place(t).w; });
  State<float> out{std::vector<float>(n), std::vector<float>(n), std::vector<float>(n)};
  run(adamw_kernels(), p,
      {w.data(), g.data(), m.data(), v.data(), &lr, &step, nullptr, out.w.data(), out.m.data(),
       out.v.data()});
  const auto expected = in_place(2);
  EXPECT_TRUE(leaf::same_bits(out.w, expected.w));
  EXPECT_TRUE(leaf::same_bits(out.m, expected.m));
  EXPECT_TRUE(leaf::same_bits(out.v, expected.v));
}

TEST(AdamW, WhatIsNotSupportedHasNoPlan) {
  EXPECT_FALSE(leaf::supported(adamw_kernels(), {DType::bf16, 4}));
  EXPECT_FALSE(leaf::supported(adamw_kernels(), {DType::f32, -4}));
  EXPECT_FALSE(leaf::supported(adamw_kernels(), {DType::f32, 4, 1.0}));
  EXPECT_FALSE(leaf::supported(adamw_kernels(), {DType::f32, 4, 0.9, -0.1}));
}

template <class T>
void check_sgd(double momentum) {
  constexpr int64_t n = 1035;
  const SgdProblem p{leaf::dtype_of<T>(), n, momentum, 0.05};
  auto s = numbers<T>(n, 87);
  std::vector<T> velocity(n);
  std::vector<double> w(s.begin(), s.end()), m(n);
  const float lr = 0.01f, scale = 2;
  for (uint64_t t = 0; t < 4; ++t) {
    const auto g = numbers<T>(n, 88 + t);
    // Without momentum, no buffer is needed.
    T* buffer = momentum == 0 ? nullptr : velocity.data();
    run(sgd_kernels(), p, {s.data(), g.data(), buffer, &lr, &scale, s.data(), buffer});
    for (size_t i = 0; i < n; ++i) {
      m[i] = momentum * m[i] + 2 * double{g[i]};
      w[i] -= double{lr} * (m[i] + 0.05 * w[i]);
    }
    leaf::expect_close(s, w, leaf::tolerance<T>(), "w");
    if (buffer) leaf::expect_close(velocity, m, leaf::tolerance<T>(), "m");
  }
}

TEST(Sgd, FourStepsAgreeWithTheFormula) {
  for (double momentum : {0.0, 0.9}) {
    check_sgd<float>(momentum);
    check_sgd<double>(momentum);
  }
}

TEST(Sgd, TheBitsDoNotDependOnTheThreads) {
  const auto w = numbers<float>(50001, 89), g = numbers<float>(50001, 90);
  const float lr = 0.1f;
  leaf::expect_same_bits_for_any_threads([&](int threads) {
    std::vector<float> out(w.size()), m(w.size());
    run(sgd_kernels(), {DType::f32, 50001, 0.9, 0.1},
        {w.data(), g.data(), g.data(), &lr, nullptr, out.data(), m.data()}, threads);
    return out;
  });
}

TEST(Sgd, WhatIsNotSupportedHasNoPlan) {
  EXPECT_FALSE(leaf::supported(sgd_kernels(), {DType::i32, 4}));
  EXPECT_FALSE(leaf::supported(sgd_kernels(), {DType::f32, -4}));
  EXPECT_FALSE(leaf::supported(sgd_kernels(), {DType::f32, 4, 1.0}));
}

TEST(Optimisers, AGradientScaleThatIsNotFiniteLeavesEverythingAsItWas) {
  ThreadPool pool(1);
  const KernelContext context{&pool, nullptr, nullptr, 0};
  const float lr = 0.1f, bad = std::numeric_limits<float>::quiet_NaN();
  const int32_t step = 3;
  const std::vector<float> w = {1, 2, 3}, g = {bad, 1, 1}, m = {4, 5, 6}, v = {7, 8, 9};
  std::vector<float> w2(3), m2(3), v2(3);
  adamw_kernels().back().plan({.n = 3})->run(
      {w.data(), g.data(), m.data(), v.data(), &lr, &step, &bad, w2.data(), m2.data(), v2.data()},
      context);
  EXPECT_EQ(w2, w);
  EXPECT_EQ(m2, m);
  EXPECT_EQ(v2, v);
  std::vector<float> w3(3), m3(3);
  sgd_kernels()
      .back()
      .plan({.n = 3, .momentum = 0.9})
      ->run({w.data(), g.data(), m.data(), &lr, &bad, w3.data(), m3.data()}, context);
  EXPECT_EQ(w3, w);
  EXPECT_EQ(m3, m);
}

}  // namespace
}  // namespace fovea

#include "fovea/kernels/adamw.h"

#include <limits>

#include "fovea/kernels/every_kernel_test.h"
#include "fovea/kernels/sgd.h"

namespace fovea {
namespace {

using leaf::numbers;
using leaf::run;

class AdamW : public leaf::EveryKernel {};
INSTANTIATE_TEST_SUITE_P(Kernels, AdamW, testing::ValuesIn(leaf::kernel_names(adamw_kernels())),
                         leaf::name_of);

template <class T>
struct State {
  std::vector<T> w, m, v;
};

// Steps in place.
template <class T>
void step_adamw(const AdamWProblem& p, std::vector<State<T>>& weights,
                const std::vector<std::vector<T>>& g, float lr, int32_t step, const float* scale,
                int threads = 1) {
  std::vector<const void*> in;
  std::vector<void*> out;
  for (size_t i = 0; i < weights.size(); ++i) {
    State<T>& s = weights[i];
    in.insert(in.end(), {s.w.data(), g[i].data(), s.m.data(), s.v.data()});
    out.insert(out.end(), {s.w.data(), s.m.data(), s.v.data()});
  }
  leaf::run_current(adamw_kernels(), p, {in.data(), &lr, &step, scale, out.data()}, threads);
}

// Weights smaller and larger than a block, empty ones, and ends within a vector.
const std::vector<int64_t> kSizes = {0, 1035, 1, 7, 16, 20000, 0, 33};

template <class T>
void check_adamw() {
  const AdamWProblem p{leaf::dtype_of<T>(), kSizes, 0.9, 0.99, 1e-6, 0.05};
  std::vector<State<T>> weights;
  std::vector<std::vector<double>> w, m, v;
  for (int64_t n : kSizes) {
    const auto start = numbers<T>(n, 81 + static_cast<uint64_t>(n));
    const auto size = static_cast<size_t>(n);
    weights.push_back({start, std::vector<T>(size), std::vector<T>(size)});
    w.emplace_back(start.begin(), start.end());
    m.emplace_back(size);
    v.emplace_back(size);
  }
  const float lr = 0.01f, scale = 0.5f;
  for (int32_t t = 1; t <= 5; ++t) {
    std::vector<std::vector<T>> g;
    for (int64_t n : kSizes) g.push_back(numbers<T>(n, 82 + static_cast<uint64_t>(t * n)));
    step_adamw(p, weights, g, lr, t, &scale, 2);
    for (size_t k = 0; k < weights.size(); ++k) {
      for (size_t i = 0; i < w[k].size(); ++i) {
        const double gi = 0.5 * static_cast<double>(g[k][i]);
        m[k][i] = 0.9 * m[k][i] + 0.1 * gi;
        v[k][i] = 0.99 * v[k][i] + 0.01 * gi * gi;
        const double mh = m[k][i] / (1 - std::pow(0.9, t)), vh = v[k][i] / (1 - std::pow(0.99, t));
        w[k][i] -= double{lr} * (mh / (std::sqrt(vh) + 1e-6) + 0.05 * w[k][i]);
      }
      leaf::expect_close(weights[k].w, w[k], leaf::tolerance<T>(), "w");
      leaf::expect_close(weights[k].m, m[k], leaf::tolerance<T>(), "m");
      leaf::expect_close(weights[k].v, v[k], leaf::tolerance<T>(), "v");
    }
  }
}

TEST_P(AdamW, FiveStepsAgreeWithThePaper) {
  check_adamw<float>();
  check_adamw<double>();
}

template <class T>
void check_first_step() {
  const AdamWProblem p{leaf::dtype_of<T>(), {2, 1}};
  std::vector<State<T>> s = {{{1, 1}, {0, 0}, {0, 0}}, {{1}, {0}, {0}}};
  step_adamw<T>(p, s, {{300, static_cast<T>(-0.02)}, {0}}, 0.125f, 1, nullptr);
  EXPECT_NEAR(s[0].w[0], 0.875, 1e-6);
  EXPECT_NEAR(s[0].w[1], 1.125, 1e-6);
  EXPECT_EQ(s[1].w[0], 1);  // no gradient, no step
}
TEST_P(AdamW, TheFirstStepIsTheLearningRateInTheGradientsDirection) {
  check_first_step<float>();
  check_first_step<double>();
}

TEST_P(AdamW, DecayDoesNotPassThroughTheMoments) {
  const AdamWProblem p{DType::f32, {1}, 0.9, 0.999, 1e-8, 0.5};
  std::vector<State<float>> s = {{{2}, {0}, {0}}};
  step_adamw<float>(p, s, {{0}}, 0.25f, 1, nullptr);
  EXPECT_FLOAT_EQ(s[0].w[0], 2 - 0.25f * 0.5f * 2);
  EXPECT_EQ(s[0].m[0], 0);
  EXPECT_EQ(s[0].v[0], 0);
}

TEST_P(AdamW, ApartAndInPlaceAgreeWithAnyNumberOfThreads) {
  constexpr size_t n = 50001, small = 11;
  const AdamWProblem p{DType::f32, {small, n}, 0.9, 0.999, 1e-8, 0.1};
  const auto w = numbers<float>(n, 83), g = numbers<float>(n, 84), m = numbers<float>(n, 85),
             v = numbers<float>(n, 86, 0, 1);
  const float lr = 0.1f;
  const int32_t step = 3;
  const State<float> first{std::vector<float>(small, 1), std::vector<float>(small),
                           std::vector<float>(small)};
  const std::vector<std::vector<float>> gradients = {std::vector<float>(small, 2), g};
  const auto in_place = [&](int threads) {
    std::vector<State<float>> s = {first, {w, m, v}};
    step_adamw(p, s, gradients, lr, step, nullptr, threads);
    return s;
  };
  leaf::expect_same_bits_for_any_threads([&](int t) { return in_place(t)[1].w; });
  State<float> a = first, b{std::vector<float>(n), std::vector<float>(n), std::vector<float>(n)};
  const void* in[] = {first.w.data(), gradients[0].data(),
                      first.m.data(), first.v.data(),
                      w.data(),       g.data(),
                      m.data(),       v.data()};
  void* out[] = {a.w.data(), a.m.data(), a.v.data(), b.w.data(), b.m.data(), b.v.data()};
  leaf::run_current(adamw_kernels(), p, {in, &lr, &step, nullptr, out});
  const auto expected = in_place(2);
  EXPECT_TRUE(leaf::same_bits(a.w, expected[0].w));
  EXPECT_TRUE(leaf::same_bits(b.w, expected[1].w));
  EXPECT_TRUE(leaf::same_bits(b.m, expected[1].m));
  EXPECT_TRUE(leaf::same_bits(b.v, expected[1].v));
}

TEST_P(AdamW, AGradientScaleThatIsNotFiniteLeavesEverythingAsItWas) {
  const float lr = 0.1f, bad = std::numeric_limits<float>::quiet_NaN();
  const int32_t step = 3;
  const std::vector<float> w = {1, 2, 3}, g = {bad, 1, 1}, m = {4, 5, 6}, v = {7, 8, 9};
  std::vector<float> w2(3), m2(3), v2(3);
  const void* in[] = {w.data(), g.data(), m.data(), v.data()};
  void* out[] = {w2.data(), m2.data(), v2.data()};
  const AdamWProblem p{.sizes = {3}};
  leaf::run_current(adamw_kernels(), p, {in, &lr, &step, &bad, out});
  EXPECT_EQ(w2, w);
  EXPECT_EQ(m2, m);
  EXPECT_EQ(v2, v);
}

TEST_P(AdamW, WhatIsNotSupportedHasNoPlan) {
  EXPECT_TRUE(leaf::current_supports(adamw_kernels(), {DType::f32, {4}}));
  EXPECT_FALSE(leaf::supported(adamw_kernels(), {DType::bf16, {4}}));
  EXPECT_FALSE(leaf::supported(adamw_kernels(), {DType::f32, {4, -4}}));
  EXPECT_FALSE(leaf::supported(adamw_kernels(), {DType::f32, {4}, 1.0}));
  EXPECT_FALSE(leaf::supported(adamw_kernels(), {DType::f32, {4}, 0.9, -0.1}));
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

TEST(Sgd, AGradientScaleThatIsNotFiniteLeavesEverythingAsItWas) {
  const float lr = 0.1f, bad = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> w = {1, 2, 3}, g = {bad, 1, 1}, m = {4, 5, 6};
  std::vector<float> w2(3), m2(3);
  run(sgd_kernels(), {.n = 3, .momentum = 0.9},
      {w.data(), g.data(), m.data(), &lr, &bad, w2.data(), m2.data()});
  EXPECT_EQ(w2, w);
  EXPECT_EQ(m2, m);
}

}  // namespace
}  // namespace fovea

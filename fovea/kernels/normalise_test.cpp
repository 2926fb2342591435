// Every normaliser against its definition, in every kernel; gradients against finite differences.
#include "fovea/kernels/normalise.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "fovea/base/visit.h"
#include "fovea/kernels/leaf_test.h"

namespace fovea {
namespace {

using leaf::numbers;

const std::vector<NormaliserOptions>& all_options() {
  static const std::vector<NormaliserOptions> all = {
      {.kind = Normaliser::softmax},
      {.kind = Normaliser::top_k, .top_k = 1},
      {.kind = Normaliser::top_k, .top_k = 5},
      {.kind = Normaliser::top_k, .top_k = 64},
      {.kind = Normaliser::sparsemax},
      {.kind = Normaliser::entmax15},
      {.kind = Normaliser::hard, .softmax_temperature = 0.7},
      {.kind = Normaliser::gumbel, .softmax_temperature = 0.5, .stream = 77},
      {.kind = Normaliser::gumbel_hard, .softmax_temperature = 2, .stream = 78},
  };
  return all;
}
std::string text_of(const NormaliserOptions& o, int64_t rows, int64_t cols) {
  return std::string(enum_names(o.kind)[static_cast<size_t>(o.kind)]) + " " +
         std::to_string(o.top_k) + " " + std::to_string(rows) + "x" + std::to_string(cols);
}

template <class T>
NormaliseProblem problem_of(const NormaliserOptions& o, int64_t rows, int64_t cols) {
  return {.normaliser = o,
          .dtype = leaf::dtype_of<T>(),
          .rows = rows,
          .cols = cols,
          .per_sample = 3 * cols};
}

constexpr int32_t kRng[3] = {11, 4, 9};

// The kernel of this name, of forward or, with dy, of backward.
template <class T>
std::vector<T> made(const NormaliseProblem& p, std::string_view kernel, const std::vector<T>& x,
                    const std::vector<T>* dy = nullptr, int threads = 1) {
  std::vector<T> y(x.size(), std::numeric_limits<T>::quiet_NaN());
  for (const auto& k : normalise_kernels())
    if (!dy && k.name == kernel)
      leaf::run<NormaliseProblem, NormaliseArgs>(*k.plan(p), {x.data(), kRng, y.data()}, threads);
  for (const auto& k : normalise_grad_kernels())
    if (dy && k.name == kernel)
      leaf::run<NormaliseProblem, NormaliseGradArgs>(
          *k.plan(p), {x.data(), dy->data(), kRng, y.data()}, threads);
  return y;
}
std::vector<double> widened(const std::vector<float>& x) { return {x.begin(), x.end()}; }

// By definition: thresholds by bisection on the sum.
std::vector<double> expected_row(const NormaliserOptions& o, std::vector<double> s) {
  std::vector<double> p(s.size());
  const double top = *std::max_element(s.begin(), s.end());
  if (top == -INFINITY) return p;
  const auto divided = [&] {
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& v : p) v /= sum;
    return p;
  };
  const auto bisected = [&](auto weight) {
    double low = -1, high = 0;
    for (int i = 0; i < 100; ++i) {
      const double tau = (low + high) / 2;
      double sum = 0;
      for (size_t j = 0; j < s.size(); ++j) sum += p[j] = weight(s[j] - top, tau);
      (sum > 1 ? low : high) = tau;
    }
    return p;
  };
  switch (o.kind) {
    case Normaliser::softmax:
    case Normaliser::gumbel:
      for (size_t j = 0; j < s.size(); ++j) p[j] = std::exp((s[j] - top) / o.softmax_temperature);
      return divided();
    case Normaliser::hard:
    case Normaliser::gumbel_hard:
      p[static_cast<size_t>(std::max_element(s.begin(), s.end()) - s.begin())] = 1;
      return p;
    case Normaliser::top_k:
      for (size_t j = 0; j < s.size(); ++j) {
        int64_t before = 0;
        for (size_t i = 0; i < s.size(); ++i) before += s[i] > s[j] || (s[i] == s[j] && i < j);
        if (before < o.top_k) p[j] = std::exp(s[j] - top);
      }
      return divided();
    case Normaliser::sparsemax:
      return bisected([](double z, double tau) { return std::max(0.0, z - tau); });
    case Normaliser::entmax15:
      return bisected([](double z, double tau) {
        const double r = std::max(0.0, z / 2 - tau);
        return r * r;
      });
  }
  return p;
}

// With the noise as the header has it.
std::vector<double> expected(const NormaliseProblem& p, const std::vector<double>& x) {
  std::vector<double> all;
  for (int64_t r = 0; r < p.rows; ++r) {
    std::vector<double> row;
    for (int64_t c = 0; c < p.cols; ++c) {
      const auto e = static_cast<uint64_t>(kRng[2] * p.per_sample + r * p.cols + c);
      const uint64_t stream = p.normaliser.stream;
      const Philox4 block = philox4x32(
          {static_cast<uint32_t>(e / 4), 0, static_cast<uint32_t>(stream), 0}, kRng[0], kRng[1]);
      const double u = (static_cast<double>(block[e % 4] >> 9) + 0.5) / 8388608;
      const double noise = is_random(p.normaliser.kind) ? -std::log(-std::log(u)) : 0.0;
      row.push_back(x[static_cast<size_t>(r * p.cols + c)] + noise);
    }
    for (double v : expected_row(p.normaliser, row)) all.push_back(v);
  }
  return all;
}

// Some numbers, of which a share is masked away.
std::vector<float> scores(int64_t rows, int64_t cols, uint64_t seed, double spread) {
  auto x = numbers<float>(rows * cols, seed, -spread, spread);
  const auto hidden = numbers<float>(rows * cols, seed + 1, 0, 1);
  for (int64_t i = 0; i < rows * cols; ++i) {
    const auto n = static_cast<size_t>(i);
    if (i / cols % 3 == 1 && hidden[n] < 0.4f) x[n] = -INFINITY;
    if (i / cols % 7 == 4) x[n] = -INFINITY;
  }
  return x;
}

TEST(Normalise, EveryKernelAgreesWithTheDefinition) {
  for (const auto& kernel : normalise_kernels())
    for (const NormaliserOptions& o : all_options())
      for (int64_t cols : {1, 2, 7, 16, 33, 129, 700})
        for (double spread : {0.05, 3.0, 40.0}) {
          const int64_t rows = 19;
          const auto p = problem_of<float>(o, rows, cols);
          const auto x = scores(rows, cols, 5 + static_cast<uint64_t>(cols), spread);
          leaf::expect_close(made(p, kernel.name, x), expected(p, widened(x)), 1e-5,
                             (std::string(kernel.name) + " " + text_of(o, rows, cols)).c_str());
        }
}

TEST(Normalise, TheReferenceInDoubleAgreesWithTheDefinition) {
  for (const NormaliserOptions& o : all_options())
    for (int64_t cols : {1, 5, 40, 300}) {
      const auto p = problem_of<double>(o, 9, cols);
      const auto x = widened(scores(9, cols, 3, 2));
      leaf::expect_close(made(p, "ref", x), expected(p, x), 1e-12, text_of(o, 9, cols).c_str());
    }
}

TEST(Normalise, TopKKeepsTheFirstOfEqualScores) {
  for (const auto& kernel : normalise_kernels())
    for (int64_t k : {1, 3, 8, 30})
      for (int64_t cols : {40, 500}) {
        // Whole numbers around 0, so that there are many ties, and zeros of both signs.
        auto x = numbers<float>(17 * cols, 8, -3, 2);
        for (float& v : x) v = std::ceil(v);
        const auto p = problem_of<float>({.kind = Normaliser::top_k, .top_k = k}, 17, cols);
        const auto y = made(p, kernel.name, x);
        leaf::expect_close(y, expected(p, widened(x)), 1e-6,
                           text_of(p.normaliser, k, cols).c_str());
        for (int64_t r = 0; r < 17; ++r)
          EXPECT_EQ(k, std::count_if(y.begin() + r * cols, y.begin() + (r + 1) * cols,
                                     [](float v) { return v > 0; }))
              << kernel.name;
      }
}

TEST(Normalise, HardTakesTheFirstOfEqualScores) {
  for (const auto& kernel : normalise_kernels()) {
    const auto p = problem_of<float>({.kind = Normaliser::hard}, 1, 5);
    EXPECT_EQ(made<float>(p, kernel.name, {1, 3, -INFINITY, 3, 2}),
              (std::vector<float>{0, 1, 0, 0, 0}));
  }
}

TEST(Normalise, LargeScoresDoNotOverflow) {
  for (const auto& kernel : normalise_kernels())
    for (Normaliser n : {Normaliser::softmax, Normaliser::sparsemax, Normaliser::entmax15}) {
      const auto p = problem_of<float>({.kind = n}, 1, 4);
      leaf::expect_close(made<float>(p, kernel.name, {1e30f, 1e30f, -1e30f, 1e4f}),
                         {0.5, 0.5, 0, 0}, 1e-6,
                         (std::string(kernel.name) + text_of(p.normaliser, 1, 4)).c_str());
    }
}

TEST(Normalise, AnEmptiedRowGivesZerosAndNotANumberStaysOne) {
  const float low = -INFINITY;
  for (const auto& kernel : normalise_kernels())
    for (const NormaliserOptions& o : all_options())
      for (float bad : {NAN, INFINITY}) {
        const auto p = problem_of<float>(o, 3, 3);
        const std::vector<float> x = {low, low, low, 1, bad, 2, 0, 0, 0};
        const std::vector<float> dy = {1, 2, 3, 1, 1, 1, 2, 2, 2};
        const auto y = made(p, kernel.name, x);
        const std::string what = std::string(kernel.name) + " " + text_of(o, 3, 3);
        for (size_t i = 0; i < 3; ++i) EXPECT_EQ(y[i], 0) << what;
        EXPECT_TRUE(std::isnan(y[3] + y[4] + y[5])) << what;
        EXPECT_NEAR(y[6] + y[7] + y[8], 1, 1e-6) << what;
        const auto dx = made(p, kernel.name, x, &dy);
        for (size_t i = 0; i < 3; ++i) EXPECT_EQ(dx[i], 0) << what;
      }
}

// The weights whose gradient backward gives.
NormaliserOptions smooth(NormaliserOptions o) {
  if (o.kind == Normaliser::hard) o.kind = Normaliser::softmax;
  if (o.kind == Normaliser::gumbel_hard) o.kind = Normaliser::gumbel;
  return o;
}

TEST(Normalise, GradientsAgreeWithFiniteDifferences) {
  for (const NormaliserOptions& o : all_options()) {
    const auto p = problem_of<double>(o, 4, 23);
    auto s = problem_of<double>(smooth(o), 4, 23);
    auto x = numbers<double>(4 * 23, 31);
    const auto dy = numbers<double>(4 * 23, 32);
    const auto dx = made(p, "ref", x, &dy);
    const auto by_differences =
        leaf::finite_differences(x, [&] { return leaf::dot(expected(s, x), dy); });
    leaf::expect_close(dx, by_differences, 1e-8, text_of(o, 4, 23).c_str());
  }
}

TEST(Normalise, GradientsOfEveryKernelAgreeWithTheReference) {
  for (const auto& kernel : normalise_grad_kernels())
    for (const NormaliserOptions& o : all_options())
      for (int64_t cols : {1, 16, 131}) {
        const auto x = scores(19, cols, 41, 2);
        const auto dy = numbers<float>(19 * cols, 42);
        const auto wide = widened(dy);
        leaf::expect_close(made(problem_of<float>(o, 19, cols), kernel.name, x, &dy),
                           made(problem_of<double>(o, 19, cols), "ref", widened(x), &wide), 1e-5,
                           (std::string(kernel.name) + " " + text_of(o, 19, cols)).c_str());
      }
}

TEST(Normalise, TheBitsAreTheSameForAnyNumberOfThreads) {
  const auto x = scores(100, 300, 51, 2);
  const auto dy = numbers<float>(100 * 300, 52);
  for (const auto& kernel : normalise_kernels())
    for (const NormaliserOptions& o : all_options()) {
      const auto p = problem_of<float>(o, 100, 300);
      leaf::expect_same_bits_for_any_threads(
          [&](int threads) { return made<float>(p, kernel.name, x, nullptr, threads); });
      leaf::expect_same_bits_for_any_threads(
          [&](int threads) { return made(p, kernel.name, x, &dy, threads); });
    }
}

TEST(Normalise, SamplesFollowTheirProbabilities) {
  // Of 40000 draws each class has its share, within five deviations.
  constexpr int64_t kRows = 40000;
  const std::vector<double> share = {0.5, 0.3, 0.15, 0.05};
  std::vector<float> x;
  for (int64_t r = 0; r < kRows; ++r)
    for (double s : share) x.push_back(static_cast<float>(std::log(s)));
  const auto p = problem_of<float>({.kind = Normaliser::gumbel_hard, .stream = 5}, kRows, 4);
  const auto y = made(p, normalise_kernels().front().name, x);
  for (size_t c = 0; c < 4; ++c) {
    double count = 0;
    for (size_t r = 0; r < size_t{kRows}; ++r) count += static_cast<double>(y[4 * r + c]);
    EXPECT_NEAR(count, share[c] * kRows, 5 * std::sqrt(share[c] * (1 - share[c]) * kRows));
  }
}

TEST(Normalise, WrongOptionsNameBoth) {
  const auto fault = [](const NormaliserOptions& o) { return o.fault().value_or(""); };
  EXPECT_EQ(fault({.kind = Normaliser::top_k}),
            "expected top_k between 1 and 2^31 - 1 with normaliser=top_k, got top_k=0");
  EXPECT_EQ(fault({.kind = Normaliser::sparsemax, .top_k = 3}),
            "expected no top_k with normaliser=sparsemax, got top_k=3");
  EXPECT_EQ(fault({.kind = Normaliser::gumbel, .softmax_temperature = 0}),
            "expected a softmax_temperature between 1e-6 and 1e6 with normaliser=gumbel, got "
            "softmax_temperature=0.000000");
  EXPECT_EQ(fault({.kind = Normaliser::softmax, .softmax_temperature = 2}),
            "expected no softmax_temperature with normaliser=softmax, got "
            "softmax_temperature=2.000000");
  for (const NormaliserOptions& o : all_options()) EXPECT_EQ(fault(o), "");
  EXPECT_FALSE(
      leaf::supported(normalise_kernels(), problem_of<float>({.kind = Normaliser::top_k}, 2, 3)));
  EXPECT_FALSE(leaf::supported(normalise_kernels(), problem_of<int32_t>({}, 2, 3)));
}

}  // namespace
}  // namespace fovea

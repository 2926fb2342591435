// Entropy, mass and strongest links, in every kernel, with every mask and bias.
#include <numeric>

#include "fovea/kernels/attention_checks_test.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::Dice;
using attention_test::Drawn;
using attention_test::expect_near;
using attention_test::LseType;
using attention_test::run_plan;

// What a kernel writes; it starts as what no kernel gives.
template <class T>
struct Statistics {
  explicit Statistics(const AttentionProblem& p)
      : entropy(size(p, p.tq), LseType<T>(NAN)),
        mass(size(p, p.tk), LseType<T>(NAN)),
        top(size(p, p.tq * p.top_links), LseType<T>(NAN)),
        keys(top.size(), -7) {}
  static size_t size(const AttentionProblem& p, int64_t n) {
    return static_cast<size_t>(p.batch * p.heads * n);
  }
  AttentionArgs add_to(AttentionArgs args) {
    args.entropy = entropy.data();
    args.mass = mass.data();
    args.top_keys = keys.data();
    args.top_probabilities = top.data();
    return args;
  }
  std::vector<LseType<T>> entropy, mass, top;
  std::vector<int32_t> keys;
};

AttentionProblem observed_problem(Dice& dice, int64_t most_tokens) {
  AttentionProblem p = attention_test::random_problem(dice, most_tokens);
  p.cosine = dice.one_in(4);
  if (dice.one_in(4)) p.rotary = p.head_dim;
  p.want_entropy = !dice.one_in(5);
  p.want_mass = !dice.one_in(3);
  p.top_links = dice.one_in(3) ? 0 : dice.of(1, 12);
  return p;
}
template <class T>
Drawn<T> draw(Dice& dice, uint64_t seed, const AttentionProblem& p) {
  Drawn<T> x(seed, p);
  randomise_links(dice, p, x.arrays);
  return x;
}

// Of all links, as the formulas stand: the probabilities are the results for values that are 1 for
// one key.
template <class T>
Statistics<T> by_formula(const AttentionProblem& problem, const Arrays<T>& a) {
  AttentionProblem p = problem;
  p.value_dim = p.tk;
  p.want_entropy = p.want_mass = false;
  p.top_links = 0;
  set_dense_strides(p, /*packed=*/false);
  Arrays<T> all(p);
  all.copy_inputs(a);
  all.v.assign(static_cast<size_t>(p.batch * p.tk * p.kv_heads * p.value_dim), T(0));
  for (int64_t row = 0; row < p.batch * p.kv_heads * p.tk; ++row)
    all.v[static_cast<size_t>(row * p.tk + row % p.tk)] = T(1);
  all.out.resize(static_cast<size_t>(p.batch * p.tq * p.heads * p.tk));
  run_plan(*attention_detail::plan_ref(p), all.forward());
  Statistics<T> s(problem);
  std::fill(s.entropy.begin(), s.entropy.end(), T(0));
  std::fill(s.mass.begin(), s.mass.end(), T(0));
  for (int64_t row = 0; row < p.batch * p.heads * p.tq; ++row) {
    const T* probabilities = all.out.data() + row * p.tk;
    const int64_t head = row / p.tq;
    double rest = 1, entropy = 0;
    for (int64_t j = 0; j < p.tk; ++j) {
      const double x = static_cast<double>(probabilities[j]);
      s.mass[static_cast<size_t>(head * p.tk + j)] += x;
      if (x > 0) entropy -= x * std::log(x);
      rest -= x;
    }
    // A sink has what the keys leave.
    if (p.sink && rest > 1e-15 && head % p.heads < p.heads_kept) entropy -= rest * std::log(rest);
    s.entropy[static_cast<size_t>(row)] = entropy;
    std::vector<int32_t> keys(static_cast<size_t>(p.tk));
    std::iota(keys.begin(), keys.end(), 0);
    std::sort(keys.begin(), keys.end(), [&](int32_t x, int32_t y) {
      return std::pair(-probabilities[x], x) < std::pair(-probabilities[y], y);
    });
    for (int64_t n = 0; n < problem.top_links; ++n) {
      const bool some = n < p.tk && probabilities[keys[static_cast<size_t>(n)]] > 0;
      const auto at = static_cast<size_t>(row * problem.top_links + n);
      s.keys[at] = some ? keys[static_cast<size_t>(n)] : -1;
      s.top[at] = some ? probabilities[s.keys[at]] : 0;
    }
  }
  return s;
}

// Keys may change places where their probabilities are nearly the same.
template <class T>
void expect_links(const Statistics<T>& got, const Statistics<double>& want, double tolerance,
                  const AttentionProblem& p, const std::string& what) {
  expect_near(got.top, want.top, tolerance, what + " probabilities", 1);
  for (size_t i = 0; i < got.keys.size(); ++i) {
    const auto place = static_cast<int64_t>(i) % p.top_links;
    if (got.top[i] == 0) {
      ASSERT_EQ(got.keys[i], -1) << what;
      continue;
    }
    ASSERT_GE(got.keys[i], 0) << what;
    ASSERT_LT(got.keys[i], p.tk) << what;
    const double own = want.top[i];
    const bool alone = (place == 0 || want.top[i - 1] - own > 4 * tolerance) &&
                       place + 1 < p.top_links && own - want.top[i + 1] > 4 * tolerance;
    if (alone) {
      ASSERT_EQ(got.keys[i], want.keys[i]) << what << " [" << i << "] " << own;
    }
  }
}

template <class T>
void expect_kernels_match(uint64_t seed, double tolerance) {
  Dice dice(seed);
  const Drawn<T> x = draw<T>(dice, seed, observed_problem(dice, 200));
  const AttentionProblem& p = x.problem;
  AttentionProblem exact = p;
  exact.dtype = DType::f64;
  Arrays<double> want(exact);
  want.copy_inputs(x.arrays);
  Statistics<double> wanted(exact);
  run_plan(*attention_detail::plan_ref(exact), wanted.add_to(want.forward()));
  for (const AttentionKernel& kernel : attention_kernels()) {
    const auto plan = kernel.plan(p);
    if (!plan) continue;
    Arrays<T> got(p);
    got.copy_inputs(x.arrays);
    Statistics<T> statistics(p);
    run_plan(*plan, statistics.add_to(got.forward()), 1 + static_cast<int>(seed % 3));
    const std::string what = x.text(kernel.name);
    expect_near(got.out, want.out, std::is_same_v<T, float> ? 3e-6 : 2e-2, what + " out", 0.1);
    if (p.want_entropy)
      expect_near(statistics.entropy, wanted.entropy, tolerance, what + " entropy", 1);
    if (p.want_mass) expect_near(statistics.mass, wanted.mass, tolerance, what + " mass", 1);
    if (p.top_links > 0) expect_links(statistics, wanted, tolerance, p, what);
  }
}

TEST(AttentionStatistics, WithEveryCombinationMatchDoublePrecision) {
  for (uint64_t seed = 1; seed <= 200 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match<float>(seed, 5e-6);
}

// Queries and keys are the same numbers in double, so that only sums in f32 differ.
TEST(AttentionStatistics, WithEveryCombinationMatchInBf16) {
  for (uint64_t seed = 1001; seed <= 1050 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match<bf16>(seed, 5e-6);
}

TEST(AttentionStatistics, TheReferenceGivesWhatTheFormulasSay) {
  for (uint64_t seed = 2001; seed <= 2060 && !::testing::Test::HasFatalFailure(); ++seed) {
    Dice dice(seed);
    AttentionProblem p = observed_problem(dice, 40);
    p.kv_heads = p.heads;
    p.want_entropy = p.want_mass = true;
    set_dense_strides(p, false);
    Drawn<double> x = draw<double>(dice, seed, p);
    const Statistics<double> want = by_formula(x.problem, x.arrays);
    Statistics<double> got(p);
    run_plan(*attention_detail::plan_ref(x.problem), got.add_to(x.arrays.forward()));
    const std::string what = x.text("ref");
    expect_near(got.entropy, want.entropy, 1e-12, what + " entropy", 1);
    expect_near(got.mass, want.mass, 1e-12, what + " mass", 1);
    expect_links(got, want, 1e-12, p, what);
  }
}

TEST(AttentionStatistics, QueriesWithoutKeysHaveNoLinks) {
  for (const bool sink : {false, true}) {
    AttentionProblem p{.tq = 70,
                       .tk = 40,
                       .head_dim = 8,
                       .value_dim = 8,
                       .causal = true,  // the first 30 see nothing
                       .sink = sink,
                       .want_entropy = true,
                       .want_mass = true,
                       .top_links = 3};
    set_dense_strides(p, true);
    Arrays<float> a(p);
    a.randomise(1);
    a.sinks = {0.5f};
    for (const AttentionKernel& kernel : attention_kernels()) {
      const auto plan = kernel.plan(p);
      if (!plan) continue;
      Statistics<float> s(p);
      run_plan(*plan, s.add_to(a.forward()));
      for (size_t i = 0; i < 90; ++i) EXPECT_EQ(s.keys[i], -1) << kernel.name;
      for (size_t i = 0; i < 30; ++i) EXPECT_EQ(s.entropy[i], 0) << kernel.name;
      // One that sees one key has no choice, unless there is a sink.
      EXPECT_EQ(s.keys[90], 0);
      EXPECT_EQ(s.keys[91], -1);
      EXPECT_EQ(s.entropy[30] > 0, sink) << kernel.name;
      EXPECT_EQ(s.top[90] < 1, sink) << kernel.name;
      const double all = std::accumulate(s.mass.begin(), s.mass.end(), 0.0);
      if (!sink) {
        EXPECT_NEAR(all, 40, 1e-4) << kernel.name;
      }
    }
  }
}

TEST(AttentionStatistics, LargeScoresKeepTheirPrecisionAndEqualOnesTheOrderOfTheirKeys) {
  AttentionProblem p{.tq = 33,
                     .tk = 150,
                     .head_dim = 8,
                     .value_dim = 8,
                     .want_entropy = true,
                     .want_mass = true,
                     .top_links = 4};
  set_dense_strides(p, true);
  Arrays<float> a(p);
  a.randomise(2);
  for (float& x : a.q) x = 25.0f;
  for (float& x : a.k) x = 50.0f;  // scores of 10000
  for (const AttentionKernel& kernel : attention_kernels()) {
    const auto plan = kernel.plan(p);
    if (!plan) continue;
    Statistics<float> s(p);
    run_plan(*plan, s.add_to(a.forward()));
    for (size_t i = 0; i < 33; ++i) {
      EXPECT_NEAR(s.entropy[i], std::log(150.0), 1e-5) << kernel.name;
      for (size_t n = 0; n < 4; ++n) EXPECT_EQ(s.keys[4 * i + n], static_cast<int32_t>(n));
    }
    for (const float mass : s.mass) EXPECT_NEAR(mass, 33.0 / 150, 1e-6) << kernel.name;
  }
}

TEST(AttentionStatistics, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (uint64_t seed = 3001; seed <= 3020; ++seed) {
    Dice dice(seed);
    AttentionProblem p = observed_problem(dice, 900);
    p.want_mass = true;
    Drawn<float> x = draw<float>(dice, seed, p);
    for (const AttentionKernel& kernel : attention_kernels()) {
      const auto plan = kernel.plan(p);
      if (!plan || kernel.name == "ref") continue;
      Statistics<float> one(p), three(p);
      run_plan(*plan, one.add_to(x.arrays.forward()), 1);
      run_plan(*plan, three.add_to(x.arrays.forward()), 3);
      EXPECT_TRUE(leaf::same_bits(one.mass, three.mass)) << seed;
      EXPECT_EQ(one.keys, three.keys) << seed;
    }
  }
}

TEST(AttentionStatistics, ANumberOfLinksOutOfRangeIsAnError) {
  for (const int64_t n : {-1, 1025}) {
    AttentionProblem p{.tq = 8, .tk = 8, .top_links = n};
    set_dense_strides(p, true);
    expect_error(ErrorCode::invalid_argument, "top_links between 0 and 1024",
                 [&] { attention_kernels().back().plan(p); });
  }
}

}  // namespace
}  // namespace fovea

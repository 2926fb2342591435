// Attention with every normaliser and every mask and bias together, in every kernel against the
// reference in double precision; and the reference against finite differences.
#include <numeric>

#include "fovea/base/test_errors.h"
#include "fovea/base/visit.h"
#include "fovea/kernels/attention_call.h"
#include "fovea/kernels/attention_random_test.h"
#include "fovea/kernels/leaf_test.h"
#include "fovea/kernels/normaliser_row.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::Dice;
using attention_test::expect_near;
using attention_test::plan_backward;
using attention_test::run_plan;
using leaf::same_bits;

constexpr int32_t kRng[3] = {5, 1000003, 2};

template <class T>
AttentionArgs forward_of(Arrays<T>& a) {
  AttentionArgs args = a.forward();
  args.links.rng = kRng;
  return args;
}
template <class T>
AttentionBackwardArgs backward_of(Arrays<T>& a) {
  AttentionBackwardArgs args = a.backward();
  args.links.rng = kRng;
  args.lse = nullptr;  // not read
  return args;
}

constexpr Normaliser kOthers[] = {Normaliser::top_k,    Normaliser::sparsemax,
                                  Normaliser::entmax15, Normaliser::hard,
                                  Normaliser::gumbel,   Normaliser::gumbel_hard};

AttentionProblem random_normalised(Dice& dice, int64_t most_tokens) {
  AttentionProblem p = attention_test::random_problem(dice, most_tokens);
  NormaliserOptions& o = p.normaliser;
  o.kind = kOthers[dice.of(0, 5)];
  if (o.kind == Normaliser::top_k) o.top_k = dice.of(1, dice.one_in(2) ? 4 : 60);
  if (has_temperature(o.kind) && dice.one_in(2)) o.softmax_temperature = 0.6;
  o.stream = is_random(o.kind) ? 99 : 0;
  if (o.kind != Normaliser::top_k) p.sink = false;
  if (dice.one_in(4)) p.rotary = 2 * dice.of(1, p.head_dim / 2);
  p.temperature = dice.one_in(4);
  if (dice.one_in(4)) {
    p.cosine = true;
    p.scale = 2;
  }
  return p;
}
template <class T>
void randomise(Dice& dice, const AttentionProblem& p, uint64_t seed, Arrays<T>& a) {
  a.randomise(seed);
  attention_test::randomise_links(dice, p, a);
  for (int64_t h = 0; p.temperature && h < p.heads; ++h) a.temperatures.push_back(dice.normal());
  a.dtemperatures = a.temperatures;
}
std::string text_of(const AttentionProblem& p) {
  return std::string(enum_name(p.normaliser.kind)) + " " + std::to_string(p.normaliser.top_k) +
         attention_test::text_of(p) + " rotary " + std::to_string(p.rotary) +
         (p.cosine ? " cosine" : "") + (p.temperature ? " temperature" : "");
}

// How far the scores of a row are from a place where another key is kept, or leaves the support.
double margin(const NormaliserOptions& o, std::vector<double> s) {
  std::erase(s, -INFINITY);
  const auto n = static_cast<int64_t>(s.size());
  std::sort(s.begin(), s.end(), std::greater<>());
  if (o.kind == Normaliser::top_k)
    return o.top_k < n ? s[static_cast<size_t>(o.top_k - 1)] - s[static_cast<size_t>(o.top_k)] : 1;
  if (is_hard(o.kind)) return n > 1 ? s[0] - s[1] : 1;
  if (o.kind != Normaliser::sparsemax || n == 0) return 1;
  std::vector<double> p(s.size());
  std::vector<int32_t> order(s.size());
  normaliser_detail::normalise_row(o, s.data(), n, false, order.data(), p.data());
  double least = 1;
  for (double x : s) least = std::min(least, std::abs(x - (s[0] - p[0])));
  return least;
}

// Whether rounding may choose otherwise, for each (b, h, i). The logarithms of softmax weights,
// which are the result where the values are the unit matrix, are scores.
std::vector<bool> near_ties(AttentionProblem p, const Arrays<double>& given) {
  const NormaliserOptions o = p.normaliser;
  p.normaliser = {};
  p.value_dim = p.tk;
  p.sink = false;
  p.heads_kept = p.heads;
  p.dtype = DType::f64;
  // Head-major or packed, as q is.
  const bool packed = p.q.token != p.head_dim || (p.heads == 1 && p.kv_heads == 1);
  set_dense_strides(p, packed);
  Arrays<double> a(p);
  a.copy_inputs(given);
  a.v.assign(a.v.size(), 0);
  a.v.resize(static_cast<size_t>(p.batch * p.tk * p.kv_heads * p.tk));
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t g = 0; g < p.kv_heads; ++g)
      for (int64_t j = 0; j < p.tk; ++j) attention_detail::row(a.v.data(), p.v, b, j, g)[j] = 1;
  run_plan(*attention_detail::plan_ref(p), forward_of(a));
  std::vector<bool> near;
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t i = 0; i < p.tq; ++i) {
        const double* weights = attention_detail::row(a.out.data(), p.out, b, i, h);
        std::vector<double> s;
        for (int64_t j = 0; j < p.tk; ++j) {
          const int64_t e = (((kRng[2] + b) * p.heads + h) * p.tq + i) * p.tk + j;
          const double noise =
              is_random(o.kind) ? normaliser_detail::gumbel_noise(o, kRng, static_cast<uint64_t>(e))
                                : 0.0;
          s.push_back(std::log(weights[j]) + noise);
        }
        near.push_back(margin(o, s) < 1e-4);
      }
  return near;
}

// The row of each (b, h, i) for which `which` says so becomes 0.
template <class T>
void clear_rows(const AttentionProblem& p, const AttentionStrides& strides,
                const std::vector<bool>& which, std::vector<T>& rows) {
  size_t n = 0;
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t i = 0; i < p.tq; ++i)
        if (which[n++])
          std::fill_n(attention_detail::row(rows.data(), strides, b, i, h), p.value_dim, T(0.0f));
}

template <class T>
void expect_kernels_match(uint64_t seed, double tolerance, double gradient_tolerance) {
  constexpr DType kType = std::is_same_v<T, float> ? DType::f32 : DType::bf16;
  Dice dice(seed);
  AttentionProblem p = random_normalised(dice, 200);
  Arrays<T> a(p);
  randomise(dice, p, seed, a);
  AttentionProblem in_double = p;
  in_double.dtype = DType::f64;
  p.dtype = kType;
  Arrays<double> want(in_double);
  want.copy_inputs(a);
  const std::vector<bool> near = near_ties(in_double, want);
  clear_rows(p, p.dout, near, a.dout);
  want.copy_inputs(a);
  run_plan(*attention_detail::plan_ref(in_double), forward_of(want));
  run_plan(*attention_detail::plan_backward_ref(in_double), backward_of(want));
  clear_rows(in_double, p.out, near, want.out);
  for (const AttentionKernel& kernel : attention_kernels()) {
    const auto plan = kernel.plan(p);
    if (!plan) continue;
    Arrays<T> got(p);
    got.copy_inputs(a);
    run_plan(*plan, forward_of(got));
    clear_rows(p, p.out, near, got.out);
    const std::string what =
        "seed " + std::to_string(seed) + " " + std::string(kernel.name) + " " + text_of(p);
    expect_near(got.out, want.out, tolerance, what + " out", 0.1);
    for (auto x : got.lse) ASSERT_EQ(x, 0) << what;
    const auto backward = plan_backward(kernel.name, p);
    ASSERT_NE(backward, nullptr) << what;
    run_plan(*backward, backward_of(got));
    // Sums of several rows are as large as their terms, not as what is left of them.
    expect_near(got.dq, want.dq, gradient_tolerance, what + " dq", 1);
    expect_near(got.dk, want.dk, gradient_tolerance, what + " dk", 1);
    expect_near(got.dv, want.dv, gradient_tolerance, what + " dv", 1);
    expect_near(got.dbias, want.dbias, gradient_tolerance, what + " dbias", 1);
    expect_near(got.ddistances, want.ddistances, gradient_tolerance, what + " ddistances", 1);
    expect_near(got.dsinks, want.dsinks, gradient_tolerance, what + " dsinks", 1);
    expect_near(got.dtemperatures, want.dtemperatures, gradient_tolerance, what + " dtemperatures",
                10);
  }
}

TEST(AttentionNormalisers, EveryCombinationMatchesInF32) {
  for (uint64_t seed = 1; seed <= 300 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match<float>(seed, 5e-6, 3e-5);
}

TEST(AttentionNormalisers, EveryCombinationMatchesInBf16) {
  for (uint64_t seed = 1001; seed <= 1100 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match<bf16>(seed, 2e-2, 4e-2);
}

TEST(AttentionNormalisers, TheReferencesGradientsMatchFiniteDifferences) {
  for (uint64_t seed = 2001; seed <= 2060; ++seed) {
    Dice dice(seed);
    AttentionProblem p = random_normalised(dice, 9);
    p.dtype = DType::f64;
    Arrays<double> a(p);
    randomise(dice, p, seed, a);
    for (double& x : a.bias) x = std::isinf(x) ? -3 : x;
    clear_rows(p, p.dout, near_ties(p, a), a.dout);
    if (is_hard(p.normaliser.kind)) continue;  // does not move with the scores
    run_plan(*attention_detail::plan_ref(p), forward_of(a));
    run_plan(*attention_detail::plan_backward_ref(p), backward_of(a));
    const auto loss = [&] {
      Arrays<double> moved(p);
      moved.copy_inputs(a);
      run_plan(*attention_detail::plan_ref(p), forward_of(moved));
      return std::inner_product(moved.out.begin(), moved.out.end(), a.dout.begin(), 0.0);
    };
    const std::pair<std::vector<double>*, std::vector<double>*> pairs[] = {
        {&a.q, &a.dq},
        {&a.k, &a.dk},
        {&a.v, &a.dv},
        {&a.bias, &a.dbias},
        {&a.sinks, &a.dsinks},
        {&a.distances, &a.ddistances},
        {&a.temperatures, &a.dtemperatures}};
    for (const auto& [values, gradient] : pairs) {
      for (size_t n = 0; n < values->size(); n += 1 + values->size() / 12) {
        constexpr double kStep = 1e-5;
        const double x = (*values)[n];
        (*values)[n] = x + kStep;
        const double above = loss();
        (*values)[n] = x - kStep;
        const double below = loss();
        (*values)[n] = x;
        ASSERT_NEAR((*gradient)[n], (above - below) / (2 * kStep), 2e-8)
            << "seed " << seed << " " << text_of(p);
      }
    }
  }
}

TEST(AttentionNormalisers, StraightThroughGradientsAreThoseOfTheSoftmaxButForTheValues) {
  AttentionProblem p{.dtype = DType::f64, .tq = 5, .tk = 7, .head_dim = 3, .value_dim = 2};
  set_dense_strides(p, true);
  p.scale = 0.8;
  p.want_lse = true;
  AttentionProblem hard = p;
  hard.normaliser = {.kind = Normaliser::hard, .softmax_temperature = 0.5};
  p.scale *= 2;  // what the temperature does
  Arrays<double> soft(p), got(hard);
  soft.randomise(3);
  got.copy_inputs(soft);
  run_plan(*attention_detail::plan_ref(p), soft.forward());
  run_plan(*attention_detail::plan_backward_ref(p), soft.backward());
  run_plan(*attention_detail::plan_ref(hard), got.forward());
  run_plan(*attention_detail::plan_backward_ref(hard), got.backward());
  expect_near(got.dq, soft.dq, 1e-12, "dq");
  expect_near(got.dk, soft.dk, 1e-12, "dk");
  // Each query gives its gradient to one value, the one that it took.
  double sum = 0, all = 0;
  for (double x : got.dv) sum += x;
  for (double x : got.dout) all += x;
  EXPECT_NEAR(sum, all, 1e-12);
  for (size_t i = 0; i < 5; ++i) {
    bool found = false;
    for (size_t j = 0; j < 7; ++j)
      found = found || (got.out[2 * i] == got.v[2 * j] && got.out[2 * i + 1] == got.v[2 * j + 1]);
    EXPECT_TRUE(found) << i;
  }
}

TEST(AttentionNormalisers, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (uint64_t seed = 3001; seed <= 3030; ++seed) {
    Dice dice(seed);
    const AttentionProblem p = random_normalised(dice, 150);
    Arrays<float> a(p);
    randomise(dice, p, seed, a);
    for (const AttentionKernel& kernel : attention_kernels()) {
      const auto forward = kernel.plan(p);
      const auto backward = plan_backward(kernel.name, p);
      if (!forward || !backward) continue;
      const auto run = [&](int threads) {
        Arrays<float> got(p);
        got.copy_inputs(a);
        run_plan(*forward, forward_of(got), threads);
        run_plan(*backward, backward_of(got), threads);
        return got;
      };
      const Arrays<float> one = run(1), three = run(3);
      EXPECT_TRUE(same_bits(one.out, three.out)) << seed;
      EXPECT_TRUE(same_bits(one.dq, three.dq) && same_bits(one.dk, three.dk) &&
                  same_bits(one.dv, three.dv));
      EXPECT_TRUE(
          same_bits(one.dbias, three.dbias) && same_bits(one.ddistances, three.ddistances) &&
          same_bits(one.dsinks, three.dsinks) && same_bits(one.dtemperatures, three.dtemperatures));
    }
  }
}

TEST(AttentionNormalisers, LargeScoresAndEmptyRowsAreNeverNaN) {
  for (Normaliser n : kOthers)
    for (float factor : {1e4f, -1e4f, 1e-4f}) {
      AttentionProblem p{.tq = 21, .tk = 9, .head_dim = 16, .value_dim = 16};
      p.causal = true;  // the first queries see nothing
      p.normaliser.kind = n;
      p.normaliser.top_k = n == Normaliser::top_k ? 3 : 0;
      set_dense_strides(p, true);
      for (const AttentionKernel& kernel : attention_kernels()) {
        const auto forward = kernel.plan(p);
        const auto backward = plan_backward(kernel.name, p);
        if (!forward || !backward) continue;
        Arrays<float> a(p);
        a.randomise(4, factor);
        run_plan(*forward, forward_of(a));
        run_plan(*backward, backward_of(a));
        for (const auto* x : {&a.out, &a.dq, &a.dk, &a.dv})
          for (float v : *x) EXPECT_TRUE(std::isfinite(v)) << kernel.name << text_of(p);
        for (size_t i = 0; i < size_t{12 * 16}; ++i) {
          EXPECT_EQ(a.out[i], 0);
          EXPECT_EQ(a.dq[i], 0);
        }
      }
    }
}

TEST(AttentionNormalisers, OneCallOnPlainMemoryTakesThem) {
  const std::vector<float> q = {1}, k = {0, 2, 1, 1.9f}, v = {1, 2, 4, 8};
  const auto attend = [&](const NormaliserOptions& o) {
    AttentionProblem p{.tk = 4, .normaliser = o};
    set_dense_strides(p, true);
    float out = NAN;
    attention(p,
              {.q = q.data(), .k = k.data(), .v = v.data(), .out = &out, .links = {.rng = kRng}});
    return out;
  };
  EXPECT_EQ(attend({.kind = Normaliser::hard}), 2);
  EXPECT_EQ(attend({.kind = Normaliser::top_k, .top_k = 1}), 2);
  // tau = (2 + 1.9 - 1) / 2
  EXPECT_NEAR(attend({.kind = Normaliser::sparsemax}), 0.55 * 2 + 0.45 * 8, 1e-5);
}

TEST(AttentionNormalisers, WrongCombinationsNameBothOptions) {
  const auto expect = [](auto change, std::string_view first, std::string_view second) {
    AttentionProblem p{.tq = 8, .tk = 8};
    set_dense_strides(p, true);
    change(p);
    const Caught caught = error_of([&] { attention_kernels().back().plan(p); });
    EXPECT_EQ(caught.code, ErrorCode::invalid_argument);
    EXPECT_TRUE(contains(caught.what, first) && contains(caught.what, second)) << caught.what;
  };
  expect([](auto& p) { p.normaliser.kind = Normaliser::top_k; }, "normaliser=top_k", "top_k=0");
  expect([](auto& p) { p.normaliser.top_k = 4; }, "normaliser=softmax", "top_k=4");
  expect([](auto& p) { p.normaliser = {.kind = Normaliser::entmax15, .softmax_temperature = 2}; },
         "normaliser=entmax15", "softmax_temperature=2");
  expect([](auto& p) { p.normaliser.kind = Normaliser::sparsemax, p.sink = true; },
         "normaliser=sparsemax", "sink");
  AttentionProblem p{.normaliser = {.kind = Normaliser::gumbel}};
  set_dense_strides(p, true);
  const float x = 1;
  float out = 0;
  const Caught caught = error_of([&] { attention(p, {.q = &x, .k = &x, .v = &x, .out = &out}); });
  EXPECT_TRUE(contains(caught.what, "links.rng") && contains(caught.what, "normaliser"))
      << caught.what;
}

}  // namespace
}  // namespace fovea

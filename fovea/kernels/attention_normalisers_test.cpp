// Attention with every normaliser and every mask and bias together, in every kernel against the
// reference in double precision; and the reference against finite differences.
#include "fovea/kernels/attention_call.h"
#include "fovea/kernels/attention_checks_test.h"
#include "fovea/kernels/normaliser_row.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::backward_args;
using attention_test::Dice;
using attention_test::Drawn;
using attention_test::expect_both_named;
using attention_test::expect_near;
using attention_test::plan_backward;
using attention_test::run_plan;

constexpr int32_t kRng[3] = {5, 1000003, 2};

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
Drawn<T> draw(uint64_t seed, int64_t most_tokens) {
  Dice dice(seed);
  Drawn<T> x(seed, random_normalised(dice, most_tokens));
  x.own_forward = true;
  x.arrays.rng.assign(std::begin(kRng), std::end(kRng));
  randomise_links(dice, x.problem, x.arrays);
  for (int64_t h = 0; x.problem.temperature && h < x.problem.heads; ++h)
    x.arrays.temperatures.push_back(dice.normal());
  return x;
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
  attention_test::forward_ref(p, a);
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

// The same without gradients of what near_ties() finds.
template <class T>
Drawn<T> away_from_ties(Drawn<T> x) {
  AttentionProblem in_double = x.problem;
  in_double.dtype = DType::f64;
  Arrays<double> a(in_double);
  a.copy_inputs(x.arrays);
  x.uncertain = near_ties(in_double, a);
  attention_test::clear_rows(x.problem, x.problem.dout, x.uncertain, x.arrays.dout);
  return x;
}

TEST(AttentionNormalisers, EveryCombinationMatchesInF32) {
  for (uint64_t seed = 1; seed <= 300 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match(away_from_ties(draw<float>(seed, 200)), {5e-6, 3e-5});
}

TEST(AttentionNormalisers, EveryCombinationMatchesInBf16) {
  for (uint64_t seed = 1001; seed <= 1100 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match(away_from_ties(draw<bf16>(seed, 200)), {2e-2, 4e-2});
}

TEST(AttentionNormalisers, TheReferencesGradientsMatchFiniteDifferences) {
  for (uint64_t seed = 2001; seed <= 2060; ++seed) {
    Drawn<double> x = draw<double>(seed, 9);
    if (is_hard(x.problem.normaliser.kind)) continue;  // does not move with the scores
    for (double& b : x.arrays.bias) b = std::isinf(b) ? -3 : b;
    expect_finite_differences(away_from_ties(x), 2e-8);
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
  for (uint64_t seed = 3001; seed <= 3030; ++seed) expect_same_bits(draw<float>(seed, 150));
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
        a.rng.assign(std::begin(kRng), std::end(kRng));
        run_plan(*forward, a.forward());
        run_plan(*backward, backward_args(p, a));
        for (const auto* x : {&a.out, &a.dq, &a.dk, &a.dv})
          for (float v : *x)
            EXPECT_TRUE(std::isfinite(v)) << kernel.name << attention_test::text_of(p);
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
  expect_both_named([](auto& p) { p.normaliser.kind = Normaliser::top_k; }, "normaliser=top_k",
                    "top_k=0");
  expect_both_named([](auto& p) { p.normaliser.top_k = 4; }, "normaliser=softmax", "top_k=4");
  expect_both_named(
      [](auto& p) { p.normaliser = {.kind = Normaliser::entmax15, .softmax_temperature = 2}; },
      "normaliser=entmax15", "softmax_temperature=2");
  expect_both_named([](auto& p) { p.normaliser.kind = Normaliser::sparsemax, p.sink = true; },
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

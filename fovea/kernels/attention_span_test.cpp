// The learned span of each head: which keys it leaves, with every mask and bias, in every kernel,
// and its gradient.
#include "fovea/kernels/attention_checks_test.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::Dice;
using attention_test::Drawn;
using attention_test::expect_both_named;
using attention_test::run_plan;

// A problem with some of everything, and spans: of whole numbers or not, of none and of all.
template <class T>
Drawn<T> draw(uint64_t seed, int64_t most_tokens) {
  Dice dice(seed);
  AttentionProblem p = attention_test::random_problem(dice, most_tokens);
  p.cosine = dice.one_in(5);
  if (dice.one_in(5)) p.rotary = p.head_dim;
  p.span = true;
  p.span_ramp = dice.one_in(3) ? 0.5 : static_cast<double>(dice.of(1, 20)) * 1.25;
  Drawn<T> x(seed, p);
  for (int64_t h = 0; h < p.heads; ++h) {
    const double some = static_cast<double>(dice.of(0, most_tokens / 2)) + 0.375;
    x.arrays.spans.push_back(
        static_cast<attention_test::LseType<T>>(dice.one_in(6) ? -p.span_ramp : some));
  }
  Dice of_links(seed + 1);
  randomise_links(of_links, p, x.arrays);
  return x;
}

TEST(AttentionSpan, WithEveryCombinationMatchesDoublePrecision) {
  for (uint64_t seed = 1; seed <= 200 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match(draw<float>(seed, 200), {3e-6, 2e-5});
}

TEST(AttentionSpan, WithEveryCombinationMatchesInBf16) {
  for (uint64_t seed = 1001; seed <= 1060 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match(draw<bf16>(seed, 200), {2e-2, 4e-2});
}

TEST(AttentionSpan, MultipliesThePowersOfScoresByItsRamp) {
  // Equal scores: the probabilities are the ramp's shares.
  AttentionProblem p{.dtype = DType::f64,
                     .tq = 9,
                     .tk = 9,
                     .heads = 2,
                     .kv_heads = 2,
                     .heads_kept = 2,
                     .head_dim = 4,
                     .value_dim = 9,
                     .span = true,
                     .span_ramp = 2};
  set_dense_strides(p, /*packed=*/false);
  Arrays<double> a(p);
  std::fill(a.q.begin(), a.q.end(), 0.0);
  std::fill(a.k.begin(), a.k.end(), 1.0);
  for (size_t i = 0; i < a.v.size(); ++i) a.v[i] = i % 9 == i / 9 % 9 ? 1 : 0;
  const std::vector<double> spans = {1.5, 3};
  AttentionArgs args = a.forward();
  args.links.spans = spans.data();
  run_plan(*attention_detail::plan_ref(p), args);
  for (size_t h = 0; h < 2; ++h)
    for (int i = 0; i < 9; ++i) {
      const auto share = [&](int j) {
        return std::clamp((2 + spans[h] - std::abs(i - j)) / 2, 0.0, 1.0);
      };
      double sum = 0;
      for (int j = 0; j < 9; ++j) sum += share(j);
      for (int j = 0; j < 9; ++j)
        EXPECT_NEAR(a.out[(h * 9 + static_cast<size_t>(i)) * 9 + static_cast<size_t>(j)],
                    share(j) / sum, 1e-15);
    }
}

TEST(AttentionSpan, GradientsMatchFiniteDifferences) {
  for (uint64_t seed = 2001; seed <= 2030; ++seed) {
    Drawn<double> x = draw<double>(seed, 9);
    for (double& b : x.arrays.bias) b = std::isinf(b) ? -3 : b;
    for (double& z : x.arrays.spans) z += 0.05;  // off the ends of the ramp
    expect_finite_differences(x, 1e-7);
  }
}

TEST(AttentionSpan, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (uint64_t seed = 3001; seed <= 3015; ++seed) expect_same_bits(draw<float>(seed, 150));
}

TEST(AttentionSpan, TheBlocksThatARunOfQueriesTouchesHoldAllThatTheySee) {
  for (uint64_t seed = 4001; seed <= 4100; ++seed) {
    const Drawn<float> x = draw<float>(seed, 60);
    Dice dice(seed);
    for (int64_t head = 0; head < x.problem.heads; ++head)
      expect_touched_keys_hold_what_is_seen(x, head, dice);
  }
}

TEST(AttentionSpan, WrongCombinationsNameBothOptions) {
  expect_both_named([](auto& p) { p.span_ramp = 3; }, "span=false", "span_ramp=3");
  expect_both_named([](auto& p) { p.span = true; }, "span=true", "span_ramp=0");
  expect_both_named([](auto& p) { p.span = true, p.span_ramp = -1; }, "span_ramp", "-1");
}

}  // namespace
}  // namespace fovea

// Every mask, bias and normaliser of attention, alone and together, in every kernel against the
// reference in double precision; and the reference against finite differences.
#include "fovea/kernels/attention_checks_test.h"

namespace fovea {
namespace {

using attention_test::Dice;
using attention_test::Drawn;
using attention_test::expect_both_named;

template <class T>
Drawn<T> draw(uint64_t seed, int64_t most_tokens) {
  Dice dice(seed);
  Drawn<T> x(seed, attention_test::random_problem(dice, most_tokens));
  randomise_links(dice, x.problem, x.arrays);
  return x;
}

TEST(AttentionLinks, EveryCombinationMatchesDoublePrecision) {
  for (uint64_t seed = 1; seed <= 300 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match(draw<float>(seed, 200), {3e-6, 2e-5});
}

TEST(AttentionLinks, EveryCombinationMatchesInBf16) {
  for (uint64_t seed = 1001; seed <= 1100 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match(draw<bf16>(seed, 200), {2e-2, 4e-2});
}

TEST(AttentionLinks, TheReferencesGradientsMatchFiniteDifferences) {
  for (uint64_t seed = 2001; seed <= 2040; ++seed) {
    Drawn<double> x = draw<double>(seed, 9);
    for (double& b : x.arrays.bias) b = std::isinf(b) ? -3 : b;
    expect_finite_differences(x, 2e-8);
  }
}

TEST(AttentionLinks, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (uint64_t seed = 3001; seed <= 3030; ++seed) expect_same_bits(draw<float>(seed, 150));
}

TEST(AttentionLinks, TheBlocksThatARunOfQueriesTouchesHoldAllThatTheySee) {
  for (uint64_t seed = 4001; seed <= 4200; ++seed) {
    Dice dice(seed);
    expect_touched_keys_hold_what_is_seen(draw<float>(seed, 60), 0, dice);
  }
}

TEST(AttentionLinks, WrongCombinationsNameBothOptions) {
  expect_both_named([](auto& p) { p.dilation = 2; }, "dilation=2", "window");
  expect_both_named([](auto& p) { p.dilation = 0; }, "dilation", "0");
  expect_both_named([](auto& p) { p.global_tokens = 3; }, "global_tokens=3", "window");
  expect_both_named([](auto& p) { p.prefix = 3; }, "prefix=3", "causal");
  expect_both_named([](auto& p) { p.prefix = -3; }, "prefix", "-3");
  expect_both_named([](auto& p) { p.documents = 2, p.tq = 7; }, "documents=2", "tq=7");
  expect_both_named([](auto& p) { p.block = 24; }, "block", "24");
  expect_both_named([](auto& p) { p.soft_cap = -1; }, "soft_cap", "-1");
  expect_both_named([](auto& p) { p.mask = true, p.mask_plane.query = 3; }, "mask", "at least 8");
  expect_both_named([](auto& p) { p.bias = true, p.bias_plane.head = -1; }, "bias", "head -1");
}

}  // namespace
}  // namespace fovea

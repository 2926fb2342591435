// The tiled kernels in bf16, forward and backward, against double precision on long sequences with
// some of everything that they take: changed rows, temperatures, biases, sinks, the cap and masks.
// Shorter ones are in attention_links_test.cpp and attention_rows_test.cpp.
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "fovea/kernels/attention_backward_tiled.h"
#include "fovea/kernels/attention_bf16_test.h"
#include "fovea/kernels/attention_checks_test.h"
#include "fovea/kernels/attention_tiled.h"

namespace fovea {
namespace {

using attention_detail::plan_backward_tiled_avx512bf16;
using attention_detail::plan_tiled_avx512bf16;
using attention_test::Arrays;
using attention_test::Case;
using attention_test::Dice;
using attention_test::Drawn;
using attention_test::expect_near;
using attention_test::forward_ref;
using attention_test::relative_norm;
using attention_test::run_plan;

class AttentionTiledRandom : public attention_test::NeedsProductsOfBf16 {};

// Several spans of keys, and heads as wide as those of large models.
Drawn<bf16> draw(uint64_t seed) {
  Dice dice(seed);
  AttentionProblem p = attention_test::random_problem(dice, 900);
  p.batch = 1;
  p.head_dim = attention_test::pick(dice, {16, 40, 64, 128});
  p.value_dim = attention_test::pick(dice, {16, 64, 72});
  p.scale = (p.scale < 0 ? -1 : 1) / std::sqrt(static_cast<double>(p.head_dim));
  if (!dice.one_in(4)) draw_row_changes(dice, p);
  set_dense_strides(p, dice.one_in(2));
  Drawn<bf16> x(seed, p);
  randomise_links(dice, p, x.arrays);
  for (int64_t h = 0; p.temperature && h < p.heads; ++h)
    x.arrays.temperatures.push_back(1.5f * dice.normal());
  return x;
}

void run_both(const AttentionProblem& p, Arrays<bf16>& a, int threads = 1) {
  const auto forward = plan_tiled_avx512bf16(p);
  const auto backward = plan_backward_tiled_avx512bf16(p);
  ASSERT_TRUE(forward && backward);
  run_plan(*forward, a.forward(), threads);
  run_plan(*backward, a.backward(), threads);
}

double norm(const std::vector<double>& x) {
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
}

// In norm, and no number wide of what it should be.
void expect_right(const Drawn<bf16>& x) {
  const std::string what = x.text("tiled_avx512bf16");
  AttentionProblem exact = x.problem;
  exact.dtype = DType::f64;
  Arrays<bf16> got(x.problem);
  got.copy_inputs(x.arrays);
  Arrays<double> want(exact);
  want.copy_inputs(x.arrays);
  forward_ref(exact, want);
  ASSERT_NO_FATAL_FAILURE(run_both(x.problem, got)) << what;
  expect_near(got.out, want.out, 2e-2, what + " out", 0.1);
  expect_near(got.lse, want.lse, 1e-2, what + " lse", 1);
  EXPECT_LT(relative_norm(got.out, want.out), 1e-2) << what;
  // Backward starts from what forward has rounded.
  want.out = attention_test::converted<double>(got.out);
  run_plan(*attention_detail::plan_backward_ref(exact), want.backward());
  expect_gradients(x.problem, got, want, 4e-2, what);
  attention_test::for_each_pair(attention_test::gradients(got), attention_test::gradients(want),
                                [&](const std::string& name, auto& a, auto& b) {
                                  // Of sinks and temperatures each is one sum, whose terms cancel;
                                  // where a query sees but one key, all gradients of scores are 0.
                                  if (name == "sinks" || name == "temperatures" || norm(b) < 1e-3)
                                    return;
                                  EXPECT_LT(relative_norm(a, b), 1e-2) << what << " d " << name;
                                });
}

TEST_F(AttentionTiledRandom, EveryCombinationMatchesDoublePrecision) {
  for (uint64_t seed = 9001; seed <= 9040 && !HasFatalFailure(); ++seed) expect_right(draw(seed));
}

TEST_F(AttentionTiledRandom, WhatLanguageModelsHaveMatches) {
  const auto expect = [](uint64_t seed, auto change) {
    const Case c{.tq = 600, .tk = 600, .heads = 2, .kv_heads = 1, .dim = 128, .value_dim = 128};
    AttentionProblem p = c.problem(true, DType::bf16);
    change(p);
    Drawn<bf16> x(seed, p);
    if (p.temperature) x.arrays.temperatures = {8, -2};
    const int64_t distances = p.tq + p.tk - 1;
    for (int64_t n = 0; p.distance_bias && n < p.heads * distances; ++n) {
      const int64_t head = n / distances, distance = n % distances - p.tq + 1;
      x.arrays.distances.push_back(
          p.causal ? -std::exp2(static_cast<float>(-4 * head - 2)) *
                         std::abs(static_cast<float>(distance))
                   : std::sin(std::floor(std::log2(1 + std::abs(static_cast<float>(distance))))));
    }
    expect_right(x);
  };
  expect(9301, [](auto& p) {
    p.causal = true;
    p.rotary = 128;
    p.rotary_layout = RotaryLayout::halves;
  });
  expect(9302, [](auto& p) {
    p.causal = true;
    p.rotary = 32;  // of 128
    p.tq = 300;
    set_dense_strides(p, false);
  });
  expect(9303, [](auto& p) { p.causal = p.distance_bias = true; });       // ALiBi
  expect(9304, [](auto& p) { p.distance_bias = true, p.scale = 0.05; });  // as T5's buckets
  expect(9305, [](auto& p) { p.cosine = p.temperature = true, p.scale = 1; });
}

TEST_F(AttentionTiledRandom, GradientsOfBiasesThatNobodyWantsChangeNoOther) {
  AttentionProblem p =
      Case{.tq = 200, .tk = 600, .heads = 2, .kv_heads = 1, .dim = 32, .value_dim = 32}.problem(
          true, DType::bf16);
  p.distance_bias = p.sink = p.temperature = true;
  for (const bool biased : {false, true}) {
    p.bias = biased;
    p.bias_plane = {.query = p.tk};
    Dice dice(9401);
    Drawn<bf16> x(9401, p);
    randomise_links(dice, p, x.arrays);
    x.arrays.temperatures = {1.25f, 0.5f};
    Arrays<bf16> all(p), few(p);
    all.copy_inputs(x.arrays);
    run_both(p, all);
    few.copy_inputs(x.arrays);
    run_plan(*plan_tiled_avx512bf16(p), few.forward());
    AttentionBackwardArgs args = few.backward();
    args.dbias = args.ddistance_bias = args.dsinks = args.dtemperatures = nullptr;
    run_plan(*plan_backward_tiled_avx512bf16(p), args);
    EXPECT_TRUE(leaf::same_bits(all.dq, few.dq));
    EXPECT_TRUE(leaf::same_bits(all.dk, few.dk));
    EXPECT_TRUE(leaf::same_bits(all.dv, few.dv));
  }
}

// Where the keys of the window begin within the step that holds the last of the prefix.
TEST_F(AttentionTiledRandom, AKeyOfBothPrefixAndWindowCountsOnce) {
  for (int64_t left = 28; left < 52; ++left) {
    AttentionProblem p =
        Case{.tq = 130, .tk = 130, .dim = 16, .value_dim = 16, .left = left}.problem(true,
                                                                                     DType::bf16);
    p.prefix = 17;
    expect_right(Drawn<bf16>(9200, p));
  }
}

TEST_F(AttentionTiledRandom, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (uint64_t seed = 9101; seed <= 9115; ++seed) {
    const Drawn<bf16> x = draw(seed);
    Arrays<bf16> start(x.problem);
    start.copy_inputs(x.arrays);
    expect_same_bits(
        start, {2, 3}, [&](Arrays<bf16>& a, int threads) { run_both(x.problem, a, threads); },
        x.text("tiled"));
  }
}

}  // namespace
}  // namespace fovea

// Long sequences, whose queries are cut into several tasks: windows, whose heads go together, and
// lists of blocks, whose rows of keys are shared by a task's panels.
#include "fovea/kernels/attention_panels.h"
#include "fovea/kernels/attention_checks_test.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::Dice;
using attention_test::Drawn;
using attention_test::run_plan;

// Heads as many and as wide as make packed rows scattered, and more tokens than a task takes.
AttentionProblem long_problem(Dice& dice) {
  AttentionProblem p;
  p.batch = dice.of(1, 2);
  p.tq = dice.of(800, 1000);
  p.tk = dice.one_in(2) ? p.tq : dice.of(800, 1000);
  p.kv_heads = dice.of(1, 2);
  p.heads = p.heads_kept = 8;
  p.head_dim = p.value_dim = 32;
  p.scale = 0.2;
  p.want_lse = true;
  p.causal = dice.one_in(3);
  if (dice.one_in(2)) p.align = AttentionAlign::upper_left;
  return p;
}

template <class T>
Drawn<T> draw_window(uint64_t seed) {
  Dice dice(seed);
  AttentionProblem p = long_problem(dice);
  p.window_left = dice.of(0, 150);
  p.window_right = p.causal ? -1 : dice.of(0, 50);
  if (dice.one_in(4)) p.dilation = 3;
  if (dice.one_in(4)) p.global_tokens = 10;
  set_dense_strides(p, /*packed=*/!dice.one_in(4));
  return Drawn<T>(seed, p);
}

template <class T>
Drawn<T> draw_blocks(uint64_t seed) {
  Dice dice(seed);
  AttentionProblem p = long_problem(dice);
  constexpr int64_t kSides[] = {16, 48, 64, 128, 256};
  p.block = kSides[dice.of(0, 4)];
  p.block_plane.query = (p.tk + p.block - 1) / p.block;
  p.block_plane.head = (p.tq + p.block - 1) / p.block * p.block_plane.query;
  if (dice.one_in(2)) p.window_left = dice.of(100, 500);
  set_dense_strides(p, /*packed=*/!dice.one_in(4));
  Drawn<T> x(seed, p);
  for (int64_t n = 0; n < p.heads * p.block_plane.head; ++n)
    x.arrays.blocks.push_back(dice.one_in(4) ? 1 : 0);
  return x;
}

TEST(AttentionPanels, OfLongWindowsMatchDoublePrecision) {
  for (uint64_t seed = 1; seed <= 2 && !::testing::Test::HasFatalFailure(); ++seed) {
    const Drawn<float> x = draw_window<float>(seed);
    const attention_detail::Panels panels(x.problem, 16);
    EXPECT_GT(panels.tasks, 1) << x.text("");
    expect_kernels_match(x, {3e-6, 2e-5});
  }
}

TEST(AttentionPanels, OfLongListsOfBlocksMatchDoublePrecision) {
  for (uint64_t seed = 101; seed <= 102 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match(draw_blocks<float>(seed), {3e-6, 2e-5});
}

TEST(AttentionPanels, GiveTheSameBitsForAnyNumberOfThreads) {
  expect_same_bits(draw_window<float>(7));
  expect_same_bits(draw_window<bf16>(8));
  expect_same_bits(draw_blocks<float>(107));
}

TEST(AttentionPanels, TakeTheHeadsOfAWindowTogetherAndAddUpWhatEachKeyReceives) {
  Dice dice(9);
  AttentionProblem p = long_problem(dice);
  p.tq = p.tk = 1000;
  p.window_left = p.window_right = 40;
  p.want_mass = true;
  set_dense_strides(p, /*packed=*/true);
  EXPECT_TRUE(attention_detail::heads_together(p, attention_detail::Panels(p, 16)));
  Arrays<float> a(p);
  a.randomise(9);
  AttentionProblem in_double = p;
  in_double.dtype = DType::f64;
  Arrays<double> want(in_double);
  want.copy_inputs(a);
  const auto keys = static_cast<size_t>(p.batch * p.heads * p.tk);
  std::vector<double> want_mass(keys, NAN);
  AttentionArgs args = want.forward();
  args.mass = want_mass.data();
  run_plan(*attention_detail::plan_ref(in_double), args);
  for (const AttentionKernel& kernel : attention_kernels()) {
    const auto plan = kernel.plan(p);
    if (!plan) continue;
    std::vector<float> mass(keys, NAN);
    args = a.forward();
    args.mass = mass.data();
    run_plan(*plan, args, 2);
    attention_test::expect_near(mass, want_mass, 3e-6, std::string(kernel.name) + " mass");
    attention_test::expect_near(a.out, want.out, 3e-6, std::string(kernel.name) + " out");
  }
}

}  // namespace
}  // namespace fovea

// The tiled kernel in bf16, backward, against double precision at length. Masks in every
// combination are in attention_links_test.cpp.
#include "fovea/kernels/attention_backward_tiled.h"

#include "fovea/kernels/attention_bf16_test.h"

namespace fovea {
namespace {

using attention_detail::plan_backward_tiled_avx512bf16;
using attention_test::Arrays;
using attention_test::backward_ref;
using attention_test::Case;
using attention_test::converted;
using attention_test::forward_ref;
using attention_test::run_plan;

class AttentionBackwardTiled : public attention_test::NeedsProductsOfBf16 {};

// Forward's results as the reference has them.
void run_forward(const AttentionProblem& p, Arrays<bf16>& a) {
  run_plan(*attention_detail::plan_ref(p), a.forward());
}
void run_backward(const AttentionProblem& p, Arrays<bf16>& a, int threads = 1) {
  const auto plan = plan_backward_tiled_avx512bf16(p);
  ASSERT_TRUE(plan);
  run_plan(*plan, a.backward(), threads);
}

void expect_right(const Case& c, bool packed, double scale = 0, double soft_cap = 0) {
  const std::string what = c.text("tiled_avx512bf16", packed);
  AttentionProblem p = c.problem(packed, DType::bf16);
  AttentionProblem exact = c.problem(packed, DType::f64);
  if (scale != 0) p.scale = exact.scale = scale;
  p.soft_cap = exact.soft_cap = soft_cap;
  Arrays<bf16> got(p);
  got.randomise(41);
  got.lengths = c.lengths;
  Arrays<double> want(exact);
  want.copy_inputs(got);
  run_forward(p, got);
  forward_ref(exact, want);
  want.out = converted<double>(got.out);
  backward_ref(exact, want);
  ASSERT_NO_FATAL_FAILURE(run_backward(p, got)) << what;
  expect_gradients_near(got, want, c.tk >= 8 && c.left != 0, what);
}

TEST_F(AttentionBackwardTiled, ItMatchesDoublePrecision) {
  std::vector<Case> list;
  for (int64_t t : {1, 2, 9, 17, 63, 64, 65, 129, 257}) list.push_back({1, t, t, 2, 2, 64, 64});
  for (int64_t d : {1, 3, 7, 31, 33, 48, 100, 128, 256}) list.push_back({1, 70, 140, 2, 1, d, d});
  list.push_back({1, 65, 1100, 2, 1, 24, 40, true});  // several spans of keys
  list.push_back({2, 33, 270, 4, 2, 20, 12});
  list.push_back({1, 450, 141, 2, 1, 16, 24, true});  // empty rows
  list.push_back({1, 330, 330, 2, 2, 32, 32, true, 11});
  list.push_back({1, 330, 340, 2, 2, 16, 16, false, 33, 5});
  list.push_back({1, 300, 300, 1, 1, 8, 8, false, 0, 0});
  list.push_back({3, 150, 260, 2, 2, 16, 16, false, -1, -1, -1, {260, 117, 0}});
  list.push_back({2, 130, 130, 4, 2, 16, 16, true, -1, -1, 3});
  list.push_back({2, 130, 130, 4, 2, 16, 16, true, -1, -1, 1});
  for (const Case& c : list)
    for (bool packed : {true, false}) expect_right(c, packed);
}

TEST_F(AttentionBackwardTiled, TheScaleMayBeNegativeAndThereMayBeACap) {
  for (bool causal : {false, true}) {
    const Case c{.tq = 90,
                 .tk = 90,
                 .heads = 2,
                 .kv_heads = 2,
                 .dim = 16,
                 .value_dim = 16,
                 .causal = causal};
    expect_right(c, true, -0.5);
    expect_right(c, true, 0.25, 1.5);
  }
}

TEST_F(AttentionBackwardTiled, TheBitsAreTheSameForAnyNumberOfThreads) {
  const Case c{.batch = 2,
               .tq = 300,
               .tk = 600,
               .heads = 4,
               .kv_heads = 2,
               .dim = 40,
               .value_dim = 32,
               .causal = true};
  const AttentionProblem p = c.problem(true, DType::bf16);
  Arrays<bf16> inputs(p);
  inputs.randomise(42);
  run_forward(p, inputs);
  expect_same_bits(inputs, {2, 3, 4},
                   [&](Arrays<bf16>& a, int threads) { run_backward(p, a, threads); });
}

TEST_F(AttentionBackwardTiled, WhatLiesBeyondAKeyLengthIsNeverUsed) {
  for (int32_t length : {0, 1, 64, 129, 200}) {
    const Case c{.tq = 49, .tk = 300, .dim = 16, .value_dim = 16, .lengths = {length}};
    expect_lengths_hold(c, 43, /*gradients=*/true, [](const AttentionProblem& p, Arrays<bf16>& a) {
      run_forward(p, a);
      run_backward(p, a);
    });
  }
}

TEST_F(AttentionBackwardTiled, ScoresOfTenThousandStayFinite) {
  const Case c{.tq = 149, .tk = 149, .heads = 2, .kv_heads = 2, .dim = 16, .value_dim = 16};
  const AttentionProblem p = c.problem(true, DType::bf16);
  Arrays<bf16> a(p);
  a.randomise(44, 1e4f);
  run_forward(p, a);
  run_backward(p, a);
  expect_finite(a, /*gradients=*/true, "scores of 10000");
}

TEST_F(AttentionBackwardTiled, WhatItDoesNotSupportIsLeftToTheOthers) {
  const auto taken = [](auto change) {
    AttentionProblem p = Case{.tq = 300, .tk = 300}.problem(true, DType::bf16);
    change(p);
    return plan_backward_tiled_avx512bf16(p) != nullptr;
  };
  EXPECT_TRUE(taken([](auto&) {}));
  EXPECT_TRUE(taken([](auto& p) { p.mask = true, p.soft_cap = 3; }));
  EXPECT_FALSE(taken([](auto& p) { p.dtype = DType::f32; }));
  EXPECT_FALSE(taken([](auto& p) { p.head_dim = 257, set_dense_strides(p, true); }));
  EXPECT_FALSE(taken([](auto& p) { p.value_dim = 257, set_dense_strides(p, true); }));
  EXPECT_TRUE(taken([](auto& p) { p.bias = p.distance_bias = p.sink = true; }));
  EXPECT_TRUE(taken([](auto& p) { p.rotary = 8, p.cosine = p.temperature = true; }));
  EXPECT_FALSE(taken([](auto& p) { p.relative_keys = true; }));
  EXPECT_FALSE(taken([](auto& p) { p.span = true, p.span_ramp = 8; }));
  EXPECT_FALSE(taken([](auto& p) { p.dropout = 0.1; }));
}

}  // namespace
}  // namespace fovea

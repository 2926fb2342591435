// The kernels for short sequences that multiply in bf16, against double precision.
#include "fovea/base/error.h"
#include "fovea/kernels/attention_bf16_test.h"
#include "fovea/kernels/attention_short_avx512bf16.h"

namespace fovea {
namespace {

using attention_detail::plan_backward_short_avx512bf16;
using attention_detail::plan_short_avx512bf16;
using attention_test::Arrays;
using attention_test::backward_ref;
using attention_test::Case;
using attention_test::converted;
using attention_test::expect_near;
using attention_test::forward_ref;
using attention_test::relative_norm;
using attention_test::run_plan;
using leaf::same_bits;

class AttentionShortBf16 : public attention_test::NeedsProductsOfBf16 {};

void run_both(const AttentionProblem& p, Arrays<bf16>& a, int threads = 1) {
  const auto forward = plan_short_avx512bf16(p);
  const auto backward = plan_backward_short_avx512bf16(p);
  ASSERT_TRUE(forward && backward);
  run_plan(*forward, a.forward(), threads);
  run_plan(*backward, a.backward(), threads);
}

void run_on_one_thread(const AttentionProblem& p, Arrays<bf16>& a) { run_both(p, a); }

void expect_right(const Case& c, bool packed, double scale = 0) {
  const std::string what = c.text("short_avx512bf16", packed);
  AttentionProblem p = c.problem(packed, DType::bf16);
  AttentionProblem exact = c.problem(packed, DType::f64);
  if (scale != 0) p.scale = exact.scale = scale;
  Arrays<bf16> got(p);
  got.randomise(21);
  got.lengths = c.lengths;
  Arrays<double> want(exact);
  want.copy_inputs(got);
  forward_ref(exact, want);
  ASSERT_NO_FATAL_FAILURE(run_both(p, got)) << what;
  expect_near(got.out, want.out, attention_test::kBf16Tolerance, what + " out");
  expect_near(got.lse, want.lse, 3e-6, what + " lse", 1);
  if (c.tk >= 8) {
    EXPECT_LT(relative_norm(got.out, want.out), 1e-2) << what;
  }
  // Backward starts from what forward has rounded.
  want.out = converted<double>(got.out);
  backward_ref(exact, want);
  expect_gradients_near(got, want, c.tk >= 8, what);
}

TEST_F(AttentionShortBf16, ItMatchesDoublePrecision) {
  std::vector<Case> list;
  for (int64_t t : {1,  2,  3,  7,  8,  9,  15, 16, 17, 24, 25,  31,  32,  33,  40, 41,
                    47, 48, 49, 56, 57, 64, 65, 72, 73, 97, 100, 112, 120, 127, 128})
    for (int64_t d : {16, 32, 48, 64}) list.push_back({1, t, t, 2, 2, d, d});
  for (int64_t tk : {1, 2, 5, 6, 7, 12, 13, 50, 51, 127})
    list.push_back({1, 49, tk, 2, 1, 16, 48});  // tiles of each height
  list.push_back({1, 128, 3, 4, 2, 64, 16});
  list.push_back({1, 3, 128, 4, 1, 32, 64});
  list.push_back({2, 49, 49, 6, 2, 16, 16});
  list.push_back({2, 90, 49, 6, 2, 16, 32});
  list.push_back({3, 50, 60, 2, 2, 16, 16, false, -1, -1, -1, {60, 17, 0}});
  list.push_back({3, 49, 49, 2, 1, 16, 16, false, -1, -1, -1, {99, 26, -1}});  // clamped
  list.push_back({20, 17, 18, 2, 1, 16, 16});                                  // a sample is a task
  list.push_back({2, 30, 30, 4, 2, 16, 16, false, -1, -1, 3});
  list.push_back({17, 30, 30, 4, 2, 16, 16, false, -1, -1, 1});  // kv head 1 has no query
  list.push_back({1, 30, 30, 2, 2, 16, 16, false, -1, -1, 0});
  for (const Case& c : list)
    for (bool packed : {true, false}) expect_right(c, packed);
}

TEST_F(AttentionShortBf16, TheScaleMayBeNegativeOrZero) {
  const Case c{.tq = 49, .tk = 49, .heads = 2, .kv_heads = 2, .dim = 16, .value_dim = 16};
  expect_right(c, true, -0.5);
  Arrays<bf16> a(c.problem(true, DType::bf16));
  a.randomise(22);
  AttentionProblem p = c.problem(true, DType::bf16);
  p.scale = 0;
  run_both(p, a);
  for (float x : a.lse) EXPECT_NEAR(x, std::log(49.0f), 1e-5f);
}

TEST_F(AttentionShortBf16, LargeScoresStayRight) {
  const Case c{.tq = 49, .tk = 50, .heads = 2, .kv_heads = 2, .dim = 16, .value_dim = 16};
  for (const float factor : {1e4f, 1e30f}) {
    for (const double scale : {0.25, -0.3}) {
      AttentionProblem p = c.problem(true, DType::bf16), exact = c.problem(true, DType::f64);
      p.scale = exact.scale = scale;
      for (const bool want_lse : {false, true}) {
        p.want_lse = want_lse;
        Arrays<bf16> a(p);
        a.randomise(29, factor);
        Arrays<double> want(exact);
        want.copy_inputs(a);
        forward_ref(exact, want);
        run_plan(*plan_short_avx512bf16(p), a.forward());
        expect_near(a.out, want.out, 1e-2, "out");
        if (want_lse) expect_near(a.lse, want.lse, 3e-6, "lse");
      }
    }
  }
}

TEST_F(AttentionShortBf16, ArraysMayBeSlicesOfPackedRows) {
  for (int64_t heads : {1, 4}) {
    const Case c{.batch = 17,
                 .tq = 49,
                 .tk = 49,
                 .heads = heads,
                 .kv_heads = heads,
                 .dim = 16,
                 .value_dim = 16};
    const AttentionProblem dense = c.problem(true, DType::bf16);
    Arrays<bf16> want(dense);
    want.randomise(23);
    const int64_t width = 16 * heads, row = 3 * width, rows = c.batch * c.tq;
    AttentionProblem p = dense;
    p.q = p.k = p.v = p.dq = p.dk = p.dv = {.batch = 49 * row, .token = row, .head = 16};
    std::vector<bf16> qkv(static_cast<size_t>(rows * row)), gradients(qkv.size());
    const auto part = [&](std::vector<bf16>& all, int64_t r, int64_t which) {
      return all.data() + r * row + which * width;
    };
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(want.q.data() + r * width, width, part(qkv, r, 0));
      std::copy_n(want.k.data() + r * width, width, part(qkv, r, 1));
      std::copy_n(want.v.data() + r * width, width, part(qkv, r, 2));
    }
    Arrays<bf16> got(dense);
    got.dout = want.dout;
    AttentionArgs forward = got.forward();
    AttentionBackwardArgs backward = got.backward();
    backward.q = forward.q = qkv.data();
    backward.k = forward.k = qkv.data() + width;
    backward.v = forward.v = qkv.data() + 2 * width;
    backward.dq = gradients.data();
    backward.dk = gradients.data() + width;
    backward.dv = gradients.data() + 2 * width;
    run_plan(*plan_short_avx512bf16(p), forward);
    run_plan(*plan_backward_short_avx512bf16(p), backward);
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(part(gradients, r, 0), width, got.dq.data() + r * width);
      std::copy_n(part(gradients, r, 1), width, got.dk.data() + r * width);
      std::copy_n(part(gradients, r, 2), width, got.dv.data() + r * width);
    }
    run_both(dense, want);
    EXPECT_TRUE(same_bits(got.out, want.out) && same_bits(got.lse, want.lse));
    EXPECT_TRUE(same_bits(got.dq, want.dq) && same_bits(got.dk, want.dk) &&
                same_bits(got.dv, want.dv));
  }
}

TEST_F(AttentionShortBf16, NothingIsWrittenBetweenTheRows) {
  const Case c{
      .batch = 2, .tq = 17, .tk = 9, .heads = 2, .kv_heads = 1, .dim = 16, .value_dim = 32};
  AttentionProblem p = c.problem(false, DType::bf16);
  const auto wider = [](AttentionStrides s, int64_t dim, int64_t tokens, int64_t heads) {
    s.token = dim + 8;
    s.head = tokens * s.token;
    s.batch = heads * s.head;
    return s;
  };
  Arrays<bf16> a(p);
  a.randomise(24);
  p.out = wider(p.out, 32, 17, 2);
  p.dq = wider(p.dq, 16, 17, 2);
  p.dk = wider(p.dk, 16, 9, 1);
  p.dv = wider(p.dv, 32, 9, 1);
  const auto untouched = [](const AttentionStrides& s) {
    return std::vector<bf16>(static_cast<size_t>(2 * s.batch), bf16(7.0f));
  };
  auto out = untouched(p.out), dq = untouched(p.dq), dk = untouched(p.dk), dv = untouched(p.dv);
  AttentionArgs forward = a.forward();
  forward.out = out.data();
  run_plan(*plan_short_avx512bf16(p), forward);
  AttentionBackwardArgs backward = a.backward();
  backward.out = out.data();
  backward.dq = dq.data();
  backward.dk = dk.data();
  backward.dv = dv.data();
  run_plan(*plan_backward_short_avx512bf16(p), backward);
  const auto check = [](const std::vector<bf16>& x, const AttentionStrides& s) {
    for (size_t i = 0; i < x.size(); ++i) {
      const bool between = static_cast<int64_t>(i) % s.token >= s.token - 8;
      ASSERT_TRUE(!between || static_cast<float>(x[i]) == 7.0f);
    }
  };
  check(out, p.out);
  check(dq, p.dq);
  check(dk, p.dk);
  check(dv, p.dv);
}

TEST_F(AttentionShortBf16, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (int64_t batch : {2, 37}) {
    const Case c{
        .batch = batch, .tq = 49, .tk = 49, .heads = 4, .kv_heads = 2, .dim = 16, .value_dim = 32};
    const AttentionProblem p = c.problem(true, DType::bf16);
    Arrays<bf16> inputs(p);
    inputs.randomise(25);
    expect_same_bits(inputs, {2, 3, 4},
                     [&](Arrays<bf16>& a, int threads) { run_both(p, a, threads); });
  }
}

TEST_F(AttentionShortBf16, ASampleWithoutKeysGivesZeroAndMinusInfinityAndNoGradient) {
  const Case c{.tq = 49, .tk = 20, .dim = 16, .value_dim = 16, .lengths = {0}};
  const AttentionProblem p = c.problem(true, DType::bf16);
  Arrays<bf16> a(p);
  a.randomise(26);
  a.lengths = c.lengths;
  run_both(p, a);
  for (float x : a.lse) EXPECT_EQ(x, -INFINITY);
  for (const auto* array : {&a.out, &a.dq, &a.dk, &a.dv})
    for (bf16 x : *array) EXPECT_EQ(static_cast<float>(x), 0.0f);
}

TEST_F(AttentionShortBf16, WhatLiesBeyondAKeyLengthIsNeverUsed) {
  for (int32_t length : {18, 19}) {
    const Case c{.tq = 49, .tk = 49, .dim = 16, .value_dim = 16, .lengths = {length}};
    expect_lengths_hold(c, 27, /*gradients=*/true, run_on_one_thread);
  }
}

TEST_F(AttentionShortBf16, ANaNInAQueryReachesItsOutputAndNoOther) {
  const Case c{.tq = 49, .tk = 21, .dim = 16, .value_dim = 16};
  for (size_t query : {size_t{3}, size_t{47}, size_t{48}})
    expect_nan_stays_in_its_row(c, query, 28, /*gradients=*/true, run_on_one_thread);
}

TEST_F(AttentionShortBf16, ScoresOfTenThousandStayFinite) {
  const Case c{.tq = 49, .tk = 49, .heads = 2, .kv_heads = 2, .dim = 16, .value_dim = 16};
  const AttentionProblem p = c.problem(true, DType::bf16);
  Arrays<bf16> a(p);
  a.randomise(29, 1e4f);
  Arrays<double> want(p);
  want.copy_inputs(a);
  forward_ref(c.problem(true, DType::f64), want);
  run_both(p, a);
  expect_near(a.out, want.out, 1e-2, "out");
  expect_near(a.lse, want.lse, 3e-6, "lse");
  expect_finite(a, /*gradients=*/true, "scores of 10000");
}

TEST_F(AttentionShortBf16, TheLogSumExpIsNotWrittenUnlessWanted) {
  AttentionProblem p =
      Case{.tq = 49, .tk = 49, .dim = 16, .value_dim = 16}.problem(true, DType::bf16);
  Arrays<bf16> a(p);
  a.randomise(30);
  p.want_lse = false;
  run_plan(*plan_short_avx512bf16(p), a.forward());
  for (float x : a.lse) EXPECT_TRUE(std::isnan(x));
  p.want_lse = true;
  AttentionArgs args = a.forward();
  args.lse = nullptr;
  run_plan(*plan_short_avx512bf16(p), args);
}

TEST_F(AttentionShortBf16, WhatItDoesNotSupportIsLeftToTheOthers) {
  const auto taken = [](Case c, DType dtype = DType::bf16) {
    if (c.dim == 8) c.dim = c.value_dim = 16;
    const AttentionProblem p = c.problem(true, dtype);
    const bool forward = plan_short_avx512bf16(p) != nullptr;
    EXPECT_EQ(forward, plan_backward_short_avx512bf16(p) != nullptr);
    return forward;
  };
  EXPECT_TRUE(taken({.tq = 128, .tk = 128}));
  EXPECT_FALSE(taken({.tq = 129}));
  EXPECT_FALSE(taken({.tk = 129}));
  EXPECT_TRUE(taken({.dim = 64, .value_dim = 64}));
  EXPECT_FALSE(taken({.dim = 80, .value_dim = 16}));
  EXPECT_FALSE(taken({.dim = 16, .value_dim = 80}));
  EXPECT_FALSE(taken({.dim = 24, .value_dim = 16}));
  EXPECT_FALSE(taken({.dim = 16, .value_dim = 24}));
  EXPECT_FALSE(taken({.causal = true}));
  EXPECT_FALSE(taken({.left = 3}));
  EXPECT_FALSE(taken({.right = 0}));
  EXPECT_FALSE(taken({}, DType::f32));
  EXPECT_FALSE(taken({}, DType::f64));
}

TEST(AttentionShortBf16Everywhere, AProblemThatMakesNoSenseIsAnError) {
  const AttentionProblem p = Case{.heads = 3, .kv_heads = 2}.problem(true, DType::bf16);
  EXPECT_THROW(plan_short_avx512bf16(p), Error);
  EXPECT_THROW(plan_backward_short_avx512bf16(p), Error);
}

}  // namespace
}  // namespace fovea

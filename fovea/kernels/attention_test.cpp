#include "fovea/kernels/attention_test.h"

#include "fovea/base/error.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::backward_ref;
using attention_test::Case;
using attention_test::expect_near;
using attention_test::forward_ref;
using attention_test::plan_backward;
using attention_test::run_plan;

constexpr double kInf = std::numeric_limits<double>::infinity();

// batch, tq, tk, heads, kv_heads, dim, value_dim
std::vector<Case> cases() {
  std::vector<Case> list;
  for (int64_t t : {1, 7, 49, 130})
    for (int64_t d : {8, 16, 20, 64, 80}) list.push_back({1, t, t, 2, 2, d, d});
  list.push_back({2, 49, 49, 4, 4, 16, 16, true});
  list.push_back({2, 33, 70, 4, 2, 20, 12});                  // grouped, Dv != D
  list.push_back({1, 9, 13, 6, 1, 5, 3});                     // one key/value head
  list.push_back({1, 40, 150, 2, 1, 16, 24, true});           // tq < tk
  list.push_back({1, 150, 40, 2, 1, 16, 24, true});           // tq > tk: empty rows
  list.push_back({1, 130, 130, 2, 2, 16, 16, true, 10});      // causal sliding window
  list.push_back({1, 130, 140, 2, 2, 16, 16, false, 20, 5});  // both sides
  list.push_back({1, 90, 30, 1, 1, 8, 8, false, 3, 3});       // empty rows at the start
  list.push_back({1, 70, 70, 1, 1, 8, 8, false, -1, 0});      // as causal
  list.push_back({1, 21, 37, 2, 2, 8, 8, false, 0, 0});       // one key each
  list.push_back({3, 50, 60, 2, 2, 16, 16, false, -1, -1, -1, {60, 17, 0}});
  list.push_back({3, 60, 60, 2, 1, 16, 16, true, 30, -1, -1, {99, 25, 1}});  // 99: clamped
  list.push_back({2, 30, 30, 4, 2, 16, 16, false, -1, -1, 3});
  list.push_back({2, 30, 30, 4, 2, 16, 16, true, -1, -1, 1});  // a key/value head without queries
  list.push_back({1, 30, 30, 2, 2, 16, 16, false, -1, -1, 0});
  list.push_back({1, 70, 1100, 2, 1, 24, 40, true});  // several spans of keys
  list.push_back({1, 17, 33, 1, 1, 256, 256});
  // Packed, these rows lie far enough apart to be copied together.
  list.push_back({1, 140, 140, 4, 4, 80, 80, true});
  list.push_back({2, 30, 150, 16, 16, 20, 18, false, 40, 3, -1, {150, 90}});
  list.push_back({1, 20, 600, 16, 16, 20, 20});
  return list;
}

TEST(Attention, TheListIsBestFirstAndEndsWithTheReference) {
  const std::vector<std::string_view> order = {"short_avx512bf16",
                                               "tiled_avx512bf16",
                                               "tiled_avx512vnni",
                                               "decode_avx512bf16",
                                               "short_avx3",
                                               "short_avx2",
                                               "short_sse4",
                                               "decode_avx3",
                                               "decode_avx2",
                                               "decode_sse4",
                                               "hwy_avx3",
                                               "hwy_avx2",
                                               "hwy_sse4",
                                               "strip_avx3",
                                               "strip_avx2",
                                               "strip_sse4",
                                               "ref"};
  const auto check = [&](const auto& list) {
    ASSERT_FALSE(list.empty());
    EXPECT_EQ(list.back().name, "ref");
    size_t at = 0;
    for (const auto& kernel : list) {
      while (at < order.size() && order[at] != kernel.name) ++at;
      EXPECT_LT(at, order.size()) << kernel.name;
    }
  };
  check(attention_kernels());
  check(attention_backward_kernels());
  const auto alone =
      std::count_if(attention_kernels().begin(), attention_kernels().end(), [](const auto& kernel) {
        return kernel.name.starts_with("decode") || kernel.name == "tiled_avx512vnni";
      });
  EXPECT_EQ(attention_kernels().size() - static_cast<size_t>(alone),
            attention_backward_kernels().size());
}

TEST(Attention, EveryKernelMatchesDoublePrecision) {
  for (const Case& c : cases()) {
    for (bool packed : {true, false}) {
      Arrays<float> a(c.problem(packed, DType::f32));
      a.randomise(1);
      a.lengths = c.lengths;
      Arrays<double> want(c.problem(packed, DType::f64));
      want.copy_inputs(a);
      forward_ref(c.problem(packed, DType::f64), want);
      for (const AttentionKernel& kernel : attention_kernels()) {
        Arrays<float> got(c.problem(packed, DType::f32));
        got.copy_inputs(a);
        const auto plan = kernel.plan(c.problem(packed, DType::f32));
        if (!plan) continue;
        run_plan(*plan, got.forward());
        const std::string what = c.text(kernel.name, packed);
        expect_near(got.out, want.out, 3e-6, what + " out");
        expect_near(got.lse, want.lse, 3e-6, what + " lse");
      }
    }
  }
}

TEST(Attention, EveryGradientMatchesDoublePrecision) {
  for (const Case& c : cases()) {
    for (bool packed : {true, false}) {
      const AttentionProblem p = c.problem(packed, DType::f32);
      Arrays<float> a(p);
      a.randomise(2);
      a.lengths = c.lengths;
      Arrays<double> want(p);
      want.copy_inputs(a);
      forward_ref(c.problem(packed, DType::f64), want);
      backward_ref(c.problem(packed, DType::f64), want);
      for (const AttentionBackwardKernel& kernel : attention_backward_kernels()) {
        Arrays<float> got(p);
        got.copy_inputs(a);
        got.out.assign(want.out.begin(), want.out.end());
        got.lse.assign(want.lse.begin(), want.lse.end());
        const auto plan = kernel.plan(p);
        if (!plan) continue;
        run_plan(*plan, got.backward());
        const std::string what = c.text(kernel.name, packed);
        // Where the terms of dP - delta cancel (one key seen), their size counts, not the result's.
        constexpr double kTerms = 0.1;
        expect_near(got.dq, want.dq, 1e-5, what + " dq", kTerms);
        expect_near(got.dk, want.dk, 1e-5, what + " dk", kTerms);
        expect_near(got.dv, want.dv, 1e-5, what + " dv");
      }
    }
  }
}

TEST(Attention, TheReferenceGradientMatchesFiniteDifferences) {
  std::vector<Case> list = {{1, 4, 6, 4, 2, 3, 2, true},
                            {2, 5, 3, 2, 1, 2, 3, true, 2, -1, 1, {3, 1}}};
  for (const Case& c : list) {
    const AttentionProblem p = c.problem(true, DType::f64);
    Arrays<double> a(p);
    a.randomise(3);
    a.lengths = c.lengths;
    forward_ref(p, a);
    backward_ref(p, a);
    const auto loss = [&] {
      Arrays<double> moved(p);
      moved.copy_inputs(a);
      forward_ref(p, moved);
      double sum = 0;
      for (size_t i = 0; i < moved.out.size(); ++i) sum += moved.out[i] * a.dout[i];
      return sum;
    };
    const std::pair<std::vector<double>*, std::vector<double>*> pairs[] = {
        {&a.q, &a.dq}, {&a.k, &a.dk}, {&a.v, &a.dv}};
    for (const auto& [values, gradient] : pairs) {
      for (size_t i = 0; i < values->size(); ++i) {
        constexpr double kStep = 1e-5;
        const double x = (*values)[i];
        (*values)[i] = x + kStep;
        const double above = loss();
        (*values)[i] = x - kStep;
        const double below = loss();
        (*values)[i] = x;
        EXPECT_NEAR((*gradient)[i], (above - below) / (2 * kStep), 1e-8) << c.text("ref", true);
      }
    }
  }
}

TEST(Attention, AQueryWithoutKeysGivesZeroAndMinusInfinityAndNoGradient) {
  const Case c{.tq = 60, .tk = 20, .dim = 16, .value_dim = 16, .causal = true};  // 40 empty rows
  const AttentionProblem p = c.problem(true, DType::f32);
  for (size_t which = 0; which < attention_kernels().size(); ++which) {
    if (!attention_kernels()[which].plan(p)) continue;
    Arrays<float> a(p);
    a.randomise(4);
    run_plan(*attention_kernels()[which].plan(p), a.forward());
    run_plan(*plan_backward(attention_kernels()[which].name, p), a.backward());
    for (size_t i = 0; i < 40; ++i) {
      EXPECT_EQ(static_cast<double>(a.lse[i]), -kInf);
      for (size_t d = 0; d < 16; ++d) {
        EXPECT_EQ(a.out[i * 16 + d], 0.0f);
        EXPECT_EQ(a.dq[i * 16 + d], 0.0f);
      }
    }
    for (const auto* array : {&a.out, &a.dq, &a.dk, &a.dv})
      for (float x : *array) EXPECT_TRUE(std::isfinite(x));
  }
}

TEST(Attention, ScoresOfTenThousandStayFinite) {
  // Scores are known to about 1e-3 in fp32 here, and so are the probabilities.
  const Case c{.tq = 50, .tk = 70, .heads = 2, .kv_heads = 2, .dim = 16, .value_dim = 16};
  const AttentionProblem p = c.problem(true, DType::f32);
  Arrays<float> a(p);
  a.randomise(5, 1e4f);
  Arrays<double> want(p);
  want.copy_inputs(a);
  forward_ref(c.problem(true, DType::f64), want);
  backward_ref(c.problem(true, DType::f64), want);
  for (size_t which = 0; which < attention_kernels().size(); ++which) {
    if (!attention_kernels()[which].plan(p)) continue;
    const std::string name(attention_kernels()[which].name);
    Arrays<float> got(p);
    got.copy_inputs(a);
    run_plan(*attention_kernels()[which].plan(p), got.forward());
    run_plan(*plan_backward(attention_kernels()[which].name, p), got.backward());
    expect_near(got.out, want.out, 1e-2, name + " out");
    expect_near(got.lse, want.lse, 3e-6, name + " lse");
    expect_near(got.dv, want.dv, 1e-2, name + " dv");
    for (const auto* array : {&got.dq, &got.dk})
      for (float x : *array) EXPECT_TRUE(std::isfinite(x)) << name;
  }
}

TEST(Attention, TheBitsAreTheSameForAnyNumberOfThreads) {
  const Case c{.batch = 2,
               .tq = 230,
               .tk = 190,
               .heads = 4,
               .kv_heads = 2,
               .dim = 20,
               .value_dim = 16,
               .causal = true};
  const AttentionProblem p = c.problem(true, DType::f32);
  Arrays<float> inputs(p);
  inputs.randomise(6);
  expect_same_bits(p, inputs, {2, 3, 4});
}

TEST(Attention, WhatLiesBeyondAKeyLengthIsNeverUsed) {
  const Case c{.batch = 2, .tq = 20, .tk = 30, .dim = 16, .value_dim = 16, .lengths = {9, 30}};
  const AttentionProblem p = c.problem(true, DType::f32);
  for (size_t which = 0; which < attention_kernels().size(); ++which) {
    if (!attention_kernels()[which].plan(p)) continue;
    Arrays<float> a(p);
    a.randomise(7);
    a.lengths = c.lengths;
    for (size_t i = 9 * 16; i < 30 * 16; ++i) a.k[i] = a.v[i] = NAN;
    run_plan(*attention_kernels()[which].plan(p), a.forward());
    run_plan(*plan_backward(attention_kernels()[which].name, p), a.backward());
    for (const auto* array : {&a.out, &a.dq, &a.dk, &a.dv})
      for (float x : *array) EXPECT_TRUE(std::isfinite(x));
    for (size_t i = 9 * 16; i < 30 * 16; ++i) {
      EXPECT_EQ(a.dk[i], 0.0f);
      EXPECT_EQ(a.dv[i], 0.0f);
    }
  }
}

TEST(Attention, ANaNInAQueryReachesItsOutputAndNoOther) {
  const Case c{.tq = 20, .tk = 20, .dim = 16, .value_dim = 16};
  const AttentionProblem p = c.problem(true, DType::f32);
  for (const AttentionKernel& kernel : attention_kernels()) {
    if (!kernel.plan(p)) continue;
    Arrays<float> a(p);
    a.randomise(8);
    a.q[3 * 16 + 5] = NAN;
    run_plan(*kernel.plan(p), a.forward());
    for (size_t i = 0; i < a.out.size(); ++i)
      EXPECT_EQ(std::isnan(a.out[i]), i / 16 == 3) << kernel.name;
  }
}

TEST(Attention, TheLogSumExpIsNotWrittenUnlessWanted) {
  AttentionProblem p = Case{.tq = 20, .tk = 20}.problem(true, DType::f32);
  for (const AttentionKernel& kernel : attention_kernels()) {
    if (!kernel.plan(p)) continue;
    p.want_lse = false;
    Arrays<float> a(p);
    a.randomise(9);
    run_plan(*kernel.plan(p), a.forward());
    for (float x : a.lse) EXPECT_TRUE(std::isnan(x)) << kernel.name;
    p.want_lse = true;
    AttentionArgs args = a.forward();
    args.lse = nullptr;
    run_plan(*kernel.plan(p), args);
  }
}

TEST(Attention, WhatSimdDoesNotSupportIsLeftToTheReference) {
  const auto who = [](const AttentionProblem& p) {
    std::string names;
    for (const AttentionKernel& kernel : attention_kernels())
      if (kernel.plan(p)) names += kernel.name;
    std::string backward;
    for (const AttentionBackwardKernel& kernel : attention_backward_kernels())
      if (kernel.plan(p)) backward += kernel.name;
    EXPECT_EQ(names, backward);
    return names;
  };
  EXPECT_EQ(who(Case{}.problem(true, DType::f64)), "ref");
  EXPECT_EQ(who(Case{.dim = 257}.problem(true, DType::f32)), "ref");
  EXPECT_EQ(who(Case{.value_dim = 257}.problem(true, DType::f32)), "ref");
  EXPECT_EQ(who(Case{}.problem(true, DType::f16)), "");
}

TEST(Attention, AWrongProblemIsAnErrorThatNamesIt) {
  const auto expect_error = [](auto change, const std::string& named) {
    AttentionProblem p =
        Case{.batch = 2, .tq = 3, .tk = 3, .heads = 4, .kv_heads = 2}.problem(true, DType::f32);
    change(p);
    for (const AttentionBackwardKernel& kernel : attention_backward_kernels()) {
      try {
        kernel.plan(p);
        ADD_FAILURE() << kernel.name << ": no error for " << named;
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
        EXPECT_NE(std::string(e.what()).find(named), std::string::npos) << e.what();
      }
    }
  };
  expect_error([](auto& p) { p.tq = 0; }, "tq");
  expect_error([](auto& p) { p.tk = int64_t{1} << 31; }, "tk");
  expect_error([](auto& p) { p.head_dim = -1; }, "head_dim");
  expect_error([](auto& p) { p.kv_heads = 3; }, "multiple of kv_heads");
  expect_error([](auto& p) { p.heads_kept = 5; }, "heads_kept");
  expect_error([](auto& p) { p.window_left = -2; }, "windows");
  expect_error([](auto& p) { p.scale = NAN; }, "scale");
  expect_error([](auto& p) { p.q.token = -1; }, "strides of q");
  expect_error([](auto& p) { p.dk.head = 7; }, "strides of dk");
  AttentionProblem p = Case{.tq = 3}.problem(true, DType::f32);
  p.out.token = 0;
  for (const AttentionKernel& kernel : attention_kernels()) EXPECT_THROW(kernel.plan(p), Error);
}

}  // namespace
}  // namespace fovea

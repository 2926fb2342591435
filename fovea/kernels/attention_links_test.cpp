// Every mask, bias and normaliser of attention, alone and together, in every kernel against the
// reference in double precision; and the reference against finite differences.
#include <numeric>

#include "fovea/base/test_errors.h"
#include "fovea/kernels/attention_random_test.h"
#include "fovea/kernels/attention_seen.h"
#include "fovea/kernels/leaf_test.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::backward_ref;
using attention_test::Dice;
using attention_test::expect_near;
using attention_test::forward_ref;
using attention_test::plan_backward;
using attention_test::random_problem;
using attention_test::randomise_links;
using attention_test::run_plan;
using attention_test::text_of;
using leaf::same_bits;

// Runs of rounding are measured by the largest value; sums over many links by that of their terms.
template <class T>
void expect_kernels_match(uint64_t seed, double tolerance, double gradient_tolerance) {
  constexpr DType kType = std::is_same_v<T, float> ? DType::f32 : DType::bf16;
  Dice dice(seed);
  AttentionProblem p = random_problem(dice, 200);
  Arrays<T> a(p);
  a.randomise(seed);
  randomise_links(dice, p, a);
  AttentionProblem in_double = p;
  in_double.dtype = DType::f64;
  p.dtype = kType;
  Arrays<double> want(in_double);
  want.copy_inputs(a);
  forward_ref(in_double, want);
  for (const AttentionKernel& kernel : attention_kernels()) {
    const auto plan = kernel.plan(p);
    if (!plan) continue;
    Arrays<T> got(p);
    got.copy_inputs(a);
    run_plan(*plan, got.forward());
    const std::string what =
        "seed " + std::to_string(seed) + " " + std::string(kernel.name) + text_of(p);
    expect_near(got.out, want.out, tolerance, what + " out", 0.1);
    expect_near(got.lse, want.lse, tolerance, what + " lse", 1);
  }
  // From the same results as the kernels get, so that only the gradient's own errors count.
  Arrays<T> forward(p);
  forward.copy_inputs(a);
  run_plan(*attention_kernels().back().plan(p), forward.forward());
  want.out = attention_test::converted<double>(forward.out);
  want.lse.assign(forward.lse.begin(), forward.lse.end());
  backward_ref(in_double, want);
  for (const AttentionBackwardKernel& kernel : attention_backward_kernels()) {
    const auto plan = kernel.plan(p);
    if (!plan) continue;
    Arrays<T> got(p);
    got.copy_inputs(a);
    got.out = forward.out;
    got.lse = forward.lse;
    run_plan(*plan, got.backward());
    const std::string what =
        "seed " + std::to_string(seed) + " " + std::string(kernel.name) + text_of(p);
    expect_near(got.dq, want.dq, gradient_tolerance, what + " dq", 1);
    expect_near(got.dk, want.dk, gradient_tolerance, what + " dk", 1);
    expect_near(got.dv, want.dv, gradient_tolerance, what + " dv", 1);
    expect_near(got.dbias, want.dbias, gradient_tolerance, what + " dbias", 1);
    expect_near(got.ddistances, want.ddistances, gradient_tolerance, what + " distances", 1);
    expect_near(got.dsinks, want.dsinks, gradient_tolerance, what + " sinks", 1);
  }
}

TEST(AttentionLinks, EveryCombinationMatchesDoublePrecision) {
  for (uint64_t seed = 1; seed <= 300 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match<float>(seed, 3e-6, 2e-5);
}

TEST(AttentionLinks, EveryCombinationMatchesInBf16) {
  for (uint64_t seed = 1001; seed <= 1100 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match<bf16>(seed, 2e-2, 4e-2);
}

TEST(AttentionLinks, TheReferencesGradientsMatchFiniteDifferences) {
  for (uint64_t seed = 2001; seed <= 2040; ++seed) {
    Dice dice(seed);
    AttentionProblem p = random_problem(dice, 9);
    p.dtype = DType::f64;
    Arrays<double> a(p);
    a.randomise(seed);
    randomise_links(dice, p, a);
    for (double& x : a.bias) x = std::isinf(x) ? -3 : x;
    forward_ref(p, a);
    backward_ref(p, a);
    const auto loss = [&] {
      Arrays<double> moved(p);
      moved.copy_inputs(a);
      forward_ref(p, moved);
      return std::inner_product(moved.out.begin(), moved.out.end(), a.dout.begin(), 0.0);
    };
    const std::pair<std::vector<double>*, std::vector<double>*> pairs[] = {
        {&a.q, &a.dq},       {&a.k, &a.dk},         {&a.v, &a.dv},
        {&a.bias, &a.dbias}, {&a.sinks, &a.dsinks}, {&a.distances, &a.ddistances}};
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
            << "seed " << seed << text_of(p);
      }
    }
  }
}

TEST(AttentionLinks, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (uint64_t seed = 3001; seed <= 3030; ++seed) {
    Dice dice(seed);
    const AttentionProblem p = random_problem(dice, 150);
    Arrays<float> a(p);
    a.randomise(seed);
    randomise_links(dice, p, a);
    for (const AttentionKernel& kernel : attention_kernels()) {
      const auto forward = kernel.plan(p);
      const auto backward = plan_backward(kernel.name, p);
      if (!forward || !backward) continue;
      const auto run = [&](int threads) {
        Arrays<float> got(p);
        got.copy_inputs(a);
        run_plan(*forward, got.forward(), threads);
        run_plan(*backward, got.backward(), threads);
        return got;
      };
      const Arrays<float> one = run(1), three = run(3);
      EXPECT_TRUE(same_bits(one.out, three.out) && same_bits(one.lse, three.lse)) << seed;
      EXPECT_TRUE(same_bits(one.dq, three.dq) && same_bits(one.dk, three.dk) &&
                  same_bits(one.dv, three.dv));
      EXPECT_TRUE(same_bits(one.dbias, three.dbias) &&
                  same_bits(one.ddistances, three.ddistances) &&
                  same_bits(one.dsinks, three.dsinks));
    }
  }
}

TEST(AttentionLinks, TheBlocksThatARunOfQueriesTouchesHoldAllThatTheySee) {
  for (uint64_t seed = 4001; seed <= 4200; ++seed) {
    Dice dice(seed);
    const AttentionProblem p = random_problem(dice, 60);
    Arrays<float> a(p);
    randomise_links(dice, p, a);
    const attention_detail::Seen seen(p, a.links(), 0);
    const int64_t first = dice.of(0, p.tq - 1), last = dice.of(first, p.tq - 1);
    const attention_detail::TouchedKeys touched(p, seen.of(first), seen.of(last));
    for (int64_t j = 0; j < p.tk; ++j) {
      const auto inside = [&](const attention_detail::KeyRange& r) {
        return j >= r.begin && j < r.end;
      };
      for (int64_t i = first; i <= last; ++i) {
        const bool sees = seen.of(i).sees(p, j);
        EXPECT_TRUE(!sees || inside(touched.low) || inside(touched.high)) << seed;
        EXPECT_TRUE(sees || !touched.full(j, 1)) << seed << text_of(p);
      }
    }
  }
}

TEST(AttentionLinks, WrongCombinationsNameBothOptions) {
  const auto expect = [](auto change, std::string_view first, std::string_view second) {
    AttentionProblem p{.tq = 8, .tk = 8};
    set_dense_strides(p, true);
    change(p);
    const Caught caught = error_of([&] { attention_kernels().back().plan(p); });
    EXPECT_EQ(caught.code, ErrorCode::invalid_argument);
    EXPECT_TRUE(contains(caught.what, first) && contains(caught.what, second)) << caught.what;
  };
  expect([](auto& p) { p.dilation = 2; }, "dilation=2", "window");
  expect([](auto& p) { p.dilation = 0; }, "dilation", "0");
  expect([](auto& p) { p.global_tokens = 3; }, "global_tokens=3", "window");
  expect([](auto& p) { p.prefix = 3; }, "prefix=3", "causal");
  expect([](auto& p) { p.prefix = -3; }, "prefix", "-3");
  expect([](auto& p) { p.documents = 2, p.tq = 7; }, "documents=2", "tq=7");
  expect([](auto& p) { p.block = 24; }, "block", "24");
  expect([](auto& p) { p.soft_cap = -1; }, "soft_cap", "-1");
  expect([](auto& p) { p.mask = true, p.mask_plane.query = 3; }, "mask", "at least 8");
  expect([](auto& p) { p.bias = true, p.bias_plane.head = -1; }, "bias", "head -1");
}

}  // namespace
}  // namespace fovea

// The learned span of each head: which keys it leaves, with every mask and bias, in every kernel,
// and its gradient.
#include <numeric>

#include "fovea/base/test_errors.h"
#include "fovea/kernels/attention_random_test.h"
#include "fovea/kernels/attention_seen.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::Dice;
using attention_test::expect_near;
using attention_test::LseType;
using attention_test::plan_backward;
using attention_test::run_plan;

// A problem with some of everything, and spans: of whole numbers or not, of none and of all.
template <class T>
struct Drawn {
  Drawn(uint64_t seed, int64_t most_tokens, DType dtype) : problem(draw(seed, most_tokens, dtype)) {
    arrays.randomise(seed);
    Dice dice(seed + 1);
    randomise_links(dice, problem, arrays);
  }
  AttentionProblem draw(uint64_t seed, int64_t most_tokens, DType dtype) {
    Dice dice(seed);
    AttentionProblem p = attention_test::random_problem(dice, most_tokens);
    p.dtype = dtype;
    p.cosine = dice.one_in(5);
    if (dice.one_in(5)) p.rotary = p.head_dim;
    p.span = true;
    p.span_ramp = dice.one_in(3) ? 0.5 : static_cast<double>(dice.of(1, 20)) * 1.25;
    for (int64_t h = 0; h < p.heads; ++h) {
      const auto some = static_cast<LseType<T>>(dice.of(0, most_tokens / 2));
      const auto part = static_cast<LseType<T>>(0.375);
      spans.push_back(dice.one_in(6) ? -static_cast<LseType<T>>(p.span_ramp) : some + part);
    }
    return p;
  }
  AttentionArgs with_spans(AttentionArgs args) const {
    args.links.spans = spans.data();
    return args;
  }
  AttentionBackwardArgs with_spans(AttentionBackwardArgs args,
                                   std::vector<LseType<T>>& dspans) const {
    dspans.assign(spans.size(), LseType<T>(NAN));
    args.links.spans = spans.data();
    args.dspans = dspans.data();
    return args;
  }

  std::vector<LseType<T>> spans;
  AttentionProblem problem;
  Arrays<T> arrays{problem};
};

std::string what_of(uint64_t seed, std::string_view kernel, const AttentionProblem& p) {
  return "seed " + std::to_string(seed) + " " + std::string(kernel) + attention_test::text_of(p) +
         " ramp " + std::to_string(p.span_ramp);
}

template <class T>
void expect_kernels_match(uint64_t seed, double tolerance, double gradient_tolerance) {
  const Drawn<T> x(seed, 200, std::is_same_v<T, float> ? DType::f32 : DType::bf16);
  const AttentionProblem& p = x.problem;
  Drawn<double> exact(seed, 200, DType::f64);
  Arrays<double> want(exact.problem);
  want.copy_inputs(x.arrays);
  run_plan(*attention_detail::plan_ref(exact.problem), exact.with_spans(want.forward()));
  for (const AttentionKernel& kernel : attention_kernels()) {
    const auto plan = kernel.plan(p);
    if (!plan) continue;
    Arrays<T> got(p);
    got.copy_inputs(x.arrays);
    run_plan(*plan, x.with_spans(got.forward()));
    const std::string what = what_of(seed, kernel.name, p);
    expect_near(got.out, want.out, tolerance, what + " out", 0.1);
    expect_near(got.lse, want.lse, tolerance, what + " lse", 1);
  }
  // From the same results as the kernels get, so that only the gradient's own errors count.
  Arrays<T> forward(p);
  forward.copy_inputs(x.arrays);
  run_plan(*attention_kernels().back().plan(p), x.with_spans(forward.forward()));
  want.out = attention_test::converted<double>(forward.out);
  want.lse.assign(forward.lse.begin(), forward.lse.end());
  std::vector<double> wanted;
  run_plan(*attention_detail::plan_backward_ref(exact.problem),
           exact.with_spans(want.backward(), wanted));
  for (const AttentionBackwardKernel& kernel : attention_backward_kernels()) {
    const auto plan = kernel.plan(p);
    if (!plan) continue;
    Arrays<T> got(p);
    got.copy_inputs(x.arrays);
    got.out = forward.out;
    got.lse = forward.lse;
    std::vector<LseType<T>> dspans;
    run_plan(*plan, x.with_spans(got.backward(), dspans));
    const std::string what = what_of(seed, kernel.name, p);
    expect_near(got.dq, want.dq, gradient_tolerance, what + " dq", 1);
    expect_near(got.dk, want.dk, gradient_tolerance, what + " dk", 1);
    expect_near(got.dv, want.dv, gradient_tolerance, what + " dv", 1);
    expect_near(got.dbias, want.dbias, gradient_tolerance, what + " dbias", 1);
    expect_near(got.ddistances, want.ddistances, gradient_tolerance, what + " distances", 1);
    // A link at the end of the ramp counts as much as 1 / what is left of it.
    expect_near(dspans, wanted, 10 * gradient_tolerance, what + " spans", 8);
  }
}

TEST(AttentionSpan, WithEveryCombinationMatchesDoublePrecision) {
  for (uint64_t seed = 1; seed <= 200 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match<float>(seed, 3e-6, 2e-5);
}

TEST(AttentionSpan, WithEveryCombinationMatchesInBf16) {
  for (uint64_t seed = 1001; seed <= 1060 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match<bf16>(seed, 2e-2, 4e-2);
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
    Drawn<double> x(seed, 9, DType::f64);
    Arrays<double>& a = x.arrays;
    for (double& b : a.bias) b = std::isinf(b) ? -3 : b;
    for (double& z : x.spans) z += 0.05;  // off the ends of the ramp
    const auto forward = attention_detail::plan_ref(x.problem);
    std::vector<double> dspans;
    run_plan(*forward, x.with_spans(a.forward()));
    run_plan(*attention_detail::plan_backward_ref(x.problem), x.with_spans(a.backward(), dspans));
    const auto loss = [&] {
      Arrays<double> moved(x.problem);
      moved.copy_inputs(a);
      run_plan(*forward, x.with_spans(moved.forward()));
      return std::inner_product(moved.out.begin(), moved.out.end(), a.dout.begin(), 0.0);
    };
    const std::pair<std::vector<double>*, std::vector<double>*> pairs[] = {
        {&a.q, &a.dq}, {&a.k, &a.dk}, {&a.v, &a.dv}, {&x.spans, &dspans}};
    for (const auto& [values, gradient] : pairs) {
      for (size_t n = 0; n < values->size(); n += 1 + values->size() / 12) {
        constexpr double kStep = 1e-5;
        const double at = (*values)[n];
        (*values)[n] = at + kStep;
        const double above = loss();
        (*values)[n] = at - kStep;
        const double below = loss();
        (*values)[n] = at;
        ASSERT_NEAR((*gradient)[n], (above - below) / (2 * kStep), 1e-7)
            << what_of(seed, "ref", x.problem);
      }
    }
  }
}

TEST(AttentionSpan, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (uint64_t seed = 3001; seed <= 3015; ++seed) {
    const Drawn<float> x(seed, 150, DType::f32);
    for (const AttentionKernel& kernel : attention_kernels()) {
      const auto forward = kernel.plan(x.problem);
      const auto backward = plan_backward(kernel.name, x.problem);
      if (!forward || !backward) continue;
      std::vector<float> dspans[2];
      std::vector<float> outs[2];
      for (int n = 0; n < 2; ++n) {
        Arrays<float> got(x.problem);
        got.copy_inputs(x.arrays);
        run_plan(*forward, x.with_spans(got.forward()), 1 + 2 * n);
        run_plan(*backward, x.with_spans(got.backward(), dspans[n]), 1 + 2 * n);
        outs[n] = got.out;
        outs[n].insert(outs[n].end(), got.dk.begin(), got.dk.end());
      }
      EXPECT_EQ(std::memcmp(dspans[0].data(), dspans[1].data(), 4 * dspans[0].size()), 0) << seed;
      EXPECT_EQ(std::memcmp(outs[0].data(), outs[1].data(), 4 * outs[0].size()), 0) << seed;
    }
  }
}

TEST(AttentionSpan, TheBlocksThatARunOfQueriesTouchesHoldAllThatTheySee) {
  for (uint64_t seed = 4001; seed <= 4100; ++seed) {
    const Drawn<float> x(seed, 60, DType::f32);
    const AttentionProblem& p = x.problem;
    AttentionLinks links = x.arrays.links();
    links.spans = x.spans.data();
    Dice dice(seed);
    for (int64_t head = 0; head < p.heads; ++head) {
      const attention_detail::Seen seen(p, links, 0, head);
      const attention_detail::HeadSpan span(p, links, head);
      const int64_t first = dice.of(0, p.tq - 1), last = dice.of(first, p.tq - 1);
      const attention_detail::TouchedKeys touched(p, seen.of(first), seen.of(last));
      for (int64_t j = 0; j < p.tk; ++j) {
        const auto inside = [&](const attention_detail::KeyRange& r) {
          return j >= r.begin && j < r.end;
        };
        for (int64_t i = first; i <= last; ++i) {
          const attention_detail::SeenKeys keys = seen.of(i);
          const bool sees = keys.sees(p, j);
          EXPECT_TRUE(!sees || inside(touched.low) || inside(touched.high)) << seed;
          EXPECT_TRUE(sees || !touched.full(j, 1)) << what_of(seed, "", p);
          if (sees) {
            EXPECT_GT(span.logarithm(std::abs(keys.position - j)), -HUGE_VAL);
          }
        }
      }
    }
  }
}

TEST(AttentionSpan, WrongCombinationsNameBothOptions) {
  const auto expect = [](bool span, double ramp, std::string_view first, std::string_view second) {
    AttentionProblem p{.tq = 8, .tk = 8, .span = span, .span_ramp = ramp};
    set_dense_strides(p, true);
    const Caught caught = error_of([&] { attention_kernels().back().plan(p); });
    EXPECT_EQ(caught.code, ErrorCode::invalid_argument);
    EXPECT_TRUE(contains(caught.what, first) && contains(caught.what, second)) << caught.what;
  };
  expect(false, 3, "span=false", "span_ramp=3");
  expect(true, 0, "span=true", "span_ramp=0");
  expect(true, -1, "span_ramp", "-1");
}

}  // namespace
}  // namespace fovea

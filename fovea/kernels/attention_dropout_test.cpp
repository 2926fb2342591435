// Dropout of attention's probabilities: which links it drops, in every kernel, with every mask and
// bias, and its gradients.
#include "fovea/kernels/attention_dropout.h"

#include <numeric>

#include "fovea/base/test_errors.h"
#include "fovea/kernels/attention_random_test.h"
#include "fovea/kernels/leaf_test.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::Dice;
using attention_test::expect_near;
using attention_test::plan_backward;
using attention_test::run_plan;
using leaf::same_bits;

// A problem with some of everything, and dropout.
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
    p.dropout = dice.one_in(5) ? 0.999 : dice.one_in(2) ? 0.1 : 0.5;
    p.stream = 0x123456789abcdef0ull * seed;
    // Elements beyond 2^32 too.
    rng = {static_cast<int32_t>(seed) - 7, 9,
           dice.one_in(2) ? static_cast<int32_t>(dice.of(0, 99)) : 1 << 30};
    return p;
  }
  template <class Args>
  Args with_rng(Args args) const {
    args.links.rng = rng.data();
    return args;
  }

  std::vector<int32_t> rng;
  AttentionProblem problem;
  Arrays<T> arrays{problem};
};

std::string what_of(uint64_t seed, std::string_view kernel, const AttentionProblem& p) {
  return "seed " + std::to_string(seed) + " " + std::string(kernel) + attention_test::text_of(p) +
         " dropout " + std::to_string(p.dropout);
}

template <class T>
void expect_kernels_match(uint64_t seed, double tolerance, double gradient_tolerance) {
  const Drawn<T> x(seed, 200, std::is_same_v<T, float> ? DType::f32 : DType::bf16);
  const AttentionProblem& p = x.problem;
  AttentionProblem in_double = p;
  in_double.dtype = DType::f64;
  Arrays<double> want(in_double);
  want.copy_inputs(x.arrays);
  run_plan(*attention_detail::plan_ref(in_double), x.with_rng(want.forward()));
  // What is kept is that much larger.
  const double factor = attention_detail::kept_factor(p);
  for (const AttentionKernel& kernel : attention_kernels()) {
    const auto plan = kernel.plan(p);
    if (!plan) continue;
    Arrays<T> got(p);
    got.copy_inputs(x.arrays);
    run_plan(*plan, x.with_rng(got.forward()));
    const std::string what = what_of(seed, kernel.name, p);
    expect_near(got.out, want.out, tolerance, what + " out", 0.1 * factor);
    expect_near(got.lse, want.lse, tolerance, what + " lse", 1);
  }
  // From the same results as the kernels get, so that only the gradient's own errors count.
  Arrays<T> forward(p);
  forward.copy_inputs(x.arrays);
  run_plan(*attention_kernels().back().plan(p), x.with_rng(forward.forward()));
  want.out = attention_test::converted<double>(forward.out);
  want.lse.assign(forward.lse.begin(), forward.lse.end());
  run_plan(*attention_detail::plan_backward_ref(in_double), x.with_rng(want.backward()));
  for (const AttentionBackwardKernel& kernel : attention_backward_kernels()) {
    const auto plan = kernel.plan(p);
    if (!plan) continue;
    Arrays<T> got(p);
    got.copy_inputs(x.arrays);
    got.out = forward.out;
    got.lse = forward.lse;
    run_plan(*plan, x.with_rng(got.backward()));
    const std::string what = what_of(seed, kernel.name, p);
    expect_near(got.dq, want.dq, gradient_tolerance, what + " dq", factor);
    expect_near(got.dk, want.dk, gradient_tolerance, what + " dk", factor);
    expect_near(got.dv, want.dv, gradient_tolerance, what + " dv", factor);
    expect_near(got.dbias, want.dbias, gradient_tolerance, what + " dbias", factor);
    expect_near(got.ddistances, want.ddistances, gradient_tolerance, what + " distances", factor);
    expect_near(got.dsinks, want.dsinks, gradient_tolerance, what + " sinks", factor);
  }
}

TEST(AttentionDropout, WithEveryCombinationMatchesDoublePrecision) {
  for (uint64_t seed = 1; seed <= 150 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match<float>(seed, 3e-6, 2e-5);
}

TEST(AttentionDropout, WithEveryCombinationMatchesInBf16) {
  for (uint64_t seed = 1001; seed <= 1060 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match<bf16>(seed, 2e-2, 4e-2);
}

TEST(AttentionDropout, DropsWhatTheOpDropoutDropsOfTheProbabilities) {
  // With a value for each key that no other key has, the result is the probabilities.
  for (const int64_t keys : {1, 7, 32, 61, 130, 200}) {
    AttentionProblem p{.batch = 2,
                       .tq = 59,
                       .tk = keys,
                       .heads = 3,
                       .kv_heads = 3,
                       .heads_kept = 3,
                       .head_dim = 4,
                       .value_dim = keys,
                       .dropout = 0.3,
                       .stream = stream_id("enc.0.attn"),
                       .want_lse = true};
    set_dense_strides(p, /*packed=*/false);
    const std::vector<int32_t> rng = {5, 11, 3};
    const int64_t links = p.heads * p.tq * p.tk;
    const std::vector<float> ones(static_cast<size_t>(p.batch * links), 1.0f);
    std::vector<float> kept(ones.size());
    const DropoutProblem dropout{DType::f32, p.batch, links, p.dropout, p.stream};
    run_plan(*dropout_kernels().back().plan(dropout), {ones.data(), rng.data(), kept.data()});
    Arrays<float> a(p);
    a.randomise(3);
    for (size_t i = 0; i < a.v.size(); ++i) {
      const auto n = static_cast<int64_t>(i);
      a.v[i] = n % keys == n / keys % keys ? 1.0f : 0.0f;
    }
    for (const AttentionKernel& kernel : attention_kernels()) {
      const auto plan = kernel.plan(p);
      if (!plan) continue;
      AttentionArgs args = a.forward();
      args.links.rng = rng.data();
      run_plan(*plan, args, 2);
      for (size_t i = 0; i < kept.size(); ++i)
        ASSERT_EQ(a.out[i] != 0, kept[i] != 0) << kernel.name << " " << keys << " [" << i << "]";
    }
  }
}

TEST(AttentionDropout, GradientsMatchFiniteDifferences) {
  for (uint64_t seed = 2001; seed <= 2030; ++seed) {
    Drawn<double> x(seed, 9, DType::f64);
    if (x.problem.dropout > 0.9) continue;
    Arrays<double>& a = x.arrays;
    for (double& b : a.bias) b = std::isinf(b) ? -3 : b;
    const auto forward = attention_detail::plan_ref(x.problem);
    run_plan(*forward, x.with_rng(a.forward()));
    run_plan(*attention_detail::plan_backward_ref(x.problem), x.with_rng(a.backward()));
    const auto loss = [&] {
      Arrays<double> moved(x.problem);
      moved.copy_inputs(a);
      run_plan(*forward, x.with_rng(moved.forward()));
      return std::inner_product(moved.out.begin(), moved.out.end(), a.dout.begin(), 0.0);
    };
    const std::pair<std::vector<double>*, std::vector<double>*> pairs[] = {
        {&a.q, &a.dq},       {&a.k, &a.dk},         {&a.v, &a.dv},
        {&a.bias, &a.dbias}, {&a.sinks, &a.dsinks}, {&a.distances, &a.ddistances}};
    for (const auto& [values, gradient] : pairs) {
      for (size_t n = 0; n < values->size(); n += 1 + values->size() / 12) {
        constexpr double kStep = 1e-5;
        const double at = (*values)[n];
        (*values)[n] = at + kStep;
        const double above = loss();
        (*values)[n] = at - kStep;
        const double below = loss();
        (*values)[n] = at;
        ASSERT_NEAR((*gradient)[n], (above - below) / (2 * kStep), 4e-8)
            << what_of(seed, "ref", x.problem);
      }
    }
  }
}

TEST(AttentionDropout, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (uint64_t seed = 3001; seed <= 3015; ++seed) {
    const Drawn<float> x(seed, 150, DType::f32);
    for (const AttentionKernel& kernel : attention_kernels()) {
      const auto forward = kernel.plan(x.problem);
      const auto backward = plan_backward(kernel.name, x.problem);
      if (!forward || !backward) continue;
      const auto run = [&](int threads) {
        Arrays<float> got(x.problem);
        got.copy_inputs(x.arrays);
        run_plan(*forward, x.with_rng(got.forward()), threads);
        run_plan(*backward, x.with_rng(got.backward()), threads);
        return got;
      };
      const Arrays<float> one = run(1), three = run(3);
      EXPECT_TRUE(same_bits(one.out, three.out) && same_bits(one.dq, three.dq)) << seed;
      EXPECT_TRUE(same_bits(one.dk, three.dk) && same_bits(one.dv, three.dv)) << seed;
    }
  }
}

TEST(AttentionDropout, ARateThatIsNoShareIsAnError) {
  for (const double rate : {-0.1, 1.0, static_cast<double>(NAN)}) {
    AttentionProblem p{.tq = 8, .tk = 8, .dropout = rate};
    set_dense_strides(p, true);
    expect_error(ErrorCode::invalid_argument, "dropout from 0 up to",
                 [&] { attention_kernels().back().plan(p); });
  }
}

}  // namespace
}  // namespace fovea

// Dropout of attention's probabilities: which links it drops, in every kernel, with every mask and
// bias, and its gradients.
#include "fovea/kernels/attention_dropout.h"

#include "fovea/kernels/attention_checks_test.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::Dice;
using attention_test::Drawn;
using attention_test::run_plan;

// A problem with some of everything, and dropout.
template <class T>
Drawn<T> draw(uint64_t seed, int64_t most_tokens) {
  Dice dice(seed);
  AttentionProblem p = attention_test::random_problem(dice, most_tokens);
  p.cosine = dice.one_in(5);
  if (dice.one_in(5)) p.rotary = p.head_dim;
  p.dropout = dice.one_in(5) ? 0.999 : dice.one_in(2) ? 0.1 : 0.5;
  p.stream = 0x123456789abcdef0ull * seed;
  Drawn<T> x(seed, p);
  // Elements beyond 2^32 too.
  x.arrays.rng = {static_cast<int32_t>(seed) - 7, 9,
                  dice.one_in(2) ? static_cast<int32_t>(dice.of(0, 99)) : 1 << 30};
  Dice of_links(seed + 1);
  randomise_links(of_links, p, x.arrays);
  return x;
}

TEST(AttentionDropout, WithEveryCombinationMatchesDoublePrecision) {
  for (uint64_t seed = 1; seed <= 150 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match(draw<float>(seed, 200), {3e-6, 2e-5});
}

TEST(AttentionDropout, WithEveryCombinationMatchesInBf16) {
  for (uint64_t seed = 1001; seed <= 1060 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match(draw<bf16>(seed, 200), {2e-2, 4e-2});
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
    Drawn<double> x = draw<double>(seed, 9);
    if (x.problem.dropout > 0.9) continue;
    for (double& b : x.arrays.bias) b = std::isinf(b) ? -3 : b;
    expect_finite_differences(x, 4e-8);
  }
}

TEST(AttentionDropout, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (uint64_t seed = 3001; seed <= 3015; ++seed) expect_same_bits(draw<float>(seed, 150));
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

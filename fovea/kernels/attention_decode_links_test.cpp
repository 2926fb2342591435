// Decoding with masks, biases, sinks and the cap, over caches of all kinds.
#include "fovea/kernels/attention_decode_test.h"
#include "fovea/kernels/attention_random_test.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::Cache;
using attention_test::Dice;
using attention_test::expect_right;
using attention_test::Numbers;
using attention_test::pick;

Cache random_cache(Dice& dice) {
  constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::i8};
  Cache cache;
  cache.dtype = dice.one_in(2) ? DType::f32 : DType::bf16;
  cache.kv_dtype = kTypes[dice.of(0, 2)];
  if (dice.one_in(2)) cache.page_tokens = pick(dice, {1, 16, 48});
  cache.packed = dice.one_in(2);
  cache.want_lse = dice.one_in(2);
  return cache;
}

Arrays<float> random_arrays(Dice& dice, const AttentionProblem& p, uint64_t seed) {
  Arrays<float> a(p);
  a.randomise(seed);
  attention_test::randomise_links(dice, p, a);
  if (p.temperature)
    for (int64_t h = 0; h < p.heads; ++h) a.temperatures.push_back(0.5f + std::abs(dice.normal()));
  return a;
}

TEST(AttentionDecodeLinks, EveryKernelMatchesDoublePrecisionOverRandomProblems) {
  const uint64_t seed = attention_test::seed_of_run();
  Dice dice(seed);
  std::vector<int> runs(attention_kernels().size());
  for (uint64_t i = 0; i < 250; ++i) {
    AttentionProblem p = attention_test::random_problem(dice, 700, 9);
    p.temperature = dice.one_in(4);
    const Cache cache = random_cache(dice);
    const Numbers numbers(p, random_arrays(dice, p, seed + i), cache, seed + i);
    for (size_t k = 0; k < attention_kernels().size(); ++k) {
      const AttentionKernel& kernel = attention_kernels()[k];
      if (!kernel.plan(numbers.problem)) continue;
      ++runs[k];
      expect_right(numbers, kernel,
                   std::string(kernel.name) + " " + attention_test::text_of(p) + ", " +
                       cache.text() + ", problem " + std::to_string(i));
      if (HasFatalFailure() || HasNonfatalFailure()) return;
    }
  }
  for (size_t k = 0; k < runs.size(); ++k)
    if (attention_kernels()[k].name.starts_with("decode")) {
      EXPECT_GT(runs[k], 20) << attention_kernels()[k].name;
    }
}

// What a long cache with a window and tokens that all see makes read: the rest is NaN.
TEST(AttentionDecodeLinks, BlocksThatNoQuerySeesAreNotRead) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    AttentionProblem p{.dtype = dtype,
                       .batch = 1,
                       .tq = 2,
                       .tk = 8192,
                       .heads = 4,
                       .kv_heads = 2,
                       .heads_kept = 4,
                       .head_dim = 64,
                       .value_dim = 64,
                       .scale = 0.125,
                       .causal = true,
                       .window_left = 300,
                       .prefix = 4};
    set_dense_strides(p, true);
    const auto run = [&](const AttentionKernel& kernel, bool hide) {
      Arrays<float> a(p);
      a.randomise(1);
      if (hide)  // whole blocks only: those are read which the window begins in
        for (auto* x : {&a.k, &a.v})
          std::fill(x->begin() + 1024 * 128, x->begin() + (8192 - 600) * 128, NAN);
      if (dtype == DType::f32) {
        attention_test::run_plan(*kernel.plan(p), a.forward());
        return std::vector<double>(a.out.begin(), a.out.end());
      }
      Arrays<bf16> b(p);
      b.copy_inputs(a);
      attention_test::run_plan(*kernel.plan(p), b.forward());
      return attention_test::converted<double>(b.out);
    };
    int decoding = 0;
    for (const AttentionKernel& kernel : attention_kernels()) {
      if (!kernel.name.starts_with("decode") || !kernel.plan(p)) continue;
      ++decoding;
      EXPECT_EQ(run(kernel, true), run(kernel, false)) << kernel.name;
    }
    if (attention_kernels().size() > 1) {
      EXPECT_GT(decoding, 0);
    }
  }
}

}  // namespace
}  // namespace fovea

// Decoding over random shapes, caches and masks, against the reference in double precision on the
// same numbers laid out plainly.
#include "fovea/kernels/attention_decode_test.h"

#include "fovea/base/error.h"

namespace fovea {
namespace {

using attention_test::Cache;
using attention_test::Case;
using attention_test::expect_near;
using attention_test::expect_near_in_norm;
using attention_test::expect_right;
using attention_test::Numbers;
using attention_test::seed_of_run;

template <class T, size_t N>
T one_of(PhiloxStream& random, const T (&values)[N]) {
  return values[random.below(N)];
}

std::pair<Case, Cache> random_problem(PhiloxStream& random) {
  Case c;
  c.batch = 1 + random.below(3);
  c.tq = one_of(random, {int64_t{1}, int64_t{1}, int64_t{1 + random.below(8)}});
  c.tk = one_of(random, {int64_t{1 + random.below(40)}, int64_t{1 + random.below(400)},
                         int64_t{900 + random.below(1800)}});
  c.kv_heads = one_of(random, {1, 2, 2, 3, 7});
  c.heads = c.kv_heads * one_of(random, {1, 1, 2, 3, 4, 5, 8});
  if (random.below(4) == 0) c.heads_kept = random.below(static_cast<uint32_t>(c.heads + 1));
  c.dim = one_of(random, {16, 32, 64, 64, 96, 128, 20, 7, 1, 80});
  c.value_dim = one_of(random, {0, 0, 0, 32, 40, 3, 128, 256});
  if (c.value_dim == 0) c.value_dim = c.dim;
  c.causal = random.below(3) == 0;
  if (random.below(4) == 0) c.left = random.below(static_cast<uint32_t>(c.tk));
  if (random.below(8) == 0) c.right = random.below(static_cast<uint32_t>(c.tk));
  if (random.below(2) == 0) {
    for (int64_t b = 0; b < c.batch; ++b)
      c.lengths.push_back(static_cast<int32_t>(
          one_of(random, {uint32_t{0}, uint32_t{1}, random.below(static_cast<uint32_t>(c.tk + 1)),
                          static_cast<uint32_t>(c.tk)})));
  }
  Cache cache;
  cache.dtype = one_of(random, {DType::f32, DType::bf16});
  cache.kv_dtype = one_of(random, {DType::f32, DType::bf16, DType::bf16, DType::i8});
  if (random.below(2) == 0) {
    cache.page_tokens = one_of(random, {1, 3, 16, 64, 256});
    cache.spare_columns = random.below(3);
  }
  cache.packed = random.below(2) == 0;
  cache.want_lse = random.below(2) == 0;
  return {c, cache};
}

TEST(AttentionDecode, EveryKernelMatchesDoublePrecisionOverRandomProblems) {
  const uint64_t seed = seed_of_run();
  PhiloxStream random(seed, stream_id("problems"));
  std::vector<int> runs(attention_kernels().size());
  for (uint64_t i = 0; i < 300; ++i) {
    const auto [c, cache] = random_problem(random);
    const Numbers numbers(c, cache, seed + i);
    for (size_t k = 0; k < attention_kernels().size(); ++k) {
      const AttentionKernel& kernel = attention_kernels()[k];
      if (!kernel.plan(numbers.problem)) continue;
      ++runs[k];
      expect_right(numbers, kernel,
                   c.text(kernel.name, cache.packed) + ", " + cache.text() + ", problem " +
                       std::to_string(i));
      if (HasFatalFailure() || HasNonfatalFailure()) return;
    }
  }
  for (size_t k = 0; k < runs.size(); ++k)
    if (attention_kernels()[k].name.starts_with("decode")) {
      EXPECT_GT(runs[k], 20) << attention_kernels()[k].name;
    }
  EXPECT_EQ(runs.back(), 300);
}

constexpr Case kLong{.batch = 2,
                     .tq = 3,
                     .tk = 2100,
                     .heads = 8,
                     .kv_heads = 2,
                     .dim = 64,
                     .value_dim = 64,
                     .causal = true};

std::vector<Cache> caches() {
  std::vector<Cache> list;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const DType kv : {DType::f32, DType::bf16, DType::i8})
      for (const int64_t page : {0, 16})
        for (const bool lse : {true, false})
          list.push_back({.dtype = dtype, .kv_dtype = kv, .page_tokens = page, .want_lse = lse});
  return list;
}

TEST(AttentionDecode, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (const Cache& cache : caches()) {
    const Numbers numbers(kLong, cache, 1);
    for (const AttentionKernel& kernel : attention_kernels()) {
      if (!kernel.plan(numbers.problem)) continue;
      const auto one = numbers.run(kernel);
      for (int threads = 2; threads <= 4; ++threads) {
        const auto more = numbers.run(kernel, threads);
        EXPECT_EQ(one.out, more.out) << kernel.name << " " << cache.text();
        if (cache.want_lse) {
          EXPECT_EQ(one.lse, more.lse) << kernel.name << " " << cache.text();
        }
      }
    }
  }
}

TEST(AttentionDecode, PagesGiveTheBitsOfARow) {
  for (Cache cache : caches()) {
    if (cache.paged()) continue;
    const Numbers row(kLong, cache, 2);
    cache.page_tokens = 48;
    const Numbers paged(kLong, cache, 2);
    for (const AttentionKernel& kernel : attention_kernels()) {
      if (!kernel.name.starts_with("decode") || !kernel.plan(row.problem)) continue;
      EXPECT_EQ(row.run(kernel).out, paged.run(kernel).out) << kernel.name;
    }
  }
}

TEST(AttentionDecode, ScoresOfTenThousandStayRight) {
  for (const Cache& cache : caches()) {
    const Numbers numbers(kLong, cache, 3, 1e4f);
    for (const AttentionKernel& kernel : attention_kernels()) {
      if (!kernel.plan(numbers.problem)) continue;
      const auto got = numbers.run(kernel);
      // Scores are known to about 1e-3 in fp32 here, and so are the probabilities.
      expect_near_in_norm(got.out, numbers.want.out, 1e-2,
                          std::string(kernel.name) + " " + cache.text());
      if (cache.want_lse)
        expect_near(got.lse, numbers.want.lse, 3e-6, std::string(kernel.name) + " lse");
    }
  }
}

TEST(AttentionDecode, RowsOfEightBitsComeCloseToTheNumbersBeforeThem) {
  Numbers numbers(kLong, {.kv_dtype = DType::i8}, 4);
  const std::vector<double> exact = numbers.exact_out();
  for (const AttentionKernel& kernel : attention_kernels()) {
    if (!kernel.plan(numbers.problem)) continue;
    expect_near_in_norm(numbers.run(kernel).out, exact, 3e-2, std::string(kernel.name));
  }
}

TEST(AttentionDecode, LengthsOfZeroAndOneGiveZeroAndTheOneValue) {
  Case c = kLong;
  c.tq = 1;
  c.lengths = {0, 1};
  for (const Cache& cache : caches()) {
    const Numbers numbers(c, cache, 5);
    for (const AttentionKernel& kernel : attention_kernels()) {
      if (!kernel.plan(numbers.problem)) continue;
      const auto got = numbers.run(kernel);
      const size_t half = got.out.size() / 2;
      for (size_t i = 0; i < half; ++i) EXPECT_EQ(got.out[i], 0.0) << kernel.name;
      for (size_t h = 0; h < 8; ++h) {
        if (cache.want_lse) {
          EXPECT_EQ(got.lse[h], -HUGE_VALF) << kernel.name;
        }
        for (size_t d = 0; d < 64; ++d) {
          const double v = numbers.want.v[(2100 * 2 + h / 4) * 64 + d];
          EXPECT_NEAR(got.out[half + h * 64 + d], v, 5e-3 * std::abs(v)) << kernel.name;
        }
      }
    }
  }
}

TEST(AttentionDecode, AnyNumberOfQueriesMayReadACache) {
  Case c = kLong;
  c.tq = 21;
  c.tk = 300;
  for (const Cache& cache : caches()) {
    if (cache.dtype == cache.kv_dtype && !cache.paged()) continue;  // no cache
    const Numbers numbers(c, cache, 6);
    for (const AttentionKernel& kernel : attention_kernels()) {
      if (kernel.plan(numbers.problem))
        expect_right(numbers, kernel, std::string(kernel.name) + " " + cache.text());
    }
  }
}

TEST(AttentionDecode, FewQueriesAndManyKeysAreTakenFromTheTiledKernels) {
  const auto first = [](const AttentionProblem& p) {
    for (const AttentionKernel& kernel : attention_kernels())
      if (kernel.plan(p)) return std::string(kernel.name);
    return std::string();
  };
  if (attention_kernels().size() == 1) GTEST_SKIP() << "no SIMD";
  for (const DType dtype : {DType::f32, DType::bf16}) {
    EXPECT_TRUE(first(Case{.tq = 1, .tk = 4096}.problem(true, dtype)).starts_with("decode"));
    const std::string many = first(Case{.tq = 9, .tk = 4096}.problem(true, dtype));
    EXPECT_TRUE(many.starts_with("hwy") || many.starts_with("tiled")) << many;
    EXPECT_TRUE(first(Case{.tq = 1, .tk = 20}.problem(true, dtype)).starts_with("short"));
  }
}

TEST(AttentionDecode, ManyQueriesOverACacheAreLeftToTheTiledKernels) {
  const auto first = [](int64_t queries, DType cache, bool int8_products) {
    AttentionProblem p = Case{.tq = queries, .tk = 4096}.problem(true, DType::bf16);
    p.kv_dtype = cache;
    p.int8_products = int8_products;
    p.want_lse = false;
    for (const AttentionKernel& kernel : attention_kernels())
      if (kernel.plan(p)) return std::string(kernel.name);
    return std::string();
  };
  if (attention_kernels().size() == 1) GTEST_SKIP() << "no SIMD";
  for (const AttentionKernel& kernel : attention_kernels()) {
    if (kernel.name == "tiled_avx512vnni") {
      EXPECT_EQ(first(100, DType::i8, true), kernel.name);
    }
    if (kernel.name == "tiled_avx512bf16") {
      EXPECT_EQ(first(100, DType::bf16, false), kernel.name);
    }
  }
  EXPECT_TRUE(first(100, DType::i8, false).starts_with("decode"));
  for (const bool int8_products : {false, true})
    EXPECT_TRUE(first(8, DType::i8, int8_products).starts_with("decode"));
}

TEST(AttentionDecode, AWrongCacheIsAnErrorThatNamesBothOptions) {
  const auto expect_error = [](auto change, std::vector<std::string> named) {
    AttentionProblem p = Case{.tq = 1, .tk = 100}.problem(true, DType::f32);
    change(p);
    for (const AttentionKernel& kernel : attention_kernels()) {
      try {
        kernel.plan(p);
        ADD_FAILURE() << kernel.name << ": no error for " << named[0];
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
        for (const std::string& name : named)
          EXPECT_NE(std::string(e.what()).find(name), std::string::npos) << e.what();
      }
    }
  };
  expect_error([](auto& p) { p.kv_dtype = DType::u8; }, {"kv_dtype", "u8"});
  expect_error([](auto& p) { p.kv_dtype = DType::f64; }, {"kv_dtype", "f64"});
  expect_error([](auto& p) { p.dtype = DType::f64, p.kv_dtype = DType::i8; },
               {"dtype of f32 or bf16", "kv_dtype is i8", "f64"});
  expect_error([](auto& p) { p.dtype = DType::i8; }, {"dtype", "i8"});
  expect_error([](auto& p) { p.kv_dtype = DType::i8, p.k_scale.token = -1; }, {"k_scale"});
  expect_error([](auto& p) { p.page_tokens = -16; }, {"page_tokens", "-16"});
  expect_error([](auto& p) { p.page_columns = 4; }, {"page_tokens", "page_columns is 4"});
  expect_error([](auto& p) { p.page_tokens = 16, p.page_columns = 6; },
               {"page_columns of at least 7", "tk = 100", "page_tokens = 16", "got 6"});
}

TEST(AttentionDecode, BackwardWantsNoCache) {
  const auto expect_error = [](auto change, const std::string& named) {
    AttentionProblem p = Case{.tq = 1, .tk = 100}.problem(true, DType::f32);
    change(p);
    for (const AttentionBackwardKernel& kernel : attention_backward_kernels()) {
      try {
        kernel.plan(p);
        ADD_FAILURE() << kernel.name << ": no error for " << named;
      } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find(named), std::string::npos) << e.what();
        EXPECT_NE(std::string(e.what()).find("backward"), std::string::npos) << e.what();
      }
    }
  };
  expect_error([](auto& p) { p.kv_dtype = DType::bf16; }, "kv_dtype");
  expect_error([](auto& p) { p.page_tokens = 16; }, "page_tokens");
}

}  // namespace
}  // namespace fovea

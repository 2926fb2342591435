// The tiled kernels in low precision against double precision: lengths beyond all blocks, caches in
// 8 bits, pages, and what is large, empty or not a number. Masks and biases in every combination
// are in attention_links_test.cpp.
#include "fovea/kernels/attention_tiled.h"

#include "fovea/kernels/attention_bf16_test.h"
#include "fovea/kernels/attention_checks_test.h"
#include "fovea/kernels/avx512_bf16.h"

namespace fovea {
namespace {

using attention_detail::plan_tiled_avx512bf16;
using attention_detail::plan_tiled_avx512vnni;
using attention_test::Arrays;
using attention_test::Case;
using attention_test::converted;
using attention_test::expect_near;
using attention_test::forward_ref;
using attention_test::relative_norm;
using attention_test::run_plan;
using leaf::same_bits;

std::vector<Case> cases() {
  std::vector<Case> list;
  for (int64_t t : {9, 17, 63, 64, 65, 127, 129, 200, 257, 300})
    for (int64_t d : {16, 64}) list.push_back({1, t, t, 2, 2, d, d});
  for (int64_t tk : {1, 2, 3, 5, 6}) list.push_back({1, 70, tk, 2, 2, 16, 16});
  for (int64_t d : {1, 2, 3, 7, 31, 33, 48, 80, 96, 100, 128, 129, 200, 256})
    list.push_back({1, 70, 140, 2, 1, d, d});
  list.push_back({2, 33, 270, 4, 2, 20, 12});
  list.push_back({2, 70, 33, 4, 2, 12, 130});
  list.push_back({1, 140, 450, 2, 1, 16, 24, true});      // tq < tk
  list.push_back({1, 450, 140, 2, 1, 16, 24, true});      // tq > tk: empty rows
  list.push_back({1, 330, 330, 2, 2, 32, 32, true, 10});  // causal sliding window
  list.push_back({1, 330, 340, 2, 2, 16, 16, false, 33, 5});
  list.push_back({1, 300, 300, 1, 1, 8, 8, false, 0, 0});  // one key each
  list.push_back({3, 150, 260, 2, 2, 16, 16, false, -1, -1, -1, {260, 117, 0}});
  list.push_back({3, 160, 160, 2, 1, 16, 16, true, 30, -1, -1, {999, 125, 1}});  // clamped
  list.push_back({2, 130, 130, 4, 2, 16, 16, false, -1, -1, 3});
  list.push_back({2, 130, 130, 4, 2, 16, 16, true, -1, -1, 1});
  return list;
}

const Case kGrouped{.batch = 2,
                    .tq = 600,
                    .tk = 600,
                    .heads = 4,
                    .kv_heads = 2,
                    .dim = 40,
                    .value_dim = 32,
                    .causal = true};

class AttentionTiledBf16 : public attention_test::NeedsProductsOfBf16 {};

TEST_F(AttentionTiledBf16, ItMatchesDoublePrecision) {
  for (const Case& c : cases()) {
    for (bool packed : {true, false}) {
      for (double scale : {0.0, -0.5}) {
        const std::string what = c.text("tiled_avx512bf16", packed);
        AttentionProblem p = c.problem(packed, DType::bf16);
        AttentionProblem exact = c.problem(packed, DType::f64);
        if (scale != 0) p.scale = exact.scale = scale;
        Arrays<bf16> got(p);
        got.randomise(21);
        got.lengths = c.lengths;
        Arrays<double> want(exact);
        want.copy_inputs(got);
        forward_ref(exact, want);
        const auto plan = plan_tiled_avx512bf16(p);
        ASSERT_TRUE(plan) << what;
        run_plan(*plan, got.forward());
        expect_near(got.out, want.out, attention_test::kBf16Tolerance, what + " out");
        expect_near(got.lse, want.lse, 3e-6, what + " lse", 1);
        if (c.tk >= 8) {
          EXPECT_LT(relative_norm(got.out, want.out), 1e-2) << what;
        }
      }
    }
  }
}

TEST_F(AttentionTiledBf16, TheBitsAreTheSameForAnyNumberOfThreads) {
  const AttentionProblem p = kGrouped.problem(true, DType::bf16);
  Arrays<bf16> inputs(p);
  inputs.randomise(25);
  expect_same_bits(inputs, {2, 3, 4}, [&](Arrays<bf16>& a, int threads) {
    run_plan(*plan_tiled_avx512bf16(p), a.forward(), threads);
  });
}

void expect_pages_give_the_bits_of_a_row(int64_t rotary) {
  const Case c{.batch = 2,
               .tq = 150,
               .tk = 333,
               .heads = 2,
               .kv_heads = 1,
               .dim = 24,
               .value_dim = 40,
               .lengths = {333, 100}};
  AttentionProblem p = c.problem(true, DType::bf16);
  p.rotary = rotary;
  Arrays<bf16> row(p);
  row.randomise(26);
  row.lengths = c.lengths;
  run_plan(*plan_tiled_avx512bf16(p), row.forward());
  for (int64_t tokens : {1, 5, 16, 400}) {
    AttentionProblem paged = p;
    paged.page_tokens = tokens;
    set_dense_strides(paged, true);
    const int64_t columns = (c.tk + tokens - 1) / tokens;
    Arrays<bf16> got = row;
    std::vector<bf16> k(static_cast<size_t>(2 * columns * tokens * 24), bf16(NAN));
    std::vector<bf16> v(static_cast<size_t>(2 * columns * tokens * 40), bf16(NAN));
    std::vector<int32_t> pages;
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t n = 0; n < columns; ++n)
        pages.push_back(static_cast<int32_t>((n * 2 + b + 1) % (2 * columns)));
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t j = 0; j < c.lengths[static_cast<size_t>(b)]; ++j) {
        const int64_t at =
            pages[static_cast<size_t>(b * columns + j / tokens)] * tokens + j % tokens;
        std::copy_n(row.k.data() + (b * c.tk + j) * 24, 24, k.data() + at * 24);
        std::copy_n(row.v.data() + (b * c.tk + j) * 40, 40, v.data() + at * 40);
      }
    AttentionArgs args = got.forward();
    args.k = k.data();
    args.v = v.data();
    args.pages = pages.data();
    run_plan(*plan_tiled_avx512bf16(paged), args);
    EXPECT_TRUE(same_bits(row.out, got.out) && same_bits(row.lse, got.lse)) << tokens;
  }
}

TEST_F(AttentionTiledBf16, PagesGiveTheBitsOfARow) {
  expect_pages_give_the_bits_of_a_row(0);
  expect_pages_give_the_bits_of_a_row(/*rotary=*/16);
}

void run_tiled(const AttentionProblem& p, Arrays<bf16>& a) {
  run_plan(*plan_tiled_avx512bf16(p), a.forward());
}

TEST_F(AttentionTiledBf16, WhatLiesBeyondAKeyLengthIsNeverUsed) {
  for (int32_t length : {1, 128, 129, 201}) {
    const Case c{.tq = 49, .tk = 300, .dim = 16, .value_dim = 16, .lengths = {length}};
    expect_lengths_hold(c, 27, /*gradients=*/false, run_tiled);
  }
}

TEST_F(AttentionTiledBf16, ANaNInAQueryReachesItsOutputAndNoOther) {
  const Case c{.tq = 149, .tk = 131, .dim = 16, .value_dim = 16};
  for (size_t query : {size_t{3}, size_t{64}, size_t{148}})
    expect_nan_stays_in_its_row(c, query, 28, /*gradients=*/false, run_tiled);
}

TEST_F(AttentionTiledBf16, LargeScoresAndInfiniteBiasesStayRight) {
  const Case c{.tq = 149, .tk = 249, .heads = 2, .kv_heads = 2, .dim = 16, .value_dim = 16};
  for (float factor : {1e4f, 1e30f}) {
    AttentionProblem p = c.problem(true, DType::bf16), exact = c.problem(true, DType::f64);
    Arrays<bf16> a(p);
    a.randomise(29, factor);
    for (const bool biased : {false, true}) {
      p.bias = exact.bias = biased;
      p.bias_plane = exact.bias_plane = {.query = c.tk};
      a.bias.assign(biased ? static_cast<size_t>(c.tq * c.tk) : 0, 0.5f);
      for (size_t i = 0; i < a.bias.size(); ++i)
        if (i % 3 == 0 || i / 249 == 7) a.bias[i] = -INFINITY;  // query 7 sees nothing
      Arrays<double> want(exact);
      want.copy_inputs(a);
      forward_ref(exact, want);
      run_plan(*plan_tiled_avx512bf16(p), a.forward());
      expect_near(a.out, want.out, 1e-2, "out");
      expect_near(a.lse, want.lse, 3e-6, "lse");
    }
  }
}

TEST_F(AttentionTiledBf16, WhatItDoesNotSupportIsLeftToTheOthers) {
  const auto taken = [](const Case& c, DType dtype, std::optional<DType> kv = {}) {
    AttentionProblem p = c.problem(true, dtype);
    p.kv_dtype = kv;
    return plan_tiled_avx512bf16(p) != nullptr;
  };
  EXPECT_TRUE(taken({.tq = 500, .tk = 500, .dim = 256, .value_dim = 256}, DType::bf16));
  EXPECT_FALSE(taken({.tq = 500, .tk = 500, .dim = 257}, DType::bf16));
  EXPECT_FALSE(taken({.tq = 500, .tk = 500, .value_dim = 257}, DType::bf16));
  EXPECT_FALSE(taken({.tq = 8, .tk = 500}, DType::bf16));  // for decoding
  EXPECT_TRUE(taken({.tq = 9, .tk = 500}, DType::bf16));
  EXPECT_FALSE(taken({.tq = 500, .tk = 500}, DType::f32));
  EXPECT_FALSE(taken({.tq = 500, .tk = 500}, DType::f64));
  EXPECT_FALSE(taken({.tq = 500, .tk = 500}, DType::bf16, DType::i8));
  EXPECT_FALSE(taken({.tq = 500, .tk = 500}, DType::bf16, DType::f32));
  const auto taken_with = [](auto change) {
    AttentionProblem p = Case{.tq = 500, .tk = 500}.problem(true, DType::bf16);
    change(p);
    return plan_tiled_avx512bf16(p) != nullptr;
  };
  EXPECT_TRUE(taken_with([](auto& p) { p.rotary = 8, p.cosine = p.temperature = true; }));
  EXPECT_TRUE(taken_with([](auto& p) { p.rotary = 8, p.tq = 1; }));
  EXPECT_FALSE(taken_with([](auto& p) { p.sink = p.distance_bias = true, p.tq = 8; }));
  EXPECT_FALSE(taken_with([](auto& p) { p.relative_keys = true; }));
  EXPECT_FALSE(taken_with([](auto& p) { p.dropout = 0.1; }));
  EXPECT_FALSE(taken_with([](auto& p) { p.want_entropy = true; }));
}

// ---- 8 bits

class AttentionTiledInt8 : public testing::Test {
 protected:
  void SetUp() override {
    if (!avx512_vnni::available()) GTEST_SKIP() << "this processor has no products of bytes";
  }
};

// Rows of i8 with a scale each, and what they stand for.
struct Bytes {
  std::vector<int8_t> numbers;
  std::vector<float> scales;

  // Quantises the rows, of `dim` numbers, in place.
  Bytes(std::vector<double>& rows, int64_t dim) {
    const auto n = static_cast<size_t>(dim);
    for (size_t r = 0; r * n < rows.size(); ++r) {
      double largest = 0;
      for (size_t i = r * n; i < (r + 1) * n; ++i) largest = std::max(largest, std::abs(rows[i]));
      // Every other row has a negative scale.
      const auto scale = static_cast<float>(largest / (r % 2 == 0 ? 127 : -127));
      scales.push_back(scale);
      for (size_t i = r * n; i < (r + 1) * n; ++i) {
        numbers.push_back(static_cast<int8_t>(std::lround(rows[i] / static_cast<double>(scale))));
        rows[i] = static_cast<double>(scale) * numbers.back();
      }
    }
  }
};

template <class T>
struct Int8Run {
  Arrays<T> got;
  Arrays<double> want, exact;  // of the rounded and of the first keys and values

  Int8Run(AttentionProblem p, const Case& c, uint64_t seed, float factor = 1, int threads = 1)
      : got(p), want(p), exact(p) {
    AttentionProblem in_double = p;
    in_double.dtype = DType::f64;
    got.randomise(seed, factor);
    got.lengths = c.lengths;
    want.copy_inputs(got);
    exact.copy_inputs(got);
    forward_ref(in_double, exact);
    const Bytes k(want.k, p.head_dim), v(want.v, p.value_dim);
    forward_ref(in_double, want);
    p.kv_dtype = DType::i8;
    p.int8_products = true;
    AttentionArgs args = got.forward();
    args.k = k.numbers.data();
    args.v = v.numbers.data();
    args.k_scale = k.scales.data();
    args.v_scale = v.scales.data();
    run_plan(*plan_tiled_avx512vnni(p), args, threads);
  }
};

TEST_F(AttentionTiledInt8, ItMatchesDoublePrecision) {
  for (const Case& c : cases()) {
    for (bool packed : {true, false}) {
      const std::string what = c.text("tiled_avx512vnni", packed);
      // Few keys average little, and rows of one number have scales from 0 up.
      const double tolerance = c.tk < 8 || c.value_dim == 1 ? 6e-2 : 3e-2;
      const Int8Run<float> run(c.problem(packed, DType::f32), c, 31);
      EXPECT_LT(relative_norm(run.got.out, run.want.out), tolerance) << what;
      EXPECT_LT(relative_norm(run.got.out, run.exact.out), tolerance) << what;
      expect_near(run.got.lse, run.want.lse, 2e-2, what + " lse", 1);
      const Int8Run<bf16> narrow(c.problem(packed, DType::bf16), c, 31);
      EXPECT_LT(relative_norm(narrow.got.out, narrow.want.out), tolerance) << what;
    }
  }
}

// Where the keys of the window begin within the step that holds the last of the prefix.
TEST_F(AttentionTiledInt8, AKeyOfBothPrefixAndWindowCountsOnce) {
  for (int64_t left = 24; left < 34; ++left) {
    const Case c{.tq = 96, .tk = 96, .dim = 16, .value_dim = 16, .left = left};
    AttentionProblem p = c.problem(true, DType::f32);
    p.prefix = 17;
    const Int8Run<float> run(p, c, 35, /*factor=*/0);  // exact: the logarithm of their number
    expect_near(run.got.lse, run.want.lse, 1e-5, "lse", 1);
  }
}

TEST_F(AttentionTiledInt8, TheBitsAreTheSameForAnyNumberOfThreads) {
  const AttentionProblem p = kGrouped.problem(true, DType::f32);
  expect_same_bits(Arrays<float>(p), {2, 3, 4}, [&](Arrays<float>& a, int threads) {
    a = Int8Run<float>(p, kGrouped, 32, 1, threads).got;
  });
}

TEST_F(AttentionTiledInt8, HugeAndNoScoresStayFinite) {
  const Case c{.tq = 149, .tk = 249, .heads = 2, .kv_heads = 2, .dim = 16, .value_dim = 16};
  for (float factor : {0.0f, 1e4f, 1e20f}) {
    const Int8Run<float> run(c.problem(true, DType::f32), c, 33, factor);
    for (float x : run.got.out) ASSERT_TRUE(std::isfinite(x)) << factor;
    if (factor == 0) {
      EXPECT_LT(relative_norm(run.got.out, run.want.out), 1e-2);
    }
  }
  AttentionProblem p = c.problem(true, DType::f32);
  p.scale = 0;
  const Int8Run<float> run(p, c, 33);
  EXPECT_LT(relative_norm(run.got.out, run.want.out), 1e-2);
}

TEST_F(AttentionTiledInt8, WhatIsNotFiniteInAQueryReachesItsOutputAndNoOther) {
  const Case c{.tq = 149, .tk = 131, .dim = 16, .value_dim = 16};
  AttentionProblem p = c.problem(true, DType::f32);
  p.kv_dtype = DType::i8;
  p.int8_products = true;
  for (const float bad : {NAN, INFINITY}) {
    Arrays<float> a(c.problem(true, DType::f32));
    a.randomise(34);
    a.q[70 * 16 + 5] = bad;
    const std::vector<int8_t> k(131 * 16, 3);
    const std::vector<float> scales(131, 0.1f);
    AttentionArgs args = a.forward();
    args.k = args.v = k.data();
    args.k_scale = args.v_scale = scales.data();
    run_plan(*plan_tiled_avx512vnni(p), args);
    for (size_t i = 0; i < a.out.size(); ++i) EXPECT_EQ(std::isnan(a.out[i]), i / 16 == 70);
  }
}

TEST_F(AttentionTiledInt8, ItIsTakenWhereItIsAskedForAndQueriesAreMany) {
  AttentionProblem p = Case{.tq = 500, .tk = 500}.problem(true, DType::f32);
  EXPECT_FALSE(plan_tiled_avx512vnni(p));
  p.kv_dtype = DType::i8;
  EXPECT_FALSE(plan_tiled_avx512vnni(p));  // exact unless asked
  p.int8_products = true;
  EXPECT_TRUE(plan_tiled_avx512vnni(p));
  p.tq = 8;
  EXPECT_FALSE(plan_tiled_avx512vnni(p));
  p.sink = true;
  EXPECT_FALSE(plan_tiled_avx512vnni(p));
  p.tq = 9;
  EXPECT_TRUE(plan_tiled_avx512vnni(p));
  p.rotary = 8;  // the keys of a cache have been turned
  EXPECT_FALSE(plan_tiled_avx512vnni(p));
  p.rotary = 0;
  p.temperature = true;
  EXPECT_TRUE(plan_tiled_avx512vnni(p));
  p.head_dim = 257;
  EXPECT_FALSE(plan_tiled_avx512vnni(p));
}

TEST(AttentionTiled, EightBitProductsWithoutACacheInEightBitsAreAnError) {
  attention_test::expect_both_named([](auto& p) { p.int8_products = true; }, "int8_products",
                                    "kv_dtype");
}

}  // namespace
}  // namespace fovea

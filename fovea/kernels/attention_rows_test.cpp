// Rotary positions, cosine attention, temperatures and relative keys, alone and with every mask and
// bias, in every kernel against the reference in double precision; the reference against formulas
// written out here and against finite differences.
#include "fovea/kernels/attention_rows.h"

#include <complex>

#include "fovea/kernels/attention_checks_test.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::backward_args;
using attention_test::Dice;
using attention_test::Drawn;
using attention_test::expect_both_named;
using attention_test::expect_near;
using attention_test::forward_ref;
using attention_test::plan_backward;
using attention_test::random_problem;
using attention_test::randomise_links;
using attention_test::run_plan;

// A random problem that changes rows or has temperatures.
AttentionProblem changed_problem(Dice& dice, int64_t most_tokens) {
  AttentionProblem p = random_problem(dice, most_tokens);
  p.relative_keys = dice.one_in(3);
  p.content_bias = p.relative_keys && dice.one_in(2);
  p.position_bias = p.relative_keys && dice.one_in(2);
  if (p.relative_keys) p.temperature = dice.one_in(3);
  if (!p.relative_keys) draw_row_changes(dice, p);
  return p;
}

template <class T>
Drawn<T> draw(uint64_t seed, int64_t most_tokens) {
  Dice dice(seed);
  Drawn<T> x(seed, changed_problem(dice, most_tokens));
  const AttentionProblem& p = x.problem;
  randomise_links(dice, p, x.arrays);
  const auto fill = [&](auto& numbers, bool given, int64_t count, float factor = 1) {
    for (int64_t n = 0; given && n < count; ++n) numbers.push_back(factor * dice.normal());
  };
  fill(x.arrays.temperatures, p.temperature, p.heads, 1.5f);
  const int64_t keys = p.kv_heads * (p.tq + p.tk - 1);
  fill(x.arrays.relative_keys, p.relative_keys, keys * p.head_dim);
  fill(x.arrays.content, p.content_bias, p.heads * p.head_dim);
  fill(x.arrays.position, p.position_bias, p.heads * p.head_dim);
  return x;
}

TEST(AttentionRows, EveryCombinationMatchesDoublePrecision) {
  for (uint64_t seed = 5001; seed <= 5250 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match(draw<float>(seed, 200), {3e-6, 2e-5});
}

TEST(AttentionRows, EveryCombinationMatchesInBf16) {
  for (uint64_t seed = 6001; seed <= 6080 && !::testing::Test::HasFatalFailure(); ++seed)
    expect_kernels_match(draw<bf16>(seed, 200), {2e-2, 4e-2});
}

TEST(AttentionRows, TheReferencesGradientsMatchFiniteDifferences) {
  for (uint64_t seed = 7001; seed <= 7040; ++seed)
    expect_finite_differences(draw<double>(seed, 9), 1e-7);
}

TEST(AttentionRows, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (uint64_t seed = 8001; seed <= 8030; ++seed) expect_same_bits(draw<float>(seed, 150));
}

// Attention whose rows are turned here, as complex numbers.
TEST(AttentionRows, RotationIsThatOfComplexNumbers) {
  for (const RotaryLayout layout : {RotaryLayout::pairs, RotaryLayout::halves}) {
    AttentionProblem p{.dtype = DType::f64, .tq = 7, .tk = 11, .head_dim = 10, .value_dim = 3};
    p.scale = 0.7;
    set_dense_strides(p, true);
    Arrays<double> a(p);
    a.randomise(1);
    Arrays<double> turned(p);
    turned.copy_inputs(a);
    const auto turn = [&](std::vector<double>& x, int64_t first) {
      for (size_t t = 0; t < x.size() / 10; ++t) {
        for (size_t i = 0; i < 3; ++i) {
          const double angle = static_cast<double>(first + static_cast<int64_t>(t)) *
                               std::pow(500.0, -2.0 * static_cast<double>(i) / 6);
          double& re = x[t * 10 + (layout == RotaryLayout::pairs ? 2 * i : i)];
          double& im = x[t * 10 + (layout == RotaryLayout::pairs ? 2 * i + 1 : i + 3)];
          const std::complex<double> z = std::complex<double>(re, im) * std::polar(1.0, angle);
          re = z.real();
          im = z.imag();
        }
      }
    };
    // Query i stands at i + tk - tq, or, with upper_left, at i.
    for (const AttentionAlign align : {AttentionAlign::lower_right, AttentionAlign::upper_left}) {
      turned.copy_inputs(a);
      turn(turned.q, align == AttentionAlign::lower_right ? 4 : 0);
      turn(turned.k, 0);
      p.rotary = 0;
      forward_ref(p, turned);
      p.align = align;
      p.rotary = 6;
      p.rotary_base = 500;
      p.rotary_layout = layout;
      forward_ref(p, a);
      expect_near(a.out, turned.out, 1e-13, "out");
    }
  }
}

TEST(AttentionRows, CosinesAreThoseOfTheAngles) {
  AttentionProblem p{.dtype = DType::f64, .tq = 1, .tk = 2, .head_dim = 2};
  set_dense_strides(p, true);
  p.want_lse = true;
  p.cosine = true;
  p.cosine_eps = 1e-30;
  p.scale = 2;
  p.temperature = true;
  Arrays<double> a(p);
  a.q = {0, 3};
  a.k = {5, 0, 1, 1};
  a.v = {1, 0};
  a.temperatures = {10};
  forward_ref(p, a);
  const double score = 20 * std::sqrt(0.5);
  EXPECT_NEAR(a.lse[0], std::log(1 + std::exp(score)), 1e-12);
  EXPECT_NEAR(a.out[0], 1 / (1 + std::exp(score)), 1e-12);
}

// The four terms of Dai et al. 2019, section 3.3, as they stand there.
TEST(AttentionRows, RelativeKeysAddTheTermsOfTransformerXL) {
  AttentionProblem p{.dtype = DType::f64, .tq = 2, .tk = 3, .head_dim = 2};
  set_dense_strides(p, true);
  p.want_lse = p.relative_keys = p.content_bias = p.position_bias = true;
  p.scale = 0.5;
  Arrays<double> a(p);
  a.randomise(3);
  a.relative_keys = {1, 2, 3, 4, 5, 6, 7, 8};  // of distances -1, 0, 1 and 2
  a.content = {0.25, -0.5};
  a.position = {-1, 0.125};
  forward_ref(p, a);
  for (size_t i = 0; i < 2; ++i) {
    double sum = 0;
    for (size_t j = 0; j < 3; ++j) {
      const double *q = &a.q[2 * i], *k = &a.k[2 * j], *r = &a.relative_keys[2 * (j + 1 - i)];
      const auto dot = [](const double* x, const double* y) { return x[0] * y[0] + x[1] * y[1]; };
      sum += std::exp(
          0.5 * (dot(q, k) + dot(q, r) + dot(a.content.data(), k) + dot(a.position.data(), r)));
    }
    EXPECT_NEAR(a.lse[i], std::log(sum), 1e-12);
  }
}

TEST(AttentionRows, RowsOfZerosHaveTheCosineZeroAndFiniteGradients) {
  AttentionProblem p{.tq = 20, .tk = 20, .head_dim = 16, .value_dim = 16};
  p.cosine = p.want_lse = true;
  set_dense_strides(p, true);
  Arrays<float> a(p);
  a.randomise(1);
  std::fill_n(a.q.begin(), 16, 0.0f);
  std::fill_n(a.k.begin() + 32, 16, 0.0f);
  for (const AttentionKernel& kernel : attention_kernels()) {
    const auto forward = kernel.plan(p);
    const auto backward = plan_backward(kernel.name, p);
    if (!forward || !backward) continue;
    run_plan(*forward, a.forward());
    run_plan(*backward, a.backward());
    EXPECT_NEAR(a.lse[0], std::log(20.0f), 1e-5f) << kernel.name;
    for (const auto* x : {&a.out, &a.dq, &a.dk, &a.dv})
      for (float number : *x) ASSERT_TRUE(std::isfinite(number)) << kernel.name;
  }
}

TEST(AttentionRows, TheTableHoldsTheAnglesOfFarPositions) {
  AttentionProblem p{.tq = 3, .tk = 100000, .head_dim = 8};
  p.rotary = 6;
  const attention_detail::RotaryTable<double> table(p);
  for (const int64_t position : {0, 1, 255, 256, 257, 65535, 99999}) {
    for (int64_t i = 0; i < 3; ++i) {
      const double angle =
          static_cast<double>(position) * std::pow(1e4, -2.0 * static_cast<double>(i) / 6);
      EXPECT_NEAR(table.row(position)[i], std::cos(angle), 1e-10);
      EXPECT_NEAR(table.row(position)[3 + i], std::sin(angle), 1e-10);
    }
  }
}

TEST(AttentionRows, KeysBeyondTheLengthMayHoldAnything) {
  for (const Normaliser normaliser : {Normaliser::softmax, Normaliser::sparsemax}) {
    AttentionProblem p{.dtype = DType::f32, .tq = 40, .tk = 90, .head_dim = 16};
    p.value_dim = 16;
    p.cosine = p.want_lse = true;
    p.rotary = 8;
    p.normaliser.kind = normaliser;
    set_dense_strides(p, true);
    for (const AttentionBackwardKernel& kernel : attention_backward_kernels()) {
      const auto plan = kernel.plan(p);
      if (!plan) continue;
      const auto run = [&](float beyond) {
        Arrays<float> a(p);
        a.randomise(3);
        a.lengths = {70};
        for (auto* x : {&a.k, &a.v}) std::fill(x->begin() + 70 * 16, x->end(), beyond);
        Arrays<float> numbers(p);
        numbers.copy_inputs(a);
        for (auto* x : {&numbers.k, &numbers.v}) std::fill(x->begin() + 70 * 16, x->end(), 0.0f);
        run_plan(*attention_detail::plan_ref(p), numbers.forward());
        a.out = numbers.out;
        a.lse = numbers.lse;
        run_plan(*plan, backward_args(p, a));
        return a;
      };
      const Arrays<float> with = run(NAN), without = run(1.0f);
      EXPECT_EQ(with.dq, without.dq) << kernel.name;
      EXPECT_EQ(with.dk, without.dk) << kernel.name;
      EXPECT_EQ(with.dv, without.dv) << kernel.name;
    }
  }
}

// So that none of them drops the feature silently.
TEST(AttentionRows, OnlyKernelsThatKnowThemTakeThem) {
  const auto expect = [](bool tiled, bool decode, auto change) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const int64_t tokens : {int64_t{1}, int64_t{16}, int64_t{1024}}) {
        AttentionProblem p{.dtype = dtype, .tq = tokens, .tk = tokens, .head_dim = 64};
        p.value_dim = 64;
        change(p);
        const auto knows = [&](std::string_view name) {
          const bool in_bf16 = dtype == DType::bf16;
          const bool decodes = decode && p.tq <= 8 && p.tk >= 128;
          if (name.starts_with("decode"))
            return decodes && (in_bf16 || name != "decode_avx512bf16");
          return name.starts_with("hwy") || name == "ref" ||
                 (tiled && in_bf16 && !decodes && name == "tiled_avx512bf16");
        };
        if (tokens == 1024) p.tq = 4;
        set_dense_strides(p, true);
        for (const AttentionKernel& kernel : attention_kernels())
          EXPECT_EQ(kernel.plan(p) != nullptr, knows(kernel.name)) << kernel.name;
        p.tq = tokens;
        set_dense_strides(p, true);
        for (const AttentionKernel& kernel : attention_kernels())
          EXPECT_EQ(kernel.plan(p) != nullptr, knows(kernel.name)) << kernel.name;
        for (const AttentionBackwardKernel& kernel : attention_backward_kernels())
          EXPECT_EQ(kernel.plan(p) != nullptr, knows(kernel.name)) << kernel.name;
      }
    }
  };
  expect(true, false, [](auto& p) { p.cosine = true; });
  expect(true, false, [](auto& p) { p.rotary = 32; });
  expect(true, true, [](auto& p) { p.temperature = true; });
  expect(false, false, [](auto& p) { p.relative_keys = true; });
}

TEST(AttentionRows, WrongCombinationsNameBothOptions) {
  expect_both_named([](auto& p) { p.rotary = 10; }, "head_dim=8", "rotary=10");
  expect_both_named([](auto& p) { p.rotary = 3; }, "even", "rotary=3");
  expect_both_named([](auto& p) { p.rotary = -2; }, "even", "rotary=-2");
  expect_both_named([](auto& p) { p.rotary_base = 0; }, "rotary_base", "0");
  expect_both_named([](auto& p) { p.rotary_base = NAN; }, "rotary_base", "nan");
  expect_both_named([](auto& p) { p.cosine_eps = 0; }, "cosine_eps", "0");
  expect_both_named([](auto& p) { p.content_bias = true; }, "content_bias", "relative_keys");
  expect_both_named([](auto& p) { p.position_bias = true; }, "position_bias", "relative_keys");
  expect_both_named([](auto& p) { p.relative_keys = p.cosine = true; }, "relative_keys", "cosine");
  expect_both_named([](auto& p) { p.relative_keys = true, p.rotary = 4; }, "relative_keys",
                    "rotary=4");
}

}  // namespace
}  // namespace fovea

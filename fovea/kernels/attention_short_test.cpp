// Short sequences, and bf16 of any length.
#include "fovea/kernels/attention_short.h"

#include "fovea/kernels/attention_test.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::backward_ref;
using attention_test::Case;
using attention_test::converted;
using attention_test::expect_near;
using attention_test::forward_ref;
using attention_test::plan_backward;
using attention_test::run_plan;
using leaf::same_bits;

bool is_short(std::string_view name) { return name.starts_with("short_"); }

// batch, tq, tk, heads, kv_heads, dim, value_dim
std::vector<Case> short_cases() {
  std::vector<Case> list;
  // Whole vectors of queries of each target, one to some more, and one fewer.
  for (int64_t t : {1, 2, 3, 4, 5, 9, 15, 16, 17, 19, 20, 31, 48, 49, 50, 52, 63, 64, 65, 100, 128})
    for (int64_t d : {8, 16, 20, 32, 64}) list.push_back({1, t, t, 2, 2, d, d});
  list.push_back({1, 49, 49, 1, 1, 128, 128});
  list.push_back({1, 128, 128, 1, 1, 128, 112});
  list.push_back({2, 49, 49, 4, 4, 16, 16, true});
  list.push_back({2, 33, 70, 4, 2, 20, 12});                // grouped, Dv != D
  list.push_back({1, 9, 13, 6, 1, 5, 3});                   // one key/value head
  list.push_back({1, 1, 56, 2, 1, 16, 24, true});           // one step of a decoder
  list.push_back({1, 20, 50, 2, 1, 16, 24, true});          // tq < tk
  list.push_back({1, 50, 20, 2, 1, 16, 24, true});          // tq > tk: empty rows
  list.push_back({1, 53, 53, 2, 2, 16, 16, true, 10});      // causal sliding window
  list.push_back({1, 50, 56, 2, 2, 16, 16, false, 20, 5});  // both sides
  list.push_back({1, 51, 30, 1, 1, 8, 8, false, 3, 3});     // empty rows at the start
  list.push_back({1, 21, 37, 2, 2, 8, 8, false, 0, 0});     // one key each
  list.push_back({3, 50, 60, 2, 2, 16, 16, false, -1, -1, -1, {60, 17, 0}});
  list.push_back({3, 49, 49, 2, 1, 16, 16, true, 30, -1, -1, {99, 25, 1}});  // 99: clamped
  list.push_back({20, 17, 18, 2, 1, 16, 16});                                // a sample is a task
  list.push_back({2, 30, 30, 4, 2, 16, 16, false, -1, -1, 3});
  list.push_back({17, 30, 30, 4, 2, 16, 16, true, -1, -1, 1});  // a key/value head without queries
  list.push_back({1, 30, 30, 2, 2, 16, 16, false, -1, -1, 0});
  return list;
}

// For bf16, sequences that only the tiled kernels take.
std::vector<Case> long_cases() {
  std::vector<Case> list;
  list.push_back({1, 197, 197, 2, 2, 16, 16});
  list.push_back({2, 140, 150, 4, 2, 20, 12, true});
  list.push_back({1, 130, 140, 2, 2, 64, 80, false, 20, 5});
  list.push_back({1, 70, 1100, 4, 2, 24, 40, true, -1, -1, 3});  // several spans of keys
  list.push_back({3, 60, 160, 2, 1, 16, 16, true, 30, -1, -1, {170, 25, 0}});
  list.push_back({1, 17, 133, 1, 1, 256, 256});
  return list;
}

// The problem's dense arrays, or q, k and v (and their gradients) side by side in rows of one
// array.
struct Packed {
  explicit Packed(AttentionProblem& p) : row(3 * p.heads * p.head_dim) {
    const AttentionStrides s{.batch = p.tq * row, .token = row, .head = p.head_dim};
    p.q = p.k = p.v = p.dq = p.dk = p.dv = s;
  }
  int64_t row;
};

template <class T>
constexpr DType kType = std::is_same_v<T, bf16> ? DType::bf16 : DType::f32;

// Rounding of the results, against the largest of them.
template <class T>
constexpr double kTolerance = std::is_same_v<T, bf16> ? 1.0 / 256 : 3e-6;

template <class T>
void expect_right(const Case& c, bool packed, bool only_short) {
  const AttentionProblem p = c.problem(packed, kType<T>);
  Arrays<T> a(p);
  a.randomise(11);
  a.lengths = c.lengths;
  const AttentionProblem exact = c.problem(packed, DType::f64);
  Arrays<double> want(exact);
  want.copy_inputs(a);
  forward_ref(exact, want);
  // Backward starts from what forward has rounded.
  const std::vector<T> out = converted<T>(want.out);
  const auto lse = converted<float>(want.lse);
  Arrays<double> gradients = want;
  gradients.out = converted<double>(out);
  backward_ref(exact, gradients);
  int tested = 0;
  for (size_t which = 0; which < attention_kernels().size(); ++which) {
    const AttentionKernel& kernel = attention_kernels()[which];
    const auto forward = kernel.plan(p);
    const auto backward = plan_backward(kernel.name, p);
    if (kernel.name.starts_with("decode")) continue;  // forward alone
    if (kernel.name.starts_with("tiled") && (!forward || !backward)) continue;
    ASSERT_EQ(forward == nullptr, backward == nullptr);
    if (!forward || (only_short && !is_short(kernel.name))) continue;
    ++tested;
    const std::string what = c.text(kernel.name, packed);
    Arrays<T> got(p);
    got.copy_inputs(a);
    run_plan(*forward, got.forward());
    // Probabilities too are rounded there.
    const double rounded = kernel.name.ends_with("avx512bf16") ? 2 : 1;
    expect_near(got.out, want.out, rounded * kTolerance<T>, what + " out");
    expect_near(got.lse, want.lse, 3e-6, what + " lse");
    got.out = out;
    got.lse = lse;
    run_plan(*backward, got.backward());
    constexpr double kTerms = 0.1;  // terms of dP - delta may cancel
    expect_near(got.dq, gradients.dq, 3 * kTolerance<T>, what + " dq", kTerms);
    expect_near(got.dk, gradients.dk, 3 * kTolerance<T>, what + " dk", kTerms);
    expect_near(got.dv, gradients.dv, 3 * kTolerance<T>, what + " dv", kTerms);
  }
  EXPECT_TRUE(tested > 0 || attention_kernels().size() == 1) << c.text("nobody takes", packed);
}

TEST(AttentionShort, EveryKernelMatchesDoublePrecision) {
  for (const Case& c : short_cases())
    for (bool packed : {true, false}) expect_right<float>(c, packed, true);
}

TEST(AttentionShort, EveryKernelMatchesDoublePrecisionInBf16) {
  for (const Case& c : short_cases())
    for (bool packed : {true, false}) expect_right<bf16>(c, packed, false);
}

TEST(AttentionShort, LongSequencesMatchDoublePrecisionInBf16) {
  for (const Case& c : long_cases())
    for (bool packed : {true, false}) expect_right<bf16>(c, packed, false);
}

// T: type of the arrays. What lies between the rows that are written stays as it was.
template <class T>
void expect_slices_work() {
  const Case c{
      .batch = 3, .tq = 49, .tk = 49, .heads = 4, .kv_heads = 4, .dim = 16, .value_dim = 16};
  const AttentionProblem dense = c.problem(true, kType<T>);
  AttentionProblem p = dense;
  const Packed packed(p);
  Arrays<T> a(dense);
  a.randomise(12);
  const int64_t width = 64, rows = 3 * 49;
  const size_t size = static_cast<size_t>(rows * packed.row);
  std::vector<T> qkv(size), dqkv(size, convert<T, false>(7.0f));
  for (int64_t r = 0; r < rows; ++r) {
    T* row = qkv.data() + r * packed.row;
    std::copy_n(a.q.data() + r * width, width, row);
    std::copy_n(a.k.data() + r * width, width, row + width);
    std::copy_n(a.v.data() + r * width, width, row + 2 * width);
  }
  for (size_t which = 0; which < attention_kernels().size(); ++which) {
    if (!attention_kernels()[which].plan(dense)) continue;
    Arrays<T> want(dense), got(dense);
    want.copy_inputs(a);
    run_plan(*attention_kernels()[which].plan(dense), want.forward());
    run_plan(*plan_backward(attention_kernels()[which].name, dense), want.backward());
    AttentionArgs forward = got.forward();
    forward.q = qkv.data();
    forward.k = qkv.data() + width;
    forward.v = qkv.data() + 2 * width;
    run_plan(*attention_kernels()[which].plan(p), forward);
    EXPECT_TRUE(same_bits(got.out, want.out)) << attention_kernels()[which].name;
    // Only dk has a place here: dq and dv go elsewhere.
    got.copy_inputs(a);
    AttentionBackwardArgs backward = got.backward();
    AttentionProblem partial = dense;
    partial.dk = p.dk;
    std::fill(dqkv.begin(), dqkv.end(), convert<T, false>(7.0f));
    backward.dk = dqkv.data() + width;
    run_plan(*plan_backward(attention_kernels()[which].name, partial), backward);
    EXPECT_TRUE(same_bits(got.dq, want.dq) && same_bits(got.dv, want.dv));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < packed.row; ++i) {
        const float x = convert<float, false>(dqkv[static_cast<size_t>(r * packed.row + i)]);
        const bool inside = i >= width && i < 2 * width;
        const float expected =
            inside ? convert<float, false>(want.dk[static_cast<size_t>(r * width + i - width)])
                   : 7.0f;
        ASSERT_EQ(x, expected) << attention_kernels()[which].name;
      }
    }
  }
}

TEST(AttentionShort, ArraysMayBeSlicesOfPackedRows) {
  expect_slices_work<float>();
  expect_slices_work<bf16>();
}

template <class T>
void expect_same_bits_of(const Case& c) {
  const AttentionProblem p = c.problem(true, kType<T>);
  Arrays<T> inputs(p);
  inputs.randomise(13);
  expect_same_bits(p, inputs, {2, 3, 4});
}

TEST(AttentionShort, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (int64_t batch : {2, 37}) {
    const Case c{.batch = batch,
                 .tq = 49,
                 .tk = 49,
                 .heads = 4,
                 .kv_heads = 2,
                 .dim = 16,
                 .value_dim = 20,
                 .causal = true};
    expect_same_bits_of<float>(c);
    expect_same_bits_of<bf16>(c);
  }
  expect_same_bits_of<bf16>({.batch = 2, .tq = 130, .tk = 600, .heads = 4, .kv_heads = 2});
}

TEST(AttentionShort, AQueryWithoutKeysGivesZeroAndMinusInfinityAndNoGradient) {
  const Case c{.tq = 50, .tk = 20, .dim = 16, .value_dim = 16, .causal = true};  // 30 empty rows
  for (DType dtype : {DType::f32, DType::bf16}) {
    const auto check = [&]<class T>(T) {
      const AttentionProblem p = c.problem(true, dtype);
      for (size_t which = 0; which < attention_kernels().size(); ++which) {
        if (!attention_kernels()[which].plan(p)) continue;
        Arrays<T> a(p);
        a.randomise(14);
        run_plan(*attention_kernels()[which].plan(p), a.forward());
        run_plan(*plan_backward(attention_kernels()[which].name, p), a.backward());
        for (size_t i = 0; i < 30; ++i) {
          EXPECT_EQ(a.lse[i], -INFINITY);
          for (size_t d = 0; d < 16; ++d) {
            EXPECT_EQ((convert<float, false>(a.out[i * 16 + d])), 0.0f);
            EXPECT_EQ((convert<float, false>(a.dq[i * 16 + d])), 0.0f);
          }
        }
        for (const auto* array : {&a.out, &a.dq, &a.dk, &a.dv})
          for (T x : *array) EXPECT_TRUE(std::isfinite(convert<float, false>(x)));
      }
    };
    if (dtype == DType::f32) check(float{});
    if (dtype == DType::bf16) check(bf16{});
  }
}

TEST(AttentionShort, WhatLiesBeyondAKeyLengthIsNeverUsed) {
  const Case c{.batch = 2, .tq = 49, .tk = 49, .dim = 16, .value_dim = 16, .lengths = {18, 49}};
  const AttentionProblem p = c.problem(true, DType::bf16);
  for (size_t which = 0; which < attention_kernels().size(); ++which) {
    if (!attention_kernels()[which].plan(p)) continue;
    Arrays<bf16> a(p);
    a.randomise(15);
    a.lengths = c.lengths;
    for (size_t i = 18 * 16; i < 49 * 16; ++i) a.k[i] = a.v[i] = bf16(NAN);
    run_plan(*attention_kernels()[which].plan(p), a.forward());
    run_plan(*plan_backward(attention_kernels()[which].name, p), a.backward());
    for (const auto* array : {&a.out, &a.dq, &a.dk, &a.dv})
      for (bf16 x : *array) EXPECT_TRUE(std::isfinite(static_cast<float>(x)));
    for (size_t i = 18 * 16; i < 49 * 16; ++i) {
      EXPECT_EQ(static_cast<float>(a.dk[i]), 0.0f);
      EXPECT_EQ(static_cast<float>(a.dv[i]), 0.0f);
    }
  }
}

TEST(AttentionShort, ANaNInAQueryReachesItsOutputAndNoOther) {
  const Case c{.tq = 49, .tk = 20, .dim = 16, .value_dim = 16};
  const AttentionProblem p = c.problem(true, DType::f32);
  for (const AttentionKernel& kernel : attention_kernels()) {
    if (!kernel.plan(p)) continue;
    for (size_t query : {size_t{3}, size_t{47}, size_t{48}}) {
      Arrays<float> a(p);
      a.randomise(16);
      a.q[query * 16 + 5] = NAN;
      run_plan(*kernel.plan(p), a.forward());
      for (size_t i = 0; i < a.out.size(); ++i)
        EXPECT_EQ(std::isnan(a.out[i]), i / 16 == query) << kernel.name;
      for (size_t i = 0; i < a.lse.size(); ++i) EXPECT_EQ(std::isnan(a.lse[i]), i == query);
    }
  }
}

TEST(AttentionShort, ScoresOfTenThousandStayFinite) {
  const Case c{.tq = 49, .tk = 49, .heads = 2, .kv_heads = 2, .dim = 16, .value_dim = 16};
  const AttentionProblem p = c.problem(true, DType::f32);
  Arrays<float> a(p);
  a.randomise(17, 1e4f);
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
    // Scores, and so probabilities, are known to about 1e-3 here.
    expect_near(got.out, want.out, 1e-2, name + " out");
    expect_near(got.lse, want.lse, 3e-6, name + " lse");
    expect_near(got.dv, want.dv, 1e-2, name + " dv");
    for (const auto* array : {&got.dq, &got.dk})
      for (float x : *array) EXPECT_TRUE(std::isfinite(x)) << name;
  }
}

TEST(AttentionShort, TheLogSumExpIsNotWrittenUnlessWanted) {
  AttentionProblem p = Case{.tq = 49, .tk = 49}.problem(true, DType::bf16);
  for (const AttentionKernel& kernel : attention_kernels()) {
    if (!kernel.plan(p)) continue;
    p.want_lse = false;
    Arrays<bf16> a(p);
    a.randomise(18);
    run_plan(*kernel.plan(p), a.forward());
    for (float x : a.lse) EXPECT_TRUE(std::isnan(x)) << kernel.name;
    p.want_lse = true;
    AttentionArgs args = a.forward();
    args.lse = nullptr;
    run_plan(*kernel.plan(p), args);
  }
}

TEST(AttentionShort, WhatIsLongOrMaskedByPositionIsLeftToTheTiledKernels) {
  const auto taken = [](const AttentionProblem& p) {
    bool forward = false, backward = false;
    for (const AttentionKernel& kernel : attention_kernels())
      if (is_short(kernel.name)) forward |= kernel.plan(p) != nullptr;
    for (const AttentionBackwardKernel& kernel : attention_backward_kernels())
      if (is_short(kernel.name)) backward |= kernel.plan(p) != nullptr;
    EXPECT_EQ(forward, backward);
    return forward;
  };
  if (attention_kernels().size() == 1) GTEST_SKIP() << "this processor has only the reference";
  for (DType dtype : {DType::f32, DType::bf16}) {
    EXPECT_TRUE(taken(Case{.tq = 128, .tk = 128}.problem(true, dtype)));
    EXPECT_FALSE(taken(Case{.tq = 129}.problem(true, dtype)));
    EXPECT_FALSE(taken(Case{.tk = 129}.problem(true, dtype)));
    EXPECT_TRUE(taken(Case{.dim = 128, .value_dim = 128}.problem(true, dtype)));
    EXPECT_FALSE(taken(Case{.dim = 129}.problem(true, dtype)));
    EXPECT_FALSE(taken(Case{.value_dim = 129}.problem(true, dtype)));
    EXPECT_TRUE(taken(Case{.tq = 56, .tk = 56, .causal = true}.problem(true, dtype)));
    EXPECT_FALSE(taken(Case{.tq = 57, .tk = 57, .causal = true}.problem(true, dtype)));
    EXPECT_FALSE(taken(Case{.tq = 57, .tk = 57, .left = 8}.problem(true, dtype)));
  }
  EXPECT_FALSE(taken(Case{}.problem(true, DType::f64)));
  EXPECT_FALSE(taken(Case{}.problem(true, DType::f16)));
}

}  // namespace
}  // namespace fovea

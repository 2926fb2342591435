#include "fovea/kernels/pair_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "fovea/base/error.h"
#include "fovea/kernels/attention_test.h"
#include "fovea/kernels/leaf_test.h"

namespace fovea {
namespace {

using attention_test::converted;
using attention_test::expect_near;
using attention_test::LseType;
using attention_test::run_plan;

struct Case {
  int64_t batch = 1, tq = 1, tk = 1, heads = 1, kv_heads = 1, dim = 8, value_dim = 8;
  bool causal = false;
  int64_t left = -1, right = -1;
  std::vector<int32_t> lengths{};
  PairScore score = PairScore::additive;
  double scale = 0.7;

  PairAttentionProblem problem(bool packed, DType dtype) const {
    PairAttentionProblem p;
    p.dtype = dtype;
    p.batch = batch;
    p.tq = tq;
    p.tk = tk;
    p.heads = heads;
    p.kv_heads = kv_heads;
    p.head_dim = dim;
    p.value_dim = value_dim;
    p.score = score;
    p.scale = scale;
    p.causal = causal;
    p.window_left = left;
    p.window_right = right;
    p.want_lse = true;
    set_dense_strides(p, packed);
    return p;
  }
  std::string text(std::string_view kernel, bool packed) const {
    std::string s(kernel);
    s += score == PairScore::additive ? " additive" : " subtraction";
    for (int64_t n : {batch, tq, tk, heads, kv_heads, dim, value_dim, left, right})
      s += " " + std::to_string(n);
    return s + (causal ? " causal" : "") + (packed ? " packed" : " head-major");
  }
};

// What a kernel writes starts as NaN.
template <class T>
struct Arrays {
  std::vector<T> q, k, v, w, dout, out, dq, dk, dv, dw;
  std::vector<LseType<T>> lse;
  std::vector<int32_t> lengths;

  explicit Arrays(const Case& c) : lengths(c.lengths) {
    const auto size = [&](int64_t t, int64_t h, int64_t d) {
      return static_cast<size_t>(c.batch * t * h * d);
    };
    q.resize(size(c.tq, c.heads, c.dim));
    k.resize(size(c.tk, c.kv_heads, c.dim));
    v.resize(size(c.tk, c.kv_heads, c.value_dim));
    w.resize(static_cast<size_t>(c.heads * c.dim));
    dout.resize(size(c.tq, c.heads, c.value_dim));
    const T nothing = convert<T, false>(NAN);
    out.assign(dout.size(), nothing);
    lse.assign(size(c.tq, c.heads, 1), LseType<T>(NAN));
    dq.assign(q.size(), nothing);
    dk.assign(k.size(), nothing);
    dv.assign(v.size(), nothing);
    dw.assign(w.size(), nothing);
  }
  void randomise(uint64_t seed) {
    for (auto* array : {&q, &k, &v, &w, &dout})
      *array = converted<T>(leaf::numbers<float>(static_cast<int64_t>(array->size()), seed++));
  }
  template <class U>
  void copy_inputs(const Arrays<U>& from) {
    q = converted<T>(from.q);
    k = converted<T>(from.k);
    v = converted<T>(from.v);
    w = converted<T>(from.w);
    dout = converted<T>(from.dout);
    lengths = from.lengths;
  }
  const int32_t* key_lengths() const { return lengths.empty() ? nullptr : lengths.data(); }
  PairAttentionArgs forward() {
    return {.q = q.data(),
            .k = k.data(),
            .v = v.data(),
            .w = w.data(),
            .out = out.data(),
            .lse = lse.data(),
            .key_lengths = key_lengths()};
  }
  PairAttentionBackwardArgs backward() {
    return {.q = q.data(),
            .k = k.data(),
            .v = v.data(),
            .w = w.data(),
            .out = out.data(),
            .lse = lse.data(),
            .dout = dout.data(),
            .dq = dq.data(),
            .dk = dk.data(),
            .dv = dv.data(),
            .dw = dw.data(),
            .key_lengths = key_lengths()};
  }
  void run(const std::string& kernel, const PairAttentionProblem& p, int threads = 1) {
    for (const auto& f : pair_attention_kernels())
      if (f.name == kernel) run_plan(*f.plan(p), forward(), threads);
    for (const auto& b : pair_attention_backward_kernels())
      if (b.name == kernel) run_plan(*b.plan(p), backward(), threads);
  }
  std::vector<const std::vector<T>*> results() const { return {&out, &dq, &dk, &dv, &dw}; }
};

std::vector<std::string> kernels_for(const PairAttentionProblem& p) {
  std::vector<std::string> names, backward;
  for (const auto& kernel : pair_attention_kernels())
    if (kernel.plan(p)) names.emplace_back(kernel.name);
  for (const auto& kernel : pair_attention_backward_kernels())
    if (kernel.plan(p)) backward.emplace_back(kernel.name);
  EXPECT_EQ(names, backward);
  return names;
}

// Both scores.
std::vector<Case> both(std::vector<Case> list) {
  const size_t n = list.size();
  for (size_t i = 0; i < n; ++i) {
    list.push_back(list[i]);
    list.back().score = PairScore::subtraction;
  }
  return list;
}

// batch, tq, tk, heads, kv_heads, dim, value_dim, causal, left, right, lengths
std::vector<Case> cases() {
  std::vector<Case> list;
  for (int64_t t : {1, 7, 49, 150})
    for (int64_t d : {1, 8, 20}) list.push_back({1, t, t, 2, 2, d, d});
  list.push_back({2, 33, 70, 4, 2, 20, 12});                  // grouped, Dv != D
  list.push_back({1, 9, 13, 6, 1, 5, 3, true});               // one key/value head
  list.push_back({1, 40, 150, 2, 1, 16, 24, true});           // a past
  list.push_back({1, 150, 40, 2, 1, 16, 24, true});           // blind queries
  list.push_back({1, 130, 140, 2, 2, 16, 16, false, 20, 5});  // a window
  list.push_back({1, 300, 300, 1, 1, 8, 8, true, 70});        // with blocks that nobody sees
  list.push_back({1, 90, 30, 1, 1, 8, 8, false, 3, 3});       // blind queries at the start
  list.push_back({1, 21, 37, 2, 2, 8, 8, false, 0, 0});       // one key each
  list.push_back({3, 50, 100, 2, 2, 16, 16, false, -1, -1, {100, 17, 0}});
  list.push_back({3, 60, 70, 2, 1, 16, 16, true, 30, -1, {99, 25, 1}});  // 99: clamped
  list.push_back({1, 40, 70, 1, 1, 64, 64});
  return both(std::move(list));
}

TEST(PairAttention, TheReferenceIsTheDefinition) {
  for (const Case& c : both({{.tq = 5, .tk = 7, .dim = 3, .value_dim = 2}})) {
    Arrays<double> a(c);
    a.randomise(1);
    a.run("ref", c.problem(true, DType::f64));
    for (size_t i = 0; i < 5; ++i) {
      double sum = 0, sums[2] = {};
      for (size_t j = 0; j < 7; ++j) {
        double score = 0;
        for (size_t d = 0; d < 3; ++d) {
          const double q = a.q[i * 3 + d], k = a.k[j * 3 + d];
          score +=
              a.w[d] * (c.score == PairScore::additive ? std::tanh(q + k) : std::max(q - k, 0.0));
        }
        const double e = std::exp(c.scale * score);
        sum += e;
        for (size_t d = 0; d < 2; ++d) sums[d] += e * a.v[j * 2 + d];
      }
      for (size_t d = 0; d < 2; ++d) EXPECT_NEAR(a.out[i * 2 + d], sums[d] / sum, 1e-13);
      EXPECT_NEAR(a.lse[i], std::log(sum), 1e-13);
    }
  }
}

TEST(PairAttention, TheReferenceGradientMatchesFiniteDifferences) {
  const std::vector<Case> list = both({{1, 4, 6, 4, 2, 3, 2, true},
                                       {2, 5, 3, 2, 1, 2, 3, true, 2, -1, {3, 1}},
                                       {2, 4, 5, 2, 1, 3, 2, false, 1, 2}});
  for (const Case& c : list) {
    const PairAttentionProblem p = c.problem(true, DType::f64);
    Arrays<double> a(c);
    a.randomise(2);
    a.run("ref", p);
    const auto loss = [&] {
      Arrays<double> moved(c);
      moved.copy_inputs(a);
      run_plan(*pair_attention_kernels().back().plan(p), moved.forward());
      return leaf::dot(moved.out, a.dout);
    };
    leaf::expect_close(a.dq, leaf::finite_differences(a.q, loss), 1e-8, "dq");
    leaf::expect_close(a.dk, leaf::finite_differences(a.k, loss), 1e-8, "dk");
    leaf::expect_close(a.dv, leaf::finite_differences(a.v, loss), 1e-8, "dv");
    leaf::expect_close(a.dw, leaf::finite_differences(a.w, loss), 1e-8, "dw");
  }
}

// Against the reference in double; what backward gets from forward is that of double.
template <class T>
void expect_right(const Case& c, DType dtype, Arrays<T>& a, double forward, double backward) {
  for (bool packed : {true, false}) {
    Arrays<double> want(c);
    want.copy_inputs(a);
    want.run("ref", c.problem(packed, DType::f64));
    for (const std::string& kernel : kernels_for(c.problem(packed, dtype))) {
      Arrays<T> got(c);
      got.copy_inputs(a);
      got.run(kernel, c.problem(packed, dtype));
      const std::string what = c.text(kernel, packed);
      expect_near(got.out, want.out, forward, what + " out");
      expect_near(got.lse, want.lse, forward, what + " lse", 1);
      // Where the terms of a gradient cancel (one key seen), their size counts.
      expect_near(got.dq, want.dq, backward, what + " dq", 1);
      expect_near(got.dk, want.dk, backward, what + " dk", 1);
      expect_near(got.dv, want.dv, backward, what + " dv", 1);
      expect_near(got.dw, want.dw, backward, what + " dw", 1);
    }
  }
}

TEST(PairAttention, EveryKernelMatchesDoublePrecision) {
  for (const Case& c : cases()) {
    Arrays<float> a(c);
    a.randomise(3);
    expect_right(c, DType::f32, a, 3e-6, 1e-5);
  }
}
TEST(PairAttention, EveryKernelTakesBf16) {
  for (const Case& c : cases()) {
    Arrays<bf16> a(c);
    a.randomise(4);
    expect_right(c, DType::bf16, a, 5e-3, 3e-2);
  }
}

// tanh(q + k) counts, however large q and k are, and whatever way the kernels take to it.
TEST(PairAttention, LargeQueriesAndKeysThatCancelAreRight) {
  const Case c{.tq = 70, .tk = 90, .dim = 8};
  for (double offset : {15.0, 40.0, 1000.0}) {
    Arrays<float> a(c);
    a.randomise(5);
    for (float& x : a.q) x = static_cast<float>(double{x} + offset);
    for (float& x : a.k) x = static_cast<float>(double{x} - offset);
    expect_right(c, DType::f32, a, 1e-5, 3e-5);
  }
}

TEST(PairAttention, ScoresOfTenThousandStayFinite) {
  for (const Case& c : both({{.tq = 50, .tk = 70, .dim = 16, .scale = 1e4}})) {
    const PairAttentionProblem p = c.problem(true, DType::f32);
    for (const std::string& kernel : kernels_for(p)) {
      Arrays<float> a(c);
      a.randomise(6);
      a.run(kernel, p);
      for (const auto* array : a.results())
        for (float x : *array) ASSERT_TRUE(std::isfinite(x)) << kernel;
    }
  }
}

TEST(PairAttention, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (const Case& c : both({{3, 140, 150, 4, 2, 12, 16, true}})) {
    const PairAttentionProblem p = c.problem(true, DType::f32);
    for (const std::string& kernel : kernels_for(p)) {
      leaf::expect_same_bits_for_any_threads([&](int threads) {
        Arrays<float> a(c);
        a.randomise(7);
        a.run(kernel, p, threads);
        std::vector<float> all = a.lse;
        for (const auto* array : a.results()) all.insert(all.end(), array->begin(), array->end());
        return all;
      });
    }
  }
}

TEST(PairAttention, AQueryWithoutKeysGivesZeroAndMinusInfinityAndNoGradient) {
  for (const Case& c : both({{.tq = 60, .tk = 20, .dim = 16, .causal = true}})) {
    const PairAttentionProblem p = c.problem(true, DType::f32);
    for (const std::string& kernel : kernels_for(p)) {
      Arrays<float> a(c);
      a.randomise(8);
      a.run(kernel, p);
      for (size_t i = 0; i < 40; ++i) {
        EXPECT_EQ(a.lse[i], -HUGE_VALF) << kernel;
        for (size_t e = 0; e < 8; ++e) EXPECT_EQ(a.out[i * 8 + e], 0.0f) << kernel;
        for (size_t d = 0; d < 16; ++d) EXPECT_EQ(a.dq[i * 16 + d], 0.0f) << kernel;
      }
      for (const auto* array : a.results())
        for (float x : *array) EXPECT_TRUE(std::isfinite(x)) << kernel;
    }
  }
}

TEST(PairAttention, WhatLiesBeyondAKeyLengthIsNeverUsed) {
  for (const Case& c : both({{.batch = 2, .tq = 40, .tk = 100, .dim = 16, .lengths = {9, 100}}})) {
    const PairAttentionProblem p = c.problem(true, DType::f32);
    for (const std::string& kernel : kernels_for(p)) {
      Arrays<float> a(c);
      a.randomise(9);
      std::fill(a.k.begin() + 9 * 16, a.k.begin() + 100 * 16, NAN);
      std::fill(a.v.begin() + 9 * 8, a.v.begin() + 100 * 8, NAN);
      a.run(kernel, p);
      for (const auto* array : a.results())
        for (float x : *array) EXPECT_TRUE(std::isfinite(x)) << kernel;
      for (size_t i = 9 * 16; i < 100 * 16; ++i) EXPECT_EQ(a.dk[i], 0.0f) << kernel;
      for (size_t i = 9 * 8; i < 100 * 8; ++i) EXPECT_EQ(a.dv[i], 0.0f) << kernel;
    }
  }
}

TEST(PairAttention, ANaNInAQueryReachesItsOutputAndNoOther) {
  for (const Case& c : both({{.tq = 20, .tk = 20, .dim = 16, .value_dim = 16}})) {
    const PairAttentionProblem p = c.problem(true, DType::f32);
    for (const std::string& kernel : kernels_for(p)) {
      Arrays<float> a(c);
      a.randomise(10);
      a.q[3 * 16 + 5] = NAN;
      a.run(kernel, p);
      for (size_t i = 0; i < a.out.size(); ++i)
        EXPECT_EQ(std::isnan(a.out[i]), i / 16 == 3) << c.text(kernel, true);
    }
  }
}

TEST(PairAttention, TheLogSumExpIsNotWrittenUnlessWanted) {
  const Case c{.tq = 20, .tk = 20};
  PairAttentionProblem p = c.problem(true, DType::f32);
  p.want_lse = false;
  for (const auto& kernel : pair_attention_kernels()) {
    Arrays<float> a(c);
    a.randomise(11);
    run_plan(*kernel.plan(p), a.forward());
    for (float x : a.lse) EXPECT_TRUE(std::isnan(x)) << kernel.name;
  }
}

TEST(PairAttention, WhatSimdDoesNotSupportIsLeftToTheReference) {
  EXPECT_EQ(kernels_for(Case{}.problem(true, DType::f64)), std::vector<std::string>{"ref"});
  EXPECT_TRUE(kernels_for(Case{}.problem(true, DType::f16)).empty());
}

TEST(PairAttention, AWrongProblemIsAnErrorThatNamesIt) {
  const auto expect_error = [](auto change, const std::string& named) {
    PairAttentionProblem p =
        Case{.batch = 2, .tq = 3, .tk = 3, .heads = 4, .kv_heads = 2}.problem(true, DType::f32);
    change(p);
    for (const auto& kernel : pair_attention_backward_kernels()) {
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
  expect_error([](auto& p) { p.kv_heads = 3; }, "multiple of kv_heads");
  expect_error([](auto& p) { p.window_left = -2; }, "windows");
  expect_error([](auto& p) { p.scale = NAN; }, "scale");
  expect_error([](auto& p) { p.dv.head = 7; }, "strides of dv");
}

}  // namespace
}  // namespace fovea

#include "fovea/kernels/linear_attention.h"

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
using attention_test::run_plan;

struct Case {
  int64_t batch = 1, tq = 1, tk = 1, heads = 1, kv_heads = 1, dim = 8, value_dim = 8;
  bool causal = false;
  std::vector<int32_t> lengths{};

  LinearAttentionProblem problem(bool packed, DType dtype) const {
    LinearAttentionProblem p;
    p.dtype = dtype;
    p.batch = batch;
    p.tq = tq;
    p.tk = tk;
    p.heads = heads;
    p.kv_heads = kv_heads;
    p.head_dim = dim;
    p.value_dim = value_dim;
    p.causal = causal;
    set_dense_strides(p, packed);
    return p;
  }
  std::string text(std::string_view kernel, bool packed) const {
    std::string s(kernel);
    for (int64_t n : {batch, tq, tk, heads, kv_heads, dim, value_dim}) s += " " + std::to_string(n);
    return s + (causal ? " causal" : "") + (packed ? " packed" : " head-major");
  }
};

// What a kernel writes starts as NaN.
template <class T>
struct Arrays {
  std::vector<T> q, k, v, dout, out, dq, dk, dv;
  std::vector<int32_t> lengths;

  explicit Arrays(const Case& c) : lengths(c.lengths) {
    const auto size = [&](int64_t t, int64_t h, int64_t d) {
      return static_cast<size_t>(c.batch * t * h * d);
    };
    q.resize(size(c.tq, c.heads, c.dim));
    k.resize(size(c.tk, c.kv_heads, c.dim));
    v.resize(size(c.tk, c.kv_heads, c.value_dim));
    dout.resize(size(c.tq, c.heads, c.value_dim));
    const T nothing = convert<T, false>(NAN);
    out.assign(dout.size(), nothing);
    dq.assign(q.size(), nothing);
    dk.assign(k.size(), nothing);
    dv.assign(v.size(), nothing);
  }
  void randomise(uint64_t seed) {
    for (auto* array : {&q, &k, &v, &dout})
      *array = converted<T>(leaf::numbers<float>(static_cast<int64_t>(array->size()), seed++));
  }
  template <class U>
  void copy_inputs(const Arrays<U>& from) {
    q = converted<T>(from.q);
    k = converted<T>(from.k);
    v = converted<T>(from.v);
    dout = converted<T>(from.dout);
    lengths = from.lengths;
  }
  const int32_t* key_lengths() const { return lengths.empty() ? nullptr : lengths.data(); }
  LinearAttentionArgs forward() {
    return {.q = q.data(),
            .k = k.data(),
            .v = v.data(),
            .out = out.data(),
            .key_lengths = key_lengths()};
  }
  LinearAttentionBackwardArgs backward() {
    return {.q = q.data(),
            .k = k.data(),
            .v = v.data(),
            .dout = dout.data(),
            .dq = dq.data(),
            .dk = dk.data(),
            .dv = dv.data(),
            .key_lengths = key_lengths()};
  }
  void run(const std::string& kernel, const LinearAttentionProblem& p, int threads = 1) {
    for (const auto& f : linear_attention_kernels())
      if (f.name == kernel) run_plan(*f.plan(p), forward(), threads);
    for (const auto& b : linear_attention_backward_kernels())
      if (b.name == kernel) run_plan(*b.plan(p), backward(), threads);
  }
};

std::vector<std::string> kernels_for(const LinearAttentionProblem& p) {
  std::vector<std::string> names, backward;
  for (const auto& kernel : linear_attention_kernels())
    if (kernel.plan(p)) names.emplace_back(kernel.name);
  for (const auto& kernel : linear_attention_backward_kernels())
    if (kernel.plan(p)) backward.emplace_back(kernel.name);
  EXPECT_EQ(names, backward);
  return names;
}

// batch, tq, tk, heads, kv_heads, dim, value_dim, causal, lengths
std::vector<Case> cases() {
  std::vector<Case> list;
  for (bool causal : {false, true}) {
    for (int64_t t : {1, 15, 48, 97, 200})
      for (int64_t d : {1, 8, 20, 64}) list.push_back({1, t, t, 2, 2, d, d, causal});
    list.push_back({2, 49, 49, 4, 2, 16, 16, causal});
    list.push_back({2, 33, 170, 4, 1, 20, 12, causal});  // a past; Dv != D
    list.push_back({1, 1, 131, 2, 2, 16, 24, causal});   // one query at the end
    list.push_back({1, 170, 33, 2, 1, 12, 20, causal});  // blind queries if causal
    list.push_back({1, 60, 65, 3, 1, 5, 3, causal});
    list.push_back({3, 150, 150, 2, 2, 16, 16, causal, {150, 61, 0}});
    list.push_back({3, 70, 110, 4, 2, 24, 8, causal, {999, 97, 96}});
    list.push_back({1, 100, 100, 1, 1, 128, 80, causal});
  }
  return list;
}

double feature(double x) { return x > 0 ? x + 1 : std::exp(x); }

// The definition, link by link; packed.
std::vector<double> by_links(const Case& c, const Arrays<double>& a) {
  std::vector<double> out(a.out.size());
  const int64_t group = c.heads / c.kv_heads;
  for (int64_t b = 0; b < c.batch; ++b) {
    const int64_t length =
        c.lengths.empty() ? c.tk : std::min<int64_t>(c.tk, c.lengths[static_cast<size_t>(b)]);
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t i = 0; i < c.tq; ++i) {
        const auto query = static_cast<size_t>((b * c.tq + i) * c.heads + h);
        double mass = 0;
        std::vector<double> sum(static_cast<size_t>(c.value_dim));
        for (int64_t j = 0; j < length; ++j) {
          if (c.causal && j > i + c.tk - c.tq) break;
          const auto key = static_cast<size_t>((b * c.tk + j) * c.kv_heads + h / group);
          double link = 0;
          for (size_t d = 0; d < static_cast<size_t>(c.dim); ++d)
            link += feature(a.q[query * static_cast<size_t>(c.dim) + d]) *
                    feature(a.k[key * static_cast<size_t>(c.dim) + d]);
          mass += link;
          for (size_t e = 0; e < sum.size(); ++e) sum[e] += link * a.v[key * sum.size() + e];
        }
        for (size_t e = 0; e < sum.size(); ++e)
          out[query * sum.size() + e] = mass == 0 ? 0 : sum[e] / mass;
      }
    }
  }
  return out;
}

TEST(LinearAttention, TheReferenceIsTheDefinition) {
  for (const Case& c : cases()) {
    Arrays<double> a(c);
    a.randomise(1);
    a.run("ref", c.problem(true, DType::f64));
    expect_near(a.out, by_links(c, a), 1e-12, c.text("ref", true));
  }
}

TEST(LinearAttention, TheReferenceGradientMatchesFiniteDifferences) {
  const std::vector<Case> list = {{1, 4, 6, 4, 2, 3, 2, true},
                                  {1, 5, 3, 2, 1, 2, 3, true},
                                  {2, 3, 4, 2, 2, 2, 2, true, {3, 0}},
                                  {2, 4, 5, 2, 1, 3, 2, false, {5, 2}}};
  for (const Case& c : list) {
    const LinearAttentionProblem p = c.problem(true, DType::f64);
    Arrays<double> a(c);
    a.randomise(2);
    a.run("ref", p);
    const auto loss = [&] {
      Arrays<double> moved(c);
      moved.copy_inputs(a);
      run_plan(*linear_attention_kernels().back().plan(p), moved.forward());
      return leaf::dot(moved.out, a.dout);
    };
    leaf::expect_close(a.dq, leaf::finite_differences(a.q, loss), 1e-8, "dq");
    leaf::expect_close(a.dk, leaf::finite_differences(a.k, loss), 1e-8, "dk");
    leaf::expect_close(a.dv, leaf::finite_differences(a.v, loss), 1e-8, "dv");
  }
}

// Against the reference in double, for both layouts.
template <class T>
void expect_right(DType dtype, double forward, double backward) {
  for (const Case& c : cases()) {
    for (bool packed : {true, false}) {
      Arrays<T> a(c);
      a.randomise(3);
      Arrays<double> want(c);
      want.copy_inputs(a);
      want.run("ref", c.problem(packed, DType::f64));
      for (const std::string& kernel : kernels_for(c.problem(packed, dtype))) {
        Arrays<T> got(c);
        got.copy_inputs(a);
        got.run(kernel, c.problem(packed, dtype));
        const std::string what = c.text(kernel, packed);
        expect_near(got.out, want.out, forward, what + " out");
        // Where the terms of a gradient cancel (one key seen), their size counts.
        constexpr double kTerms = 0.1;
        expect_near(got.dq, want.dq, backward, what + " dq", kTerms);
        expect_near(got.dk, want.dk, backward, what + " dk", kTerms);
        expect_near(got.dv, want.dv, backward, what + " dv", kTerms);
      }
    }
  }
}
TEST(LinearAttention, EveryKernelMatchesDoublePrecision) {
  expect_right<float>(DType::f32, 3e-6, 1e-5);
}
TEST(LinearAttention, EveryKernelTakesBf16) { expect_right<bf16>(DType::bf16, 5e-3, 5e-3); }

TEST(LinearAttention, LongSequencesStayAccurate) {
  for (bool causal : {false, true}) {
    const Case c{.tq = 8192, .tk = 8192, .dim = 16, .value_dim = 16, .causal = causal};
    Arrays<float> a(c);
    a.randomise(4);
    Arrays<double> want(c);
    want.copy_inputs(a);
    want.run("ref", c.problem(true, DType::f64));
    for (const std::string& kernel : kernels_for(c.problem(true, DType::f32))) {
      Arrays<float> got(c);
      got.copy_inputs(a);
      got.run(kernel, c.problem(true, DType::f32));
      expect_near(got.out, want.out, 3e-6, kernel + " out");
      expect_near(got.dq, want.dq, 1e-5, kernel + " dq");
      expect_near(got.dk, want.dk, 1e-5, kernel + " dk");
      expect_near(got.dv, want.dv, 1e-5, kernel + " dv");
    }
  }
}

TEST(LinearAttention, TheBitsAreTheSameForAnyNumberOfThreads) {
  const Case c{
      .batch = 2, .tq = 130, .tk = 110, .heads = 4, .kv_heads = 2, .dim = 20, .causal = true};
  const LinearAttentionProblem p = c.problem(true, DType::f32);
  for (const std::string& kernel : kernels_for(p)) {
    leaf::expect_same_bits_for_any_threads([&](int threads) {
      Arrays<float> a(c);
      a.randomise(5);
      a.run(kernel, p, threads);
      std::vector<float> all = a.out;
      for (const auto* array : {&a.dq, &a.dk, &a.dv})
        all.insert(all.end(), array->begin(), array->end());
      return all;
    });
  }
}

TEST(LinearAttention, AQueryWithoutKeysGivesZeroAndNoGradient) {
  const Case c{.tq = 60, .tk = 20, .dim = 16, .value_dim = 16, .causal = true};  // 40 blind ones
  const LinearAttentionProblem p = c.problem(true, DType::f32);
  for (const std::string& kernel : kernels_for(p)) {
    Arrays<float> a(c);
    a.randomise(6);
    a.run(kernel, p);
    for (size_t i = 0; i < 40 * 16; ++i) {
      EXPECT_EQ(a.out[i], 0.0f) << kernel;
      EXPECT_EQ(a.dq[i], 0.0f) << kernel;
    }
    for (const auto* array : {&a.out, &a.dq, &a.dk, &a.dv})
      for (float x : *array) EXPECT_TRUE(std::isfinite(x)) << kernel;
  }
}

TEST(LinearAttention, WhatLiesBeyondAKeyLengthIsNeverUsed) {
  for (bool causal : {false, true}) {
    const Case c{
        .batch = 2, .tq = 100, .tk = 110, .dim = 16, .causal = causal, .lengths = {50, 110}};
    const LinearAttentionProblem p = c.problem(true, DType::f32);
    for (const std::string& kernel : kernels_for(p)) {
      Arrays<float> a(c);
      a.randomise(7);
      std::fill(a.k.begin() + 50 * 16, a.k.begin() + 110 * 16, NAN);
      std::fill(a.v.begin() + 50 * 8, a.v.begin() + 110 * 8, NAN);
      a.run(kernel, p);
      for (const auto* array : {&a.out, &a.dq, &a.dk, &a.dv})
        for (float x : *array) EXPECT_TRUE(std::isfinite(x)) << kernel;
      for (size_t i = 50 * 16; i < 110 * 16; ++i) EXPECT_EQ(a.dk[i], 0.0f) << kernel;
      for (size_t i = 50 * 8; i < 110 * 8; ++i) EXPECT_EQ(a.dv[i], 0.0f) << kernel;
    }
  }
}

TEST(LinearAttention, LargeNumbersStayFinite) {
  const Case c{.tq = 50, .tk = 70, .dim = 16, .causal = true};
  const LinearAttentionProblem p = c.problem(true, DType::f32);
  for (const std::string& kernel : kernels_for(p)) {
    for (float factor : {1e4f, -1e4f}) {
      Arrays<float> a(c);
      a.randomise(9);
      for (auto* array : {&a.q, &a.k})
        for (float& x : *array) x = (1 + std::abs(x)) * factor;  // below -104 phi is 0
      a.run(kernel, p);
      for (const auto* array : {&a.out, &a.dq, &a.dk, &a.dv})
        for (float x : *array) EXPECT_TRUE(std::isfinite(x)) << kernel << " " << factor;
      if (factor < 0) {
        EXPECT_EQ(*std::max_element(a.out.begin(), a.out.end()), 0.0f) << kernel;
      }
    }
  }
}

TEST(LinearAttention, WhatSimdDoesNotSupportIsLeftToTheReference) {
  EXPECT_EQ(kernels_for(Case{}.problem(true, DType::f64)), std::vector<std::string>{"ref"});
  EXPECT_TRUE(kernels_for(Case{}.problem(true, DType::f16)).empty());
}

TEST(LinearAttention, AWrongProblemIsAnErrorThatNamesIt) {
  const auto expect_error = [](auto change, const std::string& named) {
    LinearAttentionProblem p =
        Case{.batch = 2, .tq = 3, .tk = 3, .heads = 4, .kv_heads = 2}.problem(true, DType::f32);
    change(p);
    for (const auto& kernel : linear_attention_backward_kernels()) {
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
  expect_error([](auto& p) { p.k.token = -1; }, "strides of k");
  expect_error([](auto& p) { p.dv.head = 7; }, "strides of dv");
}

}  // namespace
}  // namespace fovea

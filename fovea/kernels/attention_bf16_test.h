// What the tests of the attention kernels that multiply in bf16 share. run(problem, arrays) runs
// the kernel under test.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "fovea/kernels/attention_test.h"
#include "fovea/kernels/avx512_bf16.h"

namespace fovea::attention_test {

class NeedsProductsOfBf16 : public testing::Test {
 protected:
  void SetUp() override {
    if (!avx512_bf16::available()) GTEST_SKIP() << "this processor has no products of bf16";
  }
};

// Largest error against the largest value; in the norm it is about 3e-3.
constexpr double kBf16Tolerance = 1.0 / 128;

// in_norm: also by the norm of the error.
inline void expect_gradients_near(const Arrays<bf16>& got, const Arrays<double>& want, bool in_norm,
                                  const std::string& what) {
  constexpr double kTerms = 0.1;  // terms of dP - delta may cancel
  const auto check = [&](const auto& x, const std::vector<double>& y, const char* name) {
    expect_near(x, y, 2 * kBf16Tolerance, what + name, kTerms);
    if (in_norm) {
      EXPECT_LT(relative_norm(x, y), 1e-2) << what << name;
    }
  };
  check(got.dq, want.dq, " dq");
  check(got.dk, want.dk, " dk");
  check(got.dv, want.dv, " dv");
}

inline void expect_finite(const std::vector<bf16>& numbers, const std::string& what) {
  for (bf16 x : numbers) ASSERT_TRUE(std::isfinite(static_cast<float>(x))) << what;
}
// With what forward writes, and with gradients.
inline void expect_finite(const Arrays<bf16>& a, bool gradients, const std::string& what) {
  expect_finite(a.out, what + " out");
  if (!gradients) return;
  expect_finite(a.dq, what + " dq");
  expect_finite(a.dk, what + " dk");
  expect_finite(a.dv, what + " dv");
}

// With keys and values of one sample that are not numbers beyond its length.
template <class Run>
void expect_lengths_hold(const Case& c, uint64_t seed, bool gradients, const Run& run) {
  const AttentionProblem p = c.problem(true, DType::bf16);
  Arrays<bf16> a(p);
  a.randomise(seed);
  a.lengths = c.lengths;
  const auto length = static_cast<size_t>(c.lengths[0]);
  const size_t keys = length * static_cast<size_t>(c.kv_heads * c.dim);
  const size_t values = length * static_cast<size_t>(c.kv_heads * c.value_dim);
  for (size_t i = keys; i < a.k.size(); ++i) a.k[i] = bf16(NAN);
  for (size_t i = values; i < a.v.size(); ++i) a.v[i] = bf16(NAN);
  run(p, a);
  expect_finite(a, gradients, "length " + std::to_string(length));
  if (!gradients) return;
  for (size_t i = keys; i < a.dk.size(); ++i) EXPECT_EQ(static_cast<float>(a.dk[i]), 0.0f);
  for (size_t i = values; i < a.dv.size(); ++i) EXPECT_EQ(static_cast<float>(a.dv[i]), 0.0f);
}

// A NaN in one query of the only head reaches what is of that query, and nothing else.
template <class Run>
void expect_nan_stays_in_its_row(const Case& c, size_t query, uint64_t seed, bool gradients,
                                 const Run& run) {
  const AttentionProblem p = c.problem(true, DType::bf16);
  const auto dim = static_cast<size_t>(c.dim), value_dim = static_cast<size_t>(c.value_dim);
  Arrays<bf16> a(p);
  a.randomise(seed);
  a.q[query * dim + 5] = bf16(NAN);
  run(p, a);
  const auto is_nan = [](bf16 x) { return std::isnan(static_cast<float>(x)); };
  for (size_t i = 0; i < a.out.size(); ++i) EXPECT_EQ(is_nan(a.out[i]), i / value_dim == query);
  for (size_t i = 0; i < a.lse.size(); ++i) EXPECT_EQ(std::isnan(a.lse[i]), i == query);
  for (size_t i = 0; gradients && i < a.dq.size(); ++i)
    EXPECT_EQ(is_nan(a.dq[i]), i / dim == query);
}

}  // namespace fovea::attention_test

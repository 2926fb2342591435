#include <string>

#include "fovea/base/error.h"
#include "fovea/kernels/linear.h"
#include "fovea/kernels/linear_test.h"

namespace fovea {
namespace {

using leaf::numbers;
using linear_test::Array;
using linear_test::expect_close;
using linear_test::Sizes;
using linear_test::to_bf16;

struct GradInputs {
  Array dy, x;
  explicit GradInputs(const LinearGradWeightProblem& p)
      : dy(p.dy, numbers<double>(p.rows * p.n, 11)), x(p.x, numbers<double>(p.rows * p.k, 12)) {}
};
struct GradOutputs {
  Array dw, db;
  bool operator==(const GradOutputs& o) const {
    return dw.bytes == o.dw.bytes && db.bytes == o.db.bytes;
  }
};

GradOutputs run(const KernelPlan<LinearGradWeightArgs>& plan, const LinearGradWeightProblem& p,
                const GradInputs& in, int threads = 1) {
  const DType type = p.dy == DType::f64 ? DType::f64 : DType::f32;
  GradOutputs out{Array(type, p.n * p.k), Array(type, p.bias ? p.n : 0)};
  leaf::run<LinearGradWeightProblem>(plan,
                                     LinearGradWeightArgs{in.dy.data(), in.x.data(), out.dw.data(),
                                                          p.bias ? out.db.data() : nullptr},
                                     threads);
  return out;
}

std::string text(const LinearGradWeightProblem& p) {
  return std::to_string(p.rows) + " rows, n " + std::to_string(p.n) + ", k " + std::to_string(p.k) +
         ", " + std::string(dtype_name(p.dy)) + " " + std::string(dtype_name(p.x));
}

std::vector<LinearGradWeightProblem> grad_types() {
  return {{.dy = DType::f64, .x = DType::f64},
          {.dy = DType::f32, .x = DType::f32},
          {.dy = DType::bf16, .x = DType::f32},
          {.dy = DType::f32, .x = DType::bf16},
          {.dy = DType::bf16, .x = DType::bf16}};
}

TEST(LinearGradWeight, TheReferenceAgreesWithTheDefinition) {
  for (LinearGradWeightProblem p : grad_types()) {
    p.rows = 23;
    p.n = 19;
    p.k = 7;
    p.bias = true;
    const GradInputs in(p);
    const bool rounded = p.dy == DType::bf16 || p.x == DType::bf16;
    const auto operand = [&](double v) { return rounded ? to_bf16(v) : v; };
    std::vector<double> dw, db;
    for (int64_t j = 0; j < p.n; ++j) {
      for (int64_t l = 0; l < p.k; ++l) {
        double sum = 0;
        for (int64_t r = 0; r < p.rows; ++r)
          sum += operand(in.dy.at(r * p.n + j)) * operand(in.x.at(r * p.k + l));
        dw.push_back(sum);
      }
      double sum = 0;
      for (int64_t r = 0; r < p.rows; ++r) sum += in.dy.at(r * p.n + j);
      db.push_back(sum);
    }
    const double t = p.dy == DType::f64 ? 1e-12 : 2e-6;
    const GradOutputs got = run(*linear_detail::plan_grad_weight_ref(p), p, in);
    expect_close(got.dw, dw, t, text(p));
    expect_close(got.db, db, t, text(p) + " (db)");
  }
}

TEST(LinearGradWeight, EveryKernelAgreesWithTheReference) {
  const Sizes sizes[] = {{1, 1, 1},     {49, 192, 64},  {50, 10, 33},   {700, 40, 24},
                         {2100, 3, 70}, {2301, 64, 48}, {600, 515, 17}, {30, 2100, 9},
                         {530, 7, 16},  {97, 21, 112},  {1, 250, 240}};
  for (LinearGradWeightProblem p : grad_types()) {
    if (p.dy == DType::f64) continue;
    for (const Sizes& s : sizes) {
      for (const bool bias : {false, true}) {
        p.rows = s.rows;
        p.n = s.n;
        p.k = s.k;
        p.bias = bias;
        const GradInputs in(p);
        const GradOutputs expected = run(*linear_detail::plan_grad_weight_ref(p), p, in);
        const double t = 1e-5 + 2e-7 * static_cast<double>(p.rows);
        for (const auto& k : linear_grad_weight_kernels()) {
          const auto plan = k.plan(p);
          const bool is_f32 = p.dy == DType::f32 && p.x == DType::f32;
          EXPECT_TRUE(plan || k.name != "dnnl" || !is_f32) << text(p);
          if (!plan || k.name == "amx" || k.name == "avx512bf16")
            continue;  // with a test of their own
          const GradOutputs got = run(*plan, p, in);
          expect_close(got.dw, expected.dw, t, std::string(k.name) + " " + text(p));
          expect_close(got.db, expected.db, t, std::string(k.name) + " (db) " + text(p));
        }
      }
    }
  }
}

TEST(LinearGradWeight, TheBitsDoNotDependOnTheThreads) {
  for (LinearGradWeightProblem p : grad_types()) {
    for (const Sizes& s : {Sizes{2301, 64, 48}, Sizes{1700, 515, 17}}) {
      p.rows = s.rows;
      p.n = s.n;
      p.k = s.k;
      p.bias = true;
      const GradInputs in(p);
      for (const auto& k : linear_grad_weight_kernels()) {
        const auto plan = k.plan(p);
        if (!plan) continue;
        const GradOutputs one = run(*plan, p, in);
        for (int threads = 2; threads <= 4; ++threads)
          EXPECT_TRUE(one == run(*plan, p, in, threads)) << k.name << " " << text(p);
      }
    }
  }
}

TEST(LinearGradWeight, NarrowFloatsGoToTheSimdKernels) {
  const LinearGradWeightProblem p{.rows = 100, .n = 64, .k = 64};
  LinearGradWeightProblem uneven = p, wide = p, half = p;
  uneven.k = 63;
  wide.n = 257;
  half.x = DType::bf16;
  for (const auto& k : linear_grad_weight_kernels()) {
    if (!k.name.starts_with("hwy_")) continue;
    EXPECT_NE(k.plan(p), nullptr);
    EXPECT_EQ(k.plan(uneven), nullptr);
    EXPECT_EQ(k.plan(wide), nullptr);
    EXPECT_EQ(k.plan(half), nullptr);
  }
}

TEST(LinearGradWeight, NoRowsGiveZeros) {
  const LinearGradWeightProblem p{.n = 3, .k = 2, .bias = true};
  for (const auto& k : linear_grad_weight_kernels()) {
    if (const auto plan = k.plan(p)) {
      const GradOutputs out = run(*plan, p, GradInputs(p));
      for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(out.dw.at(i), 0) << k.name;
      for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(out.db.at(i), 0) << k.name;
    }
  }
}

TEST(LinearGradWeight, WhatMakesNoSenseIsAnError) {
  const auto expect_wrong_gradient = [](const LinearGradWeightProblem& p,
                                        const std::string& message) {
    for (const auto& k : linear_grad_weight_kernels()) {
      try {
        k.plan(p);
        ADD_FAILURE() << k.name << ": no error, expected " << message;
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
        EXPECT_EQ(std::string(e.what()), message) << k.name;
      }
    }
  };
  expect_wrong_gradient({.rows = -1}, "[linear_grad_weight] expected rows of at least 0, got -1");
  expect_wrong_gradient({.n = -1}, "[linear_grad_weight] expected n of at least 0, got -1");
  expect_wrong_gradient({.k = -1}, "[linear_grad_weight] expected k of at least 0, got -1");
  expect_wrong_gradient({.dy = DType::f64},
                        "[linear_grad_weight] expected dy and x of the same type, or each f32 or "
                        "bf16, got f64 and f32");
}

TEST(LinearGradWeight, WhatIsNotSupportedHasNoPlan) {
  EXPECT_FALSE(leaf::supported(linear_grad_weight_kernels(), {.dy = DType::i32, .x = DType::i32}));
}

}  // namespace
}  // namespace fovea

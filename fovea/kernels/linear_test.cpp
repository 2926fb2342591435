#include "fovea/kernels/linear.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "fovea/base/error.h"
#include "fovea/base/visit.h"
#include "fovea/kernels/linear_dnnl.h"
#include "fovea/kernels/linear_test.h"

namespace fovea {
namespace {

using leaf::numbers;
using linear_detail::row_passes;
using linear_test::Array;
using linear_test::expect_close;
using linear_test::Sizes;
using linear_test::to_bf16;

struct Inputs {
  Array x, w, bias, residual, pre;

  explicit Inputs(const LinearProblem& p)
      : x(p.x, numbers<double>(p.rows * p.k, 1)),
        w(p.w, numbers<double>(p.n * p.k, 2)),
        bias(p.w == DType::f64 ? DType::f64 : DType::f32, numbers<double>(p.n, 3)),
        residual(p.residual_type, numbers<double>(p.rows * p.n, 4)),
        pre(p.pre, numbers<double>(p.rows * p.n, 5, -4, 4)) {}
};
struct Outputs {
  Array y, pre;
  bool operator==(const Outputs& o) const {
    return y.bytes == o.y.bytes && pre.bytes == o.pre.bytes;
  }
};

enum class Pack { never, ahead };

Outputs run(const KernelPlan<LinearArgs>& plan, const LinearProblem& p, const Inputs& in,
            int threads = 1, Pack pack = Pack::never, bool in_place = false) {
  Outputs out{Array(p.y, p.rows * p.n), {}};
  if (in_place) out.y = in.residual;
  if (p.save_pre) out.pre = Array(p.pre, p.rows * p.n);
  const LinearArgs args{.x = in.x.data(),
                        .w = in.w.data(),
                        .bias = p.bias ? in.bias.data() : nullptr,
                        .residual = in_place     ? out.y.data()
                                    : p.residual ? in.residual.data()
                                                 : nullptr,
                        .pre = p.activation == LinearActivation::gradient ? in.pre.data() : nullptr,
                        .y = out.y.data(),
                        .pre_out = p.save_pre ? out.pre.data() : nullptr};
  ThreadPool pool(threads);
  const leaf::Scratch shared(plan.scratch_bytes), packed(plan.packed_bytes);
  const size_t stride = (plan.worker_scratch_bytes + 63) / 64 * 64;
  const leaf::Scratch each(stride * static_cast<size_t>(threads));
  if (pack == Pack::ahead) {
    plan.pack({.w = args.w, .bias = args.bias}, packed.get());
    LinearArgs without = args;
    without.w = nullptr;
    plan.run(without, {&pool, nullptr, each.get(), stride, packed.get()});
  } else {
    plan.run(args, {&pool, shared.get(), each.get(), stride});
  }
  return out;
}

std::string text(const LinearProblem& p) {
  return std::to_string(p.rows) + " rows, n " + std::to_string(p.n) + ", k " + std::to_string(p.k) +
         ", " + std::string(dtype_name(p.x)) + " " + std::string(dtype_name(p.w)) + " " +
         std::string(dtype_name(p.y)) + (p.transposed ? ", transposed" : "") +
         (p.bias ? ", bias" : "") + (p.residual ? ", residual" : "") + ", activation " +
         std::to_string(static_cast<int>(p.activation)) + " " + std::string(enum_name(p.function)) +
         (p.save_pre ? ", pre saved" : "");
}

double value_of(UnaryOp f, double x) {
  if (f == UnaryOp::relu) return std::max(x, 0.0);
  if (f == UnaryOp::silu) return x / (1 + std::exp(-x));
  return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
}
double slope_of(UnaryOp f, double x) {
  constexpr double kStep = 1e-5;
  if (f == UnaryOp::relu) return x > 0 ? 1 : 0;
  return (value_of(f, x + kStep) - value_of(f, x - kStep)) / (2 * kStep);
}

// The definition, in double. y and pre before they are rounded.
struct Expected {
  std::vector<double> y, pre;
};
Expected definition(const LinearProblem& p, const Inputs& in) {
  Expected out;
  const auto operand = [&](double v) { return p.w == DType::bf16 ? to_bf16(v) : v; };
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t j = 0; j < p.n; ++j) {
      double h = p.bias ? in.bias.at(j) : 0;
      for (int64_t l = 0; l < p.k; ++l)
        h += operand(in.x.at(r * p.k + l)) * in.w.at(p.transposed ? l * p.n + j : j * p.k + l);
      out.pre.push_back(h);
      const int64_t i = r * p.n + j;
      if (p.activation == LinearActivation::forward) h = value_of(p.function, h);
      if (p.activation == LinearActivation::gradient) h *= slope_of(p.function, in.pre.at(i));
      out.y.push_back(h + (p.residual ? in.residual.at(i) : 0));
    }
  }
  return out;
}

// What rounding allows: of sums of k products and of the stored result.
double tolerance(DType stored, DType w, int64_t k) {
  if (w == DType::f64) return stored == DType::f64 ? 1e-9 : 1e-6;
  return (stored == DType::bf16 ? 1.0 / 120 : 1e-5) + 2e-7 * static_cast<double>(k);
}

// Every way through the epilogue, for types that go together.
std::vector<LinearProblem> epilogues_for(LinearProblem p) {
  std::vector<LinearProblem> all;
  for (const bool bias : {false, true}) {
    for (const bool residual : {false, true}) {
      p.bias = bias;
      p.residual = residual;
      p.save_pre = false;
      p.activation = LinearActivation::none;
      all.push_back(p);
      for (const UnaryOp f : {UnaryOp::relu, UnaryOp::silu, UnaryOp::gelu}) {
        p.function = f;
        p.activation = LinearActivation::gradient;
        all.push_back(p);
        p.activation = LinearActivation::forward;
        all.push_back(p);
        p.save_pre = true;
        all.push_back(p);
        p.save_pre = false;
      }
    }
  }
  return all;
}

std::vector<LinearProblem> types() {
  const auto f64 = DType::f64, f32 = DType::f32, b16 = DType::bf16;
  std::vector<LinearProblem> all;
  all.push_back({.x = f64, .w = f64, .y = f64, .pre = f64, .residual_type = f64});
  all.push_back({});
  for (const DType x : {f32, b16})
    for (const DType y : {f32, b16})
      for (const DType pre : {f32, b16})
        for (const DType residual : {f32, b16})
          all.push_back({.x = x, .w = b16, .y = y, .pre = pre, .residual_type = residual});
  return all;
}

TEST(Linear, TheReferenceAgreesWithTheDefinition) {
  for (LinearProblem p : types()) {
    p.rows = 19;
    p.n = 7;
    p.k = 11;
    for (const bool transposed : {false, true}) {
      p.transposed = transposed;
      for (const LinearProblem& q : epilogues_for(p)) {
        const Inputs in(q);
        const auto plan = linear_detail::plan_ref(q);
        ASSERT_NE(plan, nullptr);
        const Outputs got = run(*plan, q, in);
        const Expected expected = definition(q, in);
        expect_close(got.y, expected.y, tolerance(q.y, q.w, q.k), text(q));
        if (q.save_pre)
          expect_close(got.pre, expected.pre, tolerance(q.pre, q.w, q.k), text(q) + " (pre)");
      }
    }
  }
}

// Tails of rows and columns, blocks of work in one direction, in the other and in both.
const Sizes kSizes[] = {{1, 1, 1},      {49, 64, 64},   {49, 192, 64},  {50, 10, 33},
                        {300, 40, 24},  {300, 200, 64}, {1030, 70, 31}, {33, 700, 50},
                        {270, 513, 65}, {37, 515, 300}, {1, 600, 40},   {600, 1, 17},
                        {515, 33, 1}};

TEST(Linear, OneDnnAgreesWithTheReference) {
  for (LinearProblem p : types()) {
    if (p.w == DType::f64) continue;
    // All the mixtures of types pass through the epilogue's own test.
    if (p.w == DType::bf16 && (p.pre != p.y || p.residual_type != p.y)) continue;
    for (const Sizes& s : kSizes) {
      p.rows = s.rows;
      p.n = s.n;
      p.k = s.k;
      for (const bool transposed : {false, true}) {
        p.transposed = transposed;
        for (const LinearProblem& q : epilogues_for(p)) {
          const bool saves = q.activation != LinearActivation::forward || q.save_pre;
          const bool shortened = q.bias == q.residual && q.function == UnaryOp::gelu && saves;
          if (s.rows * s.n * s.k > 100'000 && !shortened) continue;
          const auto plan = linear_detail::plan_dnnl(q);
          if (!plan && q.w == DType::bf16) continue;  // not on every processor
          ASSERT_NE(plan, nullptr) << text(q);
          const Inputs in(q);
          const Outputs expected = run(*linear_detail::plan_ref(q), q, in);
          const Outputs got = run(*plan, q, in);
          const double t = tolerance(q.y, q.w, q.k);
          expect_close(got.y, expected.y, t, text(q));
          if (q.save_pre) expect_close(got.pre, expected.pre, t, text(q) + " (pre)");
          EXPECT_GT(plan->packed_bytes, 0u);
          const Outputs packed = run(*plan, q, in, 2, Pack::ahead);
          expect_close(packed.y, expected.y, t, text(q) + " (packed)");
          ASSERT_FALSE(testing::Test::HasFailure()) << text(q);
        }
      }
    }
  }
}

TEST(Linear, TheBitsDoNotDependOnTheThreads) {
  for (const DType w : {DType::f32, DType::bf16}) {
    for (const Sizes& s : {Sizes{1030, 70, 31}, Sizes{49, 192, 64}, Sizes{100, 700, 130}}) {
      const LinearProblem p{.w = w,
                            .rows = s.rows,
                            .n = s.n,
                            .k = s.k,
                            .bias = true,
                            .activation = LinearActivation::forward,
                            .save_pre = true};
      const Inputs in(p);
      for (const auto& k : linear_kernels()) {
        const auto plan = k.plan(p);
        if (!plan) continue;
        for (const Pack pack : {Pack::never, Pack::ahead}) {
          if (pack == Pack::ahead && plan->packed_bytes == 0) continue;
          const Outputs one = run(*plan, p, in, 1, pack);
          for (int threads = 2; threads <= 4; ++threads)
            EXPECT_TRUE(one == run(*plan, p, in, threads, pack)) << k.name << " " << text(p);
        }
      }
    }
  }
}

TEST(Linear, ARowDoesNotDependOnItsBlock) {
  // The same 49 rows alone, and as the last of 1100.
  const LinearProblem tall{.rows = 1100, .n = 64, .k = 48, .bias = true};
  LinearProblem low = tall;
  low.rows = 49;
  const Inputs in(tall);
  Inputs last = in;
  const auto tail = static_cast<std::ptrdiff_t>((tall.rows - low.rows) * tall.k * 4);
  last.x.bytes.erase(last.x.bytes.begin(), last.x.bytes.begin() + tail);
  const Outputs all = run(*linear_detail::plan_dnnl(tall), tall, in);
  const Outputs few = run(*linear_detail::plan_dnnl(low), low, last);
  EXPECT_TRUE(std::equal(few.y.bytes.rbegin(), few.y.bytes.rend(), all.y.bytes.rbegin()));
}

TEST(Linear, TheResidualMayBeTheOutput) {
  for (const DType y : {DType::f32, DType::bf16}) {
    for (const auto activation : {LinearActivation::none, LinearActivation::forward}) {
      const LinearProblem p{.w = y,
                            .y = y,
                            .residual_type = y,
                            .rows = 300,
                            .n = 37,
                            .k = 20,
                            .bias = true,
                            .residual = true,
                            .activation = activation};
      const Inputs in(p);
      for (const auto& k : linear_kernels()) {
        const auto plan = k.plan(p);
        if (!plan) continue;
        EXPECT_TRUE(run(*plan, p, in) == run(*plan, p, in, 1, Pack::never, true)) << k.name;
      }
    }
  }
}

TEST(Linear, ANanStays) {
  for (const auto activation :
       {LinearActivation::none, LinearActivation::forward, LinearActivation::gradient}) {
    for (const UnaryOp f : {UnaryOp::relu, UnaryOp::silu, UnaryOp::gelu}) {
      const LinearProblem p{.rows = 20, .n = 21, .k = 8, .activation = activation, .function = f};
      Inputs in(p);
      reinterpret_cast<float*>(in.x.data())[3 * p.k] = NAN;
      for (const auto& k : linear_kernels()) {
        const auto plan = k.plan(p);
        if (!plan) continue;
        const Outputs out = run(*plan, p, in);
        for (int64_t i = 0; i < p.rows * p.n; ++i)
          EXPECT_EQ(std::isnan(out.y.at(i)), i / p.n == 3) << k.name << " " << text(p);
      }
    }
  }
}

TEST(Linear, NothingToSumGivesTheBiasAndNoRowsGiveNothing) {
  LinearProblem p{.rows = 3, .n = 4, .k = 0, .bias = true};
  const Inputs in(p);
  for (const auto& k : linear_kernels()) {
    if (const auto plan = k.plan(p)) {
      const Outputs out = run(*plan, p, in);
      for (int64_t i = 0; i < 12; ++i) EXPECT_EQ(out.y.at(i), in.bias.at(i % 4)) << k.name;
    }
  }
  p.rows = 0;
  run(*linear_detail::plan_ref(p), p, Inputs(p));
}

TEST(Linear, EveryTargetsEpilogueAgreesWithThePlainOne) {
  ASSERT_EQ(row_passes().back().name, "plain");
  EXPECT_EQ(linear_detail::epilogue(), row_passes().front().epilogue);
  for (LinearProblem p : types()) {
    if (p.w == DType::f64) continue;
    p.rows = 11;
    p.n = 90;
    for (const LinearProblem& q : epilogues_for(p)) {
      const Inputs in(q);
      // A block within the problem, with strides of its own.
      const std::vector<float> h = numbers<float>(5 * 80, 6, -5, 5);
      for (const int64_t columns : {1, 16, 47, 70}) {
        const auto finish = [&](linear_detail::Epilogue f) {
          Outputs out{Array(q.y, q.rows * q.n), Array(q.pre, q.rows * q.n)};
          const LinearArgs args{.bias = in.bias.data(),
                                .residual = in.residual.data(),
                                .pre = in.pre.data(),
                                .y = out.y.data(),
                                .pre_out = out.pre.data()};
          f(q, args,
            {.h = h.data(),
             .stride = 80,
             .first_row = 3,
             .rows = 5,
             .first_column = 17,
             .columns = columns,
             .add_bias = q.bias});
          return out;
        };
        const Outputs expected = finish(linear_detail::plain_epilogue);
        for (const auto& target : row_passes()) {
          const Outputs got = finish(target.epilogue);
          const std::string what = std::string(target.name) + " " + text(q);
          expect_close(got.y, expected.y, tolerance(q.y, q.w, 1), what);
          expect_close(got.pre, expected.pre, 1e-7, what + " (pre)");
        }
      }
    }
  }
}

TEST(Linear, EveryTargetsActivationsAreAccurateFarFromZeroToo) {
  std::vector<float> h;
  for (int i = -24000; i <= 24000; ++i) h.push_back(static_cast<float>(i) * 0.001f);
  for (const float x : {-1e30f, -1000.0f, 1000.0f, 1e30f}) h.push_back(x);
  LinearProblem p{.rows = 1, .n = static_cast<int64_t>(h.size())};
  const std::vector<float> ones(h.size(), 1.0f);
  for (const auto& target : row_passes()) {
    for (const UnaryOp f : {UnaryOp::relu, UnaryOp::silu, UnaryOp::gelu}) {
      p.function = f;
      std::vector<float> y(h.size()), slopes(h.size());
      p.activation = LinearActivation::forward;
      target.epilogue(p, {.y = y.data()},
                      {.h = h.data(), .stride = p.n, .rows = 1, .columns = p.n});
      p.activation = LinearActivation::gradient;
      target.epilogue(p, {.pre = h.data(), .y = slopes.data()},
                      {.h = ones.data(), .stride = p.n, .rows = 1, .columns = p.n});
      for (size_t i = 0; i < h.size(); ++i) {
        const auto x = static_cast<double>(h[i]);
        const double value = value_of(f, x);
        const double relative = x > -8 ? 6e-6 : 1e-3;
        ASSERT_NEAR(static_cast<double>(y[i]), value,
                    std::min(3e-7 * std::max(1.0, std::abs(x)), relative * std::abs(value) + 1e-30))
            << target.name << " " << enum_name(f) << " of " << x;
        const double slope = std::abs(x) > 100 ? (x > 0 ? 1 : 0) : slope_of(f, x);
        ASSERT_NEAR(static_cast<double>(slopes[i]), slope, 2e-6)
            << target.name << " slope of " << enum_name(f) << " at " << x;
      }
    }
  }
}

TEST(Linear, AnEpilogueMayWorkInPlace) {
  const LinearProblem p{.rows = 5, .n = 37, .bias = true, .activation = LinearActivation::forward};
  const auto h = numbers<float>(p.rows * p.n, 6), bias = numbers<float>(p.n, 3);
  for (const auto& target : row_passes()) {
    auto apart = h, in_place = h;
    const auto finish = [&](const float* from, float* y) {
      target.epilogue(p, {.bias = bias.data(), .y = y},
                      {.h = from, .stride = p.n, .rows = p.rows, .columns = p.n, .add_bias = true});
    };
    finish(h.data(), apart.data());
    finish(in_place.data(), in_place.data());
    EXPECT_TRUE(leaf::same_bits(apart, in_place)) << target.name;
  }
}

TEST(Linear, EveryTargetsPassesOverRowsAgreeWithThePlainOnes) {
  const auto& plain = row_passes().back();
  auto from = numbers<float>(9 * 140, 7);
  from[3] = NAN;
  std::vector<bf16> half(from.begin(), from.end());
  for (const auto& target : row_passes()) {
    for (const int64_t columns : {1, 16, 63, 64, 139}) {
      const auto count = static_cast<size_t>(9 * columns);
      std::vector<bf16> got(count), expected(count);
      target.round(from.data(), 140, 9, columns, got.data());
      plain.round(from.data(), 140, 9, columns, expected.data());
      EXPECT_TRUE(leaf::same_bits(got, expected)) << target.name;
      for (const DType type : {DType::f32, DType::bf16}) {
        const void* p = type == DType::f32 ? static_cast<const void*>(from.data())
                                           : static_cast<const void*>(half.data());
        std::vector<float> sums(static_cast<size_t>(columns)), right(sums);
        target.sum(p, type, 140, 9, columns, sums.data());
        plain.sum(p, type, 140, 9, columns, right.data());
        for (size_t i = 0; i < sums.size(); ++i) {
          EXPECT_EQ(std::isnan(sums[i]), i == 3);
          EXPECT_TRUE(i == 3 || sums[i] == right[i]) << target.name << " " << i;
        }
      }
      auto a = numbers<float>(columns, 8), b = a;
      target.add(from.data() + 4, columns, a.data());
      plain.add(from.data() + 4, columns, b.data());
      EXPECT_TRUE(leaf::same_bits(a, b)) << target.name;
    }
  }
}

void expect_wrong(const LinearProblem& p, const std::string& message) {
  for (const auto& k : linear_kernels()) {
    try {
      k.plan(p);
      ADD_FAILURE() << k.name << ": no error, expected " << message;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
      EXPECT_EQ(std::string(e.what()), message) << k.name;
    }
  }
}

TEST(Linear, SizesBelowZeroAreErrors) {
  expect_wrong({.rows = -1}, "[linear] expected rows of at least 0, got -1");
  expect_wrong({.n = -2}, "[linear] expected n of at least 0, got -2");
  expect_wrong({.k = -3}, "[linear] expected k of at least 0, got -3");
}

TEST(Linear, TypesThatDoNotGoTogetherAreErrors) {
  expect_wrong({.x = DType::bf16}, "[linear] expected x of type f32 with w f32, got bf16");
  expect_wrong({.y = DType::f64}, "[linear] expected y of type f32 with w f32, got f64");
  expect_wrong({.pre = DType::bf16, .activation = LinearActivation::gradient},
               "[linear] expected pre of type f32 with w f32, got bf16");
  expect_wrong({.residual_type = DType::bf16, .residual = true},
               "[linear] expected residual of type f32 with w f32, got bf16");
  expect_wrong({.x = DType::f64, .w = DType::bf16},
               "[linear] expected x of type f32 or bf16 with w bf16, got f64");
}

TEST(Linear, SavingWhatNoActivationReadIsAnError) {
  expect_wrong({.save_pre = true},
               "[linear] expected save_pre only where an activation runs forward, got save_pre "
               "without one");
}

TEST(Linear, WhatIsNotSupportedHasNoPlan) {
  EXPECT_FALSE(
      leaf::supported(linear_kernels(), {.x = DType::i32, .w = DType::i32, .y = DType::i32}));
  EXPECT_FALSE(leaf::supported(linear_kernels(), {.rows = 1,
                                                  .n = 1,
                                                  .k = 1,
                                                  .activation = LinearActivation::forward,
                                                  .function = UnaryOp::tanh}));
}

}  // namespace
}  // namespace fovea

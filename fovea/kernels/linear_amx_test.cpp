// The AMX kernels of linear and linear_grad_weight against sums in double. A processor without AMX
// skips all but the last tests.
#include <cmath>

#include "fovea/base/error.h"
#include "fovea/kernels/amx.h"
#include "fovea/kernels/leaf_test.h"
#include "fovea/kernels/linear.h"

namespace fovea {
namespace {

using leaf::numbers;
using leaf::Scratch;

#define FOVEA_NEEDS_AMX() \
  if (!linear_detail::has_amx()) GTEST_SKIP() << "this processor or system has no AMX with bf16"

double rounded(double v) {
  return static_cast<double>(static_cast<float>(bf16(static_cast<float>(v))));
}

// Numbers in an array of f32 or bf16.
struct Array {
  Array() = default;
  Array(DType type_, const std::vector<float>& values)
      : type(type_), size(values.size()), bytes(size * dtype_size(type)) {
    for (size_t i = 0; i < size; ++i) set(i, values[i]);
  }
  void set(size_t i, float v) {
    const bf16 b(v);
    if (type == DType::f32)
      std::memcpy(bytes.data() + 4 * i, &v, 4);
    else
      std::memcpy(bytes.data() + 2 * i, &b, 2);
  }
  double operator[](size_t i) const {
    if (type == DType::f32) {
      float v;
      std::memcpy(&v, bytes.data() + 4 * i, 4);
      return static_cast<double>(v);
    }
    bf16 v;
    std::memcpy(&v, bytes.data() + 2 * i, 2);
    return static_cast<double>(static_cast<float>(v));
  }

  DType type = DType::f32;
  size_t size = 0;
  std::vector<std::byte> bytes;
};

Array array(DType type, int64_t n, uint64_t seed, double low = -2, double high = 2) {
  return {type, numbers<float>(n, seed, low, high)};
}

template <class Args>
void run(const KernelPlan<Args>& plan, const Args& args, int threads = 1, bool packed = false) {
  ThreadPool pool(threads);
  const Scratch shared(plan.scratch_bytes), ahead(plan.packed_bytes);
  const size_t stride = (plan.worker_scratch_bytes + 63) / 64 * 64;
  const Scratch each(stride * static_cast<size_t>(threads));
  if (packed) plan.pack(args, ahead.get());
  plan.run(args, {&pool, shared.get(), each.get(), stride, packed ? ahead.get() : nullptr});
}

double phi(double x) { return std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI); }
double normal(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double function(UnaryOp f, double x) {
  if (f == UnaryOp::relu) return x > 0 ? x : 0;
  return f == UnaryOp::silu ? x * sigmoid(x) : x * normal(x);
}
double slope(UnaryOp f, double x) {
  if (f == UnaryOp::relu) return x > 0 ? 1 : 0;
  if (f == UnaryOp::silu) return sigmoid(x) * (1 + x * (1 - sigmoid(x)));
  return normal(x) + x * phi(x);
}

struct LinearResult {
  Array y, pre;
  bool operator==(const LinearResult& o) const {
    return y.bytes == o.y.bytes && pre.bytes == o.pre.bytes;
  }
};

struct LinearCase {
  explicit LinearCase(const LinearProblem& problem)
      : p(problem),
        x(array(p.x, p.rows * p.k, 1)),
        w(array(DType::bf16, p.n * p.k, 2)),
        bias(array(DType::f32, p.n, 3)),
        residual(array(p.residual_type, p.rows * p.n, 4)),
        pre(array(p.pre, p.rows * p.n, 5, -4, 4)) {}

  LinearResult run_amx(int threads = 1, bool packed = false) const {
    const auto plan = linear_detail::plan_amx(p);
    LinearResult r{array(p.y, p.rows * p.n, 6), array(p.pre, p.rows * p.n, 7)};
    if (!plan) {
      ADD_FAILURE() << "no plan";
      return r;
    }
    run<LinearArgs>(*plan,
                    {x.bytes.data(), w.bytes.data(), bias.bytes.data(), residual.bytes.data(),
                     pre.bytes.data(), r.y.bytes.data(), r.pre.bytes.data()},
                    threads, packed);
    return r;
  }

  void check() const {
    SCOPED_TRACE(testing::Message()
                 << "rows " << p.rows << " n " << p.n << " k " << p.k << " x " << dtype_name(p.x)
                 << " y " << dtype_name(p.y) << " pre " << dtype_name(p.pre) << " transposed "
                 << p.transposed << " bias " << p.bias << " residual " << p.residual
                 << " activation " << static_cast<int>(p.activation) << " of "
                 << enum_names(p.function)[static_cast<size_t>(p.function)]);
    const LinearResult got = run_amx();
    // f32 sums; what ends in bf16 rounds to 8 bits, its functions are exact to 1e-4.
    const bool rough = p.y == DType::bf16;
    int wrong = 0;
    for (int64_t r = 0; r < p.rows; ++r) {
      for (int64_t c = 0; c < p.n; ++c) {
        double h = p.bias ? bias[at(c)] : 0, size = std::abs(h);
        for (int64_t l = 0; l < p.k; ++l) {
          const double term =
              rounded(x[at(r * p.k + l)]) * w[at(p.transposed ? l * p.n + c : c * p.k + l)];
          h += term;
          size += std::abs(term);
        }
        const size_t i = at(r * p.n + c);
        if (p.save_pre) {
          const double allowed = 1e-5 * size + (p.pre == DType::bf16 ? std::abs(h) / 256 : 0);
          wrong += !(std::abs(got.pre[i] - h) <= allowed);
        }
        double y = h;
        if (p.activation == LinearActivation::forward) y = function(p.function, h);
        if (p.activation == LinearActivation::gradient) y = h * slope(p.function, pre[i]);
        double allowed = 1.3e-5 * size + 1e-7 + (rough ? 1e-4 * std::abs(y) : 0);
        if (p.residual) y += residual[i];
        allowed += 1e-6 * std::abs(y) + (rough ? std::abs(y) / 256 : 0);
        wrong += !(std::abs(got.y[i] - y) <= allowed);
        if (wrong == 1)
          ADD_FAILURE() << "row " << r << " column " << c << ": " << got.y[i] << ", not " << y;
        if (wrong) return;
      }
    }
  }

  static size_t at(int64_t i) { return static_cast<size_t>(i); }

  LinearProblem p;
  Array x, w, bias, residual, pre;
};

LinearProblem linear(int64_t rows, int64_t n, int64_t k) {
  LinearProblem p;
  p.w = DType::bf16;
  p.rows = rows, p.n = n, p.k = k;
  return p;
}

constexpr DType kTypes[] = {DType::f32, DType::bf16};

TEST(LinearAmx, AgreesWithSumsInDoubleForAnySize) {
  FOVEA_NEEDS_AMX();
  for (int64_t rows : {1, 15, 16, 17, 33, 49})
    for (int64_t n : {1, 16, 17, 32, 50})
      for (int64_t k : {1, 31, 32, 33, 64})
        for (DType type : kTypes)
          for (bool transposed : {false, true}) {
            LinearProblem p = linear(rows, n, k);
            p.x = type;
            p.y = rows % 2 ? type : DType::f32;
            p.transposed = transposed;
            p.bias = n % 2 == 0;
            LinearCase(p).check();
          }
}

TEST(LinearAmx, CutsLargeProblemsInRowsAndColumns) {
  FOVEA_NEEDS_AMX();
  // Many rows, weights beyond L1; few rows and many columns; a long sum.
  LinearProblem p = linear(300, 192, 160);
  p.bias = true;
  LinearCase(p).check();
  p = linear(40, 300, 300);
  p.x = DType::bf16;
  p.transposed = true;
  LinearCase(p).check();
  LinearCase(linear(70, 33, 4100)).check();
  LinearCase(linear(1100, 64, 64)).check();
}

TEST(LinearAmx, AppliesActivationsTheirGradientsAndResidualsOfAllTypes) {
  FOVEA_NEEDS_AMX();
  for (UnaryOp f : {UnaryOp::relu, UnaryOp::silu, UnaryOp::gelu})
    for (auto activation : {LinearActivation::forward, LinearActivation::gradient})
      for (DType y : kTypes)
        for (DType pre : kTypes)
          for (int residual : {0, 1, 2})
            for (int64_t n : {64, 45}) {
              LinearProblem p = linear(37, n, 40);
              p.function = f;
              p.activation = activation;
              p.y = y;
              p.pre = pre;
              p.bias = activation == LinearActivation::forward;
              p.residual = residual > 0;
              p.residual_type = residual == 2 ? DType::bf16 : DType::f32;
              p.save_pre = activation == LinearActivation::forward && residual < 2;
              LinearCase(p).check();
            }
}

TEST(LinearAmx, SavesNothingUnasked) {
  FOVEA_NEEDS_AMX();
  LinearProblem p = linear(20, 40, 32);
  p.activation = LinearActivation::forward;
  const LinearCase c(p);
  EXPECT_EQ(c.run_amx().pre.bytes, array(p.pre, p.rows * p.n, 7).bytes);
}

TEST(LinearAmx, EmptySumsGiveTheBiasAndEmptyResultsNothing) {
  FOVEA_NEEDS_AMX();
  LinearProblem p = linear(35, 40, 0);
  p.bias = true;
  LinearCase(p).check();
  p.activation = LinearActivation::forward;
  p.y = DType::bf16;
  LinearCase(p).check();
  LinearCase(linear(0, 40, 64)).check();
  LinearCase(linear(35, 0, 64)).check();
  LinearCase(linear(0, 0, 0)).check();
}

TEST(LinearAmx, TheResidualMayBeTheResult) {
  FOVEA_NEEDS_AMX();
  for (DType type : kTypes) {
    LinearProblem p = linear(90, 45, 64);
    p.y = p.residual_type = type;
    p.residual = true;
    const LinearCase c(p);
    Array y = c.residual;
    run<LinearArgs>(*linear_detail::plan_amx(p),
                    {c.x.bytes.data(), c.w.bytes.data(), nullptr, y.bytes.data(), nullptr,
                     y.bytes.data(), nullptr});
    EXPECT_EQ(y.bytes, c.run_amx().y.bytes);
  }
}

TEST(LinearAmx, TheBitsDoNotDependOnThreadsOrOnPackingAhead) {
  FOVEA_NEEDS_AMX();
  for (const auto& [rows, n, k] :
       {std::array<int64_t, 3>{500, 64, 64}, {49, 192, 64}, {20, 300, 256}})
    for (bool transposed : {false, true}) {
      LinearProblem p = linear(rows, n, k);
      p.transposed = transposed;
      p.activation = LinearActivation::forward;
      p.save_pre = true;
      const LinearCase c(p);
      const LinearResult one = c.run_amx();
      for (int threads : {1, 2, 3, 4})
        for (bool packed : {false, true})
          EXPECT_EQ(one, c.run_amx(threads, packed)) << threads << " threads";
    }
}

TEST(LinearAmx, ARowsBitsDoNotDependOnHowManyThereAre) {
  FOVEA_NEEDS_AMX();
  for (DType type : kTypes)
    for (int64_t k : {64, 70, 256}) {
      LinearProblem p = linear(1100, 70, k);
      p.x = type;
      p.activation = LinearActivation::forward;
      const Array all = LinearCase(p).run_amx().y;
      for (int64_t rows : {1, 20, 49, 300}) {
        p.rows = rows;
        const Array some = LinearCase(p).run_amx().y;
        EXPECT_TRUE(std::equal(some.bytes.begin(), some.bytes.end(), all.bytes.begin()))
            << rows << " rows";
      }
    }
}

TEST(LinearAmx, FunctionsKeepTheirAccuracyInBothTails) {
  FOVEA_NEEDS_AMX();
  // k = 0, so that h is the bias.
  std::vector<float> at;
  for (float v = -12; v <= 12; v += 0.01171f) at.push_back(v);
  const auto n = static_cast<int64_t>(at.size());
  for (UnaryOp f : {UnaryOp::silu, UnaryOp::gelu}) {
    for (DType type : kTypes) {
      LinearProblem p = linear(1, n, 0);
      p.bias = true;
      p.activation = LinearActivation::forward;
      p.function = f;
      p.y = type;
      LinearCase c(p);
      c.bias = Array(DType::f32, at);
      const Array y = c.run_amx().y;
      for (size_t i = 0; i < at.size(); ++i) {
        const double expected = function(f, static_cast<double>(at[i]));
        // x^2 / 2 alone is rounded to 2^-24 of itself.
        const double tail = f == UnaryOp::gelu ? 4e-8 * static_cast<double>(at[i] * at[i]) : 0;
        const double allowed = type == DType::f32 ? 6e-7 + tail : 1.0 / 256 + 1e-4;
        // What ends in bf16 may be off where it is below 1e-17 (x < -9).
        const double nothing = type == DType::bf16 ? 1e-17 : 0;
        EXPECT_NEAR(y[i], expected, allowed * std::abs(expected) + nothing) << at[i];
      }
      p = linear(1, n, 0);
      p.bias = true;
      p.activation = LinearActivation::gradient;
      p.function = f;
      p.y = type;
      LinearCase g(p);
      g.bias = Array(DType::f32, std::vector<float>(at.size(), 1));
      g.pre = Array(DType::f32, at);
      const Array d = g.run_amx().y;
      for (size_t i = 0; i < at.size(); ++i) {
        const double expected = slope(f, static_cast<double>(at[i]));
        const double allowed = type == DType::f32 ? 5e-7 : std::abs(expected) / 256 + 1e-4;
        EXPECT_NEAR(d[i], expected, allowed) << at[i];
      }
    }
  }
}

TEST(LinearAmx, NanAndInfinityPassThroughActivations) {
  FOVEA_NEEDS_AMX();
  const float inf = INFINITY;
  const Array special(DType::f32, {NAN, inf, -inf, 1e30f, -1e30f});
  for (UnaryOp f : {UnaryOp::relu, UnaryOp::silu, UnaryOp::gelu}) {
    for (DType type : kTypes) {
      LinearProblem p = linear(1, 5, 0);
      p.bias = true;
      p.function = f;
      p.y = type;
      p.activation = LinearActivation::forward;
      LinearCase c(p);
      c.bias = special;
      const Array y = c.run_amx().y;
      EXPECT_TRUE(std::isnan(y[0]));
      EXPECT_EQ(y[1], static_cast<double>(inf));
      EXPECT_NEAR(y[2], 0, 1e-30);
      EXPECT_NEAR(y[3], 1e30, 4e27);
      EXPECT_NEAR(y[4], 0, 1e-30);
      p.activation = LinearActivation::gradient;
      LinearCase g(p);
      g.bias = Array(DType::f32, {1, 1, 1, 1, 1});
      g.pre = special;
      const Array d = g.run_amx().y;
      if (f != UnaryOp::relu) {
        EXPECT_TRUE(std::isnan(d[0]));
      }
      EXPECT_EQ(d[1], 1);
      EXPECT_NEAR(d[2], 0, 1e-30);
      EXPECT_EQ(d[3], 1);
      EXPECT_NEAR(d[4], 0, 1e-30);
    }
  }
}

TEST(LinearAmx, ANanStaysInItsRow) {
  FOVEA_NEEDS_AMX();
  for (DType type : kTypes)
    for (int64_t k : {64, 33}) {
      LinearProblem p = linear(40, 36, k);
      p.x = type;
      LinearCase c(p);
      c.x.set(static_cast<size_t>(35 * k + k - 1), NAN);
      const Array y = c.run_amx().y;
      for (int64_t i = 0; i < 40 * 36; ++i)
        EXPECT_EQ(std::isnan(y[static_cast<size_t>(i)]), i / 36 == 35) << i;
    }
}

struct GradWeightCase {
  explicit GradWeightCase(const LinearGradWeightProblem& problem)
      : p(problem), dy(array(p.dy, p.rows * p.n, 11)), x(array(p.x, p.rows * p.k, 12)) {}

  // dw, then db.
  std::vector<float> run_amx(int threads = 1) const {
    std::vector<float> dw(static_cast<size_t>(p.n * p.k), NAN), db(static_cast<size_t>(p.n), NAN);
    const auto plan = linear_detail::plan_grad_weight_amx(p);
    if (!plan) {
      ADD_FAILURE() << "no plan";
      return {};
    }
    run<LinearGradWeightArgs>(*plan, {dy.bytes.data(), x.bytes.data(), dw.data(), db.data()},
                              threads);
    dw.insert(dw.end(), db.begin(), db.end());
    return dw;
  }

  void check() const {
    SCOPED_TRACE(testing::Message()
                 << "rows " << p.rows << " n " << p.n << " k " << p.k << " dy " << dtype_name(p.dy)
                 << " x " << dtype_name(p.x) << " bias " << p.bias);
    const auto at = LinearCase::at;
    const std::vector<float> got = run_amx();
    int wrong = 0;
    for (int64_t n = 0; n < p.n; ++n) {
      double db = 0, db_size = 0;
      for (int64_t r = 0; r < p.rows; ++r) {
        db += dy[at(r * p.n + n)];
        db_size += std::abs(dy[at(r * p.n + n)]);
      }
      const float db_got = got[at(p.n * p.k + n)];
      if (p.bias)
        wrong += !(std::abs(static_cast<double>(db_got) - db) <= 1e-5 * db_size);
      else
        wrong += !std::isnan(db_got);
      for (int64_t k = 0; k < p.k; ++k) {
        double sum = 0, size = 0;
        for (int64_t r = 0; r < p.rows; ++r) {
          const double term = rounded(dy[at(r * p.n + n)]) * rounded(x[at(r * p.k + k)]);
          sum += term;
          size += std::abs(term);
        }
        wrong += !(std::abs(static_cast<double>(got[at(n * p.k + k)]) - sum) <= 1e-5 * size);
        if (wrong == 1) ADD_FAILURE() << "n " << n << " k " << k << " wanted " << sum;
        if (wrong) return;
      }
      if (wrong == 1) ADD_FAILURE() << "db " << n;
    }
  }

  LinearGradWeightProblem p;
  Array dy, x;
};

TEST(LinearGradWeightAmx, AgreesWithSumsInDoubleForAnySize) {
  FOVEA_NEEDS_AMX();
  for (int64_t rows : {1, 31, 33, 49})
    for (int64_t n : {1, 17, 32, 50})
      for (int64_t k : {1, 16, 33, 64})
        for (bool bias : {false, true}) {
          GradWeightCase({DType::bf16, DType::bf16, rows, n, k, bias}).check();
          GradWeightCase({DType::f32, DType::bf16, rows, n, k, bias}).check();
          GradWeightCase({DType::bf16, DType::f32, rows, n, k, bias}).check();
        }
}

TEST(LinearGradWeightAmx, CutsLargeProblems) {
  FOVEA_NEEDS_AMX();
  GradWeightCase({DType::f32, DType::bf16, 1000, 70, 40, true}).check();
  GradWeightCase({DType::bf16, DType::f32, 70, 300, 290, true}).check();   // blocks of columns
  GradWeightCase({DType::bf16, DType::bf16, 9000, 10, 33, true}).check();  // pieces packed in parts
}

TEST(LinearGradWeightAmx, EmptySumsAreZeros) {
  FOVEA_NEEDS_AMX();
  GradWeightCase({DType::bf16, DType::bf16, 0, 40, 50, true}).check();
  GradWeightCase({DType::bf16, DType::f32, 300, 40, 0, true}).check();
  GradWeightCase({DType::bf16, DType::f32, 20, 40, 0, true}).check();
  GradWeightCase({DType::f32, DType::bf16, 300, 0, 40, true}).check();
  GradWeightCase({DType::bf16, DType::bf16, 0, 0, 0, true}).check();
}

TEST(LinearGradWeightAmx, TheBitsDoNotDependOnTheThreads) {
  FOVEA_NEEDS_AMX();
  for (const auto& [rows, n, k] : {std::array<int64_t, 3>{1500, 64, 40}, {70, 300, 290}}) {
    const GradWeightCase c({DType::f32, DType::bf16, rows, n, k, true});
    leaf::expect_same_bits_for_any_threads([&](int threads) { return c.run_amx(threads); });
  }
}

TEST(LinearGradWeightAmx, ANanStaysInItsRowAndColumn) {
  FOVEA_NEEDS_AMX();
  GradWeightCase c({DType::bf16, DType::bf16, 40, 20, 37, true});
  c.dy.set(39 * 20 + 19, NAN);
  const std::vector<float> got = c.run_amx();
  for (size_t i = 0; i < 20 * 37; ++i) EXPECT_EQ(std::isnan(got[i]), i / 37 == 19) << i;
  for (size_t i = 0; i < 20; ++i) EXPECT_EQ(std::isnan(got[20 * 37 + i]), i == 19) << i;
}

TEST(LinearAmx, WhatIsNotSupportedHasNoPlan) {
  EXPECT_EQ(linear_detail::has_amx(), amx::available());
  EXPECT_EQ(linear_detail::plan_amx(linear(1, 1, 1)) != nullptr, amx::available());
  EXPECT_EQ(linear_detail::plan_amx({.rows = 1, .n = 1, .k = 1}), nullptr);
  LinearProblem p = linear(1, 1, 1);
  p.activation = LinearActivation::forward;
  p.function = UnaryOp::tanh;
  EXPECT_EQ(linear_detail::plan_amx(p), nullptr);
  EXPECT_EQ(linear_detail::plan_grad_weight_amx({DType::f32, DType::f32, 1, 1, 1, false}), nullptr);
  EXPECT_EQ(linear_detail::plan_grad_weight_amx({DType::f64, DType::f64, 1, 1, 1, false}), nullptr);
}

TEST(LinearAmx, WhatMakesNoSenseIsAnError) {
  EXPECT_THROW(linear_detail::plan_amx(linear(-1, 1, 1)), Error);
  LinearProblem p = linear(1, 1, 1);
  p.y = DType::f64;
  EXPECT_THROW(linear_detail::plan_amx(p), Error);
  EXPECT_THROW(linear_detail::plan_grad_weight_amx({DType::bf16, DType::bf16, 1, -1, 1, false}),
               Error);
}

}  // namespace
}  // namespace fovea

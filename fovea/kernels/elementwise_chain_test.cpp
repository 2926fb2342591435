#include "fovea/kernels/elementwise_chain.h"

#include <functional>

#include "fovea/base/error.h"
#include "fovea/base/visit.h"
#include "fovea/kernels/every_kernel_test.h"

namespace fovea {
namespace {

using leaf::numbers;

class Chain : public leaf::EveryKernel {};
INSTANTIATE_TEST_SUITE_P(Kernels, Chain, testing::ValuesIn(leaf::kernel_names(chain_kernels())),
                         leaf::name_of);

ChainStep step(UnaryOp op, int a) { return {.kind = ChainStep::Kind::unary, .unary = op, .a = a}; }
ChainStep step(BinaryOp op, int a, int b) {
  return {.kind = ChainStep::Kind::binary, .binary = op, .a = a, .b = b};
}
ChainStep select(int a, int b, int c) {
  return {.kind = ChainStep::Kind::select, .a = a, .b = b, .c = c};
}

template <class T = float>
std::vector<T> run_chain(const ChainProblem& p, const std::vector<const void*>& inputs,
                         int threads = 1) {
  int64_t count = 1;
  for (int64_t d : p.dims) count *= d;
  std::vector<T> y(static_cast<size_t>(count));
  leaf::run_current(chain_kernels(), p, {inputs.data(), y.data()}, threads);
  return y;
}

// The elements of an array over dims, one after another.
template <class T>
std::vector<double> spread(const std::vector<T>& x, const std::vector<int64_t>& dims,
                           const std::vector<int64_t>& strides) {
  int64_t count = 1;
  for (int64_t d : dims) count *= d;
  std::vector<double> y;
  for (int64_t e = 0; e < count; ++e) {
    int64_t rest = e, at = strides.empty() ? e : 0;
    for (size_t i = dims.size(); !strides.empty() && i-- > 0; rest /= dims[i])
      at += rest % dims[i] * strides[i];
    y.push_back(static_cast<double>(static_cast<float>(x[static_cast<size_t>(at)])));
  }
  return y;
}

double gelu(double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); }

TEST_P(Chain, BroadcastsAlongLeadingAndTrailingAxesAreRight) {
  struct Case {
    std::vector<int64_t> dims, a, b, c;
  };
  const Case cases[] = {
      {{8, 49, 64}, {}, {0, 64, 1}, {0, 0, 1}},          // [T, C] and [C]
      {{8, 49, 64}, {}, {49, 1, 0}, {1, 0, 0}},          // [B, T, 1] and [B, 1, 1]
      {{8, 49, 64}, {}, {64, 0, 1}, {0, 0, 0}},          // [B, 1, C] and one number
      {{3, 5, 37}, {}, {0, 37, 1}, {5, 1, 0}},           // nothing is whole
      {{3, 5, 37}, {0, 0, 0}, {0, 0, 1}, {0, 0, 0}},     // nothing is dense
      {{3, 5000}, {}, {0, 1}, {1, 0}},                   // longer than the tables
      {{3, 4096}, {}, {0, 1}, {1, 0}},                   // just within them
      {{2, 3, 7, 11}, {}, {0, 1, 0, 0}, {1, 2, 6, 42}},  // a channel, and transposed
      {{2, 2, 2, 2, 2}, {0, 1, 0, 2, 0}, {1, 0, 2, 0, 4}, {}},
      {{1000, 3}, {}, {0, 1}, {1, 0}},  // short rows
      {{1}, {}, {0}, {}},
      {{}, {}, {}, {}},
      {{0, 4}, {}, {0, 1}, {1, 0}},
  };
  const auto a = numbers<float>(30000, 1), b = numbers<float>(30000, 2),
             c = numbers<float>(30000, 3);
  for (const Case& k : cases) {
    // gelu(a * b + c)
    const ChainProblem p{
        k.dims,
        {{DType::f32, k.a}, {DType::f32, k.b}, {DType::f32, k.c}},
        {step(BinaryOp::mul, 0, 1), step(BinaryOp::add, 3, 2), step(UnaryOp::gelu, 4)},
        DType::f32};
    const auto u = spread(a, k.dims, k.a), v = spread(b, k.dims, k.b), w = spread(c, k.dims, k.c);
    std::vector<double> expected;
    for (size_t i = 0; i < u.size(); ++i) expected.push_back(gelu(u[i] * v[i] + w[i]));
    leaf::expect_close(run_chain(p, {a.data(), b.data(), c.data()}, 2), expected, 2e-6, "gelu");
  }
}

TEST_P(Chain, InputsOfEveryTypeAreConverted) {
  const std::vector<int64_t> dims = {7, 300};
  const auto f = numbers<float>(2100, 4);
  const std::vector<bf16> h(f.begin(), f.end());
  const auto u = numbers<uint8_t>(2100, 5, 0, 255);
  const auto i = numbers<int32_t>(2100, 6, -1000, 1000);
  const auto t = numbers<uint8_t>(2100, 7, 0, 2);
  for (const std::vector<int64_t>& strides :
       {std::vector<int64_t>{}, {0, 1}, {1, 0}, {0, 0}, {1, 7}}) {
    // t ? h + u : i - f
    const ChainProblem p{dims,
                         {{DType::f32, strides},
                          {DType::bf16, strides},
                          {DType::u8, strides},
                          {DType::i32, strides},
                          {DType::boolean, strides}},
                         {step(BinaryOp::add, 1, 2), step(BinaryOp::sub, 3, 0), select(4, 5, 6)},
                         DType::f32};
    const auto x = spread(f, dims, strides), y = spread(h, dims, strides),
               z = spread(u, dims, strides), k = spread(i, dims, strides),
               b = spread(t, dims, strides);
    std::vector<double> expected;
    for (size_t e = 0; e < x.size(); ++e) expected.push_back(b[e] != 0 ? y[e] + z[e] : k[e] - x[e]);
    const std::vector<const void*> inputs = {f.data(), h.data(), u.data(), i.data(), t.data()};
    leaf::expect_close(run_chain(p, inputs, 2), expected, 1e-6, "select");
    ChainProblem half = p;
    half.y = DType::bf16;
    const auto exact = run_chain(p, inputs);
    const auto rounded = run_chain<bf16>(half, inputs, 2);
    for (size_t e = 0; e < exact.size(); ++e) ASSERT_EQ(rounded[e].bits, bf16(exact[e]).bits);
  }
}

// Every function in a chain gives the bits that its own kernel gives, where that is the same kind
// of kernel, and always its values.
TEST_P(Chain, FusedAndUnfusedGiveTheSameBits) {
  constexpr int64_t n = 1500 * 37;
  const auto a = numbers<float>(n, 8, 0.01, 3), b = numbers<float>(n, 9, -2, 3);
  const std::vector<float> bias = numbers<float>(37, 10);
  std::vector<float> y(n);
  for (int op = 0; op <= static_cast<int>(UnaryOp::logical_not); ++op) {
    const auto unary = static_cast<UnaryOp>(op);
    if (result_type(unary, DType::f32) == DType::boolean) continue;
    // f(a) + bias
    leaf::run_current(unary_kernels(), {unary, DType::f32, {n}, {}}, {a.data(), y.data()});
    leaf::run_current(binary_kernels(), {BinaryOp::add, DType::f32, {1500, 37}, {}, {0, 1}},
                      {y.data(), bias.data(), y.data()});
    const ChainProblem p{{1500, 37},
                         {{DType::f32, {}}, {DType::f32, {0, 1}}},
                         {step(unary, 0), step(BinaryOp::add, 2, 1)},
                         DType::f32};
    EXPECT_TRUE(leaf::same_bits(run_chain(p, {a.data(), bias.data()}), y)) << enum_name(unary);
  }
  for (int op = 0; op <= static_cast<int>(BinaryOp::relu_grad); ++op) {
    const auto binary = static_cast<BinaryOp>(op);
    if (result_type(binary, DType::f32) == DType::boolean) continue;
    leaf::run_current(binary_kernels(), {binary, DType::f32, {n}, {}, {}},
                      {a.data(), b.data(), y.data()});
    leaf::run_current(unary_kernels(), {UnaryOp::neg, DType::f32, {n}, {}}, {y.data(), y.data()});
    const ChainProblem p{{1500, 37},
                         {{DType::f32, {}}, {DType::f32, {}}},
                         {step(binary, 0, 1), step(UnaryOp::neg, 2)},
                         DType::f32};
    EXPECT_TRUE(leaf::same_bits(run_chain(p, {a.data(), b.data()}), y)) << enum_name(binary);
  }
}

TEST_P(Chain, EveryFunctionAgreesWithTheReference) {
  auto a = numbers<float>(999, 11, -3, 3);
  const auto b = numbers<float>(999, 12, -3, 3);
  for (size_t i = 0; i < 100; ++i) a[i] = std::round(a[i]);  // zeros for the logical ones
  const auto compare = [&](const ChainStep& s, std::string_view name) {
    const ChainProblem p{{999}, {{DType::f32, {}}, {DType::f32, {}}}, {s}, DType::f32};
    const void* inputs[] = {a.data(), b.data()};
    std::vector<float> expected(999);
    leaf::run(chain_kernels(), p, {inputs, expected.data()});
    const std::vector<double> wide(expected.begin(), expected.end());
    leaf::expect_close(run_chain(p, {a.data(), b.data()}), wide, 2e-6, name.data());
  };
  for (int op = 0; op <= static_cast<int>(UnaryOp::logical_not); ++op)
    compare(step(static_cast<UnaryOp>(op), 0), enum_name(static_cast<UnaryOp>(op)));
  for (int op = 0; op <= static_cast<int>(BinaryOp::relu_grad); ++op)
    compare(step(static_cast<BinaryOp>(op), 0, 1), enum_name(static_cast<BinaryOp>(op)));
}

TEST_P(Chain, BoolsAreZeroAndOneAndAnythingElseIsTrue) {
  const std::vector<float> a = {0, 2, NAN, -0.0f, 1}, b = {0, 0, 0, 1, 1};
  const auto of = [&](const ChainStep& s) {
    return run_chain({{5}, {{DType::f32, {}}, {DType::f32, {}}}, {s}, DType::f32},
                     {a.data(), b.data()});
  };
  using Floats = std::vector<float>;
  EXPECT_EQ(of(step(BinaryOp::logical_and, 0, 1)), (Floats{0, 0, 0, 0, 1}));
  EXPECT_EQ(of(step(BinaryOp::logical_or, 0, 1)), (Floats{0, 1, 1, 1, 1}));
  EXPECT_EQ(of(step(UnaryOp::logical_not, 0)), (Floats{1, 0, 0, 1, 0}));
  EXPECT_EQ(of(step(UnaryOp::is_finite, 0)), (Floats{1, 1, 0, 1, 1}));
  EXPECT_EQ(of(step(BinaryOp::not_equal, 0, 0)), (Floats{0, 0, 1, 0, 0}));
  EXPECT_EQ(of(select(1, 1, 1)), b);
  const auto chosen = of(select(0, 1, 0));
  EXPECT_EQ(chosen[1], 0);
  EXPECT_EQ(chosen[2], 0);
}

TEST_P(Chain, LongChainsKeepTheirRegistersApart) {
  // Each step reads the one before it, an early one, and scalars; registers are taken again.
  ChainProblem p{{4000}, {}, {}, DType::f32};
  std::vector<std::vector<float>> x;
  std::vector<const void*> inputs;
  std::vector<std::vector<double>> values;
  for (size_t i = 0; i < kChainInputs; ++i) {
    const bool scalar = i % 3 == 1;
    p.inputs.push_back({DType::f32, scalar ? std::vector<int64_t>{0} : std::vector<int64_t>{}});
    x.push_back(numbers<float>(4000, 20 + i, -0.5, 0.5));
    values.push_back(spread(x[i], p.dims, p.inputs[i].strides));
  }
  for (const auto& v : x) inputs.push_back(v.data());
  for (int s = 0; s < kChainSteps; ++s) {
    const int last = kChainInputs + s - 1, early = (s * 7) % (kChainInputs + s);
    // The first steps work on scalars alone.
    const int a = s < 3 ? (s == 0 ? 1 : last) : last, b = s < 3 ? 4 : early;
    const auto at = [&](int r) -> const std::vector<double>& {
      return values[static_cast<size_t>(r)];
    };
    std::vector<double> y(4000);
    if (s % 4 == 3) {
      p.steps.push_back(select(b, a, b));
      for (size_t i = 0; i < y.size(); ++i) y[i] = at(b)[i] != 0 ? at(a)[i] : at(b)[i];
    } else if (s % 2 == 1) {
      p.steps.push_back(step(UnaryOp::tanh, a));
      for (size_t i = 0; i < y.size(); ++i) y[i] = std::tanh(at(a)[i]);
    } else {
      p.steps.push_back(step(BinaryOp::sub, a, b));
      for (size_t i = 0; i < y.size(); ++i) y[i] = at(a)[i] - at(b)[i];
    }
    values.push_back(y);
  }
  leaf::expect_close(run_chain(p, inputs, 2), values.back(), 1e-5, "chain");
}

TEST_P(Chain, ScalarsAloneFillTheOutput) {
  const std::vector<float> a = {2}, b = {3};
  const ChainProblem p{{5, 500},
                       {{DType::f32, {0, 0}}, {DType::f32, {0, 0}}},
                       {step(BinaryOp::mul, 0, 1), step(UnaryOp::square, 2)},
                       DType::f32};
  EXPECT_EQ(run_chain(p, {a.data(), b.data()}), std::vector<float>(2500, 36));
}

TEST_P(Chain, TheOutputMayLieOnADenseInputOfItsType) {
  const auto a = numbers<float>(5003, 13), b = numbers<float>(5003, 14);
  ChainProblem p{{5003},
                 {{DType::f32, {}}, {DType::f32, {}}},
                 {step(UnaryOp::exp, 0), step(BinaryOp::mul, 2, 1), step(BinaryOp::add, 3, 0)},
                 DType::f32};
  const auto expected = run_chain(p, {a.data(), b.data()});
  auto left = a, right = b;
  const void* from_left[] = {left.data(), b.data()};
  leaf::run_current(chain_kernels(), p, {from_left, left.data()}, 2);
  const void* from_right[] = {a.data(), right.data()};
  leaf::run_current(chain_kernels(), p, {from_right, right.data()}, 2);
  EXPECT_TRUE(leaf::same_bits(left, expected));
  EXPECT_TRUE(leaf::same_bits(right, expected));
  p.inputs[0].dtype = p.y = DType::bf16;
  std::vector<bf16> half(a.begin(), a.end());
  const auto rounded = run_chain<bf16>(p, {half.data(), b.data()});
  const void* from_half[] = {half.data(), b.data()};
  leaf::run_current(chain_kernels(), p, {from_half, half.data()}, 2);
  EXPECT_TRUE(leaf::same_bits(half, rounded));
}

TEST_P(Chain, NanPassesThrough) {
  std::vector<float> x(100, 1.0f);
  x[3] = x[99] = NAN;
  const ChainProblem p{{100},
                       {{DType::f32, {}}},
                       {step(UnaryOp::gelu, 0), step(UnaryOp::silu, 1), step(UnaryOp::tanh, 2),
                        step(UnaryOp::relu, 3), step(BinaryOp::max, 4, 4)},
                       DType::f32};
  const auto y = run_chain(p, {x.data()});
  for (size_t i = 0; i < 100; ++i) EXPECT_EQ(std::isnan(y[i]), i == 3 || i == 99) << i;
}

TEST_P(Chain, TheBitsDoNotDependOnTheThreads) {
  const auto x = numbers<float>(100003, 15, -5, 5), b = numbers<float>(7, 16);
  const ChainProblem p{{14286, 7},
                       {{DType::f32, {}}, {DType::f32, {0, 1}}},
                       {step(BinaryOp::add, 0, 1), step(UnaryOp::gelu, 2)},
                       DType::f32};
  leaf::expect_same_bits_for_any_threads([&](int threads) {
    return run_chain(p, {x.data(), b.data()}, threads);
  });
}

void expect_error(const ChainProblem& p, std::string_view part) {
  for (const auto& kernel : chain_kernels()) {
    try {
      kernel.plan(p);
      ADD_FAILURE() << kernel.name << " took it";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
      EXPECT_NE(std::string_view(e.what()).find(part), std::string_view::npos) << e.what();
    }
  }
}

TEST(ChainErrors, NameTheStepAndTheLimit) {
  const ChainInput x{DType::f32, {}};
  expect_error({{4}, {x}, {step(UnaryOp::exp, 1)}, DType::f32}, "step 0");
  expect_error({{4}, {x}, {step(UnaryOp::exp, -1)}, DType::f32}, "step 0");
  expect_error({{4}, {x}, {step(UnaryOp::exp, 0), step(BinaryOp::add, 0, 2)}, DType::f32},
               "step 1");
  expect_error({{4}, {x}, {select(0, 0, 5)}, DType::f32}, "register below 1, got 5");
  expect_error({{4}, {x}, {}, DType::f32}, "1 to 32 steps, got 0");
  expect_error({{4}, {x}, std::vector<ChainStep>(33, step(UnaryOp::exp, 0)), DType::f32},
               "1 to 32 steps, got 33");
  expect_error({{4}, std::vector<ChainInput>(17, x), {step(UnaryOp::exp, 0)}, DType::f32},
               "at most 16 inputs");
}

TEST_P(Chain, WhatIsNotSupportedHasNoPlan) {
  const std::vector<ChainStep> steps = {step(UnaryOp::exp, 0)};
  EXPECT_TRUE(
      leaf::current_supports(chain_kernels(), {{4}, {{DType::u8, {}}}, steps, DType::bf16}));
  EXPECT_FALSE(leaf::supported(chain_kernels(), {{4}, {{DType::f64, {}}}, steps, DType::f32}));
  EXPECT_FALSE(leaf::supported(chain_kernels(), {{4}, {{DType::f32, {}}}, steps, DType::boolean}));
  EXPECT_FALSE(leaf::supported(chain_kernels(), {{-4}, {{DType::f32, {}}}, steps, DType::f32}));
  EXPECT_FALSE(leaf::supported(chain_kernels(), {{4}, {{DType::f32, {1, 1}}}, steps, DType::f32}));
}

}  // namespace
}  // namespace fovea

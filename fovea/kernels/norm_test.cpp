#include "fovea/kernels/norm.h"

#include <string>

#include "fovea/base/visit.h"
#include "fovea/kernels/leaf_test.h"

namespace fovea {
namespace {

using leaf::numbers;
using leaf::run;

template <class T>
struct Result {
  std::vector<T> y, mean, rstd;
};

template <class T>
Result<T> forward(const NormProblem& p, const std::vector<T>& x, const std::vector<T>& w,
                  const std::vector<T>& b, int threads = 1) {
  const auto rows = static_cast<size_t>(p.rows);
  Result<T> r{std::vector<T>(x.size()), std::vector<T>(rows), std::vector<T>(rows)};
  run(norm_kernels(), p,
      {x.data(), w.empty() ? nullptr : w.data(), b.empty() ? nullptr : b.data(), r.y.data(),
       r.mean.data(), r.rstd.data()},
      threads);
  return r;
}

template <class T>
struct Gradients {
  std::vector<T> dx, dweight, dbias;
};

template <class T>
Gradients<T> backward(const NormProblem& p, const std::vector<T>& x, const std::vector<T>& w,
                      const Result<T>& f, const std::vector<T>& dy, int threads = 1) {
  const auto cols = static_cast<size_t>(p.cols);
  Gradients<T> g{std::vector<T>(x.size()), std::vector<T>(cols), std::vector<T>(cols)};
  run(norm_grad_kernels(), p,
      {x.data(), w.empty() ? nullptr : w.data(), f.mean.data(), f.rstd.data(), dy.data(),
       g.dx.data(), g.dweight.data(), g.dbias.data()},
      threads);
  return g;
}

template <class T>
void check_forward(NormOp op) {
  constexpr int64_t rows = 33, cols = 67;
  const NormProblem p{op, leaf::dtype_of<T>(), rows, cols, 1e-3, leaf::dtype_of<T>()};
  const auto x = numbers<T>(rows * cols, 31, 1, 4), w = numbers<T>(cols, 32),
             b = numbers<T>(cols, 33);
  const bool layer = op == NormOp::layer_norm;
  std::vector<double> y, plain, means, rstds;
  for (size_t r = 0; r < rows; ++r) {
    double mean = 0, square = 0;
    for (size_t c = 0; c < cols && layer; ++c) mean += double{x[r * cols + c]} / cols;
    for (size_t c = 0; c < cols; ++c) square += std::pow(double{x[r * cols + c]} - mean, 2) / cols;
    const double rstd = 1 / std::sqrt(square + 1e-3);
    for (size_t c = 0; c < cols; ++c) {
      plain.push_back((double{x[r * cols + c]} - mean) * rstd);
      y.push_back(plain.back() * double{w[c]} + (layer ? double{b[c]} : 0.0));
    }
    means.push_back(mean);
    rstds.push_back(rstd);
  }
  const auto got = forward(p, x, w, b);
  leaf::expect_close(got.y, y, leaf::tolerance<T>(), "y");
  leaf::expect_close(got.rstd, rstds, leaf::tolerance<T>(), "rstd");
  if (layer) leaf::expect_close(got.mean, means, leaf::tolerance<T>(), "mean");
  leaf::expect_close(forward<T>(p, x, {}, {}).y, plain, leaf::tolerance<T>(), "without weight");
}

TEST(Norm, AgreesWithItsDefinition) {
  for (NormOp op : {NormOp::layer_norm, NormOp::rms_norm}) {
    check_forward<float>(op);
    check_forward<double>(op);
  }
}

TEST(Norm, AConstantRowGivesTheBias) {
  const std::vector<float> x(5, 7.0f), w(5, 3.0f), b(5, 0.25f);
  for (float y : forward<float>({NormOp::layer_norm, DType::f32, 1, 5}, x, w, b).y)
    EXPECT_EQ(y, 0.25f);
}

TEST(Norm, GradientsAgreeWithFiniteDifferences) {
  constexpr int64_t rows = 5, cols = 21;
  for (NormOp op : {NormOp::layer_norm, NormOp::rms_norm}) {
    const NormProblem p{op, DType::f64, rows, cols, 1e-4, DType::f64};
    auto x = numbers<double>(rows * cols, 34), w = numbers<double>(cols, 35),
         b = numbers<double>(cols, 36);
    const auto dy = numbers<double>(rows * cols, 37);
    const auto f = forward(p, x, w, b);
    const auto g = backward(p, x, w, f, dy);
    const auto loss = [&] { return leaf::dot(forward(p, x, w, b).y, dy); };
    leaf::expect_close(g.dx, leaf::finite_differences(x, loss), 1e-7, "dx");
    leaf::expect_close(g.dweight, leaf::finite_differences(w, loss), 1e-7, "dweight");
    if (op == NormOp::layer_norm)
      leaf::expect_close(g.dbias, leaf::finite_differences(b, loss), 1e-7, "dbias");
    const auto bare = backward<double>(p, x, {}, f, dy);
    const auto bare_loss = [&] { return leaf::dot(forward<double>(p, x, {}, {}).y, dy); };
    leaf::expect_close(bare.dx, leaf::finite_differences(x, bare_loss), 1e-7, "dx without weight");
  }
}

TEST(Norm, GradientsInF32AgreeWithF64OverManyBlocks) {
  constexpr int64_t rows = 1000, cols = 64;
  const auto x = numbers<double>(rows * cols, 38), w = numbers<double>(cols, 39),
             dy = numbers<double>(rows * cols, 40);
  const std::vector<float> x32(x.begin(), x.end()), w32(w.begin(), w.end()),
      dy32(dy.begin(), dy.end());
  NormProblem p{NormOp::layer_norm, DType::f64, rows, cols, 1e-5, DType::f64};
  const auto g = backward(p, x, w, forward(p, x, w, {}), dy);
  p.dtype = p.y = DType::f32;
  const auto g32 = backward(p, x32, w32, forward(p, x32, w32, {}), dy32);
  leaf::expect_close(g32.dx, g.dx, 1e-5, "dx");
  leaf::expect_close(g32.dweight, g.dweight, 1e-5, "dweight");
  leaf::expect_close(g32.dbias, g.dbias, 1e-5, "dbias");
}

TEST(Norm, MayWorkInPlace) {
  constexpr int64_t rows = 300, cols = 20;
  const NormProblem p{NormOp::layer_norm, DType::f32, rows, cols};
  const auto x = numbers<float>(rows * cols, 41), w = numbers<float>(cols, 42),
             dy = numbers<float>(rows * cols, 43);
  const auto f = forward(p, x, w, w);
  const auto g = backward(p, x, w, f, dy);
  auto y = x;
  run(norm_kernels(), p, {y.data(), w.data(), w.data(), y.data(), nullptr, nullptr});
  EXPECT_TRUE(leaf::same_bits(y, f.y));
  auto on_dy = dy, on_x = x;
  auto dweight = w, dbias = w;
  run(norm_grad_kernels(), p,
      {x.data(), w.data(), f.mean.data(), f.rstd.data(), on_dy.data(), on_dy.data(), dweight.data(),
       dbias.data()});
  EXPECT_TRUE(leaf::same_bits(on_dy, g.dx));
  EXPECT_TRUE(leaf::same_bits(dweight, g.dweight));
  EXPECT_TRUE(leaf::same_bits(dbias, g.dbias));
  run(norm_grad_kernels(), p,
      {on_x.data(), w.data(), f.mean.data(), f.rstd.data(), dy.data(), on_x.data(), nullptr,
       nullptr});
  EXPECT_TRUE(leaf::same_bits(on_x, g.dx));
}

TEST(Norm, TheBitsDoNotDependOnTheThreads) {
  constexpr int64_t rows = 1500, cols = 64;
  const NormProblem p{NormOp::layer_norm, DType::f32, rows, cols};
  const auto x = numbers<float>(rows * cols, 44), w = numbers<float>(cols, 45);
  leaf::expect_same_bits_for_any_threads([&](int t) { return forward(p, x, w, w, t).y; });
  const auto f = forward(p, x, w, w);
  leaf::expect_same_bits_for_any_threads([&](int t) { return backward(p, x, w, f, x, t).dweight; });
  leaf::expect_same_bits_for_any_threads([&](int t) { return backward(p, x, w, f, x, t).dx; });
}

// All that the two kernels can be given and can give, of the problem's type but y and dy.
template <class T, class Y>
struct Case {
  explicit Case(const NormProblem& problem) : p(problem) {
    const int64_t n = p.rows * p.cols;
    x = numbers<T>(n, 51, -1, 5);
    residual = numbers<T>(n, 52);
    add = numbers<T>(n, 53);
    weight = numbers<T>(p.cols, 54);
    bias = numbers<T>(p.cols, 55);
    for (float v : numbers<float>(n, 56)) dy.push_back(static_cast<Y>(v));
    const auto rows = static_cast<size_t>(p.rows), cols = static_cast<size_t>(p.cols);
    y.resize(x.size());
    sum.resize(x.size());
    dx.resize(x.size());
    mean.resize(rows);
    rstd.resize(rows);
    dweight.resize(cols);
    dbias.resize(cols);
  }
  NormArgs forward(bool with_residual) {
    return {.x = x.data(),
            .weight = weight.empty() ? nullptr : weight.data(),
            .bias = bias.empty() ? nullptr : bias.data(),
            .y = y.data(),
            .mean = mean.data(),
            .rstd = rstd.data(),
            .residual = with_residual ? residual.data() : nullptr,
            .sum = with_residual ? sum.data() : nullptr};
  }
  NormGradArgs backward(bool with_add) {
    return {.x = x.data(),
            .weight = weight.empty() ? nullptr : weight.data(),
            .mean = mean.data(),
            .rstd = rstd.data(),
            .dy = dy.data(),
            .dx = dx.data(),
            .dweight = dweight.data(),
            .dbias = dbias.data(),
            .add = with_add ? add.data() : nullptr};
  }

  NormProblem p;
  std::vector<T> x, residual, add, weight, bias, sum, dx, mean, rstd, dweight, dbias;
  std::vector<Y> y, dy;
};

template <class Problem, class Args>
void run_one(const Kernel<Problem, Args>& kernel, const Problem& problem, const Args& args,
             int threads = 1) {
  const auto plan = kernel.plan(problem);
  ASSERT_NE(plan, nullptr) << kernel.name;
  leaf::run<Problem, Args>(*plan, args, threads);
}

template <class T>
std::vector<double> doubles(const std::vector<T>& v) {
  std::vector<double> d;
  for (T x : v) {
    if constexpr (std::is_same_v<T, bf16>)
      d.push_back(static_cast<double>(static_cast<float>(x)));
    else
      d.push_back(static_cast<double>(x));
  }
  return d;
}

// What a type of y allows after rounding.
template <class Y>
constexpr double kRounding = std::is_same_v<Y, bf16> ? 1.0 / 200 : 2e-5;

// Each kernel beside plain arithmetic in double.
template <class Y>
void compare(NormOp op, int64_t rows, int64_t cols, bool with_weight, bool with_more) {
  const bool layer = op == NormOp::layer_norm;
  Case<float, Y> c({op, DType::f32, rows, cols, 1e-3, leaf::dtype_of<Y>()});
  if (!with_weight) {
    c.weight.clear();
    c.bias.clear();
  }
  std::vector<double> sum, y, mean, rstd, dx, dweight(c.dweight.size()), dbias(c.dbias.size());
  const auto n = static_cast<double>(cols);
  for (int64_t r = 0; r < rows; ++r) {
    const size_t at = static_cast<size_t>(r * cols), size = static_cast<size_t>(cols);
    double m = 0, square = 0, mean_g = 0, mean_gh = 0;
    std::vector<double> v, h, g;
    for (size_t i = 0; i < size; ++i) {
      const float total = with_more ? c.x[at + i] + c.residual[at + i] : c.x[at + i];
      v.push_back(double{total});
      m += layer ? v[i] / n : 0;
    }
    for (double u : v) square += (u - m) * (u - m) / n;
    const double s = 1 / std::sqrt(square + 1e-3);
    for (size_t i = 0; i < size; ++i) {
      const double w = with_weight ? double{c.weight[i]} : 1;
      const double dy = doubles(std::vector<Y>{c.dy[at + i]})[0];
      h.push_back((v[i] - m) * s);
      g.push_back(dy * w);
      y.push_back(h[i] * w + (with_weight && layer ? double{c.bias[i]} : 0));
      mean_g += layer ? g[i] / n : 0;
      mean_gh += g[i] * h[i] / n;
      dweight[i] += dy * h[i];
      dbias[i] += dy;
    }
    for (size_t i = 0; i < size; ++i)
      dx.push_back(s * (g[i] - mean_g - h[i] * mean_gh) + (with_more ? double{c.add[at + i]} : 0));
    sum.insert(sum.end(), v.begin(), v.end());
    mean.push_back(m);
    rstd.push_back(s);
  }
  for (const auto& kernel : norm_kernels()) {
    SCOPED_TRACE(kernel.name);
    run_one(kernel, c.p, c.forward(with_more));
    leaf::expect_close(doubles(c.y), y, kRounding<Y>, "y");
    if (with_more) leaf::expect_close(c.sum, sum, 0, "sum");
    if (layer) leaf::expect_close(c.mean, mean, 2e-5, "mean");
    leaf::expect_close(c.rstd, rstd, 2e-5, "rstd");
  }
  if (with_more) c.x = c.sum;
  const double many = 2e-6 * std::sqrt(static_cast<double>(rows)) + 2e-5;
  for (const auto& kernel : norm_grad_kernels()) {
    SCOPED_TRACE(kernel.name);
    run_one(kernel, c.p, c.backward(with_more));
    leaf::expect_close(c.dx, dx, 1e-4, "dx");
    leaf::expect_close(c.dweight, dweight, many, "dweight");
    if (layer) leaf::expect_close(c.dbias, dbias, many, "dbias");
  }
}

TEST(Norm, EachKernelAgreesWithDoubleArithmetic) {
  for (NormOp op : {NormOp::layer_norm, NormOp::rms_norm})
    for (int64_t cols : {1, 3, 4, 7, 16, 17, 32, 49, 64, 65, 128, 131, 777})
      for (int64_t rows : {1, 5, 35}) {
        SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(cols));
        compare<float>(op, rows, cols, true, rows == 5);
        compare<bf16>(op, rows, cols, rows != 5, rows != 5);
      }
  compare<float>(NormOp::layer_norm, 300, 64, false, true);
  compare<bf16>(NormOp::layer_norm, 1000, 64, true, true);
  compare<float>(NormOp::layer_norm, 7, 4096, true, false);
  compare<bf16>(NormOp::rms_norm, 7, 4100, true, true);
}

TEST(Norm, NoRowsGiveNoGradient) {
  for (const auto& kernel : norm_grad_kernels()) {
    Case<float, float> c({NormOp::layer_norm, DType::f32, 0, 5});
    c.dweight.assign(5, 1);
    c.dbias.assign(5, 1);
    run_one(kernel, c.p, c.backward(false));
    EXPECT_EQ(c.dweight, std::vector<float>(5)) << kernel.name;
    EXPECT_EQ(c.dbias, std::vector<float>(5)) << kernel.name;
  }
}

TEST(Norm, EachKernelMayLeaveOutWhatIsNotWanted) {
  for (int64_t cols : {49, 64}) {
    for (const auto& kernel : norm_kernels()) {
      Case<float, float> c({NormOp::layer_norm, DType::f32, 21, cols}), d = c;
      run_one(kernel, c.p, c.forward(false));
      auto args = d.forward(false);
      args.mean = args.rstd = nullptr;
      run_one(kernel, d.p, args);
      EXPECT_TRUE(leaf::same_bits(c.y, d.y)) << kernel.name;
    }
    for (const auto& kernel : norm_grad_kernels()) {
      Case<float, float> c({NormOp::layer_norm, DType::f32, 21, cols});
      c.mean.assign(21, 0.5f);
      c.rstd.assign(21, 2.0f);
      Case<float, float> d = c, e = c;
      run_one(kernel, c.p, c.backward(true));
      auto args = d.backward(true);
      args.dx = nullptr;
      run_one(kernel, d.p, args);
      EXPECT_TRUE(leaf::same_bits(c.dweight, d.dweight)) << kernel.name;
      EXPECT_TRUE(leaf::same_bits(c.dbias, d.dbias)) << kernel.name;
      args = e.backward(true);
      args.dweight = args.dbias = nullptr;
      run_one(kernel, e.p, args);
      EXPECT_TRUE(leaf::same_bits(c.dx, e.dx)) << kernel.name;
    }
  }
}

TEST(Norm, EachKernelMayWorkInPlace) {
  for (int64_t cols : {5, 49, 64, 300}) {
    const NormProblem p{NormOp::layer_norm, DType::f32, 53, cols};
    for (const auto& kernel : norm_kernels()) {
      SCOPED_TRACE(kernel.name);
      Case<float, float> c(p), on_x(p), crossed(p), plain(p);
      run_one(kernel, p, plain.forward(false));
      auto args = on_x.forward(false);
      args.y = on_x.x.data();
      run_one(kernel, p, args);
      EXPECT_TRUE(leaf::same_bits(on_x.x, plain.y));
      run_one(kernel, p, c.forward(true));
      args = crossed.forward(true);  // y on the residual, the sum on x
      args.y = crossed.residual.data();
      args.sum = crossed.x.data();
      run_one(kernel, p, args);
      EXPECT_TRUE(leaf::same_bits(crossed.residual, c.y));
      EXPECT_TRUE(leaf::same_bits(crossed.x, c.sum));
      Case<float, float> other(p);  // and the other way round
      args = other.forward(true);
      args.y = other.x.data();
      args.sum = other.residual.data();
      run_one(kernel, p, args);
      EXPECT_TRUE(leaf::same_bits(other.x, c.y));
      EXPECT_TRUE(leaf::same_bits(other.residual, c.sum));
    }
    for (const auto& kernel : norm_grad_kernels()) {
      SCOPED_TRACE(kernel.name);
      Case<float, float> c(p);
      c.mean.assign(53, 0.5f);
      c.rstd.assign(53, 2.0f);
      const Case<float, float> before = c;
      run_one(kernel, p, c.backward(true));
      for (auto where :
           {&Case<float, float>::x, &Case<float, float>::dy, &Case<float, float>::add}) {
        Case<float, float> d = before;
        auto args = d.backward(true);
        args.dx = (d.*where).data();
        run_one(kernel, p, args);
        EXPECT_TRUE(leaf::same_bits(d.*where, c.dx));
        EXPECT_TRUE(leaf::same_bits(d.dweight, c.dweight));
        EXPECT_TRUE(leaf::same_bits(d.dbias, c.dbias));
      }
    }
  }
}

TEST(Norm, TheBitsOfEachKernelDoNotDependOnTheThreads) {
  for (int64_t cols : {64, 100}) {
    const NormProblem p{NormOp::layer_norm, DType::f32, 1500, cols, 1e-5, DType::bf16};
    Case<float, bf16> c(p);
    for (const auto& kernel : norm_kernels())
      leaf::expect_same_bits_for_any_threads([&](int threads) {
        run_one(kernel, p, c.forward(true), threads);
        return c.y;
      });
    for (const auto& kernel : norm_grad_kernels())
      leaf::expect_same_bits_for_any_threads([&](int threads) {
        run_one(kernel, p, c.backward(true), threads);
        auto all = c.dx;
        all.insert(all.end(), c.dweight.begin(), c.dweight.end());
        all.insert(all.end(), c.dbias.begin(), c.dbias.end());
        return all;
      });
  }
}

TEST(Norm, InEachKernelAConstantRowGivesTheBiasAndANanStaysInItsRow) {
  for (int64_t cols : {5, 64, 200})
    for (const auto& kernel : norm_kernels()) {
      Case<float, float> c({NormOp::layer_norm, DType::f32, 20, cols});
      for (int64_t i = 0; i < 20 * cols; ++i)
        c.x[static_cast<size_t>(i)] = i / cols == 7 ? NAN : 7.0f;
      run_one(kernel, c.p, c.forward(false));
      for (int64_t i = 0; i < 20 * cols; ++i) {
        const float y = c.y[static_cast<size_t>(i)];
        if (i / cols == 7) {
          EXPECT_TRUE(std::isnan(y)) << kernel.name;
        } else {
          EXPECT_NEAR(y, c.bias[static_cast<size_t>(i % cols)], 1e-3) << kernel.name;
        }
      }
    }
}

TEST(Norm, ARowFarFromZeroKeepsItsVariance) {
  for (const auto& kernel : norm_kernels()) {
    Case<float, float> c({NormOp::layer_norm, DType::f32, 3, 64, 0});
    for (size_t i = 0; i < c.x.size(); ++i) c.x[i] = 10000.0f + static_cast<float>(i % 2);
    run_one(kernel, c.p, c.forward(false));
    for (float rstd : c.rstd) EXPECT_NEAR(rstd, 2, 1e-5) << kernel.name;
  }
}

TEST(Norm, WhatIsNotSupportedHasNoPlan) {
  EXPECT_FALSE(leaf::supported(norm_kernels(), {NormOp::layer_norm, DType::i32, 1, 1}));
  EXPECT_FALSE(leaf::supported(norm_kernels(), {NormOp::layer_norm, DType::f32, 1, 0}));
  EXPECT_FALSE(leaf::supported(norm_grad_kernels(), {NormOp::rms_norm, DType::f32, -1, 1}));
  EXPECT_FALSE(leaf::supported(norm_grad_kernels(), {NormOp::rms_norm, DType::f32, 1, 1, -1.0}));
  constexpr NormOp kOp = NormOp::layer_norm;
  EXPECT_FALSE(leaf::supported(norm_kernels(), {kOp, DType::f64, 1, 1, 0, DType::bf16}));
  EXPECT_FALSE(leaf::supported(norm_kernels(), {kOp, DType::f32, 1, 1, 0, DType::f64}));
  EXPECT_FALSE(leaf::supported(norm_grad_kernels(), {kOp, DType::f64, 1, 1, 0, DType::f32}));
  EXPECT_FALSE(leaf::supported(norm_grad_kernels(), {kOp, DType::f32, 1, 1, 0, DType::f16}));
}

}  // namespace
}  // namespace fovea

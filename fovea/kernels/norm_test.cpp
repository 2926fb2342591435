#include "fovea/kernels/norm.h"

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
  const NormProblem p{op, leaf::dtype_of<T>(), rows, cols, 1e-3};
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
    const NormProblem p{op, DType::f64, rows, cols, 1e-4};
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
  NormProblem p{NormOp::layer_norm, DType::f64, rows, cols};
  const auto g = backward(p, x, w, forward(p, x, w, {}), dy);
  p.dtype = DType::f32;
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

TEST(Norm, WhatIsNotSupportedHasNoPlan) {
  EXPECT_FALSE(leaf::supported(norm_kernels(), {NormOp::layer_norm, DType::i32, 1, 1}));
  EXPECT_FALSE(leaf::supported(norm_kernels(), {NormOp::layer_norm, DType::f32, 1, 0}));
  EXPECT_FALSE(leaf::supported(norm_grad_kernels(), {NormOp::rms_norm, DType::f32, -1, 1}));
  EXPECT_FALSE(leaf::supported(norm_grad_kernels(), {NormOp::rms_norm, DType::f32, 1, 1, -1.0}));
}

}  // namespace
}  // namespace fovea

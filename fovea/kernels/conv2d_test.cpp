#include "fovea/kernels/conv2d.h"

#include <cmath>
#include <string>

#include "fovea/base/error.h"
#include "fovea/kernels/leaf_test.h"

namespace fovea {
namespace {

using leaf::numbers;

std::vector<Conv2dProblem> problems() {
  return {
      // The Fashion-MNIST stem, with a batch that leaves a short last block.
      {.batch = 37,
       .h = 28,
       .w = 28,
       .c = 1,
       .o = 32,
       .kh = 3,
       .kw = 3,
       .stride_h = 2,
       .stride_w = 2,
       .pad_h = 1,
       .pad_w = 1,
       .bias = true},
      {.batch = 19,
       .h = 14,
       .w = 14,
       .c = 32,
       .o = 64,
       .kh = 3,
       .kw = 3,
       .stride_h = 2,
       .stride_w = 2,
       .pad_h = 1,
       .pad_w = 1,
       .bias = true},
      // One image, no bias.
      {.batch = 1, .h = 9, .w = 7, .c = 16, .o = 16, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
      // Channels that fill no vector; strides, paddings and sizes that differ by axis.
      {.batch = 5,
       .h = 11,
       .w = 14,
       .c = 5,
       .o = 7,
       .kh = 3,
       .kw = 2,
       .stride_h = 3,
       .stride_w = 2,
       .pad_h = 2,
       .pad_w = 0,
       .bias = true},
      // Patches.
      {.batch = 2,
       .h = 16,
       .w = 16,
       .c = 3,
       .o = 24,
       .kh = 8,
       .kw = 8,
       .stride_h = 8,
       .stride_w = 8,
       .bias = true},
      // Single points, with rows and columns that no window reads.
      {.batch = 3,
       .h = 6,
       .w = 6,
       .c = 20,
       .o = 33,
       .kh = 1,
       .kw = 1,
       .stride_h = 2,
       .stride_w = 2,
       .bias = true},
      // Windows that lie wholly in the padding.
      {.batch = 2,
       .h = 4,
       .w = 4,
       .c = 2,
       .o = 3,
       .kh = 2,
       .kw = 2,
       .pad_h = 3,
       .pad_w = 3,
       .bias = true},
  };
}

struct Numbers {
  std::vector<float> x, weight, bias, dy;

  explicit Numbers(const Conv2dProblem& p)
      : x(numbers<float>(p.batch * p.h * p.w * p.c, 1)),
        weight(numbers<float>(p.o * p.kh * p.kw * p.c, 2)),
        bias(numbers<float>(p.o, 3)),
        dy(numbers<float>(p.batch * p.out_h() * p.out_w() * p.o, 4)) {}
};

template <class T>
std::vector<T> as(const std::vector<float>& v) {
  return {v.begin(), v.end()};
}

template <class T>
std::vector<T> forward(const Kernel<Conv2dProblem, Conv2dArgs>& kernel, Conv2dProblem p,
                       const Numbers& in, int threads = 1) {
  p.dtype = leaf::dtype_of<T>();
  const auto x = as<T>(in.x), weight = as<T>(in.weight), bias = as<T>(in.bias);
  std::vector<T> y(in.dy.size(), T(-99));
  const auto plan = kernel.plan(p);
  EXPECT_NE(plan, nullptr) << kernel.name;
  if (plan)
    leaf::run<Conv2dProblem>(
        *plan, Conv2dArgs{x.data(), weight.data(), p.bias ? bias.data() : nullptr, y.data()},
        threads);
  return y;
}

template <class T>
std::vector<T> grad_input(const Kernel<Conv2dProblem, Conv2dGradInputArgs>& kernel, Conv2dProblem p,
                          const Numbers& in, int threads = 1) {
  p.dtype = leaf::dtype_of<T>();
  const auto dy = as<T>(in.dy), weight = as<T>(in.weight);
  std::vector<T> dx(in.x.size(), T(-99));
  const auto plan = kernel.plan(p);
  EXPECT_NE(plan, nullptr) << kernel.name;
  if (plan)
    leaf::run<Conv2dProblem>(*plan, Conv2dGradInputArgs{dy.data(), weight.data(), dx.data()},
                             threads);
  return dx;
}

// dweight, and dbias after it if there is a bias.
template <class T>
std::vector<T> grad_weight(const Kernel<Conv2dProblem, Conv2dGradWeightArgs>& kernel,
                           Conv2dProblem p, const Numbers& in, int threads = 1) {
  p.dtype = leaf::dtype_of<T>();
  const auto dy = as<T>(in.dy), x = as<T>(in.x);
  std::vector<T> grads(in.weight.size(), T(-99)), dbias(p.bias ? in.bias.size() : 0, T(-99));
  const auto plan = kernel.plan(p);
  EXPECT_NE(plan, nullptr) << kernel.name;
  if (plan)
    leaf::run<Conv2dProblem>(
        *plan, Conv2dGradWeightArgs{dy.data(), x.data(), grads.data(), dbias.data()}, threads);
  grads.insert(grads.end(), dbias.begin(), dbias.end());
  return grads;
}

TEST(Conv2d, TheListsAreOneDnnThenTheReference) {
  ASSERT_EQ(conv2d_kernels().size(), 2u);
  EXPECT_EQ(conv2d_kernels()[0].name, "dnnl");
  EXPECT_EQ(conv2d_kernels()[1].name, "ref");
  EXPECT_EQ(conv2d_grad_input_kernels()[0].name, "dnnl");
  EXPECT_EQ(conv2d_grad_input_kernels()[1].name, "ref");
  EXPECT_EQ(conv2d_grad_weight_kernels()[0].name, "dnnl");
  EXPECT_EQ(conv2d_grad_weight_kernels()[1].name, "ref");
}

TEST(Conv2d, TheReferenceGivesAnImageByHand) {
  // A 2 x 2 window over [1 2 3; 4 5 6] with a column of zeros at each side, and a bias of 100.
  const Conv2dProblem p{.dtype = DType::f64,
                        .batch = 1,
                        .h = 2,
                        .w = 3,
                        .c = 1,
                        .o = 1,
                        .kh = 2,
                        .kw = 2,
                        .pad_w = 1,
                        .bias = true};
  const std::vector<double> x = {1, 2, 3, 4, 5, 6}, weight = {1, 10, 2, 20}, bias = {100};
  std::vector<double> y(4);
  leaf::run(conv2d_kernels(), p, {x.data(), weight.data(), bias.data(), y.data()});
  EXPECT_EQ(y, (std::vector<double>{190, 229, 262, 115}));
}

TEST(Conv2d, EveryKernelAgreesWithDoublePrecision) {
  for (const Conv2dProblem& p : problems()) {
    SCOPED_TRACE(std::to_string(p.h) + " x " + std::to_string(p.w) + " x " + std::to_string(p.c));
    const Numbers in(p);
    const auto y = forward<double>(conv2d_kernels().back(), p, in);
    for (const auto& kernel : conv2d_kernels())
      leaf::expect_close(forward<float>(kernel, p, in), y, 4e-5, "y");
    const auto dx = grad_input<double>(conv2d_grad_input_kernels().back(), p, in);
    for (const auto& kernel : conv2d_grad_input_kernels())
      leaf::expect_close(grad_input<float>(kernel, p, in), dx, 4e-5, "dx");
    const auto dw = grad_weight<double>(conv2d_grad_weight_kernels().back(), p, in);
    // Sums of that many products of up to 4, which may be near zero.
    const double terms = 6e-6 * std::sqrt(static_cast<double>(p.batch * p.out_h() * p.out_w()));
    for (const auto& kernel : conv2d_grad_weight_kernels())
      leaf::expect_close(grad_weight<float>(kernel, p, in), dw, terms, "dweight, dbias");
  }
}

TEST(Conv2d, AnyNumberOfThreadsGivesTheSameBits) {
  for (const Conv2dProblem& p : problems()) {
    const Numbers in(p);
    // The reference of the large problems is slow, and the same code for all.
    const auto quick = [&](std::string_view name) { return name != "ref" || p.batch <= 5; };
    for (const auto& kernel : conv2d_kernels())
      if (quick(kernel.name))
        leaf::expect_same_bits_for_any_threads(
            [&](int threads) { return forward<float>(kernel, p, in, threads); });
    for (const auto& kernel : conv2d_grad_input_kernels())
      if (quick(kernel.name))
        leaf::expect_same_bits_for_any_threads(
            [&](int threads) { return grad_input<float>(kernel, p, in, threads); });
    for (const auto& kernel : conv2d_grad_weight_kernels())
      if (quick(kernel.name))
        leaf::expect_same_bits_for_any_threads(
            [&](int threads) { return grad_weight<float>(kernel, p, in, threads); });
  }
}

TEST(Conv2d, GradientsAreWhatFiniteDifferencesSay) {
  const Conv2dProblem p{.dtype = DType::f64,
                        .batch = 2,
                        .h = 5,
                        .w = 4,
                        .c = 2,
                        .o = 3,
                        .kh = 3,
                        .kw = 2,
                        .stride_h = 2,
                        .stride_w = 1,
                        .pad_h = 1,
                        .pad_w = 1,
                        .bias = true};
  const Numbers in(p);
  auto x = as<double>(in.x), weight = as<double>(in.weight), bias = as<double>(in.bias);
  const auto dy = as<double>(in.dy);
  const auto dx = grad_input<double>(conv2d_grad_input_kernels().back(), p, in);
  const auto dw = grad_weight<double>(conv2d_grad_weight_kernels().back(), p, in);
  // The loss is the sum of dy * y.
  const auto loss = [&] {
    std::vector<double> y(dy.size());
    leaf::run(conv2d_kernels(), p, {x.data(), weight.data(), bias.data(), y.data()});
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += dy[i] * y[i];
    return sum;
  };
  const auto check = [&](std::vector<double>& at, const double* gradient) {
    constexpr double kStep = 1e-3;
    for (size_t i = 0; i < at.size(); ++i) {
      const double kept = at[i];
      at[i] = kept + kStep;
      const double above = loss();
      at[i] = kept - kStep;
      const double below = loss();
      at[i] = kept;
      EXPECT_NEAR((above - below) / (2 * kStep), gradient[i], 1e-9) << i;
    }
  };
  check(x, dx.data());
  check(weight, dw.data());
  check(bias, dw.data() + weight.size());
}

TEST(Conv2d, OneDnnLeavesDoublesAndHalvesToOthers) {
  Conv2dProblem p = problems()[0];
  p.dtype = DType::f64;
  EXPECT_EQ(conv2d_kernels()[0].plan(p), nullptr);
  EXPECT_EQ(conv2d_grad_input_kernels()[0].plan(p), nullptr);
  EXPECT_EQ(conv2d_grad_weight_kernels()[0].plan(p), nullptr);
  p.dtype = DType::f16;
  EXPECT_FALSE(leaf::supported(conv2d_kernels(), p));
  EXPECT_FALSE(leaf::supported(conv2d_grad_input_kernels(), p));
  EXPECT_FALSE(leaf::supported(conv2d_grad_weight_kernels(), p));
}

TEST(Conv2d, ASizeOrStrideBelowOneIsAnError) {
  for (int64_t Conv2dProblem::*field :
       {&Conv2dProblem::batch, &Conv2dProblem::h, &Conv2dProblem::w, &Conv2dProblem::c,
        &Conv2dProblem::o, &Conv2dProblem::kh, &Conv2dProblem::kw, &Conv2dProblem::stride_h,
        &Conv2dProblem::stride_w}) {
    Conv2dProblem p = problems()[0];
    p.*field = 0;
    for (const auto& kernel : conv2d_kernels()) EXPECT_THROW(kernel.plan(p), Error);
    for (const auto& kernel : conv2d_grad_input_kernels()) EXPECT_THROW(kernel.plan(p), Error);
    for (const auto& kernel : conv2d_grad_weight_kernels()) EXPECT_THROW(kernel.plan(p), Error);
  }
}

TEST(Conv2d, ANegativePaddingIsAnError) {
  Conv2dProblem p = problems()[0];
  p.pad_h = -1;
  EXPECT_THROW(conv2d_kernels()[0].plan(p), Error);
  p.pad_h = 0;
  p.pad_w = -1;
  EXPECT_THROW(conv2d_kernels()[0].plan(p), Error);
}

TEST(Conv2d, AWeightLargerThanThePaddedImageIsAnError) {
  Conv2dProblem p = problems()[0];
  p.kh = 31;
  for (const auto& kernel : conv2d_kernels()) {
    try {
      kernel.plan(p);
      ADD_FAILURE() << kernel.name;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
      EXPECT_STREQ(e.what(),
                   "[conv2d] expected a weight within the padded image of 30 x 30, got 31 x 3");
    }
  }
}

}  // namespace
}  // namespace fovea

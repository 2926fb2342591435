// The plain convolution and gradients, their checks and the lists of their kernels.
#include <algorithm>
#include <string>

#include "fovea/base/error.h"
#include "fovea/kernels/conv2d.h"

namespace fovea {
namespace {

// Places in dense arrays of the problem.
struct Places {
  explicit Places(const Conv2dProblem& problem)
      : p(problem), oh(problem.out_h()), ow(problem.out_w()) {}

  int64_t x(int64_t b, int64_t i, int64_t j, int64_t c) const {
    return ((b * p.h + i) * p.w + j) * p.c + c;
  }
  int64_t y(int64_t b, int64_t i, int64_t j, int64_t o) const {
    return ((b * oh + i) * ow + j) * p.o + o;
  }
  int64_t weight(int64_t o, int64_t u, int64_t v, int64_t c) const {
    return ((o * p.kh + u) * p.kw + v) * p.c + c;
  }

  Conv2dProblem p;
  int64_t oh, ow;
};

bool inside(int64_t at, int64_t size) { return at >= 0 && at < size; }

template <class T>
class Forward : public KernelPlan<Conv2dArgs> {
 public:
  explicit Forward(const Conv2dProblem& problem) : at_(problem) {}

  void run(const Conv2dArgs& args, const KernelContext& context) const noexcept override {
    const Conv2dProblem& p = at_.p;
    const T* x = static_cast<const T*>(args.x);
    const T* weight = static_cast<const T*>(args.weight);
    const T* bias = static_cast<const T*>(args.bias);
    context.pool->parallel_for(p.batch * at_.oh, [&](int64_t block, int) {
      const int64_t b = block / at_.oh;
      const int64_t i = block % at_.oh;
      for (int64_t j = 0; j < at_.ow; ++j) {
        for (int64_t o = 0; o < p.o; ++o) {
          double sum = p.bias ? static_cast<double>(bias[o]) : 0.0;
          for (int64_t u = 0; u < p.kh; ++u) {
            const int64_t xi = i * p.stride_h + u - p.pad_h;
            if (!inside(xi, p.h)) continue;
            for (int64_t v = 0; v < p.kw; ++v) {
              const int64_t xj = j * p.stride_w + v - p.pad_w;
              if (!inside(xj, p.w)) continue;
              for (int64_t c = 0; c < p.c; ++c) {
                sum += static_cast<double>(x[at_.x(b, xi, xj, c)]) *
                       static_cast<double>(weight[at_.weight(o, u, v, c)]);
              }
            }
          }
          static_cast<T*>(args.y)[at_.y(b, i, j, o)] = static_cast<T>(sum);
        }
      }
    });
  }

 private:
  Places at_;
};

template <class T>
class GradInput : public KernelPlan<Conv2dGradInputArgs> {
 public:
  explicit GradInput(const Conv2dProblem& problem) : at_(problem) {}

  void run(const Conv2dGradInputArgs& args, const KernelContext& context) const noexcept override {
    const Conv2dProblem& p = at_.p;
    const T* dy = static_cast<const T*>(args.dy);
    const T* weight = static_cast<const T*>(args.weight);
    // Each dx gathers from the outputs that read it.
    context.pool->parallel_for(p.batch * p.h, [&](int64_t block, int) {
      const int64_t b = block / p.h;
      const int64_t xi = block % p.h;
      for (int64_t xj = 0; xj < p.w; ++xj) {
        for (int64_t c = 0; c < p.c; ++c) {
          double sum = 0;
          for (int64_t u = 0; u < p.kh; ++u) {
            const int64_t i = xi + p.pad_h - u;
            if (i % p.stride_h != 0 || !inside(i / p.stride_h, at_.oh)) continue;
            for (int64_t v = 0; v < p.kw; ++v) {
              const int64_t j = xj + p.pad_w - v;
              if (j % p.stride_w != 0 || !inside(j / p.stride_w, at_.ow)) continue;
              for (int64_t o = 0; o < p.o; ++o) {
                sum += static_cast<double>(dy[at_.y(b, i / p.stride_h, j / p.stride_w, o)]) *
                       static_cast<double>(weight[at_.weight(o, u, v, c)]);
              }
            }
          }
          static_cast<T*>(args.dx)[at_.x(b, xi, xj, c)] = static_cast<T>(sum);
        }
      }
    });
  }

 private:
  Places at_;
};

template <class T>
class GradWeight : public KernelPlan<Conv2dGradWeightArgs> {
 public:
  explicit GradWeight(const Conv2dProblem& problem) : at_(problem) {}

  void run(const Conv2dGradWeightArgs& args, const KernelContext& context) const noexcept override {
    const Conv2dProblem& p = at_.p;
    const T* dy = static_cast<const T*>(args.dy);
    const T* x = static_cast<const T*>(args.x);
    context.pool->parallel_for(p.o, [&](int64_t o, int) {
      for (int64_t u = 0; u < p.kh; ++u) {
        for (int64_t v = 0; v < p.kw; ++v) {
          for (int64_t c = 0; c < p.c; ++c) {
            static_cast<T*>(args.dweight)[at_.weight(o, u, v, c)] =
                static_cast<T>(weight_sum(dy, x, o, u, v, c));
          }
        }
      }
      if (!p.bias) return;
      double sum = 0;
      for (int64_t row = 0; row < p.batch * at_.oh * at_.ow; ++row)
        sum += static_cast<double>(dy[row * p.o + o]);
      static_cast<T*>(args.dbias)[o] = static_cast<T>(sum);
    });
  }

 private:
  double weight_sum(const T* dy, const T* x, int64_t o, int64_t u, int64_t v, int64_t c) const {
    const Conv2dProblem& p = at_.p;
    double sum = 0;
    for (int64_t b = 0; b < p.batch; ++b) {
      for (int64_t i = 0; i < at_.oh; ++i) {
        const int64_t xi = i * p.stride_h + u - p.pad_h;
        if (!inside(xi, p.h)) continue;
        for (int64_t j = 0; j < at_.ow; ++j) {
          const int64_t xj = j * p.stride_w + v - p.pad_w;
          if (!inside(xj, p.w)) continue;
          sum += static_cast<double>(dy[at_.y(b, i, j, o)]) *
                 static_cast<double>(x[at_.x(b, xi, xj, c)]);
        }
      }
    }
    return sum;
  }

  Places at_;
};

template <template <class> class Plan, class Args>
std::unique_ptr<KernelPlan<Args>> plan_ref(const Conv2dProblem& p) {
  conv2d_detail::check(p);
  if (p.dtype == DType::f32) return std::make_unique<Plan<float>>(p);
  if (p.dtype == DType::f64) return std::make_unique<Plan<double>>(p);
  return nullptr;
}

[[noreturn]] void wrong(const std::string& expected, const std::string& got) {
  throw Error{ErrorCode::invalid_argument, "[conv2d] expected " + expected + ", got " + got};
}

}  // namespace

void conv2d_detail::check(const Conv2dProblem& p) {
  const auto at_least = [](const char* name, int64_t value, int64_t least) {
    if (value < least)
      wrong(std::string(name) + " of at least " + std::to_string(least), std::to_string(value));
  };
  at_least("batch", p.batch, 1);
  at_least("height", p.h, 1);
  at_least("width", p.w, 1);
  at_least("input channels", p.c, 1);
  at_least("output channels", p.o, 1);
  at_least("weight height", p.kh, 1);
  at_least("weight width", p.kw, 1);
  at_least("vertical stride", p.stride_h, 1);
  at_least("horizontal stride", p.stride_w, 1);
  at_least("vertical padding", p.pad_h, 0);
  at_least("horizontal padding", p.pad_w, 0);
  const auto extent = [](int64_t a, int64_t b) {
    return std::to_string(a) + " x " + std::to_string(b);
  };
  if (p.kh > p.h + 2 * p.pad_h || p.kw > p.w + 2 * p.pad_w) {
    wrong("a weight within the padded image of " + extent(p.h + 2 * p.pad_h, p.w + 2 * p.pad_w),
          extent(p.kh, p.kw));
  }
}

std::span<const Kernel<Conv2dProblem, Conv2dArgs>> conv2d_kernels() {
  static constexpr Kernel<Conv2dProblem, Conv2dArgs> kList[] = {
      {"dnnl", conv2d_detail::plan_dnnl},
      {"ref", plan_ref<Forward, Conv2dArgs>},
  };
  return kList;
}

std::span<const Kernel<Conv2dProblem, Conv2dGradInputArgs>> conv2d_grad_input_kernels() {
  static constexpr Kernel<Conv2dProblem, Conv2dGradInputArgs> kList[] = {
      {"dnnl", conv2d_detail::plan_grad_input_dnnl},
      {"ref", plan_ref<GradInput, Conv2dGradInputArgs>},
  };
  return kList;
}

std::span<const Kernel<Conv2dProblem, Conv2dGradWeightArgs>> conv2d_grad_weight_kernels() {
  static constexpr Kernel<Conv2dProblem, Conv2dGradWeightArgs> kList[] = {
      {"dnnl", conv2d_detail::plan_grad_weight_dnnl},
      {"ref", plan_ref<GradWeight, Conv2dGradWeightArgs>},
  };
  return kList;
}

}  // namespace fovea

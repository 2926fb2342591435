#include <algorithm>
#include <limits>
#include <string>

#include "fovea/base/error.h"
#include "fovea/kernels/pool.h"

namespace fovea {
namespace {

[[noreturn]] void wrong(const std::string& expected, const std::string& got) {
  throw Error{ErrorCode::invalid_argument, "[pool] expected " + expected + ", got " + got};
}

void check(const PoolProblem& p) {
  const auto at_least = [](const char* name, int64_t value, int64_t least) {
    if (value < least)
      wrong(std::string(name) + " of at least " + std::to_string(least), std::to_string(value));
  };
  const auto extent = [](int64_t a, int64_t b) {
    return std::to_string(a) + " x " + std::to_string(b);
  };
  at_least("batch", p.batch, 1);
  at_least("height", p.h, 1);
  at_least("width", p.w, 1);
  at_least("channels", p.c, 1);
  at_least("window height", p.size_h, 1);
  at_least("window width", p.size_w, 1);
  at_least("vertical stride", p.stride_h, 1);
  at_least("horizontal stride", p.stride_w, 1);
  at_least("vertical padding", p.pad_h, 0);
  at_least("horizontal padding", p.pad_w, 0);
  if (p.pad_h >= p.size_h || p.pad_w >= p.size_w) {
    wrong("padding less than the window of " + extent(p.size_h, p.size_w),
          extent(p.pad_h, p.pad_w));
  }
  if (p.size_h > p.h + 2 * p.pad_h || p.size_w > p.w + 2 * p.pad_w) {
    wrong("a window within the padded image of " + extent(p.h + 2 * p.pad_h, p.w + 2 * p.pad_w),
          extent(p.size_h, p.size_w));
  }
  if (p.h > std::numeric_limits<int32_t>::max() / p.w)
    wrong("an image of less than 2^31 places", extent(p.h, p.w));
}

// The part of a window that lies inside the image: rows [top, bottom), columns [left, right).
struct Window {
  int64_t top, bottom, left, right;

  Window(const PoolProblem& p, int64_t i, int64_t j)
      : top(std::max<int64_t>(0, i * p.stride_h - p.pad_h)),
        bottom(std::min(p.h, i * p.stride_h - p.pad_h + p.size_h)),
        left(std::max<int64_t>(0, j * p.stride_w - p.pad_w)),
        right(std::min(p.w, j * p.stride_w - p.pad_w + p.size_w)) {}
  int64_t area() const { return (bottom - top) * (right - left); }
};

template <class T>
class Forward : public KernelPlan<PoolArgs> {
 public:
  explicit Forward(const PoolProblem& problem) : p_(problem) {}

  void run(const PoolArgs& args, const KernelContext& context) const noexcept override {
    const int64_t oh = p_.out_h(), ow = p_.out_w();
    context.pool->parallel_for(p_.batch, [&](int64_t b, int) {
      const T* image = static_cast<const T*>(args.x) + b * p_.h * p_.w * p_.c;
      for (int64_t i = 0; i < oh; ++i) {
        for (int64_t j = 0; j < ow; ++j) {
          const int64_t at = ((b * oh + i) * ow + j) * p_.c;
          T* y = static_cast<T*>(args.y) + at;
          const Window window(p_, i, j);
          if (p_.kind == PoolKind::average)
            average(image, window, y);
          else if (args.indices != nullptr)
            maximum<true>(image, window, y, args.indices + at);
          else
            maximum<false>(image, window, y, nullptr);
        }
      }
    });
  }

 private:
  template <bool WithIndices>
  void maximum(const T* image, const Window& window, T* y, int32_t* indices) const {
    const int64_t first = window.top * p_.w + window.left;
    std::copy_n(image + first * p_.c, p_.c, y);
    if constexpr (WithIndices) std::fill_n(indices, p_.c, static_cast<int32_t>(first));
    for (int64_t r = window.top; r < window.bottom; ++r) {
      for (int64_t s = window.left; s < window.right; ++s) {
        const int64_t place = r * p_.w + s;
        const T* x = image + place * p_.c;
        for (int64_t c = 0; c < p_.c; ++c) {
          const T v = x[c];
          // A NaN is greater than all but an earlier NaN.
          const bool greater = v > y[c] || (v != v && y[c] == y[c]);
          y[c] = greater ? v : y[c];
          if constexpr (WithIndices)
            indices[c] = greater ? static_cast<int32_t>(place) : indices[c];
        }
      }
    }
  }

  void average(const T* image, const Window& window, T* y) const {
    std::fill_n(y, p_.c, T{0});
    for (int64_t r = window.top; r < window.bottom; ++r) {
      for (int64_t s = window.left; s < window.right; ++s) {
        const T* x = image + (r * p_.w + s) * p_.c;
        for (int64_t c = 0; c < p_.c; ++c) y[c] += x[c];
      }
    }
    const T share = T{1} / static_cast<T>(window.area());
    for (int64_t c = 0; c < p_.c; ++c) y[c] *= share;
  }

  PoolProblem p_;
};

template <class T>
class Grad : public KernelPlan<PoolGradArgs> {
 public:
  explicit Grad(const PoolProblem& problem) : p_(problem) {}

  // Windows may overlap, so that an image is one block and its windows add up in order.
  void run(const PoolGradArgs& args, const KernelContext& context) const noexcept override {
    const int64_t oh = p_.out_h(), ow = p_.out_w();
    context.pool->parallel_for(p_.batch, [&](int64_t b, int) {
      T* image = static_cast<T*>(args.dx) + b * p_.h * p_.w * p_.c;
      std::fill_n(image, p_.h * p_.w * p_.c, T{0});
      for (int64_t i = 0; i < oh; ++i) {
        for (int64_t j = 0; j < ow; ++j) {
          const int64_t at = ((b * oh + i) * ow + j) * p_.c;
          const T* dy = static_cast<const T*>(args.dy) + at;
          if (p_.kind == PoolKind::average) {
            average(dy, Window(p_, i, j), image);
          } else {
            // Indices may come from anywhere: those outside the image are skipped.
            for (int64_t c = 0; c < p_.c; ++c) {
              const int64_t place = args.indices[at + c];
              if (place >= 0 && place < p_.h * p_.w) image[place * p_.c + c] += dy[c];
            }
          }
        }
      }
    });
  }

 private:
  void average(const T* dy, const Window& window, T* image) const {
    const T share = T{1} / static_cast<T>(window.area());
    for (int64_t r = window.top; r < window.bottom; ++r) {
      for (int64_t s = window.left; s < window.right; ++s) {
        T* dx = image + (r * p_.w + s) * p_.c;
        for (int64_t c = 0; c < p_.c; ++c) dx[c] += dy[c] * share;
      }
    }
  }

  PoolProblem p_;
};

template <template <class> class Plan, class Args>
std::unique_ptr<KernelPlan<Args>> plan_ref(const PoolProblem& p) {
  check(p);
  if (p.dtype == DType::f32) return std::make_unique<Plan<float>>(p);
  if (p.dtype == DType::f64) return std::make_unique<Plan<double>>(p);
  return nullptr;
}

}  // namespace

std::span<const Kernel<PoolProblem, PoolArgs>> pool_kernels() {
  static constexpr Kernel<PoolProblem, PoolArgs> kList[] = {{"ref", plan_ref<Forward, PoolArgs>}};
  return kList;
}

std::span<const Kernel<PoolProblem, PoolGradArgs>> pool_grad_kernels() {
  static constexpr Kernel<PoolProblem, PoolGradArgs> kList[] = {
      {"ref", plan_ref<Grad, PoolGradArgs>}};
  return kList;
}

}  // namespace fovea

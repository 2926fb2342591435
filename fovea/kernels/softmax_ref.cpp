// The plain reference, and the lists of the kernels.
#include <algorithm>
#include <limits>
#include <memory>

#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/softmax.h"

namespace fovea {
namespace {

template <class T>
void softmax_row(const T* x, T* y, int64_t n) {
  const T top = lanes::max_of(n, x);
  if (top == -std::numeric_limits<T>::infinity()) return static_cast<void>(std::fill_n(y, n, T{0}));
  lanes::map(
      n, y, [top](T v) { return lanes::exp(v - top); }, x);
  const T scale = T{1} / lanes::sum<T>(
                             n, [](T v) { return v; }, y);
  lanes::map(
      n, y, [scale](T v) { return v * scale; }, static_cast<const T*>(y));
}

template <class T>
void log_softmax_row(const T* x, T* y, int64_t n) {
  const T top = lanes::max_of(n, x);
  if (top == -std::numeric_limits<T>::infinity()) return static_cast<void>(std::fill_n(y, n, top));
  const T log_sum = std::log(lanes::sum<T>(
      n, [top](T v) { return lanes::exp(v - top); }, x));
  lanes::map(
      n, y, [top, log_sum](T v) { return v - top - log_sum; }, x);
}

template <class T>
void softmax_grad_row(const T* y, const T* dy, T* dx, int64_t n) {
  const T dot = lanes::sum<T>(
      n, [](T a, T b) { return a * b; }, y, dy);
  lanes::map(
      n, dx, [dot](T a, T b) { return a * (b - dot); }, y, dy);
}

template <class T>
void log_softmax_grad_row(const T* y, const T* dy, T* dx, int64_t n) {
  const T total = lanes::sum<T>(
      n, [](T v) { return v; }, dy);
  lanes::map(
      n, dx, [total](T a, T b) { return b - lanes::exp(a) * total; }, y, dy);
}

template <class T>
class SoftmaxPlan final : public KernelPlan<SoftmaxArgs> {
 public:
  explicit SoftmaxPlan(const SoftmaxProblem& p) : p_(p) {}

  void run(const SoftmaxArgs& args, const KernelContext& context) const noexcept override {
    const T* x = static_cast<const T*>(args.x);
    T* y = static_cast<T*>(args.y);
    const auto row = p_.op == SoftmaxOp::softmax ? softmax_row<T> : log_softmax_row<T>;
    lanes::for_rows(*context.pool, p_.rows, p_.cols,
                    [&](int64_t r) { row(x + r * p_.cols, y + r * p_.cols, p_.cols); });
  }

 private:
  SoftmaxProblem p_;
};

template <class T>
class SoftmaxGradPlan final : public KernelPlan<SoftmaxGradArgs> {
 public:
  explicit SoftmaxGradPlan(const SoftmaxProblem& p) : p_(p) {}

  void run(const SoftmaxGradArgs& args, const KernelContext& context) const noexcept override {
    const T* y = static_cast<const T*>(args.y);
    const T* dy = static_cast<const T*>(args.dy);
    T* dx = static_cast<T*>(args.dx);
    const auto row = p_.op == SoftmaxOp::softmax ? softmax_grad_row<T> : log_softmax_grad_row<T>;
    lanes::for_rows(*context.pool, p_.rows, p_.cols, [&](int64_t r) {
      const int64_t at = r * p_.cols;
      row(y + at, dy + at, dx + at, p_.cols);
    });
  }

 private:
  SoftmaxProblem p_;
};

template <class Args, template <class> class Plan>
std::unique_ptr<KernelPlan<Args>> plan_softmax(const SoftmaxProblem& p) {
  if (p.rows < 0 || p.cols < 0) return nullptr;
  if (p.dtype == DType::f32) return std::make_unique<Plan<float>>(p);
  if (p.dtype == DType::f64) return std::make_unique<Plan<double>>(p);
  return nullptr;
}

}  // namespace

std::span<const Kernel<SoftmaxProblem, SoftmaxArgs>> softmax_kernels() {
  static const auto list =
      with_hwy<SoftmaxProblem, SoftmaxArgs>(plan_softmax<SoftmaxArgs, SoftmaxPlan>);
  return list;
}
std::span<const Kernel<SoftmaxProblem, SoftmaxGradArgs>> softmax_grad_kernels() {
  static const auto list =
      with_hwy<SoftmaxProblem, SoftmaxGradArgs>(plan_softmax<SoftmaxGradArgs, SoftmaxGradPlan>);
  return list;
}

}  // namespace fovea

// The plain reference, and the lists of the kernels.
#include <algorithm>
#include <limits>
#include <memory>

#include "fovea/kernels/cross_entropy.h"
#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"

namespace fovea {
namespace {

template <class T>
class CrossEntropyPlan final : public KernelPlan<CrossEntropyArgs> {
 public:
  explicit CrossEntropyPlan(const CrossEntropyProblem& p) : p_(p) {}

  void run(const CrossEntropyArgs& args, const KernelContext& context) const noexcept override {
    const int64_t n = p_.classes;
    T* loss = static_cast<T*>(args.loss);
    const T smoothing = static_cast<T>(p_.label_smoothing);
    lanes::for_rows(*context.pool, p_.rows, n, [&](int64_t r) {
      const int32_t label = args.labels[r];
      if (label < 0 || label >= n) {
        loss[r] = label < 0 ? T{0} : std::numeric_limits<T>::quiet_NaN();
        return;
      }
      const T* x = static_cast<const T*>(args.logits) + r * n;
      const T top = lanes::max_of(n, x);
      const T total = lanes::sum<T>(
          n, [top](T v) { return lanes::exp(v - top); }, x);
      T value = std::log(total) - (T{1} - smoothing) * (x[label] - top);
      if (smoothing != 0)  // else 0 times -infinity, where logits are masked
        value -= smoothing / static_cast<T>(n) *
                 lanes::sum<T>(
                     n, [top](T v) { return v - top; }, x);
      loss[r] = value;
    });
  }

 private:
  CrossEntropyProblem p_;
};

template <class T>
class CrossEntropyGradPlan final : public KernelPlan<CrossEntropyGradArgs> {
 public:
  explicit CrossEntropyGradPlan(const CrossEntropyProblem& p) : p_(p) {}

  void run(const CrossEntropyGradArgs& args, const KernelContext& context) const noexcept override {
    const int64_t n = p_.classes;
    const T* dloss = static_cast<const T*>(args.dloss);
    const T smoothing = static_cast<T>(p_.label_smoothing);
    const T everywhere = smoothing / static_cast<T>(n);
    lanes::for_rows(*context.pool, p_.rows, n, [&](int64_t r) {
      const int32_t label = args.labels[r];
      T* dx = static_cast<T*>(args.dlogits) + r * n;
      if (label < 0 || label >= n) {
        std::fill_n(dx, n, label < 0 ? T{0} : std::numeric_limits<T>::quiet_NaN());
        return;
      }
      const T* x = static_cast<const T*>(args.logits) + r * n;
      const T top = lanes::max_of(n, x), d = dloss[r];
      lanes::map(
          n, dx, [top](T v) { return lanes::exp(v - top); }, x);
      const T scale = T{1} / lanes::sum<T>(
                                 n, [](T v) { return v; }, dx);
      lanes::map(
          n, dx, [=](T v) { return d * (v * scale - everywhere); }, static_cast<const T*>(dx));
      dx[label] -= d * (T{1} - smoothing);
    });
  }

 private:
  CrossEntropyProblem p_;
};

template <class Args, template <class> class Plan>
std::unique_ptr<KernelPlan<Args>> plan_cross_entropy(const CrossEntropyProblem& p) {
  if (p.rows < 0 || p.classes < 1 || !(p.label_smoothing >= 0 && p.label_smoothing <= 1))
    return nullptr;
  if (p.dtype == DType::f32) return std::make_unique<Plan<float>>(p);
  if (p.dtype == DType::f64) return std::make_unique<Plan<double>>(p);
  return nullptr;
}

}  // namespace

std::span<const Kernel<CrossEntropyProblem, CrossEntropyArgs>> cross_entropy_kernels() {
  static const auto list = with_hwy<CrossEntropyProblem, CrossEntropyArgs>(
      plan_cross_entropy<CrossEntropyArgs, CrossEntropyPlan>);
  return list;
}
std::span<const Kernel<CrossEntropyProblem, CrossEntropyGradArgs>> cross_entropy_grad_kernels() {
  static const auto list = with_hwy<CrossEntropyProblem, CrossEntropyGradArgs>(
      plan_cross_entropy<CrossEntropyGradArgs, CrossEntropyGradPlan>);
  return list;
}

}  // namespace fovea

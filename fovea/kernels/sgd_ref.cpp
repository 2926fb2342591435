#include "fovea/kernels/sgd.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "fovea/kernels/lanes.h"

namespace fovea {
namespace {

template <class T>
class SgdPlan final : public KernelPlan<SgdArgs> {
 public:
  explicit SgdPlan(const SgdProblem& p) : p_(p) {}

  void run(const SgdArgs& args, const KernelContext& context) const noexcept override {
    const T momentum = static_cast<T>(p_.momentum), decay = static_cast<T>(p_.weight_decay);
    const T lr = static_cast<T>(*args.lr);
    const T scale = args.grad_scale ? static_cast<T>(*args.grad_scale) : T{1};
    if (!std::isfinite(scale)) {
      lanes::keep(p_.n, args.w, args.w_out, sizeof(T));
      if (args.m_out) lanes::keep(p_.n, args.m, args.m_out, sizeof(T));
      return;
    }
    const T* w = static_cast<const T*>(args.w);
    const T* g = static_cast<const T*>(args.g);
    const T* m = static_cast<const T*>(args.m);
    T* w_out = static_cast<T*>(args.w_out);
    T* m_out = static_cast<T*>(args.m_out);
    lanes::for_flat(*context.pool, p_.n, [&](int64_t i, int64_t n) {
      if (momentum == 0) {
        if (m_out) lanes::keep(n, m + i, m_out + i, sizeof(T));
        lanes::map(
            n, w_out + i, [=](T a, T b) { return a - lr * (scale * b + decay * a); }, w + i, g + i);
        return;
      }
      lanes::map(
          n, m_out + i, [=](T a, T b) { return momentum * a + scale * b; }, m + i, g + i);
      lanes::map(
          n, w_out + i, [=](T a, T b) { return a - lr * (b + decay * a); }, w + i, m_out + i);
    });
  }

 private:
  SgdProblem p_;
};

std::unique_ptr<KernelPlan<SgdArgs>> plan_sgd(const SgdProblem& p) {
  if (p.n < 0 || !(p.momentum >= 0 && p.momentum < 1)) return nullptr;
  if (p.dtype == DType::f32) return std::make_unique<SgdPlan<float>>(p);
  if (p.dtype == DType::f64) return std::make_unique<SgdPlan<double>>(p);
  return nullptr;
}

}  // namespace

std::span<const Kernel<SgdProblem, SgdArgs>> sgd_kernels() {
  static constexpr Kernel<SgdProblem, SgdArgs> kList[] = {{"ref", plan_sgd}};
  return kList;
}

}  // namespace fovea

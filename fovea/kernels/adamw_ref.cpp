#include "fovea/kernels/adamw.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "fovea/kernels/lanes.h"

namespace fovea {
namespace {

constexpr int64_t kPiece = 1024;  // stays in the first cache between the three passes

template <class T>
class AdamWPlan final : public KernelPlan<AdamWArgs> {
 public:
  explicit AdamWPlan(const AdamWProblem& p) : p_(p) {}

  void run(const AdamWArgs& args, const KernelContext& context) const noexcept override {
    const T beta1 = static_cast<T>(p_.beta1), rest1 = static_cast<T>(1 - p_.beta1);
    const T beta2 = static_cast<T>(p_.beta2), rest2 = static_cast<T>(1 - p_.beta2);
    const T epsilon = static_cast<T>(p_.epsilon), decay = static_cast<T>(p_.weight_decay);
    const T lr = static_cast<T>(*args.lr);
    const T scale = args.grad_scale ? static_cast<T>(*args.grad_scale) : T{1};
    if (!std::isfinite(scale)) {
      lanes::keep(p_.n, args.w, args.w_out, sizeof(T));
      lanes::keep(p_.n, args.m, args.m_out, sizeof(T));
      lanes::keep(p_.n, args.v, args.v_out, sizeof(T));
      return;
    }
    const double t = *args.step;
    const T correct1 = static_cast<T>(1 / (1 - std::pow(p_.beta1, t)));
    const T correct2 = static_cast<T>(1 / (1 - std::pow(p_.beta2, t)));
    const T* w = static_cast<const T*>(args.w);
    const T* g = static_cast<const T*>(args.g);
    const T* m = static_cast<const T*>(args.m);
    const T* v = static_cast<const T*>(args.v);
    T* w_out = static_cast<T*>(args.w_out);
    T* m_out = static_cast<T*>(args.m_out);
    T* v_out = static_cast<T*>(args.v_out);
    lanes::for_flat(*context.pool, p_.n, [&](int64_t start, int64_t count) {
      for (int64_t i = start; i < start + count; i += kPiece) {
        const int64_t n = std::min(kPiece, start + count - i);
        lanes::map(
            n, m_out + i, [=](T a, T b) { return beta1 * a + rest1 * (scale * b); }, m + i, g + i);
        lanes::map(
            n, v_out + i, [=](T a, T b) { return beta2 * a + rest2 * ((scale * b) * (scale * b)); },
            v + i, g + i);
        lanes::map(
            n, w_out + i,
            [=](T a, T first, T second) {
              const T direction = first * correct1 / (std::sqrt(second * correct2) + epsilon);
              return a - lr * (direction + decay * a);
            },
            w + i, m_out + i, v_out + i);
      }
    });
  }

 private:
  AdamWProblem p_;
};

std::unique_ptr<KernelPlan<AdamWArgs>> plan_adamw(const AdamWProblem& p) {
  const auto share = [](double beta) { return beta >= 0 && beta < 1; };
  if (p.n < 0 || !share(p.beta1) || !share(p.beta2)) return nullptr;
  if (p.dtype == DType::f32) return std::make_unique<AdamWPlan<float>>(p);
  if (p.dtype == DType::f64) return std::make_unique<AdamWPlan<double>>(p);
  return nullptr;
}

}  // namespace

std::span<const Kernel<AdamWProblem, AdamWArgs>> adamw_kernels() {
  static constexpr Kernel<AdamWProblem, AdamWArgs> kList[] = {{"ref", plan_adamw}};
  return kList;
}

}  // namespace fovea

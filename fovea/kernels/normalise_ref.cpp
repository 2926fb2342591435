// The plain reference, and the lists of the kernels.
#include <algorithm>
#include <memory>
#include <string>

#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/normalise.h"
#include "fovea/kernels/normaliser_row.h"

namespace fovea {

namespace {

template <class T, class Args>
class NormalisePlan final : public KernelPlan<Args> {
 public:
  explicit NormalisePlan(const NormaliseProblem& p) : p_(p) {
    this->worker_scratch_bytes =
        static_cast<size_t>(p.cols) * (3 * sizeof(double) + sizeof(int32_t));
  }

  void run(const Args& args, const KernelContext& context) const noexcept override {
    const int64_t size = lanes::rows_in_block(p_.cols);
    context.pool->parallel_for(lanes::ceil_div(p_.rows, size), [&](int64_t block, int worker) {
      const int64_t last = std::min(p_.rows, (block + 1) * size);
      for (int64_t r = block * size; r < last; ++r)
        row(args, r * p_.cols, context.worker<double>(worker));
    });
  }

 private:
  void row(const Args& args, int64_t at, double* scratch) const {
    constexpr bool kGrad = std::is_same_v<Args, NormaliseGradArgs>;
    const int64_t n = p_.cols;
    double *s = scratch, *y = s + n, *dy = y + n;
    auto* order = reinterpret_cast<int32_t*>(dy + n);
    const T* x = static_cast<const T*>(args.x) + at;
    for (int64_t j = 0; j < n; ++j) {
      s[j] = static_cast<double>(x[j]);
      if (is_random(p_.normaliser.kind))
        s[j] += normaliser_detail::gumbel_noise(
            p_.normaliser, args.rng,
            static_cast<uint64_t>(int64_t{args.rng[2]} * p_.per_sample + at + j));
    }
    normaliser_detail::normalise_row(p_.normaliser, s, n, kGrad, order, y);
    T* to;
    if constexpr (kGrad) {
      const T* from = static_cast<const T*>(args.dy) + at;
      for (int64_t j = 0; j < n; ++j) dy[j] = static_cast<double>(from[j]);
      normaliser_detail::normalise_grad_row(p_.normaliser, y, dy, n, y);
      to = static_cast<T*>(args.dx) + at;
    } else {
      to = static_cast<T*>(args.y) + at;
    }
    for (int64_t j = 0; j < n; ++j) to[j] = static_cast<T>(y[j]);
  }

  NormaliseProblem p_;
};

template <class Args>
std::unique_ptr<KernelPlan<Args>> plan_ref(const NormaliseProblem& p) {
  if (p.rows < 0 || p.cols < 0 || p.cols >= (int64_t{1} << 31)) return nullptr;
  if (p.normaliser.fault()) return nullptr;
  if (p.dtype == DType::f32) return std::make_unique<NormalisePlan<float, Args>>(p);
  if (p.dtype == DType::f64) return std::make_unique<NormalisePlan<double, Args>>(p);
  return nullptr;
}

}  // namespace

std::span<const Kernel<NormaliseProblem, NormaliseArgs>> normalise_kernels() {
  static const auto list = with_hwy<NormaliseProblem, NormaliseArgs>(plan_ref<NormaliseArgs>);
  return list;
}
std::span<const Kernel<NormaliseProblem, NormaliseGradArgs>> normalise_grad_kernels() {
  static const auto list =
      with_hwy<NormaliseProblem, NormaliseGradArgs>(plan_ref<NormaliseGradArgs>);
  return list;
}

}  // namespace fovea

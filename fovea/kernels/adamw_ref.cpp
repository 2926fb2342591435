#include <algorithm>
#include <cmath>
#include <memory>

#include "fovea/kernels/adamw.h"
#include "fovea/kernels/adamw_step.h"
#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"

namespace fovea {
namespace {

constexpr int64_t kPiece = 1024;  // stays in the first cache between the three passes

template <class T>
void update(const AdamWFactors<T>& f, const AdamWArrays<T>& a, int64_t count) {
  for (int64_t i = 0; i < count; i += kPiece) {
    const int64_t n = std::min(kPiece, count - i);
    lanes::map(
        n, a.m_out + i, [f](T m, T g) { return f.beta1 * m + f.rest1 * (f.scale * g); }, a.m + i,
        a.g + i);
    lanes::map(
        n, a.v_out + i,
        [f](T v, T g) { return f.beta2 * v + f.rest2 * ((f.scale * g) * (f.scale * g)); }, a.v + i,
        a.g + i);
    lanes::map(
        n, a.w_out + i,
        [f](T w, T m, T v) {
          const T direction = m * f.correct1 / (std::sqrt(v * f.correct2) + f.epsilon);
          return w - f.lr * (direction + f.decay * w);
        },
        a.w + i, a.m_out + i, a.v_out + i);
  }
}

std::unique_ptr<KernelPlan<AdamWArgs>> plan_adamw(const AdamWProblem& p) {
  if (!adamw_makes_sense(p)) return nullptr;
  if (p.dtype == DType::f32) return std::make_unique<AdamWPlan<float>>(p, update<float>);
  if (p.dtype == DType::f64) return std::make_unique<AdamWPlan<double>>(p, update<double>);
  return nullptr;
}

}  // namespace

std::span<const Kernel<AdamWProblem, AdamWArgs>> adamw_kernels() {
  static const auto list = with_hwy<AdamWProblem, AdamWArgs>(plan_adamw);
  return list;
}

}  // namespace fovea

// The plain reference, and the lists of the kernels.
#include <algorithm>
#include <cmath>
#include <memory>

#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/norm.h"

namespace fovea {
namespace {

// T is the type of the problem, Y that of y.
template <class T, class Y>
class NormPlan final : public KernelPlan<NormArgs> {
 public:
  explicit NormPlan(const NormProblem& p) : p_(p) {}

  void run(const NormArgs& args, const KernelContext& context) const noexcept override {
    const bool layer = p_.op == NormOp::layer_norm;
    const int64_t n = p_.cols;
    const T inverse = T{1} / static_cast<T>(n), epsilon = static_cast<T>(p_.epsilon);
    const T* weight = static_cast<const T*>(args.weight);
    const T* bias = layer ? static_cast<const T*>(args.bias) : nullptr;
    T* means = layer ? static_cast<T*>(args.mean) : nullptr;
    T* rstds = static_cast<T*>(args.rstd);
    lanes::for_rows(*context.pool, p_.rows, n, [&](int64_t r) {
      const T* x = static_cast<const T*>(args.x) + r * n;
      Y* y = static_cast<Y*>(args.y) + r * n;
      if (args.residual) {
        T* sum = static_cast<T*>(args.sum) + r * n;
        lanes::map(
            n, sum, [](T v, T u) { return v + u; }, x,
            static_cast<const T*>(args.residual) + r * n);
        x = sum;
      }
      const T mean = layer ? lanes::sum<T>(
                                 n, [](T v) { return v; }, x) *
                                 inverse
                           : T{0};
      const T square = lanes::sum<T>(
          n, [mean](T v) { return (v - mean) * (v - mean); }, x);
      const T rstd = T{1} / std::sqrt(square * inverse + epsilon);
      if (means) means[r] = mean;
      if (rstds) rstds[r] = rstd;
      if (weight && bias)
        lanes::map(
            n, y, [=](T v, T w, T b) { return static_cast<Y>((v - mean) * rstd * w + b); }, x,
            weight, bias);
      else if (weight)
        lanes::map(
            n, y, [=](T v, T w) { return static_cast<Y>((v - mean) * rstd * w); }, x, weight);
      else if (bias)
        lanes::map(
            n, y, [=](T v, T b) { return static_cast<Y>((v - mean) * rstd + b); }, x, bias);
      else
        lanes::map(
            n, y, [=](T v) { return static_cast<Y>((v - mean) * rstd); }, x);
    });
  }

 private:
  NormProblem p_;
};

// Each block of 256 rows has its own sums for dweight and dbias in the scratch, [block][2][cols] in
// double, which are then added in the order of the blocks. T is the type of the problem, Y that of
// dy.
template <class T, class Y>
class NormGradPlan final : public KernelPlan<NormGradArgs> {
 public:
  explicit NormGradPlan(const NormProblem& p) : p_(p) {
    blocks_ = lanes::ceil_div(p.rows, lanes::kRowBlock);
    scratch_bytes = static_cast<size_t>(blocks_ * 2 * p.cols) * sizeof(double);
  }

  void run(const NormGradArgs& args, const KernelContext& context) const noexcept override {
    const bool layer = p_.op == NormOp::layer_norm;
    const int64_t n = p_.cols;
    double* sums = reinterpret_cast<double*>(context.scratch);
    T* dweight = static_cast<T*>(args.dweight);
    T* dbias = layer ? static_cast<T*>(args.dbias) : nullptr;
    context.pool->parallel_for(blocks_, [&](int64_t block, int) {
      double* weight_sum = sums + block * 2 * n;
      double* bias_sum = weight_sum + n;
      std::fill_n(weight_sum, 2 * n, 0.0);
      const int64_t last = std::min(p_.rows, (block + 1) * lanes::kRowBlock);
      for (int64_t r = block * lanes::kRowBlock; r < last; ++r) {
        const T mean = layer ? static_cast<const T*>(args.mean)[r] : T{0};
        const T rstd = static_cast<const T*>(args.rstd)[r];
        const T* x = static_cast<const T*>(args.x) + r * n;
        const Y* dy = static_cast<const Y*>(args.dy) + r * n;
        // Before dx, which may lie on top of dy or x.
        if (dweight)
          lanes::map(
              n, weight_sum,
              [=](double s, Y g, T v) {
                return s + static_cast<double>(static_cast<T>(g) * ((v - mean) * rstd));
              },
              static_cast<const double*>(weight_sum), dy, x);
        if (dbias)
          lanes::map(
              n, bias_sum, [](double s, Y g) { return s + static_cast<double>(static_cast<T>(g)); },
              static_cast<const double*>(bias_sum), dy);
        if (args.dx) input_row(args, r, mean, rstd);
      }
    });
    lanes::for_flat(*context.pool, n, [&](int64_t start, int64_t count) {
      for (int64_t c = start; c < start + count; ++c) {
        double w = 0, b = 0;
        for (int64_t block = 0; block < blocks_; ++block) {
          w += sums[block * 2 * n + c];
          b += sums[(block * 2 + 1) * n + c];
        }
        if (dweight) dweight[c] = static_cast<T>(w);
        if (dbias) dbias[c] = static_cast<T>(b);
      }
    });
  }

 private:
  void input_row(const NormGradArgs& args, int64_t r, T mean, T rstd) const {
    const int64_t at = r * p_.cols;
    const T* x = static_cast<const T*>(args.x) + at;
    const Y* dy = static_cast<const Y*>(args.dy) + at;
    const T* weight = static_cast<const T*>(args.weight);
    T* dx = static_cast<T*>(args.dx) + at;
    const T* add = args.add ? static_cast<const T*>(args.add) + at : nullptr;
    if (weight)
      input_row(
          mean, rstd, dx, add, [](Y g, T w) { return static_cast<T>(g) * w; }, x, dy, weight);
    else
      input_row(
          mean, rstd, dx, add, [](Y g) { return static_cast<T>(g); }, x, dy);
  }

  // g(dy, weight...) is the gradient at the normalised value h.
  template <class G, class... W>
  void input_row(T mean, T rstd, T* dx, const T* add, G g, const T* x,
                 const W*... dy_weight) const {
    const int64_t n = p_.cols;
    const T inverse = T{1} / static_cast<T>(n);
    const T mean_g =
        p_.op == NormOp::layer_norm ? lanes::sum<T>(n, g, dy_weight...) * inverse : T{0};
    const T mean_gh =
        lanes::sum<T>(
            n, [=](T v, auto... w) { return g(w...) * ((v - mean) * rstd); }, x, dy_weight...) *
        inverse;
    const auto slope = [=](T v, auto... w) {
      return rstd * (g(w...) - mean_g - (v - mean) * rstd * mean_gh);
    };
    if (add)
      lanes::map(
          n, dx, [=](T a, T v, auto... w) { return a + slope(v, w...); }, add, x, dy_weight...);
    else
      lanes::map(n, dx, slope, x, dy_weight...);
  }

  NormProblem p_;
  int64_t blocks_ = 0;
};

template <class Args, template <class, class> class Plan>
std::unique_ptr<KernelPlan<Args>> plan_norm(const NormProblem& p) {
  if (p.rows < 0 || p.cols < 1 || !(p.epsilon >= 0)) return nullptr;
  if (p.dtype == DType::f32 && p.y == DType::f32) return std::make_unique<Plan<float, float>>(p);
  if (p.dtype == DType::f32 && p.y == DType::bf16) return std::make_unique<Plan<float, bf16>>(p);
  if (p.dtype == DType::f64 && p.y == DType::f64) return std::make_unique<Plan<double, double>>(p);
  return nullptr;
}

}  // namespace

std::span<const Kernel<NormProblem, NormArgs>> norm_kernels() {
  static const auto list = with_hwy<NormProblem, NormArgs>(plan_norm<NormArgs, NormPlan>);
  return list;
}
std::span<const Kernel<NormProblem, NormGradArgs>> norm_grad_kernels() {
  static const auto list =
      with_hwy<NormProblem, NormGradArgs>(plan_norm<NormGradArgs, NormGradPlan>);
  return list;
}

}  // namespace fovea

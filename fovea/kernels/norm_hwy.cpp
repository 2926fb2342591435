// layer_norm and rms_norm in SIMD of each target. Rows go in groups of as many as a vector has
// lanes: a transpose-add turns the partial sums of a group into one vector with one sum a row, so
// that mean, variance and root are computed for the whole group at once.
#include <algorithm>
#include <cstdint>
#include <memory>

#include "fovea/kernels/hwy_targets.h"

#define HWY_TARGET_INCLUDE "fovea/kernels/norm_hwy.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/norm_hwy.h"
#include "fovea/kernels/rows-inl.h"

#ifndef FOVEA_NORM_ONCE
#define FOVEA_NORM_ONCE
namespace fovea::norm_detail {
namespace {

// weight and bias hold whole vectors: what lies behind the last column is of no account.
struct NormTask {
  const NormProblem& problem;
  const NormArgs& args;
  const float* weight;
  const float* bias;
};

// Elements of a group: two of them stay in the L1 cache beside what becomes of them.
constexpr int64_t kGroupElements = 4096;

}  // namespace
}  // namespace fovea::norm_detail
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using namespace simd;
using norm_detail::NormTask;

// Adds v, or its square.
template <bool kSquare>
HWY_INLINE Vec plus(Vec sum, Vec v) {
  return kSquare ? hn::MulAdd(v, v, sum) : hn::Add(sum, v);
}
template <bool kSquare>
HWY_INLINE Vec first(Vec v) {
  return kSquare ? hn::Mul(v, v) : v;
}

// The lane-wise sum of f(column, Whole or Some), or of its square, over a row of kVecs vectors, or
// of any width where kVecs is 0.
template <int kVecs, bool kSquare, class F>
HWY_INLINE Vec sum_columns(int64_t cols, const F& f) {
  if constexpr (kVecs > 0) {
    static_assert(kVecs % 2 == 0);
    Vec a = first<kSquare>(f(0, Whole())), b = first<kSquare>(f(kLanes, Whole()));
    FOVEA_UNROLL
    for (int v = 2; v < kVecs; v += 2) {
      a = plus<kSquare>(a, f(v * kLanes, Whole()));
      b = plus<kSquare>(b, f((v + 1) * kLanes, Whole()));
    }
    return hn::Add(a, b);
  } else {
    Vec a = hn::Zero(F32()), b = a, e = a, g = a;
    int64_t c = 0;
    for (; c + 4 * kLanes <= cols; c += 4 * kLanes) {
      a = plus<kSquare>(a, f(c, Whole()));
      b = plus<kSquare>(b, f(c + kLanes, Whole()));
      e = plus<kSquare>(e, f(c + 2 * kLanes, Whole()));
      g = plus<kSquare>(g, f(c + 3 * kLanes, Whole()));
    }
    for (; c + kLanes <= cols; c += kLanes) a = plus<kSquare>(a, f(c, Whole()));
    if (c < cols) b = plus<kSquare>(b, f(c, Some{cols - c}));
    return hn::Add(hn::Add(a, b), hn::Add(e, g));
  }
}

// One number for each row of a group.
struct Group {
  HWY_INLINE void set(int64_t begin, int64_t end) {
    first = begin;
    count = end - begin;
  }

  int64_t first = 0, count = 0;  // rows
  HWY_ALIGN float partial[kLanes * kLanes] = {};
  HWY_ALIGN float mean[kLanes] = {};
  HWY_ALIGN float rstd[kLanes] = {};
};

template <bool kLayer, class Y, int kVecs>
class Rows {
 public:
  explicit Rows(const NormTask& task)
      : task_(task),
        cols_(kVecs > 0 ? kVecs * kLanes : task.problem.cols),
        n_(static_cast<float>(cols_)),
        epsilon_(static_cast<float>(task.problem.epsilon)),
        x_(static_cast<const float*>(task.args.residual ? task.args.sum : task.args.x)) {}

  // Two groups go side by side: while the one waits for its sums, the other has work to do.
  HWY_INLINE void run(int64_t first, int64_t last) const {
    const int64_t size = HWY_MIN(HWY_MAX(norm_detail::kGroupElements / cols_, 1), kLanes);
    Group a, b;
    for (int64_t r = first; r < last; r += 2 * size) {
      const int64_t middle = HWY_MIN(r + size, last);
      a.set(r, middle);
      b.set(middle, HWY_MIN(middle + size, last));
      add_up(a);
      add_up(b);
      if (kLayer) {
        subtract_mean(a);
        subtract_mean(b);
      }
      write(a);
      write(b);
    }
  }

 private:
  // The sums of x for layer_norm, of its square for rms_norm.
  HWY_INLINE void add_up(Group& group) const {
    const F32 d;
    if (task_.args.residual)
      for (int64_t r = 0; r < group.count; ++r)
        hn::Store(add_row(group.first + r), d, group.partial + r * kLanes);
    else
      for (int64_t r = 0; r < group.count; ++r)
        hn::Store(sum_row(group.first + r), d, group.partial + r * kLanes);
    if (kLayer) {
      const Vec mean = hn::Div(join_each_row(group.partial, Plus()), hn::Set(d, n_));
      hn::Store(mean, d, group.mean);
      keep(mean, task_.args.mean, group);
    } else {
      finish(group);
    }
  }

  HWY_INLINE void subtract_mean(Group& group) const {
    const F32 d;
    for (int64_t r = 0; r < group.count; ++r) {
      const float* x = x_ + (group.first + r) * cols_;
      const Vec mean = hn::Set(d, group.mean[r]);
      const Vec sum = sum_columns<kVecs, true>(cols_, [&](int64_t c, auto n) HWY_ATTR {
        return present(hn::Sub(get(x + c, n), mean), n);
      });
      hn::Store(sum, d, group.partial + r * kLanes);
    }
    finish(group);
  }

  HWY_INLINE void finish(Group& group) const {
    const F32 d;
    const Vec variance = hn::Div(join_each_row(group.partial, Plus()), hn::Set(d, n_));
    const Vec rstd = hn::Div(hn::Set(d, 1.0f), hn::Sqrt(hn::Add(variance, hn::Set(d, epsilon_))));
    hn::Store(rstd, d, group.rstd);
    keep(rstd, task_.args.rstd, group);
  }

  static HWY_INLINE void keep(Vec v, void* to, const Group& group) {
    if (!to) return;
    float* p = static_cast<float*>(to) + group.first;
    if (group.count == kLanes)
      store(v, p);
    else
      store_some(v, p, group.count);
  }

  HWY_INLINE Vec sum_row(int64_t row) const {
    const float* x = x_ + row * cols_;
    return sum_columns<kVecs, !kLayer>(cols_,
                                       [&](int64_t c, auto n) HWY_ATTR { return get(x + c, n); });
  }
  HWY_INLINE Vec add_row(int64_t row) const {
    const int64_t at = row * cols_;
    const float* x = static_cast<const float*>(task_.args.x) + at;
    const float* residual = static_cast<const float*>(task_.args.residual) + at;
    float* sum = static_cast<float*>(task_.args.sum) + at;
    return sum_columns<kVecs, !kLayer>(cols_, [&](int64_t c, auto n) HWY_ATTR {
      const Vec v = hn::Add(get(x + c, n), get(residual + c, n));
      put(v, sum + c, n);
      return v;
    });
  }

  HWY_INLINE void write(const Group& group) const {
    const F32 d;
    Y* y = static_cast<Y*>(task_.args.y);
    if constexpr (kVecs > 0) {
      Vec weight[kVecs], bias[kVecs];
      FOVEA_UNROLL
      for (int v = 0; v < kVecs; ++v) {
        weight[v] = load(task_.weight + v * kLanes);
        bias[v] = kLayer ? load(task_.bias + v * kLanes) : hn::Zero(d);
      }
      for (int64_t r = 0; r < group.count; ++r) {
        const int64_t at = (group.first + r) * cols_;
        const Vec mean = hn::Set(d, group.mean[r]), rstd = hn::Set(d, group.rstd[r]);
        FOVEA_UNROLL
        for (int v = 0; v < kVecs; ++v)
          store(normal(load(x_ + at + v * kLanes), mean, rstd, weight[v], bias[v]),
                y + at + v * kLanes);
      }
    } else {
      for (int64_t r = 0; r < group.count; ++r) {
        const int64_t at = (group.first + r) * cols_;
        const Vec mean = hn::Set(d, group.mean[r]), rstd = hn::Set(d, group.rstd[r]);
        for_columns(cols_, [&](int64_t c, auto n) HWY_ATTR {
          const Vec bias = kLayer ? load(task_.bias + c) : hn::Zero(d);
          put(normal(get(x_ + at + c, n), mean, rstd, load(task_.weight + c), bias), y + at + c, n);
        });
      }
    }
  }
  static HWY_INLINE Vec normal(Vec x, Vec mean, Vec rstd, Vec weight, Vec bias) {
    const Vec h = hn::Mul(kLayer ? hn::Sub(x, mean) : x, rstd);
    return kLayer ? hn::MulAdd(h, weight, bias) : hn::Mul(h, weight);
  }

  const NormTask& task_;
  const int64_t cols_;
  const float n_, epsilon_;
  const float* const x_;  // with the residual added
};

template <bool kLayer, class Y>
HWY_NOINLINE void rows(const NormTask& task, int64_t first, int64_t last) {
  if (task.problem.cols == 4 * kLanes)
    Rows<kLayer, Y, 4>(task).run(first, last);
  else
    Rows<kLayer, Y, 0>(task).run(first, last);
}

}  // namespace

void norm_forward(const NormTask& task, int64_t first, int64_t last) {
  const bool layer = task.problem.op == NormOp::layer_norm;
  if (task.problem.y == DType::bf16)
    layer ? rows<true, bf16>(task, first, last) : rows<false, bf16>(task, first, last);
  else
    layer ? rows<true, float>(task, first, last) : rows<false, float>(task, first, last);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea {
namespace {

using namespace norm_detail;

using Forward = void (*)(const NormTask&, int64_t first, int64_t last);

class HwyNorm final : public KernelPlan<NormArgs> {
 public:
  HwyNorm(const NormProblem& p, Forward forward)
      : p_(p), padded_(padded_cols(p.cols)), forward_(forward) {
    scratch_bytes = static_cast<size_t>(2 * padded_) * sizeof(float);
  }

  void run(const NormArgs& args, const KernelContext& context) const noexcept override {
    float* scratch = reinterpret_cast<float*>(context.scratch);
    const NormTask task{.problem = p_,
                        .args = args,
                        .weight = padded_row(args.weight, p_.cols, 1, scratch),
                        .bias = padded_row(args.bias, p_.cols, 0, scratch + padded_)};
    const int64_t size = lanes::rows_in_block(p_.cols);
    context.pool->parallel_for(lanes::ceil_div(p_.rows, size), [&](int64_t block, int) {
      forward_(task, block * size, std::min(p_.rows, (block + 1) * size));
    });
  }

 private:
  NormProblem p_;
  int64_t padded_;
  Forward forward_;
};

template <Forward kForward>
std::unique_ptr<KernelPlan<NormArgs>> plan_hwy(const NormProblem& p) {
  if (!hwy_supports(p)) return nullptr;
  return std::make_unique<HwyNorm>(p, kForward);
}

}  // namespace

void append_hwy([[maybe_unused]] KernelList<NormProblem, NormArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_APPEND(bit, target, name) \
  if (supported & bit) list.push_back({name, plan_hwy<target::norm_forward>});
  FOVEA_FOR_EACH_TARGET(FOVEA_APPEND)
#undef FOVEA_APPEND
}

}  // namespace fovea
#endif  // HWY_ONCE

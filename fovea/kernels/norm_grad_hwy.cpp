// The gradients of layer_norm and rms_norm in SIMD of each target. Rows go in groups of as many as
// a vector has lanes, as in norm_hwy.cpp; while a group's two sums a row are formed, dweight and
// dbias are added up, and dx follows from a second reading in the L1 cache.
#include <algorithm>
#include <cstdint>
#include <memory>

#include "fovea/kernels/hwy_targets.h"

#define HWY_TARGET_INCLUDE "fovea/kernels/norm_grad_hwy.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/norm_hwy.h"
#include "fovea/kernels/rows-inl.h"

#ifndef FOVEA_NORM_GRAD_ONCE
#define FOVEA_NORM_GRAD_ONCE
namespace fovea::norm_detail {
namespace {

struct GradTask {
  const NormProblem& problem;
  const NormGradArgs& args;
  const float* weight;  // whole vectors, zeros behind the last column
  float* dweight;       // sums over the rows of the task, whole vectors
  float* dbias;
  int64_t first, last;
};

// Elements of a group of which x and dy stay in the L1 cache.
constexpr int64_t kGroupElements = 2048;

}  // namespace
}  // namespace fovea::norm_detail
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using namespace simd;
using norm_detail::GradTask;

// The sums of a group, a vector of partial sums for each row: of g, and of g h.
struct GroupSums {
  HWY_ALIGN float g[kLanes * kLanes] = {};
  HWY_ALIGN float gh[kLanes * kLanes] = {};
};

template <bool kLayer, class Y>
class Rows {
 public:
  explicit Rows(const GradTask& task) : task_(task), cols_(task.problem.cols) {}

  // Rows of kVecs vectors: the sums for dweight and dbias stay in registers.
  template <int kVecs>
  HWY_INLINE void narrow() const {
    const F32 d;
    Vec weight[kVecs], dweight[kVecs], dbias[kVecs];
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      weight[v] = load(task_.weight + v * kLanes);
      dweight[v] = dbias[v] = hn::Zero(d);
    }
    GroupSums sums;
    for (int64_t first = task_.first; first < task_.last; first += kLanes) {
      const int64_t count = HWY_MIN(kLanes, task_.last - first);
      for (int64_t r = 0; r < count; ++r) {
        const float* x = x_row(first + r);
        const Y* dy = dy_row(first + r);
        const Vec mean = mean_of(first + r), rstd = rstd_of(first + r);
        Vec sum_g = hn::Zero(d), sum_gh = hn::Zero(d);
        FOVEA_UNROLL
        for (int v = 0; v < kVecs; ++v) {
          const Vec h = normal(load(x + v * kLanes), mean, rstd), y = load(dy + v * kLanes);
          const Vec g = hn::Mul(y, weight[v]);
          dweight[v] = hn::MulAdd(y, h, dweight[v]);
          if (kLayer) {
            dbias[v] = hn::Add(dbias[v], y);
            sum_g = hn::Add(sum_g, g);
          }
          sum_gh = hn::MulAdd(g, h, sum_gh);
        }
        if (kLayer) hn::Store(sum_g, d, sums.g + r * kLanes);
        hn::Store(sum_gh, d, sums.gh + r * kLanes);
      }
      write_group(first, count, sums);
    }
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      store(dweight[v], task_.dweight + v * kLanes);
      store(dbias[v], task_.dbias + v * kLanes);
    }
  }

  // Rows of any width: the sums for dweight and dbias are fetched once for four rows.
  HWY_INLINE void wide() const {
    const F32 d;
    for (int64_t c = 0; c < cols_; c += kLanes) {
      store(hn::Zero(d), task_.dweight + c);
      store(hn::Zero(d), task_.dbias + c);
    }
    const int64_t size = HWY_MIN(HWY_MAX(norm_detail::kGroupElements / cols_ / 4 * 4, 4), kLanes);
    GroupSums sums;
    for (int64_t first = task_.first; first < task_.last; first += size) {
      const int64_t count = HWY_MIN(size, task_.last - first);
      int64_t r = 0;
      for (; r + 4 <= count; r += 4)
        add_rows<4>(first + r, sums.g + r * kLanes, sums.gh + r * kLanes);
      for (; r < count; ++r) add_rows<1>(first + r, sums.g + r * kLanes, sums.gh + r * kLanes);
      write_group(first, count, sums);
    }
  }

 private:
  const float* x_row(int64_t r) const {
    return static_cast<const float*>(task_.args.x) + r * cols_;
  }
  const Y* dy_row(int64_t r) const { return static_cast<const Y*>(task_.args.dy) + r * cols_; }
  HWY_INLINE Vec mean_of(int64_t r) const {
    const F32 d;
    return kLayer ? hn::Set(d, static_cast<const float*>(task_.args.mean)[r]) : hn::Zero(d);
  }
  HWY_INLINE Vec rstd_of(int64_t r) const {
    return hn::Set(F32(), static_cast<const float*>(task_.args.rstd)[r]);
  }
  static HWY_INLINE Vec normal(Vec x, Vec mean, Vec rstd) {
    return hn::Mul(kLayer ? hn::Sub(x, mean) : x, rstd);
  }

  template <int kRows>
  HWY_INLINE void add_rows(int64_t first, float* to_g, float* to_gh) const {
    const F32 d;
    const float* x = x_row(first);
    const Y* dy = dy_row(first);
    Vec mean[kRows], rstd[kRows], sum_g[kRows], sum_gh[kRows];
    FOVEA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      mean[r] = mean_of(first + r);
      rstd[r] = rstd_of(first + r);
      sum_g[r] = sum_gh[r] = hn::Zero(d);
    }
    for_columns(cols_, [&](int64_t c, auto n) HWY_ATTR {
      const Vec weight = load(task_.weight + c);
      Vec dweight = load(task_.dweight + c), dbias = load(task_.dbias + c);
      FOVEA_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Vec h = normal(get(x + r * cols_ + c, n), mean[r], rstd[r]);
        const Vec y = get(dy + r * cols_ + c, n);
        const Vec g = hn::Mul(y, weight);
        dweight = hn::MulAdd(y, h, dweight);
        if (kLayer) {
          dbias = hn::Add(dbias, y);
          sum_g[r] = hn::Add(sum_g[r], g);
        }
        sum_gh[r] = hn::MulAdd(g, h, sum_gh[r]);
      }
      store(dweight, task_.dweight + c);
      if (kLayer) store(dbias, task_.dbias + c);
    });
    FOVEA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      if (kLayer) hn::Store(sum_g[r], d, to_g + r * kLanes);
      hn::Store(sum_gh[r], d, to_gh + r * kLanes);
    }
  }

  // dx = rstd g - (rstd mean(g) + h rstd mean(g h)), and what is added.
  HWY_INLINE void write_group(int64_t first, int64_t count, const GroupSums& sums) const {
    if (!task_.args.dx) return;
    const F32 d;
    HWY_ALIGN float mean_g[kLanes] = {}, mean_gh[kLanes];
    const Vec n = hn::Set(d, static_cast<float>(cols_));
    if (kLayer) hn::Store(hn::Div(join_each_row(sums.g, Plus()), n), d, mean_g);
    hn::Store(hn::Div(join_each_row(sums.gh, Plus()), n), d, mean_gh);
    float* dx = static_cast<float*>(task_.args.dx) + first * cols_;
    const float* add = static_cast<const float*>(task_.args.add);
    if (add)
      for (int64_t r = 0; r < count; ++r)
        write_row<true>(first + r, mean_g[r], mean_gh[r], dx + r * cols_,
                        add + (first + r) * cols_);
    else
      for (int64_t r = 0; r < count; ++r)
        write_row<false>(first + r, mean_g[r], mean_gh[r], dx + r * cols_, nullptr);
  }

  template <bool kAdd>
  HWY_INLINE void write_row(int64_t row, float mean_g, float mean_gh, float* dx,
                            const float* add) const {
    const F32 d;
    const float* x = x_row(row);
    const Y* dy = dy_row(row);
    const Vec mean = mean_of(row), rstd = rstd_of(row);
    const Vec g0 = hn::Mul(hn::Set(d, mean_g), rstd), slope = hn::Mul(hn::Set(d, mean_gh), rstd);
    for_columns(cols_, [&](int64_t c, auto n) HWY_ATTR {
      const Vec g = hn::Mul(get(dy + c, n), load(task_.weight + c));
      Vec v = hn::MulSub(g, rstd, g0);
      v = hn::NegMulAdd(normal(get(x + c, n), mean, rstd), slope, v);
      if (kAdd) v = hn::Add(v, get(add + c, n));
      put(v, dx + c, n);
    });
  }

  const GradTask& task_;
  const int64_t cols_;
};

template <bool kLayer, class Y>
HWY_NOINLINE void rows(const GradTask& task) {
  const Rows<kLayer, Y> rows(task);
  const int64_t cols = task.problem.cols;
  if (cols == 4 * kLanes)
    rows.template narrow<4>();
  else
    rows.wide();
}

}  // namespace

void norm_backward(const GradTask& task) {
  const bool layer = task.problem.op == NormOp::layer_norm;
  if (task.problem.y == DType::bf16)
    layer ? rows<true, bf16>(task) : rows<false, bf16>(task);
  else
    layer ? rows<true, float>(task) : rows<false, float>(task);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea {
namespace {

using namespace norm_detail;

using Backward = void (*)(const GradTask&);

// The scratch holds the weight, padded to whole vectors, then [block][2][padded cols]: the sums of
// each block of 256 rows for dweight and dbias, which are added in the order of the blocks.
class HwyNormGrad final : public KernelPlan<NormGradArgs> {
 public:
  HwyNormGrad(const NormProblem& p, Backward backward)
      : p_(p),
        padded_(padded_cols(p.cols)),
        blocks_(lanes::ceil_div(p.rows, lanes::kRowBlock)),
        backward_(backward) {
    scratch_bytes = static_cast<size_t>((1 + 2 * blocks_) * padded_) * sizeof(float);
  }

  void run(const NormGradArgs& args, const KernelContext& context) const noexcept override {
    float* scratch = reinterpret_cast<float*>(context.scratch);
    float* sums = scratch + padded_;
    const float* weight = padded_row(args.weight, p_.cols, 1, scratch);
    context.pool->parallel_for(blocks_, [&](int64_t block, int) {
      float* dweight = sums + block * 2 * padded_;
      const int64_t first = block * lanes::kRowBlock;
      backward_({.problem = p_,
                 .args = args,
                 .weight = weight,
                 .dweight = dweight,
                 .dbias = dweight + padded_,
                 .first = first,
                 .last = std::min(p_.rows, first + lanes::kRowBlock)});
    });
    if (args.dweight) add_blocks(*context.pool, sums, args.dweight);
    if (args.dbias && p_.op == NormOp::layer_norm)
      add_blocks(*context.pool, sums + padded_, args.dbias);
  }

 private:
  void add_blocks(ThreadPool& pool, const float* sums, void* out) const {
    constexpr int64_t kColumns = 256;
    float* to = static_cast<float*>(out);
    pool.parallel_for(lanes::ceil_div(p_.cols, kColumns), [&](int64_t piece, int) {
      const int64_t start = piece * kColumns, n = std::min(kColumns, p_.cols - start);
      double total[kColumns] = {};
      for (int64_t block = 0; block < blocks_; ++block) {
        const float* from = sums + block * 2 * padded_ + start;
        lanes::map(
            n, total, [](double t, float v) { return t + static_cast<double>(v); },
            static_cast<const double*>(total), from);
      }
      lanes::map(
          n, to + start, [](double t) { return static_cast<float>(t); },
          static_cast<const double*>(total));
    });
  }

  NormProblem p_;
  int64_t padded_, blocks_;
  Backward backward_;
};

template <Backward kBackward>
std::unique_ptr<KernelPlan<NormGradArgs>> plan_hwy(const NormProblem& p) {
  if (!hwy_supports(p)) return nullptr;
  return std::make_unique<HwyNormGrad>(p, kBackward);
}

}  // namespace

void append_hwy([[maybe_unused]] KernelList<NormProblem, NormGradArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_APPEND(bit, target, name) \
  if (supported & bit) list.push_back({name, plan_hwy<target::norm_backward>});
  FOVEA_FOR_EACH_TARGET(FOVEA_APPEND)
#undef FOVEA_APPEND
}

}  // namespace fovea
#endif  // HWY_ONCE

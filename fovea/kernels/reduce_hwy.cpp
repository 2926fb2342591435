// Sum and mean of f32 over the leading, the middle or the last axes, and sums of squares, in SIMD
// of each target. Short runs are added in f32, always the same pairs, and then go to sums in f64.
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#define HWY_TARGET_INCLUDE "fovea/kernels/reduce_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/reduce.h"
#include "fovea/kernels/rows-inl.h"
#include "fovea/kernels/tensor_blocks.h"

#ifndef FOVEA_REDUCE_ONCE
#define FOVEA_REDUCE_ONCE
namespace fovea::reduce_detail {
namespace {

constexpr int64_t kPanel = 512;  // columns whose sums are kept at a time: 4 KB
constexpr int64_t kPad = 16;     // more than the lanes of any target

struct Functions {
  // sums[c] = the sum of x[r stride + c] over the rows; sums has room for cols + kPad.
  void (*columns)(const float* x, int64_t stride, int64_t rows, int64_t cols, double* sums);
  // sums[r] = the sum of row r, of n elements that lie side by side.
  void (*rows)(const float* x, int64_t rows, int64_t n, double* sums);
  double (*squares)(const float* x, int64_t n);
};

}  // namespace
}  // namespace fovea::reduce_detail
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using namespace simd;
using F64 = hn::Repartition<double, F32>;
using Vec64 = hn::Vec<F64>;

struct Wide {
  Vec64 low, high;
};
HWY_INLINE Wide wide(Vec v) {
  const hn::Half<F32> half;
  return {hn::PromoteTo(F64(), hn::LowerHalf(half, v)),
          hn::PromoteTo(F64(), hn::UpperHalf(half, v))};
}
HWY_INLINE void add(Wide& sum, Vec v) {
  const Wide w = wide(v);
  sum = {hn::Add(sum.low, w.low), hn::Add(sum.high, w.high)};
}
HWY_INLINE double total(const Wide& sum) {
  return hn::GetLane(hn::SumOfLanes(F64(), hn::Add(sum.low, sum.high)));
}

// x[0] + x[step] + ..., of 1, 2, 4 or 8 vectors, in pairs.
template <int kCount, class Count = Whole>
HWY_INLINE Vec pairs(const float* x, int64_t step, Count n = {}) {
  if constexpr (kCount == 1)
    return get(x, n);
  else
    return hn::Add(pairs<kCount / 2>(x, step, n),
                   pairs<kCount / 2>(x + kCount / 2 * step, step, n));
}

HWY_INLINE void add_to(double* sums, Vec v) {
  const F64 d;
  const Wide w = wide(v);
  hn::StoreU(hn::Add(hn::LoadU(d, sums), w.low), d, sums);
  hn::StoreU(hn::Add(hn::LoadU(d, sums + kLanes / 2), w.high), d, sums + kLanes / 2);
}

template <int kRows>
HWY_INLINE void add_rows(const float* x, int64_t stride, int64_t cols, double* sums) {
  for_columns(
      cols, [&](int64_t c, auto n) HWY_ATTR { add_to(sums + c, pairs<kRows>(x + c, stride, n)); });
}

void sum_columns(const float* x, int64_t stride, int64_t rows, int64_t cols, double* sums) {
  std::fill_n(sums, cols + reduce_detail::kPad, 0.0);
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) add_rows<8>(x + r * stride, stride, cols, sums);
  for (; r < rows; ++r) add_rows<1>(x + r * stride, stride, cols, sums);
}

HWY_INLINE double sum_row(const float* x, int64_t n) {
  Wide sum{hn::Zero(F64()), hn::Zero(F64())};
  int64_t i = 0;
  for (; i + 8 * kLanes <= n; i += 8 * kLanes) add(sum, pairs<8>(x + i, kLanes));
  if (i + 4 * kLanes <= n) {
    add(sum, pairs<4>(x + i, kLanes));
    i += 4 * kLanes;
  }
  for (; i + kLanes <= n; i += kLanes) add(sum, load(x + i));
  if (i < n) add(sum, load_some(x + i, n - i));
  return total(sum);
}

void sum_rows(const float* x, int64_t rows, int64_t n, double* sums) {
  for (int64_t r = 0; r < rows; ++r) sums[r] = sum_row(x + r * n, n);
}

HWY_INLINE void add_squares(Wide& sum, Vec v) {
  const Wide w = wide(v);
  sum = {hn::MulAdd(w.low, w.low, sum.low), hn::MulAdd(w.high, w.high, sum.high)};
}

double sum_of_squares(const float* x, int64_t n) {
  Wide even{hn::Zero(F64()), hn::Zero(F64())}, odd = even;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    add_squares(even, load(x + i));
    add_squares(odd, load(x + i + kLanes));
  }
  if (i + kLanes <= n) {
    add_squares(even, load(x + i));
    i += kLanes;
  }
  if (i < n) add_squares(odd, load_some(x + i, n - i));
  return total({hn::Add(even.low, odd.low), hn::Add(even.high, odd.high)});
}

}  // namespace

const reduce_detail::Functions& reduce_functions() {
  static constexpr reduce_detail::Functions kFunctions{sum_columns, sum_rows, sum_of_squares};
  return kFunctions;
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea {
namespace {

using reduce_detail::Functions;
using reduce_detail::kPad;
using reduce_detail::kPanel;

// [groups, rows, cols] summed over the rows; cols = 1 stands for sums along the last axis.
struct Shape {
  int64_t groups = 1, rows = 1, cols = 1;
};

// nullopt: some other set of axes, or nothing to add.
std::optional<Shape> shape_of(const ReduceProblem& p) {
  std::vector<int64_t> sizes;
  std::vector<bool> reduced;
  for (size_t i = 0; i < p.dims.size(); ++i) {
    if (p.dims[i] <= 0) return std::nullopt;
    if (p.dims[i] == 1) continue;
    if (!sizes.empty() && reduced.back() == p.reduced[i]) {
      sizes.back() *= p.dims[i];
    } else {
      sizes.push_back(p.dims[i]);
      reduced.push_back(p.reduced[i]);
    }
  }
  Shape s;
  size_t next = 0;
  if (next < sizes.size() && !reduced[next]) s.groups = sizes[next++];
  if (next == sizes.size()) return std::nullopt;
  s.rows = sizes[next++];
  if (next < sizes.size()) s.cols = sizes[next++];
  if (next < sizes.size()) return std::nullopt;
  return s;
}

// Every result is the sum of `pieces` partial sums, each over a run of rows that depends on the
// shape alone. One piece goes straight to the output; more lie in the scratch as [piece][result].
class SumPlan final : public KernelPlan<ReduceArgs> {
 public:
  SumPlan(const Shape& s, bool mean, const Functions& functions)
      : s_(s),
        functions_(functions),
        results_(s.groups * s.cols),
        factor_(mean ? 1.0 / static_cast<double>(s.rows) : 1.0) {
    const int64_t width = std::min(s.cols, kPanel);
    panels_ = lanes::ceil_div(s.cols, kPanel);
    rows_ = std::max<int64_t>(lanes::kFlatBlock / width / 8 * 8, 8);
    pieces_ = lanes::ceil_div(s.rows, rows_);
    items_ = s.groups * pieces_ * panels_;
    // Small items go together, so that the pool hands out blocks worth their price.
    items_in_block_ = std::max<int64_t>(lanes::kFlatBlock / (std::min(rows_, s.rows) * width), 1);
    if (pieces_ > 1) scratch_bytes = static_cast<size_t>(pieces_ * results_) * sizeof(double);
  }

  void run(const ReduceArgs& args, const KernelContext& context) const noexcept override {
    const float* x = static_cast<const float*>(args.x);
    float* y = static_cast<float*>(args.y);
    double* partial = reinterpret_cast<double*>(context.scratch);
    context.pool->parallel_for(lanes::ceil_div(items_, items_in_block_), [&](int64_t block, int) {
      const int64_t last = std::min(items_, (block + 1) * items_in_block_);
      const int64_t first = block * items_in_block_;
      if (s_.cols == 1 && pieces_ == 1) return along_rows(x, y, first, last);
      for (int64_t item = first; item < last; ++item) add(x, y, partial, item);
    });
    if (pieces_ == 1) return;
    context.pool->parallel_for(lanes::ceil_div(results_, kPanel), [&](int64_t block, int) {
      const int64_t first = block * kPanel, n = std::min(results_ - first, kPanel);
      double sums[kPanel] = {};
      for (int64_t piece = 0; piece < pieces_; ++piece)
        lanes::map(
            n, sums, [](double a, double b) { return a + b; }, static_cast<const double*>(sums),
            static_cast<const double*>(partial + piece * results_ + first));
      finish(sums, n, y + first);
    });
  }

 private:
  // Groups that are one run of elements each.
  void along_rows(const float* x, float* y, int64_t first, int64_t last) const {
    double sums[kPanel];
    for (int64_t group = first; group < last; group += kPanel) {
      const int64_t n = std::min(last - group, kPanel);
      functions_.rows(x + group * s_.rows, n, s_.rows, sums);
      finish(sums, n, y + group);
    }
  }

  // items: (group, piece, panel).
  void add(const float* x, float* y, double* partial, int64_t item) const {
    const int64_t panel = item % panels_, piece = item / panels_ % pieces_;
    const int64_t group = item / panels_ / pieces_;
    const int64_t column = panel * kPanel, n = std::min(kPanel, s_.cols - column);
    const int64_t first = piece * rows_, rows = std::min(rows_, s_.rows - first);
    const float* from = x + (group * s_.rows + first) * s_.cols + column;
    double sums[kPanel + kPad];
    if (s_.cols == 1)
      functions_.rows(from, 1, rows, sums);
    else
      functions_.columns(from, s_.cols, rows, n, sums);
    const int64_t to = group * s_.cols + column;
    if (pieces_ == 1)
      finish(sums, n, y + to);
    else
      std::copy_n(sums, n, partial + piece * results_ + to);
  }

  void finish(const double* sums, int64_t n, float* y) const {
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(sums[i] * factor_);
  }

  Shape s_;
  const Functions& functions_;
  int64_t results_;
  double factor_;
  int64_t panels_ = 1, rows_ = 1, pieces_ = 1, items_ = 1, items_in_block_ = 1;
};

class SquaresPlan final : public KernelPlan<SumSquaresArgs> {
 public:
  SquaresPlan(const SumSquaresProblem& p, const Functions& functions)
      : blocks_(p.sizes), functions_(functions) {
    scratch_bytes = static_cast<size_t>(blocks_.blocks()) * sizeof(double);
  }

  void run(const SumSquaresArgs& args, const KernelContext& context) const noexcept override {
    double* partial = reinterpret_cast<double*>(context.scratch);
    context.pool->parallel_for(blocks_.blocks(), [&](int64_t block, int) {
      double sum = 0;
      blocks_.for_block(block, [&](size_t i, int64_t start, int64_t n) {
        sum += functions_.squares(static_cast<const float*>(args.x[i]) + start, n);
      });
      partial[block] = sum;
    });
    double sum = 0;
    for (int64_t block = 0; block < blocks_.blocks(); ++block) sum += partial[block];
    *static_cast<float*>(args.y) = static_cast<float>(sum);
  }

 private:
  TensorBlocks blocks_;
  const Functions& functions_;
};

using FunctionsOf = const Functions& (*)();

template <FunctionsOf kFunctions>
std::unique_ptr<KernelPlan<ReduceArgs>> plan_sum(const ReduceProblem& p) {
  if (p.dtype != DType::f32 || (p.op != ReduceOp::sum && p.op != ReduceOp::mean) ||
      p.reduced.size() != p.dims.size())
    return nullptr;
  const auto shape = shape_of(p);
  if (!shape) return nullptr;
  return std::make_unique<SumPlan>(*shape, p.op == ReduceOp::mean, kFunctions());
}

template <FunctionsOf kFunctions>
std::unique_ptr<KernelPlan<SumSquaresArgs>> plan_squares(const SumSquaresProblem& p) {
  for (int64_t size : p.sizes)
    if (size < 0) return nullptr;
  if (p.dtype != DType::f32) return nullptr;
  return std::make_unique<SquaresPlan>(p, kFunctions());
}

}  // namespace

void append_hwy([[maybe_unused]] KernelList<ReduceProblem, ReduceArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit) list.push_back({name, plan_sum<target::reduce_functions>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

void append_hwy([[maybe_unused]] KernelList<SumSquaresProblem, SumSquaresArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit) list.push_back({name, plan_squares<target::reduce_functions>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea
#endif  // HWY_ONCE

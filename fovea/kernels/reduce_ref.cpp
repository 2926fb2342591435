#include <algorithm>
#include <limits>
#include <memory>
#include <type_traits>

#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/reduce.h"
#include "fovea/kernels/tensor_blocks.h"

namespace fovea {
namespace {

constexpr int64_t kColumns = 256;  // columns that one block adds up at a time

// The shape with adjacent axes of one kind joined: kept and reduced axes take turns. The innermost
// stands apart; the others make two index spaces, `kept` and `reduced`, each with its strides into
// x.
struct Shape {
  struct Space {
    std::vector<int64_t> dims, strides;
    int64_t count = 1;

    int64_t offset(int64_t index) const {
      int64_t at = 0;
      for (size_t i = dims.size(); i-- > 0; index /= dims[i]) at += index % dims[i] * strides[i];
      return at;
    }
  };
  Space kept, reduced;
  int64_t inner = 1;
  bool inner_reduced = true;
  int64_t in_group = 1;  // elements that make one result
};

Shape joined(const ReduceProblem& p) {
  std::vector<int64_t> dims;
  std::vector<bool> reduced;
  Shape shape;
  for (size_t i = 0; i < p.dims.size(); ++i) {
    if (p.reduced[i]) shape.in_group *= p.dims[i];
    if (p.dims[i] == 1) continue;
    if (!dims.empty() && reduced.back() == p.reduced[i]) {
      dims.back() *= p.dims[i];
    } else {
      dims.push_back(p.dims[i]);
      reduced.push_back(p.reduced[i]);
    }
  }
  if (dims.empty()) return shape;
  shape.inner = dims.back();
  shape.inner_reduced = reduced.back();
  int64_t stride = dims.back();
  for (size_t i = dims.size() - 1; i-- > 0; stride *= dims[i]) {
    Shape::Space& space = reduced[i] ? shape.reduced : shape.kept;
    space.dims.insert(space.dims.begin(), dims[i]);
    space.strides.insert(space.strides.begin(), stride);
    space.count *= dims[i];
  }
  return shape;
}

template <class T, ReduceOp Op>
struct Fold {
  static constexpr bool kSums = Op == ReduceOp::sum || Op == ReduceOp::mean;
  // Sums of whole numbers wrap around: added without a sign, where that is defined.
  using Acc =
      std::conditional_t<!kSums, T, std::conditional_t<std::is_integral_v<T>, uint32_t, double>>;

  static Acc first() {
    using Limits = std::numeric_limits<T>;
    if constexpr (kSums) return Acc{0};
    constexpr T high = Limits::has_infinity ? Limits::infinity() : Limits::max();
    constexpr T low = Limits::has_infinity ? -Limits::infinity() : Limits::lowest();
    return static_cast<Acc>(Op == ReduceOp::max ? low : high);
  }
  static Acc join(Acc a, Acc b) {
    if constexpr (kSums)
      return a + b;
    else if constexpr (Op == ReduceOp::max)
      return lanes::larger(a, b);
    else
      return lanes::smaller(a, b);
  }
  static T result(Acc a, int64_t count) {
    if constexpr (Op == ReduceOp::mean) return static_cast<T>(a / static_cast<Acc>(count));
    return static_cast<T>(a);
  }
};

// Each result is the join of `pieces` partial results, each over a run of the elements that depends
// on the shape alone. One piece goes straight to the output; more lie in the scratch as
// [piece][result].
template <class T, ReduceOp Op>
class ReducePlan final : public KernelPlan<ReduceArgs> {
  using F = Fold<T, Op>;
  using Acc = typename F::Acc;

 public:
  explicit ReducePlan(Shape shape) : s_(std::move(shape)) {
    results_ = s_.kept.count * (s_.inner_reduced ? 1 : s_.inner);
    if (results_ == 0) return;
    if (s_.in_group == 0) {
      pieces_ = 0;
      return;
    }
    chunk_ = s_.inner_reduced ? std::min(s_.inner, lanes::kFlatBlock) : s_.inner;
    chunks_ = lanes::ceil_div(s_.inner, chunk_);
    if (s_.inner_reduced)
      rows_ = std::max<int64_t>(lanes::kFlatBlock / s_.inner, 1);
    else
      rows_ = lanes::kRowBlock;
    pieces_ = lanes::ceil_div(s_.reduced.count, rows_) * chunks_;
    columns_ = s_.inner_reduced ? 1 : lanes::ceil_div(s_.inner, kColumns);
    items_ = s_.kept.count * pieces_ * columns_;
    // Small items go together, so that the pool hands out blocks worth their price.
    const int64_t work = std::min(rows_, s_.reduced.count) *
                         (s_.inner_reduced ? chunk_ : std::min(s_.inner, kColumns));
    items_in_block_ = std::max<int64_t>(lanes::kFlatBlock / work, 1);
    if (pieces_ > 1) scratch_bytes = static_cast<size_t>(pieces_ * results_) * sizeof(Acc);
  }

  void run(const ReduceArgs& args, const KernelContext& context) const noexcept override {
    const T* x = static_cast<const T*>(args.x);
    T* y = static_cast<T*>(args.y);
    Acc* partial = reinterpret_cast<Acc*>(context.scratch);
    context.pool->parallel_for(lanes::ceil_div(items_, items_in_block_), [&](int64_t block, int) {
      const int64_t last = std::min(items_, (block + 1) * items_in_block_);
      for (int64_t item = block * items_in_block_; item < last; ++item)
        s_.inner_reduced ? along_row(x, y, partial, item) : down_columns(x, y, partial, item);
    });
    if (pieces_ == 1) return;
    context.pool->parallel_for(lanes::ceil_div(results_, kColumns), [&](int64_t block, int) {
      const int64_t last = std::min(results_, (block + 1) * kColumns);
      for (int64_t r = block * kColumns; r < last; ++r) {
        Acc acc = F::first();
        for (int64_t piece = 0; piece < pieces_; ++piece)
          acc = F::join(acc, partial[piece * results_ + r]);
        y[r] = F::result(acc, s_.in_group);
      }
    });
  }

 private:
  // items: (kept, piece); a piece is a run of reduced rows, or a chunk of one long row.
  void along_row(const T* x, T* y, Acc* partial, int64_t item) const {
    const int64_t kept = item / pieces_, piece = item % pieces_;
    const int64_t first = piece / chunks_ * rows_;
    const int64_t last = std::min(first + rows_, s_.reduced.count);
    const int64_t start = piece % chunks_ * chunk_;
    const int64_t n = std::min(chunk_, s_.inner - start);
    const T* base = x + s_.kept.offset(kept) + start;
    Acc acc = F::first();
    for (int64_t row = first; row < last; ++row)
      acc =
          F::join(acc, lanes::fold(
                           n, F::first(), [](Acc a, Acc b) { return F::join(a, b); },
                           [](T v) { return static_cast<Acc>(v); }, base + s_.reduced.offset(row)));
    if (pieces_ == 1)
      y[kept] = F::result(acc, s_.in_group);
    else
      partial[piece * results_ + kept] = acc;
  }

  // items: (kept, piece, columns); a piece is a run of reduced rows.
  void down_columns(const T* x, T* y, Acc* partial, int64_t item) const {
    const int64_t start = item % columns_ * kColumns;
    const int64_t n = std::min(kColumns, s_.inner - start);
    const int64_t piece = item / columns_ % pieces_, kept = item / columns_ / pieces_;
    const int64_t first = piece * rows_, last = std::min(first + rows_, s_.reduced.count);
    const T* base = x + s_.kept.offset(kept) + start;
    Acc acc[kColumns];
    std::fill_n(acc, n, F::first());
    for (int64_t row = first; row < last; ++row)
      lanes::map(
          n, acc, [](Acc a, T v) { return F::join(a, static_cast<Acc>(v)); },
          static_cast<const Acc*>(acc), base + s_.reduced.offset(row));
    const int64_t to = kept * s_.inner + start;
    if (pieces_ == 1)
      lanes::map(
          n, y + to, [&](Acc a) { return F::result(a, s_.in_group); }, acc);
    else
      std::copy_n(acc, n, partial + piece * results_ + to);
  }

  Shape s_;
  int64_t results_ = 0, pieces_ = 1, chunk_ = 1, chunks_ = 1, rows_ = 1, columns_ = 1;
  int64_t items_ = 0, items_in_block_ = 1;
};

template <class T>
std::unique_ptr<KernelPlan<ReduceArgs>> plan_for(ReduceOp op, Shape shape) {
  switch (op) {
    case ReduceOp::sum:
      return std::make_unique<ReducePlan<T, ReduceOp::sum>>(std::move(shape));
    case ReduceOp::max:
      return std::make_unique<ReducePlan<T, ReduceOp::max>>(std::move(shape));
    case ReduceOp::min:
      return std::make_unique<ReducePlan<T, ReduceOp::min>>(std::move(shape));
    case ReduceOp::mean:
      break;
  }
  if constexpr (std::is_floating_point_v<T>)
    return std::make_unique<ReducePlan<T, ReduceOp::mean>>(std::move(shape));
  return nullptr;
}

std::unique_ptr<KernelPlan<ReduceArgs>> plan_reduce(const ReduceProblem& p) {
  if (p.reduced.size() != p.dims.size()) return nullptr;
  for (int64_t d : p.dims)
    if (d < 0) return nullptr;
  if (p.dtype == DType::f32) return plan_for<float>(p.op, joined(p));
  if (p.dtype == DType::f64) return plan_for<double>(p.op, joined(p));
  if (p.dtype == DType::i32) return plan_for<int32_t>(p.op, joined(p));
  return nullptr;
}

template <class T>
class SquaresPlan final : public KernelPlan<SumSquaresArgs> {
 public:
  explicit SquaresPlan(const SumSquaresProblem& p) : blocks_(p.sizes) {
    scratch_bytes = static_cast<size_t>(blocks_.blocks()) * sizeof(double);
  }

  void run(const SumSquaresArgs& args, const KernelContext& context) const noexcept override {
    double* partial = reinterpret_cast<double*>(context.scratch);
    context.pool->parallel_for(blocks_.blocks(), [&](int64_t block, int) {
      double sum = 0;
      blocks_.for_block(block, [&](size_t i, int64_t start, int64_t n) {
        sum += lanes::sum<double>(
            n,
            [](T v) {
              const double d = static_cast<double>(v);
              return d * d;
            },
            static_cast<const T*>(args.x[i]) + start);
      });
      partial[block] = sum;
    });
    double sum = 0;
    for (int64_t block = 0; block < blocks_.blocks(); ++block) sum += partial[block];
    *static_cast<T*>(args.y) = static_cast<T>(sum);
  }

 private:
  TensorBlocks blocks_;
};

std::unique_ptr<KernelPlan<SumSquaresArgs>> plan_squares(const SumSquaresProblem& p) {
  for (int64_t size : p.sizes)
    if (size < 0) return nullptr;
  if (p.dtype == DType::f32) return std::make_unique<SquaresPlan<float>>(p);
  if (p.dtype == DType::f64) return std::make_unique<SquaresPlan<double>>(p);
  return nullptr;
}

}  // namespace

std::span<const Kernel<ReduceProblem, ReduceArgs>> reduce_kernels() {
  static const auto list = with_hwy<ReduceProblem, ReduceArgs>(plan_reduce);
  return list;
}
std::span<const Kernel<SumSquaresProblem, SumSquaresArgs>> sum_squares_kernels() {
  static const auto list = with_hwy<SumSquaresProblem, SumSquaresArgs>(plan_squares);
  return list;
}

}  // namespace fovea

#include "fovea/kernels/gather.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>

#include "fovea/kernels/lanes.h"

namespace fovea {
namespace {

class GatherPlan final : public KernelPlan<GatherArgs> {
 public:
  explicit GatherPlan(const GatherProblem& p)
      : p_(p), row_bytes_(static_cast<size_t>(p.cols) * dtype_size(p.dtype)) {}

  void run(const GatherArgs& args, const KernelContext& context) const noexcept override {
    const auto* table = static_cast<const std::byte*>(args.table);
    auto* y = static_cast<std::byte*>(args.y);
    lanes::for_rows(*context.pool, p_.count, p_.cols, [&](int64_t i) {
      std::byte* to = y + static_cast<size_t>(i) * row_bytes_;
      const int64_t row = args.indices[i];
      if (row < 0 || row >= p_.rows)
        std::memset(to, 0, row_bytes_);
      else
        std::memcpy(to, table + static_cast<size_t>(row) * row_bytes_, row_bytes_);
    });
  }

 private:
  GatherProblem p_;
  size_t row_bytes_;
};

// A block owns a range of rows of the table and a range of columns, and reads all indices: each
// element gets its additions in the order of the indices, whoever does them.
template <class T>
class ScatterAddPlan final : public KernelPlan<ScatterAddArgs> {
  static constexpr int64_t kColumns = 256;
  static constexpr int64_t kRanges = 8;  // each costs one more reading of the indices

 public:
  explicit ScatterAddPlan(const GatherProblem& p)
      : p_(p),
        range_(std::max<int64_t>(lanes::ceil_div(p.rows, kRanges), 1)),
        ranges_(lanes::ceil_div(p.rows, range_)),
        column_blocks_(lanes::ceil_div(p.cols, kColumns)) {}

  void run(const ScatterAddArgs& args, const KernelContext& context) const noexcept override {
    const T* updates = static_cast<const T*>(args.updates);
    T* table = static_cast<T*>(args.table);
    context.pool->parallel_for(ranges_ * column_blocks_, [&](int64_t block, int) {
      const int64_t first = block / column_blocks_ * range_;
      const int64_t last = std::min(first + range_, p_.rows);
      const int64_t start = block % column_blocks_ * kColumns;
      const int64_t n = std::min(kColumns, p_.cols - start);
      for (int64_t row = first; row < last; ++row)
        std::fill_n(table + row * p_.cols + start, n, T{});
      for (int64_t i = 0; i < p_.count; ++i) {
        const int64_t row = args.indices[i];
        if (row < first || row >= last) continue;
        T* to = table + row * p_.cols + start;
        lanes::map(n, to, add, static_cast<const T*>(to), updates + i * p_.cols + start);
      }
    });
  }

 private:
  static T add(T a, T b) {
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
    else
      return a + b;
  }

  GatherProblem p_;
  int64_t range_, ranges_, column_blocks_;
};

bool valid(const GatherProblem& p) { return p.rows >= 0 && p.cols >= 0 && p.count >= 0; }

std::unique_ptr<KernelPlan<GatherArgs>> plan_gather(const GatherProblem& p) {
  if (!valid(p)) return nullptr;
  return std::make_unique<GatherPlan>(p);
}

std::unique_ptr<KernelPlan<ScatterAddArgs>> plan_scatter_add(const GatherProblem& p) {
  if (!valid(p)) return nullptr;
  if (p.dtype == DType::f32) return std::make_unique<ScatterAddPlan<float>>(p);
  if (p.dtype == DType::f64) return std::make_unique<ScatterAddPlan<double>>(p);
  if (p.dtype == DType::i32) return std::make_unique<ScatterAddPlan<int32_t>>(p);
  return nullptr;
}

}  // namespace

std::span<const Kernel<GatherProblem, GatherArgs>> gather_kernels() {
  static constexpr Kernel<GatherProblem, GatherArgs> kList[] = {{"ref", plan_gather}};
  return kList;
}
std::span<const Kernel<GatherProblem, ScatterAddArgs>> scatter_add_kernels() {
  static constexpr Kernel<GatherProblem, ScatterAddArgs> kList[] = {{"ref", plan_scatter_add}};
  return kList;
}

}  // namespace fovea

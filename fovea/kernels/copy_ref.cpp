#include "fovea/kernels/copy.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "fovea/kernels/convert.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/storage.h"
#include "fovea/kernels/strided.h"

namespace fovea {
namespace {

// Elements are moved as bytes, so their type does not matter, only its size.
template <size_t Size>
class CopyPlan final : public KernelPlan<CopyArgs> {
 public:
  explicit CopyPlan(StridedLoop<2> loop) : loop_(std::move(loop)) {}

  void run(const CopyArgs& args, const KernelContext& context) const noexcept override {
    constexpr int64_t size = Size;
    const int64_t in = loop_.inner_strides()[0] * size, out = loop_.inner_strides()[1] * size;
    context.pool->parallel_for(loop_.blocks(), [&](int64_t block, int) {
      loop_.for_block(block, [&](const auto& offset, int64_t n) {
        const auto* x = static_cast<const std::byte*>(args.x) + offset[0] * size;
        auto* y = static_cast<std::byte*>(args.y) + offset[1] * size;
        if (in == size && out == size)
          std::memcpy(y, x, static_cast<size_t>(n) * Size);
        else
          for (int64_t i = 0; i < n; ++i) std::memcpy(y + i * out, x + i * in, Size);
      });
    });
  }

 private:
  StridedLoop<2> loop_;
};

template <class T>
class FillPlan final : public KernelPlan<FillArgs> {
 public:
  FillPlan(int64_t count, T value) : count_(count), value_(value) {}

  void run(const FillArgs& args, const KernelContext& context) const noexcept override {
    T* y = static_cast<T*>(args.y);
    lanes::for_flat(*context.pool, count_,
                    [&](int64_t start, int64_t n) { std::fill_n(y + start, n, value_); });
  }

 private:
  int64_t count_;
  T value_;
};

template <class T>
class IotaPlan final : public KernelPlan<IotaArgs> {
 public:
  IotaPlan(int64_t count, int64_t size, int64_t inner)
      : count_(count), size_(size), inner_(inner) {}

  void run(const IotaArgs& args, const KernelContext& context) const noexcept override {
    T* y = static_cast<T*>(args.y);
    lanes::for_flat(*context.pool, count_, [&](int64_t start, int64_t n) {
      for (int64_t i = start; i < start + n; ++i) y[i] = static_cast<T>(i / inner_ % size_);
    });
  }

 private:
  int64_t count_, size_, inner_;
};

std::unique_ptr<KernelPlan<CopyArgs>> plan_copy(const CopyProblem& p) {
  auto loop = StridedLoop<2>::make(p.dims, {p.in_strides, p.out_strides});
  if (!loop) return nullptr;
  switch (p.element_size) {
    case 1:
      return std::make_unique<CopyPlan<1>>(*loop);
    case 2:
      return std::make_unique<CopyPlan<2>>(*loop);
    case 4:
      return std::make_unique<CopyPlan<4>>(*loop);
    case 8:
      return std::make_unique<CopyPlan<8>>(*loop);
    default:
      return nullptr;
  }
}

std::unique_ptr<KernelPlan<FillArgs>> plan_fill(const FillProblem& p) {
  if (p.count < 0) return nullptr;
  return visit_dtype(p.dtype, [&]<DType D>() -> std::unique_ptr<KernelPlan<FillArgs>> {
    if constexpr (D == DType::f16) {
      return nullptr;
    } else {
      using T = Storage<D>;
      return std::make_unique<FillPlan<T>>(p.count, convert<T, D == DType::boolean>(p.value));
    }
  });
}

std::unique_ptr<KernelPlan<IotaArgs>> plan_iota(const IotaProblem& p) {
  if (p.axis < 0 || p.axis >= static_cast<int64_t>(p.dims.size())) return nullptr;
  for (int64_t d : p.dims)
    if (d < 0) return nullptr;
  const auto axis = static_cast<size_t>(p.axis);
  const int64_t count = count_of(p.dims), inner = dense_strides(p.dims)[axis];
  if (p.dtype == DType::i32) return std::make_unique<IotaPlan<int32_t>>(count, p.dims[axis], inner);
  if (p.dtype == DType::f32) return std::make_unique<IotaPlan<float>>(count, p.dims[axis], inner);
  if (p.dtype == DType::f64) return std::make_unique<IotaPlan<double>>(count, p.dims[axis], inner);
  return nullptr;
}

}  // namespace

std::span<const Kernel<CopyProblem, CopyArgs>> copy_kernels() {
  static constexpr Kernel<CopyProblem, CopyArgs> kList[] = {{"ref", plan_copy}};
  return kList;
}
std::span<const Kernel<FillProblem, FillArgs>> fill_kernels() {
  static constexpr Kernel<FillProblem, FillArgs> kList[] = {{"ref", plan_fill}};
  return kList;
}
std::span<const Kernel<IotaProblem, IotaArgs>> iota_kernels() {
  static constexpr Kernel<IotaProblem, IotaArgs> kList[] = {{"ref", plan_iota}};
  return kList;
}

}  // namespace fovea

// The plain chain: the functions of one element over short pieces, one step after another.
#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "fovea/kernels/elementwise_blocks.h"
#include "fovea/kernels/elementwise_scalar.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/storage.h"
#include "fovea/kernels/strided.h"

namespace fovea::elementwise {
namespace {

constexpr int64_t kPiece = 256;

using Row = void (*)(const float* a, const float* b, const float* c, float* y, int64_t n);

template <UnaryOp Op>
void unary_row(const float* a, const float*, const float*, float* y, int64_t n) {
  lanes::map(
      n, y, [](float v) { return static_cast<float>(apply<Op>(v)); }, a);
}
template <BinaryOp Op>
void binary_row(const float* a, const float* b, const float*, float* y, int64_t n) {
  lanes::map(
      n, y, [](float u, float v) { return static_cast<float>(apply<Op>(u, v)); }, a, b);
}
void select_row(const float* a, const float* b, const float* c, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = a[i] != 0 ? b[i] : c[i];
}

template <size_t... I>
Row row_of(UnaryOp op, std::index_sequence<I...>) {
  static constexpr Row kRows[] = {unary_row<static_cast<UnaryOp>(I)>...};
  return kRows[static_cast<size_t>(op)];
}
template <size_t... I>
Row row_of(BinaryOp op, std::index_sequence<I...>) {
  static constexpr Row kRows[] = {binary_row<static_cast<BinaryOp>(I)>...};
  return kRows[static_cast<size_t>(op)];
}
Row row_of(const ChainStep& step) {
  if (step.kind == ChainStep::Kind::unary) return row_of(step.unary, UnaryOps{});
  if (step.kind == ChainStep::Kind::binary) return row_of(step.binary, BinaryOps{});
  return select_row;
}

bool readable(DType d) {
  return d == DType::f32 || d == DType::bf16 || d == DType::u8 || d == DType::i32 ||
         d == DType::boolean;
}

class RefPlan final : public KernelPlan<ChainArgs> {
 public:
  explicit RefPlan(const ChainProblem& p) : p_(p), count_(count_of(p.dims)) {
    for (ChainInput& input : p_.inputs)
      if (input.strides.empty()) input.strides = dense_strides(p.dims);
    for (const ChainStep& step : p.steps) rows_.push_back(row_of(step));
    worker_scratch_bytes =
        (p.inputs.size() + p.steps.size()) * static_cast<size_t>(kPiece) * sizeof(float);
  }

  void run(const ChainArgs& args, const KernelContext& context) const noexcept override {
    context.pool->parallel_for(
        lanes::ceil_div(count_, lanes::kFlatBlock), [&](int64_t task, int worker) {
          const int64_t end = std::min(count_, (task + 1) * lanes::kFlatBlock);
          for (int64_t start = task * lanes::kFlatBlock; start < end; start += kPiece)
            run_piece(args, start, std::min(kPiece, end - start), context.worker<float>(worker));
        });
  }

 private:
  void run_piece(const ChainArgs& args, int64_t start, int64_t n, float* scratch) const {
    const auto at = [&](size_t r) { return scratch + static_cast<int64_t>(r) * kPiece; };
    const size_t inputs = p_.inputs.size();
    for (size_t i = 0; i < inputs; ++i) read(i, args.inputs[i], start, n, at(i));
    for (size_t s = 0; s < rows_.size(); ++s) {
      const auto operand = [&](int r) { return at(r < 0 ? 0 : static_cast<size_t>(r)); };
      const ChainStep& step = p_.steps[s];
      rows_[s](operand(step.a), operand(step.b), operand(step.c), at(inputs + s), n);
    }
    const float* last = at(inputs + rows_.size() - 1);
    for (int64_t i = 0; i < n; ++i) {
      if (p_.y == DType::f32)
        static_cast<float*>(args.y)[start + i] = last[i];
      else
        static_cast<bf16*>(args.y)[start + i] = bf16(last[i]);
    }
  }

  void read(size_t input, const void* x, int64_t start, int64_t n, float* y) const {
    const auto& strides = p_.inputs[input].strides;
    visit_dtype(p_.inputs[input].dtype, [&]<DType D>() {
      const int64_t inner = p_.dims.empty() ? 1 : p_.dims.back();
      const int64_t step = p_.dims.empty() ? 0 : strides.back();
      for (int64_t e = 0; e < n;) {
        int64_t rest = start + e, offset = 0;
        for (size_t i = p_.dims.size(); i-- > 0; rest /= p_.dims[i])
          offset += rest % p_.dims[i] * strides[i];
        const Storage<D>* from = static_cast<const Storage<D>*>(x) + offset;
        const int64_t end = std::min(n, e + inner - (start + e) % inner);
        for (int64_t i = 0; e < end; ++e, ++i) y[e] = static_cast<float>(from[i * step]);
      }
    });
  }

  ChainProblem p_;
  std::vector<Row> rows_;
  int64_t count_;
};

}  // namespace

std::unique_ptr<KernelPlan<ChainArgs>> plan_chain_ref(const ChainProblem& p) {
  check(p);
  for (int64_t d : p.dims)
    if (d < 0) return nullptr;
  for (const ChainInput& input : p.inputs)
    if (!readable(input.dtype) || (!input.strides.empty() && input.strides.size() != p.dims.size()))
      return nullptr;
  if (p.y != DType::f32 && p.y != DType::bf16) return nullptr;
  return std::make_unique<RefPlan>(p);
}

}  // namespace fovea::elementwise

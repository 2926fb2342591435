// The gradient of linear's weight through oneDNN: the rows are cut into pieces, whose products and
// sums of columns are added in index order.
#include "fovea/kernels/linear_dnnl.h"

namespace fovea {
namespace linear_detail {
namespace {

using dnnl_support::PrimitivePtr;

constexpr int64_t kOutputs = 256;    // rows of dw in a block of work, where there are many
constexpr int64_t kFewBlocks = 8;    // no more blocks than this for the sake of threads
constexpr int64_t kPieceRows = 512;  // fewest rows in a piece
constexpr int64_t kMaxPieces = 12;
constexpr int64_t kPartialFloats = int64_t{1} << 22;  // most scratch for partial results
constexpr int64_t kRoundBlock = 16384;
constexpr int64_t kAddBlock = 2048;  // elements that one block adds up

class GradWeightDnnl : public KernelPlan<LinearGradWeightArgs> {
 public:
  // False: not for this kernel.
  bool make(const LinearGradWeightProblem& p) {
    const auto f32_or_bf16 = [](DType t) { return t == DType::f32 || t == DType::bf16; };
    if (!f32_or_bf16(p.dy) || !f32_or_bf16(p.x)) return false;
    if (p.rows == 0 || p.n == 0 || p.k == 0) return false;
    p_ = p;
    is_bf16_ = p.dy == DType::bf16 || p.x == DType::bf16;
    // Partial results of dw, then of db.
    elements_ = p.n * p.k + (p.bias ? p.n : 0);
    n_ = Cut(p.n, p.n >= 2 * kOutputs ? kOutputs : p.n);
    const int64_t pieces = std::min(
        {ceil_div(kMaxPieces, n_.count), p.rows / kPieceRows, 1 + kPartialFloats / elements_});
    r_ = Cut(p.rows, n_.count >= kFewBlocks || pieces < 2 ? p.rows : ceil_div(p.rows, pieces));
    scratch_bytes = static_cast<size_t>((r_.count - 1) * elements_) * sizeof(float);
    if (!find_primitives()) return false;
    passes_ = row_passes().front();

    dy_at_ = dnnl_support::aligned(scratch_bytes);
    x_at_ = dy_at_ + (rounds(p.dy) ? dnnl_support::aligned(copy_bytes(p.n)) : 0);
    scratch_bytes = x_at_ + (rounds(p.x) ? copy_bytes(p.k) : 0);
    return true;
  }

  void run(const LinearGradWeightArgs& args, const KernelContext& context) const noexcept override {
    const void* dy = rounded(args.dy, p_.dy, p_.n, context, dy_at_);
    const void* x = rounded(args.x, p_.x, p_.k, context, x_at_);
    context.pool->parallel_for(r_.count * n_.count, [&](int64_t block, int worker) {
      const int64_t ir = block / n_.count, in = block % n_.count;
      const int64_t rows = r_.length(ir), first = in * n_.piece;
      float* dw = ir == 0 ? static_cast<float*>(args.dw) : partial(context, ir);
      if (p_.bias) {
        float* db = ir == 0 ? static_cast<float*>(args.db) : dw + p_.n * p_.k;
        passes_.sum(at(args.dy, p_.dy, ir * r_.piece * p_.n + first), p_.dy, p_.n, rows,
                    n_.length(in), db + first);
      }
      const DType type = is_bf16_ ? DType::bf16 : DType::f32;
      primitives_[r_.last(ir)][n_.last(in)]->run(
          {at(dy, type, ir * r_.piece * p_.n + first), at(x, type, ir * r_.piece * p_.k),
           dw + first * p_.k},
          context.worker<void>(worker));
    });
    if (r_.count == 1) return;
    const Cut dw(p_.n * p_.k, kAddBlock);
    context.pool->parallel_for(dw.count + p_.bias, [&](int64_t block, int) {
      const bool is_dw = block < dw.count;
      const int64_t first = block * kAddBlock;
      float* to = is_dw ? static_cast<float*>(args.dw) + first : static_cast<float*>(args.db);
      const int64_t from = is_dw ? first : p_.n * p_.k;
      for (int64_t piece = 1; piece < r_.count; ++piece)
        passes_.add(partial(context, piece) + from, is_dw ? dw.length(block) : p_.n, to);
    });
  }

 private:
  static const void* at(const void* p, DType type, int64_t i) {
    return static_cast<const std::byte*>(p) + i * static_cast<int64_t>(dtype_size(type));
  }

  bool rounds(DType type) const { return is_bf16_ && type == DType::f32; }
  size_t copy_bytes(int64_t columns) const {
    return static_cast<size_t>(p_.rows * columns) * sizeof(bf16);
  }
  // The operand as it lies, or a copy of it in bf16.
  const void* rounded(const void* from, DType type, int64_t columns, const KernelContext& context,
                      size_t at_byte) const {
    if (!rounds(type)) return from;
    bf16* to = reinterpret_cast<bf16*>(context.scratch + at_byte);
    const Cut all(p_.rows * columns, kRoundBlock);
    context.pool->parallel_for(all.count, [&](int64_t i, int) {
      passes_.round(static_cast<const float*>(from) + i * kRoundBlock, 0, 1, all.length(i),
                    to + i * kRoundBlock);
    });
    return to;
  }

  float* partial(const KernelContext& context, int64_t piece) const {
    return reinterpret_cast<float*>(context.scratch) + (piece - 1) * elements_;
  }

  bool find_primitives() {
    for (int64_t ir : {int64_t{0}, r_.count - 1}) {
      for (int64_t in : {int64_t{0}, n_.count - 1}) {
        const int64_t columns = n_.length(in);
        PrimitivePtr& slot = primitives_[r_.last(ir)][n_.last(in)];
        slot = find({.m = columns,
                     .n = p_.k,
                     .k = r_.length(ir),
                     .is_bf16 = is_bf16_,
                     .a_transposed = true,
                     .a_ld = p_.n,
                     .b_ld = p_.k,
                     .c_ld = p_.k});
        if (!slot) return false;
        worker_scratch_bytes = std::max(worker_scratch_bytes, slot->scratchpad_bytes());
      }
    }
    return true;
  }

  LinearGradWeightProblem p_;
  Cut r_, n_;
  bool is_bf16_ = false;  // the product
  int64_t elements_ = 0;  // of a partial result
  RowPasses passes_{};
  PrimitivePtr primitives_[2][2];  // [last piece of rows][last outputs]
  size_t dy_at_ = 0, x_at_ = 0;    // in the scratch, in bytes
};

}  // namespace

std::unique_ptr<KernelPlan<LinearGradWeightArgs>> plan_grad_weight_dnnl(
    const LinearGradWeightProblem& problem) {
  check(problem);
  auto plan = std::make_unique<GradWeightDnnl>();
  if (!plan->make(problem)) return nullptr;
  return plan;
}

}  // namespace linear_detail
}  // namespace fovea

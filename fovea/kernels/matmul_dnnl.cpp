// Products through oneDNN, in blocks of 256 rows. A product with few rows and a long sum (the
// gradient of a weight) is cut along k instead, into partial products that are added in index
// order.
#include <algorithm>
#include <optional>

#include "fovea/kernels/dnnl_support.h"
#include "fovea/kernels/matmul.h"

namespace fovea {
namespace {

using dnnl_support::ceil_div;
using dnnl_support::Cut;
using dnnl_support::PrimitivePtr;

constexpr int64_t kRows = 256;        // rows of c in a block of work
constexpr int64_t kColumns = 256;     // columns, where rows alone give too few blocks
constexpr int64_t kFewBlocks = 8;     // fewer blocks than this: cut columns, then k
constexpr int64_t kPartLength = 512;  // shortest piece of k
constexpr int64_t kMaxParts = 16;
constexpr int64_t kPartialFloats = int64_t{1} << 22;  // most scratch for partial products
constexpr int64_t kAddBlock = 4096;                   // elements of c that one block adds up
// Above this many elements of a transposed b, its packing for each block costs more than oneDNN's
// classical gemm, which sizes known only at run time select.
constexpr int64_t kLargeTransposed = 512 * 512;

// A matrix as oneDNN takes it: one unit stride, the other at least as long as the row.
struct Layout {
  bool transposed = false;  // the row index has the unit stride
  int64_t ld = 0;

  int64_t row() const { return transposed ? 1 : ld; }
  int64_t col() const { return transposed ? ld : 1; }

  static std::optional<Layout> make(int64_t rows, int64_t cols, int64_t row, int64_t col) {
    if ((cols == 1 || col == 1) && (rows == 1 || row >= cols))
      return Layout{false, rows == 1 ? cols : row};
    if ((rows == 1 || row == 1) && (cols == 1 || col >= rows))
      return Layout{true, cols == 1 ? rows : col};
    return std::nullopt;
  }
};

PrimitivePtr product(int64_t m, int64_t n, int64_t k, Layout a, Layout b, int64_t ldc, bool bias,
                     bool run_time_m) {
  const int64_t key[] = {m, n, k, a.transposed, a.ld, b.transposed, b.ld, ldc, bias, run_time_m};
  return dnnl_support::cached(dnnl_support::Op::matmul, key, [&]() -> PrimitivePtr {
    using dnnl::memory;
    const auto desc = [](int64_t rows, int64_t cols, int64_t row, int64_t col) {
      return memory::desc({rows, cols}, memory::data_type::f32, memory::dims{row, col});
    };
    const int64_t planned_m = run_time_m ? DNNL_RUNTIME_DIM_VAL : m;
    const memory::desc bias_desc = bias ? desc(1, n, n, 1) : memory::desc();
    const memory::desc b_desc = desc(k, n, b.row(), b.col());
    const dnnl::matmul::desc d(desc(planned_m, k, a.row(), a.col()), b_desc, bias_desc,
                               desc(planned_m, n, ldc, 1));
    const dnnl::matmul::primitive_desc pd(d, dnnl_support::user_scratchpad(),
                                          dnnl_support::engine());
    if (!dnnl_support::is_fast(pd)) return nullptr;
    std::vector<dnnl_support::Operand> operands = {{DNNL_ARG_SRC, desc(m, k, a.row(), a.col())},
                                                   {DNNL_ARG_WEIGHTS, b_desc},
                                                   {DNNL_ARG_DST, desc(m, n, ldc, 1)}};
    if (bias) operands.push_back({DNNL_ARG_BIAS, bias_desc});
    return std::make_shared<dnnl_support::Primitive>(dnnl::matmul(pd), pd.scratchpad_desc(),
                                                     std::move(operands));
  });
}

class MatmulDnnl : public KernelPlan<MatmulArgs> {
 public:
  // False: not for this kernel.
  bool make(MatmulProblem p) {
    if (p.dtype != DType::f32 || p.m == 0 || p.n == 0 || p.k == 0) return false;
    fold_batch(p);
    const auto a = Layout::make(p.m, p.k, p.a_row, p.a_col);
    const auto b = Layout::make(p.k, p.n, p.b_row, p.b_col);
    if (!a || !b) return false;
    p_ = p;
    a_ = *a;
    b_ = *b;
    for (int64_t d : p.batch) batches_ *= d;
    if (batches_ == 0) return false;
    cut();
    return find_primitives();
  }

  void run(const MatmulArgs& args, const KernelContext& context) const noexcept override {
    const int64_t tiles = m_.count * n_.count * k_.count;
    context.pool->parallel_for(groups_.count * tiles, [&](int64_t block, int worker) {
      const int64_t group = block / tiles;
      const int64_t tile = block % tiles;
      const int64_t im = tile % m_.count;
      const int64_t in = tile / m_.count % n_.count;
      const int64_t ik = tile / m_.count / n_.count;
      const dnnl_support::Primitive& product = *primitives_[m_.last(im)][n_.last(in)][kind(ik)];
      const int64_t first = group * groups_.piece;
      for (int64_t e = first; e < first + groups_.length(group); ++e) {
        const float* a = static_cast<const float*>(args.a) + offset(e, p_.a_batch) +
                         im * m_.piece * a_.row() + ik * k_.piece * a_.col();
        const float* b = static_cast<const float*>(args.b) + offset(e, p_.b_batch) +
                         ik * k_.piece * b_.row() + in * n_.piece * b_.col();
        float* to = ik == 0 ? static_cast<float*>(args.c) : partial(context, ik);
        float* c = to + (e * p_.m + im * m_.piece) * p_.n + in * n_.piece;
        void* scratch = context.worker<void>(worker);
        if (p_.bias && ik == 0)
          product.run({a, b, c, static_cast<const float*>(args.bias) + in * n_.piece}, scratch);
        else
          product.run({a, b, c}, scratch);
      }
    });
    if (k_.count == 1) return;
    const Cut adds(elements(), kAddBlock);
    context.pool->parallel_for(adds.count, [&](int64_t block, int) {
      float* c = static_cast<float*>(args.c) + block * kAddBlock;
      for (int64_t part = 1; part < k_.count; ++part) {
        const float* from = partial(context, part) + block * kAddBlock;
        const int64_t count = adds.length(block);
        for (int64_t i = 0; i < count; ++i) c[i] += from[i];
      }
    });
  }

 private:
  // Inner batch dimensions that share b and continue the rows of a are rows: x[B,T,K] W is x[BT,K]
  // W.
  static void fold_batch(MatmulProblem& p) {
    for (size_t d = p.batch.size(); d-- > 0;) {
      if (p.batch[d] != 1) continue;
      p.batch.erase(p.batch.begin() + static_cast<std::ptrdiff_t>(d));
      p.a_batch.erase(p.a_batch.begin() + static_cast<std::ptrdiff_t>(d));
      p.b_batch.erase(p.b_batch.begin() + static_cast<std::ptrdiff_t>(d));
    }
    while (!p.batch.empty() && p.b_batch.back() == 0 &&
           (p.m == 1 || p.a_batch.back() == p.m * p.a_row)) {
      if (p.m == 1) p.a_row = p.a_batch.back();
      p.m *= p.batch.back();
      p.batch.pop_back();
      p.a_batch.pop_back();
      p.b_batch.pop_back();
    }
  }

  int64_t elements() const { return batches_ * p_.m * p_.n; }
  int64_t blocks() const { return groups_.count * m_.count * n_.count * k_.count; }

  // By the shape alone, so that the bits do not depend on the number of threads.
  void cut() {
    m_ = Cut(p_.m, kRows);
    n_ = Cut(p_.n, p_.n);
    k_ = Cut(p_.k, p_.k);
    groups_ = Cut(batches_, std::max<int64_t>(1, kRows / p_.m));
    if (blocks() < kFewBlocks && p_.n >= 2 * kColumns) n_ = Cut(p_.n, kColumns);
    if (blocks() < kFewBlocks) {
      const int64_t parts =
          std::min({kMaxParts, p_.k / kPartLength, 1 + kPartialFloats / elements()});
      // Whole vectors of 16 in each piece.
      if (parts > 1) k_ = Cut(p_.k, ceil_div(ceil_div(p_.k, parts), 16) * 16);
    }
    scratch_bytes = static_cast<size_t>((k_.count - 1) * elements()) * sizeof(float);
  }

  // The first piece of k has the bias, the last one may be shorter.
  int64_t kind(int64_t ik) const { return ik == 0 ? 0 : k_.last(ik) ? 2 : 1; }

  bool find_primitives() {
    const bool run_time_m = b_.transposed && p_.k * n_.piece >= kLargeTransposed;
    for (int64_t im : {int64_t{0}, m_.count - 1}) {
      for (int64_t in : {int64_t{0}, n_.count - 1}) {
        for (int64_t ik : {int64_t{0}, std::min<int64_t>(1, k_.count - 1), k_.count - 1}) {
          PrimitivePtr& slot = primitives_[m_.last(im)][n_.last(in)][kind(ik)];
          slot = product(m_.length(im), n_.length(in), k_.length(ik), a_, b_, p_.n,
                         p_.bias && ik == 0, run_time_m);
          if (!slot) return false;
          worker_scratch_bytes = std::max(worker_scratch_bytes, slot->scratchpad_bytes());
        }
      }
    }
    return true;
  }

  int64_t offset(int64_t element, const std::vector<int64_t>& strides) const {
    int64_t at = 0;
    for (size_t d = p_.batch.size(); d-- > 0; element /= p_.batch[d])
      at += element % p_.batch[d] * strides[d];
    return at;
  }

  float* partial(const KernelContext& context, int64_t part) const {
    return reinterpret_cast<float*>(context.scratch) + (part - 1) * elements();
  }

  MatmulProblem p_;
  Layout a_, b_;
  int64_t batches_ = 1;
  Cut m_, n_, k_, groups_;
  PrimitivePtr primitives_[2][2][3];  // [last rows][last columns][kind of piece of k]
};

}  // namespace

namespace matmul_detail {

std::unique_ptr<KernelPlan<MatmulArgs>> plan_dnnl(const MatmulProblem& problem) {
  check(problem);
  auto plan = std::make_unique<MatmulDnnl>();
  if (!plan->make(problem)) return nullptr;
  return plan;
}

}  // namespace matmul_detail
}  // namespace fovea

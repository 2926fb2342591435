// linear through oneDNN: the product of a block of rows, then the epilogue while the block is in
// the cache.
#include "fovea/kernels/linear_dnnl.h"

namespace fovea {
namespace linear_detail {
namespace {

using dnnl::memory;
using dnnl_support::Op;
using dnnl_support::PrimitivePtr;

constexpr int64_t kColumns = 256;  // in a block of work, where there are many
constexpr int64_t kFewBlocks = 8;
// A block this small takes ten microseconds: handing less to another thread, which may have to wake
// up first, does not pay.
constexpr int64_t kLeastFlops = 1'000'000;
constexpr int64_t kLeastRows = 16;
// From this many blocks of rows on, packing W at the start of run() costs less than the copies that
// oneDNN makes for each block.
constexpr int64_t kBlocksForPacking = 4;

memory::data_type type_of(bool is_bf16) {
  return is_bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

memory::desc strided(int64_t rows, int64_t columns, memory::data_type type, bool transposed,
                     int64_t ld) {
  return memory::desc({rows, columns}, type,
                      transposed ? memory::dims{1, ld} : memory::dims{ld, 1});
}

std::vector<int64_t> key_of(const Product& p) {
  return {p.m,    p.n,    p.k,    p.is_bf16, p.a_transposed, p.a_ld, p.b_packed, p.b_transposed,
          p.b_ld, p.c_ld, p.bias, p.packed_m};
}

// b's layout is oneDNN's choice unless `layout` is given.
PrimitivePtr make(const Product& p, const memory::desc* layout) {
  const auto type = type_of(p.is_bf16);
  const memory::desc a = strided(p.m, p.k, type, p.a_transposed, p.a_ld);
  const memory::desc c = strided(p.m, p.n, memory::data_type::f32, false, p.c_ld);
  const memory::desc b = layout       ? *layout
                         : p.b_packed ? memory::desc({p.k, p.n}, type, memory::format_tag::any)
                                      : strided(p.k, p.n, type, p.b_transposed, p.b_ld);
  const memory::desc bias =
      p.bias ? strided(1, p.n, memory::data_type::f32, false, p.n) : memory::desc();
  const dnnl::matmul::primitive_desc pd(dnnl::matmul::desc(a, b, bias, c),
                                        dnnl_support::user_scratchpad(), dnnl_support::engine());
  if (!dnnl_support::is_fast(pd)) return nullptr;
  std::vector<dnnl_support::Operand> operands = {
      {DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, pd.weights_desc()}, {DNNL_ARG_DST, c}};
  if (p.bias) operands.push_back({DNNL_ARG_BIAS, bias});
  return std::make_shared<dnnl_support::Primitive>(dnnl::matmul(pd), pd.scratchpad_desc(),
                                                   std::move(operands));
}

// The product that says what the packed layout is.
Product packed_for(Product p) {
  p.m = p.packed_m;
  p.b_transposed = false;
  p.b_ld = 0;
  return p;
}

}  // namespace

PrimitivePtr find(const Product& product) {
  if (!product.b_packed)
    return dnnl_support::cached(Op::matmul, key_of(product),
                                [&] { return make(product, nullptr); });
  const Product first = packed_for(product);
  const PrimitivePtr tall =
      dnnl_support::cached(Op::matmul, key_of(first), [&] { return make(first, nullptr); });
  if (!tall || product.m == product.packed_m) return tall;
  Product p = first;
  p.m = product.m;
  return dnnl_support::cached(Op::matmul, key_of(p),
                              [&] { return make(p, &tall->desc(kOperandB)); });
}

PrimitivePtr find_packing(const Product& product) {
  const PrimitivePtr tall = find(packed_for(product));
  if (!tall) return nullptr;
  Product any_m = product;
  any_m.m = product.packed_m;
  return dnnl_support::cached(Op::repack, key_of(any_m), [&]() -> PrimitivePtr {
    const memory::desc from =
        strided(product.k, product.n, type_of(product.is_bf16), product.b_transposed, product.b_ld);
    const memory::desc& to = tall->desc(kOperandB);
    const dnnl::reorder::primitive_desc pd(dnnl_support::engine(), from, dnnl_support::engine(), to,
                                           dnnl_support::user_scratchpad());
    return std::make_shared<dnnl_support::Primitive>(
        dnnl::reorder(pd), pd.scratchpad_desc(),
        std::vector<dnnl_support::Operand>{{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
  });
}

namespace {

// Whole blocks of about 256 rows, of the same height and of a number that 2 or 4 threads share
// evenly; fewer rows where there is little work.
Cut cut_rows(int64_t rows, int64_t columns_count, int64_t flops) {
  const int64_t enough = std::max<int64_t>(1, kFewBlocks / columns_count);
  int64_t count = std::min({enough, flops / kLeastFlops, rows / kLeastRows});
  count = std::max(count, ceil_div(rows, 256));
  if (count > 2) count = ceil_div(count, 4) * 4;
  return Cut(rows, ceil_div(rows, count));
}

class LinearDnnl : public KernelPlan<LinearArgs> {
 public:
  // False: not for this kernel.
  bool make(const LinearProblem& p) {
    if (p.w != DType::f32 && p.w != DType::bf16) return false;
    if (p.rows == 0 || p.n == 0 || p.k == 0 || !has_function(p)) return false;
    p_ = p;
    n_ = Cut(p.n, p.n >= 2 * kColumns ? kColumns : p.n);
    m_ = cut_rows(p.rows, n_.count, 2 * p.rows * p.n * p.k);
    finishes_ = p.activation != LinearActivation::none || p.residual || p.y != DType::f32;
    rounds_ = p.w == DType::bf16 && p.x == DType::f32;
    if (!find_primitives()) return false;
    passes_ = row_passes().front();

    for (int64_t in : {int64_t{0}, n_.count - 1}) {
      const auto& layout = packed_[1][n_.last(in)]->desc(kOperandB);
      packed_piece_ = std::max(packed_piece_, dnnl_support::aligned(layout.get_size()));
    }
    packed_bytes = static_cast<size_t>(n_.count) * packed_piece_;
    packs_ = !plain_[1][1] || m_.count >= kBlocksForPacking;
    if (packs_) scratch_bytes = packed_bytes;
    h_at_ = dnnl_support::aligned(worker_scratch_bytes);
    x_at_ = h_at_ + (finishes_ ? block_bytes(n_.piece, sizeof(float)) : 0);
    worker_scratch_bytes = x_at_ + (rounds_ ? block_bytes(p.k, sizeof(bf16)) : 0);
    return true;
  }

  void pack(const LinearArgs& args, std::byte* to) const noexcept override {
    // There is no worker's scratch here; oneDNN's reorders of a plain matrix ask for none.
    for (int64_t in = 0; in < n_.count; ++in) pack_piece(args, in, to, nullptr);
  }

  void run(const LinearArgs& args, const KernelContext& context) const noexcept override {
    const std::byte* packed = context.packed;
    if (!packed && packs_) {
      context.pool->parallel_for(n_.count, [&](int64_t in, int worker) {
        pack_piece(args, in, context.scratch, context.worker<void>(worker));
      });
      packed = context.scratch;
    }
    context.pool->parallel_for(m_.count * n_.count, [&](int64_t block, int worker) {
      run_block(args, packed, block / n_.count, block % n_.count,
                context.worker<std::byte>(worker));
    });
  }

 private:
  size_t block_bytes(int64_t columns, size_t size) const {
    return dnnl_support::aligned(static_cast<size_t>(m_.piece * columns) * size);
  }

  const void* weights(const LinearArgs& args, int64_t in) const {
    const int64_t at = in * n_.piece * (p_.transposed ? 1 : p_.k);
    return static_cast<const std::byte*>(args.w) + at * static_cast<int64_t>(dtype_size(p_.w));
  }

  void pack_piece(const LinearArgs& args, int64_t in, std::byte* to, void* scratch) const noexcept {
    packing_[n_.last(in)]->run({weights(args, in), to + static_cast<size_t>(in) * packed_piece_},
                               scratch);
  }

  void run_block(const LinearArgs& args, const std::byte* packed, int64_t im, int64_t in,
                 std::byte* scratch) const noexcept {
    const int64_t first_row = im * m_.piece, rows = m_.length(im);
    const int64_t first_column = in * n_.piece, columns = n_.length(in);
    const void* x = static_cast<const std::byte*>(args.x) +
                    first_row * p_.k * static_cast<int64_t>(dtype_size(p_.x));
    if (rounds_) {
      bf16* rounded = reinterpret_cast<bf16*>(scratch + x_at_);
      passes_.round(static_cast<const float*>(x), p_.k, rows, p_.k, rounded);
      x = rounded;
    }
    float* h = finishes_ ? reinterpret_cast<float*>(scratch + h_at_)
                         : static_cast<float*>(args.y) + first_row * p_.n + first_column;
    const auto& primitive = *(packed ? packed_ : plain_)[m_.last(im)][n_.last(in)];
    const void* w = packed ? packed + static_cast<size_t>(in) * packed_piece_ : weights(args, in);
    if (p_.bias && !finishes_)
      primitive.run({x, w, h, static_cast<const float*>(args.bias) + first_column}, scratch);
    else
      primitive.run({x, w, h}, scratch);
    if (!finishes_) return;
    passes_.epilogue(p_, args,
                     {.h = h,
                      .stride = n_.piece,
                      .first_row = first_row,
                      .rows = rows,
                      .first_column = first_column,
                      .columns = columns,
                      .add_bias = p_.bias});
  }

  bool find_primitives() {
    for (int64_t im : {int64_t{0}, m_.count - 1}) {
      for (int64_t in : {int64_t{0}, n_.count - 1}) {
        Product product{.m = m_.length(im),
                        .n = n_.length(in),
                        .k = p_.k,
                        .is_bf16 = p_.w == DType::bf16,
                        .a_ld = p_.k,
                        .b_transposed = !p_.transposed,
                        .b_ld = p_.transposed ? p_.n : p_.k,
                        .c_ld = finishes_ ? n_.piece : p_.n,
                        .bias = p_.bias && !finishes_};
        PrimitivePtr& plain = plain_[m_.last(im)][n_.last(in)];
        PrimitivePtr& packed = packed_[m_.last(im)][n_.last(in)];
        PrimitivePtr& packing = packing_[n_.last(in)];
        plain = find(product);
        product.b_packed = true;
        product.packed_m = m_.piece;
        packed = find(product);
        packing = find_packing(product);
        if (!packed || !packing) return false;
        for (const PrimitivePtr& p : {plain, packed, packing})
          if (p) worker_scratch_bytes = std::max(worker_scratch_bytes, p->scratchpad_bytes());
        if (packing->scratchpad_bytes() > 0) return false;
      }
    }
    return true;
  }

  LinearProblem p_;
  Cut m_, n_;
  bool finishes_ = false;  // with an epilogue of ours
  bool rounds_ = false;    // x to bf16
  bool packs_ = false;     // for itself, where nothing was packed ahead
  RowPasses passes_{};
  PrimitivePtr plain_[2][2], packed_[2][2];  // [last rows][last columns]
  PrimitivePtr packing_[2];                  // [last columns]
  size_t packed_piece_ = 0;
  size_t h_at_ = 0, x_at_ = 0;  // in a worker's scratch
};

}  // namespace

std::unique_ptr<KernelPlan<LinearArgs>> plan_dnnl(const LinearProblem& problem) {
  check(problem);
  auto plan = std::make_unique<LinearDnnl>();
  if (!plan->make(problem)) return nullptr;
  return plan;
}

}  // namespace linear_detail
}  // namespace fovea

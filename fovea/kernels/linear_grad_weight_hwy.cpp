// The gradient of a narrow linear layer's weight in fp32: dw = dy^T x. Both operands are read as
// they lie: a row of x in vectors, a row of dy by broadcast, and a tile of dw stays in registers
// over a chunk of rows. oneDNN transposes dy first, which shows where n and k are small.
#define HWY_TARGET_INCLUDE "fovea/kernels/linear_grad_weight_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/linear.h"
#include "fovea/kernels/linear_dnnl.h"
#include "fovea/kernels/math-inl.h"

#ifndef FOVEA_LINEAR_GRAD_WEIGHT_ONCE
#define FOVEA_LINEAR_GRAD_WEIGHT_ONCE
namespace fovea::linear_detail {
namespace {

// A piece of the rows; dw and db are set.
struct GradPiece {
  const float* dy = nullptr;
  const float* x = nullptr;
  float* dw = nullptr;
  float* db = nullptr;  // or null
  int64_t rows = 0, n = 0, k = 0;
};

}  // namespace
}  // namespace fovea::linear_detail
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using linear_detail::GradPiece;
using simd::kLanes;
using simd::Vec;

// As many accumulators as the registers hold beside the operands.
constexpr int kTileRows = 6;
constexpr int kTileVecs = HWY_TARGET == HWY_AVX3 ? 4 : 2;
// Rows whose x, kTileVecs vectors wide, are read again and again from the first caches; fewer cost
// more loads and stores of dw.
constexpr int64_t kChunk = 192;

// dw[j .. j + kRows, l .. l + kVecs * kLanes] of one chunk of rows.
template <int kRows, int kVecs>
HWY_INLINE void tile(const GradPiece& p, const float* HWY_RESTRICT dy, const float* HWY_RESTRICT x,
                     int64_t rows, bool add, float* HWY_RESTRICT dw) {
  const simd::F32 d;
  const int64_t n = p.n, k = p.k;
  Vec sum[kRows][kVecs];
  FOVEA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v)
      sum[r][v] = add ? simd::load(dw + r * k + v * kLanes) : hn::Zero(d);
  }
  for (int64_t i = 0; i < rows; ++i, dy += n, x += k) {
    Vec right[kVecs];
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) right[v] = simd::load(x + v * kLanes);
    FOVEA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec left = hn::Set(d, dy[r]);
      FOVEA_UNROLL
      for (int v = 0; v < kVecs; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
    }
  }
  FOVEA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) simd::store(sum[r][v], dw + r * k + v * kLanes);
  }
}

template <int kVecs>
HWY_NOINLINE void panel(const GradPiece& p, int64_t first, int64_t rows, int64_t l) {
  const float* dy = p.dy + first * p.n;
  const float* x = p.x + first * p.k + l;
  float* dw = p.dw + l;
  const bool add = first > 0;
  for (int64_t left = p.n; left > 0;) {
    // Tiles of 6 as far as they come out even, then of 4.
    int step = 1;
    if (left % kTileRows == 0 || left >= 2 * kTileRows) {
      tile<kTileRows, kVecs>(p, dy, x, rows, add, dw);
      step = kTileRows;
    } else if (left >= 4) {
      tile<4, kVecs>(p, dy, x, rows, add, dw);
      step = 4;
    } else {
      tile<1, kVecs>(p, dy, x, rows, add, dw);
    }
    left -= step;
    dy += step;
    dw += step * p.k;
  }
}

// sums[c] (+)= the sum of dy over a chunk of rows.
HWY_INLINE void add_columns(const GradPiece& p, int64_t first, int64_t rows) {
  const simd::F32 d;
  constexpr int kVecs = 4;
  const float* from = p.dy + first * p.n;
  const auto columns = [&]<int kCount>(int64_t c) HWY_ATTR {
    Vec sum[kCount];
    FOVEA_UNROLL
    for (int v = 0; v < kCount; ++v)
      sum[v] = first > 0 ? simd::load(p.db + c + v * kLanes) : hn::Zero(d);
    const float* dy = from + c;
    for (int64_t r = 0; r < rows; ++r, dy += p.n) {
      FOVEA_UNROLL
      for (int v = 0; v < kCount; ++v) sum[v] = hn::Add(sum[v], simd::load(dy + v * kLanes));
    }
    FOVEA_UNROLL
    for (int v = 0; v < kCount; ++v) simd::store(sum[v], p.db + c + v * kLanes);
  };
  int64_t c = 0;
  for (; c + kVecs * kLanes <= p.n; c += kVecs * kLanes) columns.template operator()<kVecs>(c);
  for (; c + kLanes <= p.n; c += kLanes) columns.template operator()<1>(c);
  for (; c < p.n; ++c) {
    float sum = first > 0 ? p.db[c] : 0.0f;
    for (int64_t r = 0; r < rows; ++r) sum += from[r * p.n + c];
    p.db[c] = sum;
  }
}

}  // namespace

void linear_grad_weight(const GradPiece& p) {
  for (int64_t first = 0; first < p.rows; first += kChunk) {
    const int64_t rows = HWY_MIN(kChunk, p.rows - first);
    if (p.db) add_columns(p, first, rows);
    // Panels of nearly equal width.
    int64_t vecs = p.k / kLanes;
    int64_t panels = (vecs + kTileVecs - 1) / kTileVecs;
    for (int64_t l = 0; panels > 0; --panels) {
      const int64_t width = (vecs + panels - 1) / panels;
      if (width == 1) panel<1>(p, first, rows, l);
      if (width == 2) panel<2>(p, first, rows, l);
      if constexpr (kTileVecs > 2) {
        if (width == 3) panel<3>(p, first, rows, l);
        if (width == 4) panel<4>(p, first, rows, l);
      }
      l += width * kLanes;
      vecs -= width;
    }
  }
}
int64_t linear_grad_weight_lanes() { return kLanes; }

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::linear_detail {
namespace {

constexpr int64_t kWidest = 256;     // n and k; beyond, oneDNN is as fast
constexpr int64_t kPieceRows = 512;  // in a piece of the rows
constexpr int64_t kMaxPieces = 12;
constexpr int64_t kAddBlock = 2048;  // elements that one block adds up

class GradWeightHwy final : public KernelPlan<LinearGradWeightArgs> {
 public:
  GradWeightHwy(const LinearGradWeightProblem& p, void (*function)(const GradPiece&))
      : p_(p), function_(function), passes_(row_passes().front()) {
    int64_t pieces = std::clamp<int64_t>(p.rows / kPieceRows, 1, kMaxPieces);
    if (pieces > 1) pieces = ceil_div(pieces, 2) * 2;  // two threads share them evenly
    r_ = Cut(p.rows, ceil_div(p.rows, pieces));
    elements_ = p.n * p.k + (p.bias ? p.n : 0);
    scratch_bytes = static_cast<size_t>((r_.count - 1) * elements_) * sizeof(float);
  }

  void run(const LinearGradWeightArgs& args, const KernelContext& context) const noexcept override {
    float* const dw = static_cast<float*>(args.dw);
    float* const db = p_.bias ? static_cast<float*>(args.db) : nullptr;
    // Partial results of dw, then of db.
    const auto partial = [&](int64_t piece) {
      return reinterpret_cast<float*>(context.scratch) + (piece - 1) * elements_;
    };
    context.pool->parallel_for(r_.count, [&](int64_t i, int) {
      float* to = i == 0 ? dw : partial(i);
      function_({.dy = static_cast<const float*>(args.dy) + i * r_.piece * p_.n,
                 .x = static_cast<const float*>(args.x) + i * r_.piece * p_.k,
                 .dw = to,
                 .db = i == 0 || !db ? db : to + p_.n * p_.k,
                 .rows = r_.length(i),
                 .n = p_.n,
                 .k = p_.k});
    });
    if (r_.count == 1) return;
    const Cut cut(p_.n * p_.k, kAddBlock);
    context.pool->parallel_for(cut.count + p_.bias, [&](int64_t block, int) {
      const bool is_dw = block < cut.count;
      const int64_t from = is_dw ? block * kAddBlock : p_.n * p_.k;
      for (int64_t piece = 1; piece < r_.count; ++piece)
        passes_.add(partial(piece) + from, is_dw ? cut.length(block) : p_.n,
                    is_dw ? dw + from : db);
    });
  }

 private:
  LinearGradWeightProblem p_;
  void (*function_)(const GradPiece&);
  RowPasses passes_;
  Cut r_;
  int64_t elements_ = 0;  // of a partial result
};

template <void (*kFunction)(const GradPiece&), int64_t (*kLanesOf)()>
std::unique_ptr<KernelPlan<LinearGradWeightArgs>> plan_hwy(const LinearGradWeightProblem& p) {
  check(p);
  if (p.dy != DType::f32 || p.x != DType::f32) return nullptr;
  if (p.rows == 0 || p.n == 0 || p.k == 0) return nullptr;
  if (p.n > kWidest || p.k > kWidest || p.k % kLanesOf() != 0) return nullptr;
  return std::make_unique<GradWeightHwy>(p, kFunction);
}

}  // namespace

void append_grad_weight_hwy(
    [[maybe_unused]] std::vector<Kernel<LinearGradWeightProblem, LinearGradWeightArgs>>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit)               \
    list.push_back({name, plan_hwy<target::linear_grad_weight, target::linear_grad_weight_lanes>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::linear_detail
#endif  // HWY_ONCE

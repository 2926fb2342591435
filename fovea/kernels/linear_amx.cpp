// linear on AMX tiles: bf16 weights packed tile by tile, blocks of 32 x 32 results, each finished
// (bias, activation, residual, conversion) from L1 while the tiles work on the next.
#include <algorithm>

#include "fovea/kernels/amx.h"
#include "fovea/kernels/linear.h"
#include "fovea/kernels/linear_finish.h"

#if FOVEA_AMX

namespace fovea {
namespace {

using amx::kDepth;
using amx::kTileBytes;
using amx::kTileFloats;
using amx::kTileRows;
using linear_detail::Finish;
using linear_detail::FinishBlock;
using linear_detail::FinishCall;
using linear_detail::LinearPlan;

constexpr int64_t kSide = 32;  // of a block of results: two tiles by two
constexpr int64_t kResults = kSide * kSide;
constexpr int64_t kRows = 256;                       // rows of a block of work, at most
constexpr int64_t kLeftElements = int64_t{1} << 18;  // of x that a block packs, at most
constexpr int64_t kResidentBytes = 32 << 10;         // packed weights that stay in L1
constexpr int64_t kSerialPackBytes = 64 << 10;       // weights too few to share out the packing
constexpr int64_t kLargeProduct = int64_t{1} << 16;  // weights that are worth cutting columns
constexpr int64_t kWantedBlocks = 8;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a problem is cut, by its sizes alone.
struct Cut {
  Cut() = default;
  explicit Cut(const LinearProblem& p)
      : k_tiles(ceil_div(p.k, kDepth)),
        panels(ceil_div(p.n, kSide)),
        panel_bytes(k_tiles * 2 * kTileBytes) {
    rows = std::clamp(ceil_div(ceil_div(p.rows, 4), kSide) * kSide, kSide, kRows);
    while (rows > kSide && rows * k_tiles * kDepth > kLeftElements) rows -= kSide;
    row_blocks = ceil_div(p.rows, rows);
    panels_each = panels;
    if (row_blocks > 0 && row_blocks < 4 && p.n * p.k >= kLargeProduct)
      panels_each = ceil_div(panels, std::min(panels, ceil_div(kWantedBlocks, row_blocks)));
    column_blocks = panels_each > 0 ? ceil_div(panels, panels_each) : 0;
    // Few weights stay in L1 while the rows pass by; of many, each panel serves a whole block.
    group = panels_each * panel_bytes <= kResidentBytes ? kSide : rows;
    left_bytes = group * k_tiles * (2 * kDepth);
  }

  int64_t packed_bytes() const { return panels * panel_bytes; }

  int64_t k_tiles = 0;
  int64_t panels = 0;       // of 32 columns
  int64_t panel_bytes = 0;  // packed: for each 32 of k, two tiles side by side
  int64_t rows = 0;         // of a block of work
  int64_t row_blocks = 0, column_blocks = 0;
  int64_t panels_each = 0;  // panels of a block of work
  int64_t group = 0;        // rows that each panel passes by before the next panel
  int64_t left_bytes = 0;   // of x, packed, for a group
};

}  // namespace
}  // namespace fovea

FOVEA_AMX_BEGIN
namespace fovea {
namespace {

// The results of the products before, finished a few rows at a time between products: vector
// instructions that stand among tile instructions cost the least.
class Pending {
 public:
  Pending(const FinishCall& call, const Finish& finish, int64_t k_tiles)
      : call_(call),
        finish_(finish),
        rows_each_(std::max<int64_t>(4, ceil_div(kSide, std::max<int64_t>(k_tiles, 1)))) {}

  void some() {
    if (done_ < block_.rows) advance(std::min(block_.rows, done_ + rows_each_));
  }
  void rest() {
    if (done_ < block_.rows) advance(block_.rows);
  }
  void take(const FinishBlock& block) {
    block_ = block;
    done_ = 0;
  }

 private:
  void advance(int64_t end) {
    finish_(call_, block_, done_, end);
    done_ = end;
  }

  const FinishCall& call_;
  const Finish& finish_;
  int64_t rows_each_;
  FinishBlock block_;
  int64_t done_ = 0;
};

// Up to 32 rows of x, in place or packed.
struct Left {
  const std::byte* at = nullptr;
  int64_t stride = 0;     // from row to row, in bytes
  int64_t next_rows = 0;  // from 16 rows to the next 16
  int64_t next_k = 0;     // from a tile to the next along k
};

// h[32, 32] = M x N tiles of x times a panel of the weights.
template <int M, int N>
inline void multiply(const Left& left, const std::byte* panel, int64_t k_tiles, float* h,
                     Pending& pending) {
  _tile_zero(0);
  if constexpr (N == 2) _tile_zero(1);
  if constexpr (M == 2) _tile_zero(2);
  if constexpr (M == 2 && N == 2) _tile_zero(3);
  const std::byte* a = left.at;
  for (int64_t t = 0; t < k_tiles; ++t, a += left.next_k, panel += 2 * kTileBytes) {
    _tile_loadd(6, panel, 64);
    _tile_loadd(4, a, left.stride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (M == 2) {
      _tile_loadd(5, a + left.next_rows, left.stride);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (N == 2) {
      _tile_loadd(7, panel + kTileBytes, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (M == 2 && N == 2) _tile_dpbf16ps(3, 5, 7);
    pending.some();
  }
  pending.rest();  // it reads h
  constexpr int64_t kStride = kSide * sizeof(float);
  _tile_stored(0, h, kStride);
  if constexpr (N == 2) _tile_stored(1, h + 16, kStride);
  if constexpr (M == 2) _tile_stored(2, h + 16 * kSide, kStride);
  if constexpr (M == 2 && N == 2) _tile_stored(3, h + 16 * kSide + 16, kStride);
}

template <class X>
void run_block(const FinishCall& call, const Cut& cut, const Finish& finish,
               const std::byte* packed, int64_t block, std::byte* scratch) {
  const LinearProblem& p = call.p;
  float* const h = reinterpret_cast<float*>(scratch);
  std::byte* const room = scratch + kResults * sizeof(float);
  const X* x = static_cast<const X*>(call.args.x);
  const int64_t first = block / cut.column_blocks * cut.rows;
  const int64_t end = std::min(p.rows, first + cut.rows);
  const int64_t first_panel = block % cut.column_blocks * cut.panels_each;
  const int64_t end_panel = std::min(cut.panels, first_panel + cut.panels_each);
  const bool in_place = sizeof(X) == 2 && p.k % kDepth == 0;
  const int64_t pair_bytes = 2 * cut.k_tiles * kTileBytes;

  const amx::Tiles tiles;
  Pending pending(call, finish, cut.k_tiles);
  for (int64_t group = first; group < end; group += cut.group) {
    const int64_t group_end = std::min(end, group + cut.group);
    for (int64_t panel = first_panel; panel < end_panel; ++panel) {
      for (int64_t r = group; r < group_end; r += kSide) {
        const int64_t rows = std::min(kSide, group_end - r);
        const int64_t padded = rows > kTileRows ? kSide : kTileRows;
        Left left;
        if (in_place && rows == padded) {
          left = {reinterpret_cast<const std::byte*>(x + r * p.k), 2 * p.k, 2 * p.k * kTileRows,
                  2 * kDepth};
        } else {
          std::byte* to = room + (r - group) / kSide * pair_bytes;
          if (panel == first_panel) {
            amx::pack_left(x + r * p.k, p.k, rows, padded, p.k, to);
            amx::fence();
          }
          left = {to, 64, cut.k_tiles * kTileBytes, kTileBytes};
        }
        const int64_t columns = std::min(kSide, p.n - panel * kSide);
        const std::byte* w = packed + panel * cut.panel_bytes;
        if (padded == kSide && columns > 16)
          multiply<2, 2>(left, w, cut.k_tiles, h, pending);
        else if (padded == kSide)
          multiply<2, 1>(left, w, cut.k_tiles, h, pending);
        else if (columns > 16)
          multiply<1, 2>(left, w, cut.k_tiles, h, pending);
        else
          multiply<1, 1>(left, w, cut.k_tiles, h, pending);
        pending.take({h, kSide, r, rows, panel * kSide, columns});
      }
    }
  }
  pending.rest();
}

void pack_panel(const LinearProblem& p, const Cut& cut, const bf16* w, int64_t panel,
                std::byte* to) {
  to += panel * cut.panel_bytes;
  const int64_t column = panel * kSide, columns = std::min(kSide, p.n - column);
  for (int64_t t = 0; t < cut.k_tiles; ++t, to += 2 * kTileBytes) {
    const int64_t k = t * kDepth, depth = std::min(kDepth, p.k - k);
    if (p.transposed) {
      amx::interleave<amx::Order::natural>(w + k * p.n + column, p.n, depth, columns, to);
      continue;
    }
    for (int64_t c = 0; c < kSide; ++c) {
      const __m512i v =
          c < columns ? amx::load32(w + (column + c) * p.k + k, depth) : _mm512_setzero_si512();
      _mm512_storeu_si512(to + 64 * c, v);
    }
    amx::transpose_tile(to, to);
    amx::transpose_tile(to + kTileBytes, to + kTileBytes);
  }
}

}  // namespace
}  // namespace fovea
FOVEA_AMX_END

namespace fovea {
namespace {

// What LinearPlan asks of these kernels.
struct Amx : Cut {
  explicit Amx(const LinearProblem& p) : Cut(p) {}
  static constexpr int64_t kMostSerialPack = kSerialPackBytes;
  int64_t scratch_bytes() const {
    return kResults * static_cast<int64_t>(sizeof(float)) + left_bytes;
  }
  void pack_panel(const LinearProblem& p, const bf16* w, int64_t panel, std::byte* to) const {
    fovea::pack_panel(p, *this, w, panel, to);
  }
  template <class X>
  void run_block(const FinishCall& call, const Finish& finish, const std::byte* packed,
                 int64_t block, std::byte* scratch) const {
    fovea::run_block<X>(call, *this, finish, packed, block, scratch);
  }
};

}  // namespace

std::unique_ptr<KernelPlan<LinearArgs>> linear_detail::plan_amx(const LinearProblem& problem) {
  check(problem);
  if (!can_finish(problem) || !amx::available()) return nullptr;
  return std::make_unique<LinearPlan<Amx>>(problem);
}

}  // namespace fovea

#else

std::unique_ptr<fovea::KernelPlan<fovea::LinearArgs>> fovea::linear_detail::plan_amx(
    const LinearProblem& problem) {
  check(problem);
  return nullptr;
}

#endif

// linear with vdpbf16ps, for processors without tiles: bf16 weights in pairs along k, a block of 6
// rows by 4 vectors of results in registers, finished from there or from L1.
#include <algorithm>

#include "fovea/kernels/linear.h"
#include "fovea/kernels/linear_finish.h"

#if FOVEA_AVX512_BF16

namespace fovea {
namespace {

using linear_detail::Finish;
using linear_detail::FinishBlock;
using linear_detail::FinishCall;
using linear_detail::LinearPlan;

constexpr int64_t kLanes = 16;
constexpr int64_t kVecs = 4;               // vectors of results side by side
constexpr int64_t kSide = kVecs * kLanes;  // columns of a panel
constexpr int64_t kTileRows = 6;
constexpr int64_t kRows = 40 * kTileRows;            // rows of a block of work, at most
constexpr int64_t kLeftBytes = int64_t{1} << 19;     // of x that a block rounds ahead, at most
constexpr int64_t kResidentBytes = 24 << 10;         // packed weights that stay in L1
constexpr int64_t kSerialPackBytes = 64 << 10;       // weights too few to share out the packing
constexpr int64_t kLargeProduct = int64_t{1} << 16;  // weights that are worth cutting columns
constexpr int64_t kWantedBlocks = 8;
constexpr int64_t kLeastFlops = 1'000'000;  // some microseconds; less is not worth another thread

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// How a problem is cut, by its sizes alone.
struct Cut {
  Cut() = default;
  explicit Cut(const LinearProblem& p)
      : pairs(ceil_div(p.k, 2)),
        panels(ceil_div(p.n, kSide)),
        panel_bytes(pairs * kSide * 4),
        left_stride(round_up(p.k, 32) * 2) {
    const int64_t most =
        left_stride * kRows > kLeftBytes ? std::max(kLeftBytes / left_stride, kTileRows) : kRows;
    int64_t blocks = std::clamp<int64_t>(2 * p.rows * p.n * p.k / kLeastFlops, 1, kWantedBlocks);
    blocks = std::max(blocks, ceil_div(p.rows, most));
    if (blocks > 2) blocks = round_up(blocks, 4);
    rows = std::max(round_up(ceil_div(p.rows, blocks), kTileRows), kTileRows);
    row_blocks = ceil_div(p.rows, rows);
    panels_each = panels;
    if (row_blocks > 0 && row_blocks < 4 && p.n * p.k >= kLargeProduct)
      panels_each = ceil_div(panels, std::min(panels, ceil_div(kWantedBlocks, row_blocks)));
    column_blocks = panels_each > 0 ? ceil_div(panels, panels_each) : 0;
    // Few weights stay in L1 while the rows pass by; of many, each panel serves a whole block.
    group = panels_each * panel_bytes <= kResidentBytes ? kTileRows : rows;
  }

  int64_t packed_bytes() const { return panels * panel_bytes; }

  int64_t pairs = 0;        // along k
  int64_t panels = 0;       // of 64 columns
  int64_t panel_bytes = 0;  // packed: for each pair of k, the panel's columns
  int64_t left_stride = 0;  // of a row of x that is rounded ahead, in bytes
  int64_t rows = 0;         // of a block of work
  int64_t row_blocks = 0, column_blocks = 0;
  int64_t panels_each = 0;  // panels of a block of work
  int64_t group = 0;        // rows that each panel passes by before the next panel
};

// The product of up to 6 rows of x and a panel of the weights.
struct Tile {
  const std::byte* x = nullptr;
  int64_t stride = 0;  // of x, in bytes
  const std::byte* w = nullptr;
  int64_t pairs = 0;
  int64_t row = 0, column = 0;  // of its results in the problem's arrays
};

}  // namespace
}  // namespace fovea

FOVEA_AVX512_BF16_BEGIN
namespace fovea {
namespace {

// sum = x w, in registers.
template <int R, int V>
inline void multiply(const Tile& tile, __m512 (&sum)[R][V]) {
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = _mm512_setzero_ps();
  }
  const std::byte* x = tile.x;
  const std::byte* w = tile.w;
  const int64_t stride = tile.stride;
  for (int64_t i = 0; i < tile.pairs; ++i, x += 4, w += V * 64) {
    __m512i right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = _mm512_loadu_si512(w + 64 * v);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      int pair;
      __builtin_memcpy(&pair, x + r * stride, 4);
      const __m512i left = _mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        sum[r][v] = _mm512_dpbf16_ps(sum[r][v], (__m512bh)left, (__m512bh)right[v]);
    }
  }
}

using MultiplyTo = void (*)(const Tile& tile, float* h);
// To h[6, 64].
template <int R, int V>
void multiply_to(const Tile& tile, float* h) {
  __m512 sum[R][V];
  multiply(tile, sum);
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) _mm512_store_ps(h + r * kSide + v * kLanes, sum[r][v]);
  }
}

// Without an activation a whole panel's results go from the registers to y.
using MultiplyAndFinish = void (*)(const FinishCall& call, const Tile& tile);
template <class Y, int R>
void multiply_and_finish(const FinishCall& call, const Tile& tile) {
  __m512 sum[R][kVecs];
  multiply(tile, sum);
  using Finisher = linear_detail::finish::Finisher<linear_detail::finish::Step::none, Y, true>;
  const Finisher first(call, tile.column, 32), second(call, tile.column + 32, 32);
  int64_t i = tile.row * call.p.n + tile.column;
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r, i += call.p.n) {
    first({sum[r][0], sum[r][1]}, i);
    second({sum[r][2], sum[r][3]}, i + 32);
  }
}

template <int R>
constexpr MultiplyTo kMultiplyTo[] = {multiply_to<R, 1>, multiply_to<R, 2>, multiply_to<R, 3>,
                                      multiply_to<R, 4>};
constexpr const MultiplyTo* kMultiply[] = {kMultiplyTo<1>, kMultiplyTo<2>, kMultiplyTo<3>,
                                           kMultiplyTo<4>, kMultiplyTo<5>, kMultiplyTo<6>};
template <class Y>
constexpr MultiplyAndFinish kMultiplyAndFinish[] = {
    multiply_and_finish<Y, 1>, multiply_and_finish<Y, 2>, multiply_and_finish<Y, 3>,
    multiply_and_finish<Y, 4>, multiply_and_finish<Y, 5>, multiply_and_finish<Y, 6>};

template <class X>
void round_rows(const X* x, int64_t k, int64_t rows, std::byte* to, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, x += k, to += stride)
    for (int64_t i = 0; i < k; i += 32)
      _mm512_storeu_si512(to + 2 * i, avx512_bf16::load32(x + i, k - i));
}

template <class X>
void run_block(const FinishCall& call, const Cut& cut, const Finish& finish,
               const std::byte* packed, int64_t block, std::byte* scratch) {
  const LinearProblem& p = call.p;
  float* const h = reinterpret_cast<float*>(scratch);
  std::byte* const room = scratch + kTileRows * kSide * sizeof(float);
  const X* x = static_cast<const X*>(call.args.x);
  const int64_t first = block / cut.column_blocks * cut.rows;
  const int64_t end = std::min(p.rows, first + cut.rows);
  const int64_t first_panel = block % cut.column_blocks * cut.panels_each;
  const int64_t end_panel = std::min(cut.panels, first_panel + cut.panels_each);
  const bool in_place = sizeof(X) == 2 && p.k % 2 == 0;
  const bool from_registers = p.activation == LinearActivation::none;

  for (int64_t group = first; group < end; group += cut.group) {
    const int64_t rows = std::min(end - group, cut.group);
    Tile tile{reinterpret_cast<const std::byte*>(x + group * p.k), 2 * p.k, nullptr, cut.pairs};
    if (!in_place) {
      round_rows(x + group * p.k, p.k, rows, room, cut.left_stride);
      tile.x = room;
      tile.stride = cut.left_stride;
    }
    const std::byte* const left = tile.x;
    // Tiles of equal height, since low ones are slower.
    const int64_t tiles = ceil_div(rows, kTileRows);
    for (int64_t panel = first_panel; panel < end_panel; ++panel) {
      tile.w = packed + panel * cut.panel_bytes;
      tile.column = panel * kSide;
      const int64_t columns = std::min(kSide, p.n - tile.column);
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t r = t * rows / tiles, count = (t + 1) * rows / tiles - r;
        tile.x = left + r * tile.stride;
        tile.row = group + r;
        if (from_registers && columns == kSide) {
          (p.y == DType::f32 ? kMultiplyAndFinish<float> : kMultiplyAndFinish<bf16>)[count - 1](
              call, tile);
          continue;
        }
        kMultiply[count - 1][(columns - 1) / kLanes](tile, h);
        for (int64_t c = 0; c < columns; c += 32)
          finish(
              call,
              {h + c, kSide, tile.row, count, tile.column + c, std::min<int64_t>(32, columns - c)},
              0, count);
      }
    }
  }
}

void pack_panel(const LinearProblem& p, const Cut& cut, const bf16* w, int64_t panel,
                std::byte* to) {
  to += panel * cut.panel_bytes;
  const int64_t column = panel * kSide, columns = std::min(kSide, p.n - column);
  const int64_t next = ceil_div(columns, kLanes) * 64;  // from a pair of k to the next, in bytes
  if (p.transposed) {
    for (int64_t i = 0; i < cut.pairs; ++i, to += next) {
      const bf16* even = w + 2 * i * p.n + column;
      for (int64_t c = 0; c < columns; c += 32) {
        const auto pairs = avx512_bf16::interleave(
            avx512_bf16::load32(even + c, columns - c),
            2 * i + 1 < p.k ? avx512_bf16::load32(even + p.n + c, columns - c)
                            : _mm512_setzero_si512());
        _mm512_storeu_si512(to + 4 * c, pairs.first);
        if (columns - c > kLanes) _mm512_storeu_si512(to + 4 * c + 64, pairs.second);
      }
    }
    return;
  }
  for (int64_t c = 0; c < columns; c += kLanes, to += 64) {
    for (int64_t i = 0; i < cut.pairs; i += kLanes) {
      __m512i a[16];
#pragma GCC unroll 16
      for (int64_t j = 0; j < kLanes; ++j) {
        a[j] = c + j < columns
                   ? avx512_bf16::load32(w + (column + c + j) * p.k + 2 * i, p.k - 2 * i)
                   : _mm512_setzero_si512();
      }
      avx512_bf16::transpose(a);
#pragma GCC unroll 16
      for (int64_t j = 0; j < kLanes; ++j)
        if (i + j < cut.pairs) _mm512_storeu_si512(to + (i + j) * next, a[j]);
    }
  }
}

}  // namespace
}  // namespace fovea
FOVEA_TARGET_END

namespace fovea {
namespace {

// What LinearPlan asks of these kernels.
struct DotProducts : Cut {
  explicit DotProducts(const LinearProblem& p) : Cut(p) {}
  static constexpr int64_t kMostSerialPack = kSerialPackBytes;
  int64_t scratch_bytes() const {
    return kTileRows * kSide * static_cast<int64_t>(sizeof(float)) +
           std::min(group, rows) * left_stride;
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

std::unique_ptr<KernelPlan<LinearArgs>> linear_detail::plan_avx512bf16(
    const LinearProblem& problem) {
  check(problem);
  if (!can_finish(problem) || !avx512_bf16::available()) return nullptr;
  return std::make_unique<LinearPlan<DotProducts>>(problem);
}

}  // namespace fovea

#else

std::unique_ptr<fovea::KernelPlan<fovea::LinearArgs>> fovea::linear_detail::plan_avx512bf16(
    const LinearProblem& problem) {
  check(problem);
  return nullptr;
}

#endif

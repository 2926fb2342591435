// linear_grad_weight on AMX tiles. The rows are the depth of the product, so both operands are
// interleaved in pairs of rows; the narrower one is then transposed to be the left operand, which
// makes the result dw or its transpose. Results of pieces of rows are added in order at the end.
#include <algorithm>

#include "fovea/kernels/amx.h"
#include "fovea/kernels/linear.h"

#if FOVEA_AMX

namespace fovea {
namespace {

using amx::kDepth;
using amx::kTileBytes;
using amx::kTileFloats;

constexpr int64_t kSide = 32;                   // columns of dy or x that are packed side by side
constexpr int64_t kStepBytes = 2 * kTileBytes;  // they, packed, for 32 rows
constexpr int64_t kResults = kSide * kSide;
constexpr int64_t kPieceRows = 256;  // shortest piece of rows that is a task of its own
constexpr int64_t kMaxPieces = 16;
constexpr int64_t kMaxSteps = 16;                     // of 32 rows, packed at a time
constexpr int64_t kMaxPanels = 8;                     // of 32 columns in a task, for each operand
constexpr int64_t kPartialFloats = int64_t{1} << 22;  // most scratch for more than one piece

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// `count` things in `parts` parts that differ by one at most: part i begins at begin(i).
struct Parts {
  int64_t count = 0, parts = 1;
  int64_t begin(int64_t i) const { return i * count / parts; }
  int64_t longest() const { return ceil_div(count, parts); }
};

// How a problem is cut, by its sizes alone.
struct Cut {
  Cut() = default;
  explicit Cut(const LinearGradWeightProblem& p)
      : dy_panels{ceil_div(p.n, kSide), 1}, x_panels{ceil_div(p.k, kSide), 1} {
    steps.count = ceil_div(p.rows, kDepth);
    dy_panels.parts = std::max<int64_t>(1, ceil_div(dy_panels.count, kMaxPanels));
    x_panels.parts = std::max<int64_t>(1, ceil_div(x_panels.count, kMaxPanels));
    const int64_t room = std::max<int64_t>(1, kPartialFloats / std::max<int64_t>(1, floats()));
    const int64_t pieces = ceil_div(p.rows, kPieceRows);
    steps.parts = std::clamp<int64_t>(pieces + pieces % 2, 1, std::min(kMaxPieces, room));
    if (pieces <= 1) steps.parts = 1;
    packed_steps = std::min(kMaxSteps, steps.longest());
  }

  int64_t floats() const { return dy_panels.count * x_panels.count * kResults; }
  int64_t sums() const { return dy_panels.count * kSide; }
  int64_t tasks() const { return steps.parts * dy_panels.parts * x_panels.parts; }
  // All rows are packed at once, so that each result is final and can be written from L1.
  bool at_once() const { return packed_steps == steps.count; }

  Parts steps;  // of 32 rows; its parts are the pieces
  Parts dy_panels, x_panels;
  int64_t packed_steps = 0;
};

struct Call {
  const LinearGradWeightProblem& p;
  const LinearGradWeightArgs& args;
  const Cut& cut;
  bool x_left;
  float* partials;  // [pieces][left panels][right panels][2][2] tiles, columns swizzled
  float* sums;      // [pieces][columns of dy], for db

  int64_t right_panels() const { return x_left ? cut.dy_panels.count : cut.x_panels.count; }
};

}  // namespace
}  // namespace fovea

FOVEA_AMX_BEGIN
namespace fovea {
namespace {

inline __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }

// Adds 32 rows (of which `rows` exist) of 32 columns up, as they are. packed: the same,
// interleaved.
inline void add_rows(const float* from, int64_t stride, int64_t rows, int64_t columns,
                     const std::byte*, float* sums) {
  const __mmask16 low = avx512_bf16::mask16(columns), high = avx512_bf16::mask16(columns - 16);
  __m512 a = _mm512_load_ps(sums), b = _mm512_load_ps(sums + 16);
  for (int64_t r = 0; r < std::min(rows, kDepth); ++r) {
    a = add(a, _mm512_maskz_loadu_ps(low, from + r * stride));
    b = add(b, _mm512_maskz_loadu_ps(high, from + r * stride + 16));
  }
  _mm512_store_ps(sums, a);
  _mm512_store_ps(sums + 16, b);
}
inline void add_rows(const bf16*, int64_t, int64_t, int64_t, const std::byte* packed, float* sums) {
  const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  __m512 even_sum[2], odd_sum[2];
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    even_sum[h] = odd_sum[h] = _mm512_setzero_ps();
    for (int64_t p = 0; p < amx::kTileRows; ++p) {
      const __m512i v = _mm512_loadu_si512(packed + h * kTileBytes + 64 * p);
      even_sum[h] = add(even_sum[h], _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, v, 16)));
      odd_sum[h] = add(odd_sum[h], _mm512_castsi512_ps(_mm512_and_si512(v, odd)));
    }
  }
  __m512 a, b;
  amx::unswizzle(add(even_sum[0], odd_sum[0]), add(even_sum[1], odd_sum[1]), a, b);
  _mm512_store_ps(sums, add(_mm512_load_ps(sums), a));
  _mm512_store_ps(sums + 16, add(_mm512_load_ps(sums + 16), b));
}

// A range of an operand's rows (in steps of 32) and columns (in panels of 32).
struct Range {
  int64_t step, steps, panel, panels;
};

// Packed: [panels][steps] pairs of tiles. sums: null, or [panels * 32], which is added to.
template <class T>
void pack(const void* array, int64_t rows, int64_t columns, const Range& range, bool left,
          std::byte* to, float* sums) {
  for (int64_t s = 0; s < range.steps; ++s) {
    const int64_t row = (range.step + s) * kDepth;
    for (int64_t g = 0; g < range.panels; ++g) {
      const int64_t column = (range.panel + g) * kSide;
      const T* from = static_cast<const T*>(array) + row * columns + column;
      std::byte* at = to + (g * range.steps + s) * kStepBytes;
      amx::interleave<amx::Order::swizzled>(from, columns, rows - row, columns - column, at);
      if (sums) add_rows(from, columns, rows - row, columns - column, at, sums + g * kSide);
      if (!left) continue;
      amx::transpose_tile(at, at);
      amx::transpose_tile(at + kTileBytes, at + kTileBytes);
    }
  }
}

// result[2][2] tiles = or += left panel times right panel, over `steps`.
inline void multiply(const std::byte* a, const std::byte* b, int64_t steps, bool first,
                     float* result) {
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, result, 64);
    _tile_loadd(1, result + kTileFloats, 64);
    _tile_loadd(2, result + 2 * kTileFloats, 64);
    _tile_loadd(3, result + 3 * kTileFloats, 64);
  }
  for (int64_t s = 0; s < steps; ++s, a += kStepBytes, b += kStepBytes) {
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a + kTileBytes, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_loadd(7, b + kTileBytes, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, result, 64);
  _tile_stored(1, result + kTileFloats, 64);
  _tile_stored(2, result + 2 * kTileFloats, 64);
  _tile_stored(3, result + 3 * kTileFloats, 64);
}

// Writes the product of a panel of the left operand and one of the right, four tiles that are
// changed on the way, to dw in its order.
inline void write_result(const Call& call, int64_t left_panel, int64_t right_panel, float* tiles) {
  const LinearGradWeightProblem& p = call.p;
  int64_t row = left_panel * kSide, column = right_panel * kSide;
  // Tile (h, g) of the four holds left columns h and right columns g, 16 each. A row of dw is two
  // of their rows side by side, or of the transposed tiles.
  int64_t next_row_half = 2 * kTileFloats, next_column_half = kTileFloats;
  if (call.x_left) {
    for (int t = 0; t < 4; ++t) {
      auto* tile = reinterpret_cast<std::byte*>(tiles + t * kTileFloats);
      amx::transpose_tile(tile, tile);
    }
    std::swap(row, column);
    std::swap(next_row_half, next_column_half);
  }
  const __mmask16 low = avx512_bf16::mask16(p.k - column),
                  high = avx512_bf16::mask16(p.k - column - 16);
  float* const dw = static_cast<float*>(call.args.dw) + row * p.k + column;
  for (int64_t half = 0; half < 2; ++half) {
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t r = amx::swizzled(half, i);
      if (row + r >= p.n) continue;
      const float* at = tiles + half * next_row_half + i * 16;
      __m512 a, b;
      amx::unswizzle(_mm512_load_ps(at), _mm512_load_ps(at + next_column_half), a, b);
      _mm512_mask_storeu_ps(dw + r * p.k, low, a);
      _mm512_mask_storeu_ps(dw + r * p.k + 16, high, b);
    }
  }
}

// Adds the pieces' results for one panel of each operand up.
void add_pieces(const Call& call, int64_t index) {
  alignas(64) float total[kResults];
  const float* from = call.partials + index * kResults;
  const int64_t pieces = call.cut.steps.parts, next = call.cut.floats();
  for (int64_t i = 0; i < kResults; i += 16) {
    __m512 sum = _mm512_loadu_ps(from + i);
    for (int64_t piece = 1; piece < pieces; ++piece)
      sum = add(sum, _mm512_loadu_ps(from + piece * next + i));
    _mm512_store_ps(total + i, sum);
  }
  write_result(call, index / call.right_panels(), index % call.right_panels(), total);
}

void run_task(const Call& call, int64_t task, std::byte* scratch) {
  const LinearGradWeightProblem& p = call.p;
  const Cut& cut = call.cut;
  const int64_t x_part = task % cut.x_panels.parts;
  const int64_t dy_part = task / cut.x_panels.parts % cut.dy_panels.parts;
  const int64_t piece = task / cut.x_panels.parts / cut.dy_panels.parts;
  const auto range_of = [](const Parts& panels, int64_t part) {
    const int64_t begin = panels.begin(part);
    return Range{0, 0, begin, panels.begin(part + 1) - begin};
  };
  Range dy = range_of(cut.dy_panels, dy_part), x = range_of(cut.x_panels, x_part);
  std::byte* const packed_dy = scratch;
  std::byte* const packed_x = scratch + dy.panels * cut.packed_steps * kStepBytes;
  const Range& left = call.x_left ? x : dy;
  const Range& right = call.x_left ? dy : x;
  const std::byte* a = call.x_left ? packed_x : packed_dy;
  const std::byte* b = call.x_left ? packed_dy : packed_x;
  const int64_t right_panels = call.right_panels();
  float* const partial = call.partials + piece * cut.floats();

  float* sums = nullptr;
  if (p.bias && x_part == 0) {
    sums = call.sums + piece * cut.sums() + dy.panel * kSide;
    std::fill_n(sums, dy.panels * kSide, 0.0f);
  }
  const amx::Tiles tiles;
  const int64_t begin = cut.steps.begin(piece), end = cut.steps.begin(piece + 1);
  int64_t step = begin;
  do {
    dy.step = x.step = step;
    dy.steps = x.steps = std::min(cut.packed_steps, end - step);
    (p.dy == DType::f32 ? pack<float> : pack<bf16>)(call.args.dy, p.rows, p.n, dy, !call.x_left,
                                                    packed_dy, sums);
    if (x.panels > 0)
      (p.x == DType::f32 ? pack<float> : pack<bf16>)(call.args.x, p.rows, p.k, x, call.x_left,
                                                     packed_x, nullptr);
    amx::fence();
    const int64_t panel_bytes = dy.steps * kStepBytes;
    // The right panel stays in L1 while the left ones pass by.
    for (int64_t j = 0; j < right.panels; ++j) {
      for (int64_t i = 0; i < left.panels; ++i) {
        const int64_t row = left.panel + i, column = right.panel + j;
        float* to = cut.at_once() ? call.partials + task * kResults
                                  : partial + (row * right_panels + column) * kResults;
        multiply(a + i * panel_bytes, b + j * panel_bytes, dy.steps, step == begin, to);
        if (cut.at_once()) write_result(call, row, column, to);
      }
    }
    amx::fence();
    step += dy.steps;
  } while (step < end);
}

}  // namespace
}  // namespace fovea
FOVEA_AMX_END

namespace fovea {
namespace {

class GradWeightAmx final : public KernelPlan<LinearGradWeightArgs> {
 public:
  explicit GradWeightAmx(const LinearGradWeightProblem& problem) : p_(problem), cut_(problem) {
    scratch_bytes =
        static_cast<size_t>(partial_floats() + cut_.steps.parts * cut_.sums()) * sizeof(float);
    worker_scratch_bytes = static_cast<size_t>(
        (cut_.dy_panels.longest() + cut_.x_panels.longest()) * cut_.packed_steps * kStepBytes);
  }

  void run(const LinearGradWeightArgs& args, const KernelContext& context) const noexcept override {
    if (p_.n == 0) return;
    float* partials = reinterpret_cast<float*>(context.scratch);
    float* sums = partials + partial_floats();
    const Call call{p_, args, cut_, p_.k < p_.n, partials, sums};
    context.pool->parallel_for(cut_.tasks(), [&](int64_t task, int worker) {
      run_task(call, task, context.worker<std::byte>(worker));
    });
    if (!cut_.at_once())
      context.pool->parallel_for(cut_.dy_panels.count * cut_.x_panels.count,
                                 [&](int64_t i, int) { add_pieces(call, i); });
    if (!p_.bias) return;
    float* db = static_cast<float*>(args.db);
    std::copy_n(sums, p_.n, db);
    for (int64_t piece = 1; piece < cut_.steps.parts; ++piece)
      for (int64_t i = 0; i < p_.n; ++i) db[i] += sums[piece * cut_.sums() + i];
  }

 private:
  int64_t partial_floats() const {
    return cut_.at_once() ? cut_.tasks() * kResults : cut_.steps.parts * cut_.floats();
  }

  LinearGradWeightProblem p_;
  Cut cut_;
};

}  // namespace

std::unique_ptr<KernelPlan<LinearGradWeightArgs>> linear_detail::plan_grad_weight_amx(
    const LinearGradWeightProblem& problem) {
  check(problem);
  const auto fits = [](DType t) { return t == DType::f32 || t == DType::bf16; };
  if (!fits(problem.dy) || !fits(problem.x) || !amx::available()) return nullptr;
  if (problem.dy == DType::f32 && problem.x == DType::f32) return nullptr;
  return std::make_unique<GradWeightAmx>(problem);
}

}  // namespace fovea

#else

std::unique_ptr<fovea::KernelPlan<fovea::LinearGradWeightArgs>>
fovea::linear_detail::plan_grad_weight_amx(const LinearGradWeightProblem& problem) {
  check(problem);
  return nullptr;
}

#endif

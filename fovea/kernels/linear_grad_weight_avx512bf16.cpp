// linear_grad_weight with vdpbf16ps, for processors without tiles. The rows are the depth of the
// product, so a chunk of both operands is interleaved in pairs of rows; then a tile of dw stays in
// registers over the chunk, with x in vectors and dy by broadcast. Results of pieces of rows are
// added in order at the end.
#include <algorithm>

#include "fovea/kernels/avx512_bf16.h"
#include "fovea/kernels/linear.h"

#if FOVEA_AVX512_BF16

namespace fovea {
namespace {

using avx512_bf16::load32;
using avx512_bf16::mask16;

constexpr int64_t kLanes = 16;
constexpr int64_t kTileRows = 6;           // of dw, in registers
constexpr int64_t kVecs = 4;               // vectors of dw side by side
constexpr int64_t kSide = kVecs * kLanes;  // columns of a panel of x
constexpr int64_t kPanelRowBytes = kSide * 4;
constexpr int64_t kChunkPairs = 80;  // pairs of rows of a chunk, at most: a panel stays in L1
constexpr int64_t kMost = 256;       // columns of dy and of x in a task
// Packed dy: for each pair of rows kMost pairs, and a line more, so that they do not all fall into
// the same few sets of the cache.
constexpr int64_t kLeftStride = kMost * 4 + 64;
constexpr int64_t kPieceRows = 512;  // shortest piece of rows that is a task of its own
constexpr int64_t kMaxPieces = 12;
constexpr int64_t kPartialFloats = int64_t{1} << 22;  // most scratch for partial results
constexpr int64_t kAddBlock = 2048;                   // elements that one block adds up

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// `count` things in `parts` parts that differ by one at most: part i begins at begin(i).
struct Parts {
  int64_t count = 0, parts = 1;
  int64_t begin(int64_t i) const { return i * count / parts; }
  int64_t length(int64_t i) const { return begin(i + 1) - begin(i); }
  int64_t longest() const { return ceil_div(count, parts); }
};

// How a problem is cut, by its sizes alone.
struct Cut {
  Cut() = default;
  explicit Cut(const LinearGradWeightProblem& p)
      : pairs{ceil_div(p.rows, 2), 1},
        outputs{p.n, std::max<int64_t>(1, ceil_div(p.n, kMost))},
        inputs{ceil_div(p.k, kSide), std::max<int64_t>(1, ceil_div(p.k, kMost))},
        elements(p.n * p.k + (p.bias ? p.n : 0)) {
    const int64_t wanted =
        std::min({ceil_div(kMaxPieces, outputs.parts * inputs.parts), p.rows / kPieceRows,
                  1 + kPartialFloats / std::max<int64_t>(1, elements)});
    // Two threads share an even number of pieces.
    pairs.parts = wanted > 1 ? ceil_div(wanted, 2) * 2 : 1;
  }

  int64_t tasks() const { return pairs.parts * outputs.parts * inputs.parts; }
  // A worker's scratch: packed dy, packed x, and the sums of a task from chunk to chunk. (dw itself
  // may lie so that its rows drive each other out of the caches.)
  int64_t left_bytes() const { return kChunkPairs * kLeftStride; }
  int64_t right_bytes() const { return inputs.longest() * kChunkPairs * kPanelRowBytes; }
  int64_t sums_bytes() const { return outputs.longest() * inputs.longest() * kPanelRowBytes; }

  Parts pairs;           // of rows; its parts are the pieces
  Parts outputs;         // columns of dy
  Parts inputs;          // panels of x
  int64_t elements = 0;  // of a partial result: dw, then db
};

}  // namespace
}  // namespace fovea

FOVEA_AVX512_BF16_BEGIN
namespace fovea {
namespace {

// 32 columns of two rows, and their sums, which are taken before dy is rounded.
template <class T>
struct TwoRows;
template <>
struct TwoRows<float> {
  TwoRows(const float* even, const float* odd, int64_t columns) {
    const __mmask16 masks[2] = {mask16(columns), mask16(columns - 16)};
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      a[h] = _mm512_maskz_loadu_ps(masks[h], even + 16 * h);
      b[h] = odd ? _mm512_maskz_loadu_ps(masks[h], odd + 16 * h) : _mm512_setzero_ps();
    }
  }
  avx512_bf16::Pairs pairs() const {
    return avx512_bf16::interleave(avx512_bf16::narrow(a[0], a[1]),
                                   avx512_bf16::narrow(b[0], b[1]));
  }
  void add_to(__m512 (&sums)[2], const avx512_bf16::Pairs&) const {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) sums[h] = _mm512_add_ps(sums[h], _mm512_add_ps(a[h], b[h]));
  }
  __m512 a[2], b[2];
};
template <>
struct TwoRows<bf16> {
  TwoRows(const bf16* even, const bf16* odd, int64_t columns)
      : a(load32(even, columns)), b(odd ? load32(odd, columns) : _mm512_setzero_si512()) {}
  avx512_bf16::Pairs pairs() const { return avx512_bf16::interleave(a, b); }
  void add_to(__m512 (&sums)[2], const avx512_bf16::Pairs& p) const {
    const auto ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    sums[0] = _mm512_dpbf16_ps(sums[0], (__m512bh)p.first, ones);
    sums[1] = _mm512_dpbf16_ps(sums[1], (__m512bh)p.second, ones);
  }
  __m512i a, b;
};

// Where packed pairs lie: `row` bytes from a pair of rows to the next, `panel` from 64 columns to
// the next.
struct Layout {
  int64_t row, panel;
};
constexpr Layout kLeft{kLeftStride, kPanelRowBytes};
constexpr Layout kRight{kPanelRowBytes, kChunkPairs* kPanelRowBytes};

// sums: null, or of the columns, rounded up to 32, which is added to.
template <class T>
void pack(const void* array, int64_t stride, int64_t rows, int64_t columns, const Layout& layout,
          std::byte* to, float* sums) {
  if (rows == 0) return;  // the array may be null
  for (int64_t c = 0; c < columns; c += 32) {
    const T* from = static_cast<const T*>(array) + c;
    std::byte* at = to + c / kSide * layout.panel + c % kSide * 4;
    __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t r = 0; r < rows; r += 2, from += 2 * stride, at += layout.row) {
      const TwoRows<T> two(from, r + 1 < rows ? from + stride : nullptr, columns - c);
      const avx512_bf16::Pairs pairs = two.pairs();
      _mm512_storeu_si512(at, pairs.first);
      _mm512_storeu_si512(at + 64, pairs.second);
      if (sums) two.add_to(sum, pairs);
    }
    if (!sums) continue;
    _mm512_store_ps(sums + c, _mm512_add_ps(_mm512_load_ps(sums + c), sum[0]));
    _mm512_store_ps(sums + c + 16, _mm512_add_ps(_mm512_load_ps(sums + c + 16), sum[1]));
  }
}

// kTileRows rows of dw, by up to kVecs vectors.
struct Tile {
  const std::byte* dy = nullptr;
  const std::byte* x = nullptr;
  int64_t pairs = 0;
  float* sums = nullptr;  // of the chunks before, whole vectors; after the last one they go to dw
  int64_t sums_stride = 0;
  float* dw = nullptr;
  int64_t dw_stride = 0;
  __mmask16 end = 0;                 // the columns of dw that its last vector has
  bool first = false, last = false;  // of the chunks
};

template <int R, int V>
void multiply(const Tile& tile) {
  __m512 sum[R][V];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      sum[r][v] = tile.first ? _mm512_setzero_ps()
                             : _mm512_load_ps(tile.sums + r * tile.sums_stride + v * kLanes);
  }
  const std::byte* dy = tile.dy;
  const std::byte* x = tile.x;
  for (int64_t i = 0; i < tile.pairs; ++i, dy += kLeftStride, x += kPanelRowBytes) {
    __m512i right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = _mm512_loadu_si512(x + 64 * v);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      int pair;
      __builtin_memcpy(&pair, dy + 4 * r, 4);
      const __m512i left = _mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        sum[r][v] = _mm512_dpbf16_ps(sum[r][v], (__m512bh)left, (__m512bh)right[v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    float* const dw = tile.dw + r * tile.dw_stride;
    float* const sums = tile.sums + r * tile.sums_stride;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if (!tile.last)
        _mm512_store_ps(sums + v * kLanes, sum[r][v]);
      else if (v + 1 < V)
        _mm512_storeu_ps(dw + v * kLanes, sum[r][v]);
      else
        _mm512_mask_storeu_ps(dw + v * kLanes, tile.end, sum[r][v]);
    }
  }
}

using Multiply = void (*)(const Tile&);
template <int R>
constexpr Multiply kMultiplyRows[] = {multiply<R, 1>, multiply<R, 2>, multiply<R, 3>,
                                      multiply<R, 4>};
constexpr const Multiply* kMultiply[] = {kMultiplyRows<1>, kMultiplyRows<2>, kMultiplyRows<3>,
                                         kMultiplyRows<4>, kMultiplyRows<5>, kMultiplyRows<6>};

// One chunk of rows of dy and x, in up to kMost columns each.
struct Chunk {
  const LinearGradWeightProblem& p;
  const LinearGradWeightArgs& args;
  int64_t row = 0, rows = 0;
  int64_t output = 0, outputs = 0;  // columns of dy
  int64_t input = 0, inputs = 0;    // columns of x
  float* dw = nullptr;              // [n, k]
  float* sums = nullptr;            // of the columns of dy, or null
  bool first = false, last = false;
};

void run_chunk(const Chunk& c, const Cut& cut, std::byte* scratch) {
  std::byte* const left = scratch;
  std::byte* const right = left + cut.left_bytes();
  float* const sums = reinterpret_cast<float*>(right + cut.right_bytes());
  const auto at = [](const void* array, DType type, int64_t i) {
    return static_cast<const std::byte*>(array) + i * static_cast<int64_t>(dtype_size(type));
  };
  (c.p.dy == DType::f32 ? pack<float> : pack<bf16>)(at(c.args.dy, c.p.dy, c.row * c.p.n + c.output),
                                                    c.p.n, c.rows, c.outputs, kLeft, left, c.sums);
  (c.p.x == DType::f32 ? pack<float> : pack<bf16>)(at(c.args.x, c.p.x, c.row * c.p.k + c.input),
                                                   c.p.k, c.rows, c.inputs, kRight, right, nullptr);
  // Tiles of equal height, since low ones are slower.
  const Parts tiles{c.outputs, ceil_div(c.outputs, kTileRows)};
  for (int64_t i = 0; i < c.inputs; i += kSide) {
    const int64_t columns = std::min(kSide, c.inputs - i);
    const int64_t vecs = ceil_div(columns, kLanes);
    Tile tile{};
    tile.x = right + i / kSide * kChunkPairs * kPanelRowBytes;
    tile.pairs = ceil_div(c.rows, 2);
    tile.sums_stride = round_up(c.inputs, kSide);
    tile.dw_stride = c.p.k;
    tile.end = mask16(columns - (vecs - 1) * kLanes);
    tile.first = c.first;
    tile.last = c.last;
    for (int64_t t = 0; t < tiles.parts; ++t) {
      const int64_t row = tiles.begin(t);
      tile.dy = left + 4 * row;
      tile.sums = sums + row * tile.sums_stride + i;
      tile.dw = c.dw + (c.output + row) * c.p.k + c.input + i;
      kMultiply[tiles.length(t) - 1][vecs - 1](tile);
    }
  }
}

// to += from
void add(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const __mmask16 mask = mask16(count - i);
    const __m512 sum =
        _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to + i), _mm512_maskz_loadu_ps(mask, from + i));
    _mm512_mask_storeu_ps(to + i, mask, sum);
  }
}

}  // namespace
}  // namespace fovea
FOVEA_TARGET_END

namespace fovea {
namespace {

class GradWeightAvx512Bf16 final : public KernelPlan<LinearGradWeightArgs> {
 public:
  explicit GradWeightAvx512Bf16(const LinearGradWeightProblem& problem)
      : p_(problem), cut_(problem) {
    scratch_bytes = static_cast<size_t>((cut_.pairs.parts - 1) * cut_.elements) * sizeof(float);
    worker_scratch_bytes =
        static_cast<size_t>(cut_.left_bytes() + cut_.right_bytes() + cut_.sums_bytes());
  }

  void run(const LinearGradWeightArgs& args, const KernelContext& context) const noexcept override {
    if (p_.n == 0) return;
    float* const dw = static_cast<float*>(args.dw);
    float* const db = static_cast<float*>(args.db);
    const auto partial = [&](int64_t piece) {
      return reinterpret_cast<float*>(context.scratch) + (piece - 1) * cut_.elements;
    };
    context.pool->parallel_for(cut_.tasks(), [&](int64_t task, int worker) {
      const int64_t piece = task / cut_.inputs.parts / cut_.outputs.parts;
      float* to = piece == 0 ? dw : partial(piece);
      run_task(args, task, to, piece == 0 ? db : to + p_.n * p_.k,
               context.worker<std::byte>(worker));
    });
    if (cut_.pairs.parts == 1) return;
    const int64_t blocks = ceil_div(p_.n * p_.k, kAddBlock);
    context.pool->parallel_for(blocks + p_.bias, [&](int64_t block, int) {
      const bool is_dw = block < blocks;
      const int64_t from = is_dw ? block * kAddBlock : p_.n * p_.k;
      const int64_t count = is_dw ? std::min(kAddBlock, p_.n * p_.k - from) : p_.n;
      for (int64_t piece = 1; piece < cut_.pairs.parts; ++piece)
        add(partial(piece) + from, count, is_dw ? dw + from : db);
    });
  }

 private:
  void run_task(const LinearGradWeightArgs& args, int64_t task, float* dw, float* db,
                std::byte* scratch) const {
    const int64_t input = task % cut_.inputs.parts;
    const int64_t output = task / cut_.inputs.parts % cut_.outputs.parts;
    const int64_t piece = task / cut_.inputs.parts / cut_.outputs.parts;
    Chunk c{p_, args};
    c.output = cut_.outputs.begin(output);
    c.outputs = cut_.outputs.length(output);
    c.input = cut_.inputs.begin(input) * kSide;
    c.inputs = std::min(p_.k, cut_.inputs.begin(input + 1) * kSide) - c.input;
    c.dw = dw;
    alignas(64) float sums[kMost] = {};
    c.sums = p_.bias && input == 0 ? sums : nullptr;
    const int64_t first = cut_.pairs.begin(piece);
    const int64_t pairs = cut_.pairs.length(piece);
    const Parts chunks{pairs, std::max<int64_t>(1, ceil_div(pairs, kChunkPairs))};
    for (int64_t i = 0; i < chunks.parts; ++i) {
      c.row = 2 * (first + chunks.begin(i));
      c.rows = std::min(p_.rows - c.row, 2 * chunks.length(i));
      c.first = i == 0;
      c.last = i + 1 == chunks.parts;
      run_chunk(c, cut_, scratch);
    }
    if (c.sums) std::copy_n(sums, c.outputs, db + c.output);
  }

  LinearGradWeightProblem p_;
  Cut cut_;
};

}  // namespace

std::unique_ptr<KernelPlan<LinearGradWeightArgs>> linear_detail::plan_grad_weight_avx512bf16(
    const LinearGradWeightProblem& problem) {
  check(problem);
  const auto fits = [](DType t) { return t == DType::f32 || t == DType::bf16; };
  if (!fits(problem.dy) || !fits(problem.x) || !avx512_bf16::available()) return nullptr;
  if (problem.dy == DType::f32 && problem.x == DType::f32) return nullptr;
  return std::make_unique<GradWeightAvx512Bf16>(problem);
}

}  // namespace fovea

#else

std::unique_ptr<fovea::KernelPlan<fovea::LinearGradWeightArgs>>
fovea::linear_detail::plan_grad_weight_avx512bf16(const LinearGradWeightProblem& problem) {
  check(problem);
  return nullptr;
}

#endif

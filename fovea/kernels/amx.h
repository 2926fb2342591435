// What the kernels on Intel's matrix tiles (AMX, bf16) share: whether there are any, the tile
// configuration, and bringing operands into the order in which tiles are read. Everything is
// compiled for its instructions by attributes between FOVEA_AMX_BEGIN and FOVEA_AMX_END; callers
// ask amx::available() first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fovea/base/dtype.h"
#include "fovea/kernels/avx512_bf16.h"

namespace fovea::amx {

// Whether the processor has AMX with bf16 (and the AVX-512 that goes with it) and the system lends
// it to this process; asked for once.
bool available();

// From now on available() says yes to whoever has the vectors: for tests, after they have seen to
// the tile instructions in another way (amx_emulator.h). false: back to the truth.
void set_available_for_tests(bool on);

}  // namespace fovea::amx

#if FOVEA_AVX512_BF16
#define FOVEA_AMX 1

#define FOVEA_AMX_BEGIN FOVEA_TARGET_BEGIN("amx-tile,amx-bf16," FOVEA_AVX512_BF16_TARGET)
#define FOVEA_AMX_END FOVEA_TARGET_END

FOVEA_AMX_BEGIN
namespace fovea::amx {

using avx512_bf16::load32;

// A tile as these kernels use it: 16 rows of 64 bytes, dense where we pack it ourselves. The left
// operand has 32 bf16 in a row; the right one has 16 columns of pairs, (row 2p, row 2p+1) in its
// row p; the result has 16 f32.
constexpr int64_t kTileRows = 16;
constexpr int64_t kDepth = 32;
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kTileFloats = 256;

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
// An object with static storage: GCC 12 takes the load for one of 8 bytes and would drop the stores
// to the others.
inline constexpr TileConfig kAllTiles;

// Plain stores before it are seen by tile loads after it, and the other way round: GCC 12 does not
// know that tile loads read memory.
inline void fence() { asm volatile("" ::: "memory"); }

// Eight full tiles for the length of a block of work. oneDNN, on the same thread, drops a
// configuration, so none is kept from block to block.
class Tiles {
 public:
  Tiles() {
    fence();
    _tile_loadconfig(&kAllTiles);
  }
  ~Tiles() {
    fence();
    _tile_release();
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// Transposes a dense tile of 16 x 16 elements of 4 bytes. to may be from.
inline void transpose_tile(const std::byte* from, std::byte* to) {
  __m512i rows[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) rows[i] = _mm512_loadu_si512(from + 64 * i);
  avx512_bf16::transpose(rows);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + 64 * i, rows[i]);
}

// The order of 32 columns in two tiles side by side. Swizzled is what interleaving in lanes of 128
// bits gives for nothing: tile h, column j is column swizzled(h, j).
enum class Order { natural, swizzled };
constexpr int64_t swizzled(int64_t half, int64_t j) { return j / 4 * 8 + half * 4 + j % 4; }

// 32 swizzled floats back in their order.
inline void unswizzle(__m512 low, __m512 high, __m512& first, __m512& second) {
  const __m512i a = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i b = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  first = _mm512_permutex2var_ps(low, a, high);
  second = _mm512_permutex2var_ps(low, b, high);
}

// 32 rows of 32 columns (of which `rows` and `columns` exist; the others are 0) become two right
// operands side by side: pairs of rows, interleaved.
template <Order order, class T>
inline void interleave(const T* from, int64_t stride, int64_t rows, int64_t columns,
                       std::byte* to) {
  const __m512i quads = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t p = 0; p < kTileRows; ++p) {
    __m512i even = _mm512_setzero_si512(), odd = even;
    if (2 * p < rows) even = load32(from + 2 * p * stride, columns);
    if (2 * p + 1 < rows) odd = load32(from + (2 * p + 1) * stride, columns);
    if constexpr (order == Order::natural) {
      even = _mm512_maskz_permutexvar_epi64(0xff, quads, even);
      odd = _mm512_maskz_permutexvar_epi64(0xff, quads, odd);
    }
    _mm512_storeu_si512(to + 64 * p, _mm512_unpacklo_epi16(even, odd));
    _mm512_storeu_si512(to + kTileBytes + 64 * p, _mm512_unpackhi_epi16(even, odd));
  }
}

// `rows` rows of k elements become left operands: for each 16 rows, k_tiles tiles one after the
// other. Absent rows up to `padded` (a multiple of 16) and columns are 0.
template <class T>
inline void pack_left(const T* from, int64_t stride, int64_t rows, int64_t padded, int64_t k,
                      std::byte* to) {
  const int64_t k_tiles = (k + kDepth - 1) / kDepth;
  for (int64_t r = 0; r < padded; ++r) {
    std::byte* row = to + r / kTileRows * k_tiles * kTileBytes + r % kTileRows * 64;
    for (int64_t t = 0; t < k_tiles; ++t) {
      const __m512i v = r < rows ? load32(from + r * stride + t * kDepth, k - t * kDepth)
                                 : _mm512_setzero_si512();
      _mm512_storeu_si512(row + t * kTileBytes, v);
    }
  }
}

}  // namespace fovea::amx
FOVEA_AMX_END

#else
#define FOVEA_AMX 0
#endif

// Register-blocked products of the tiled kernels in low precision. Included, after <immintrin.h>,
// between FOVEA_TARGET_BEGIN and FOVEA_TARGET_END of the instruction set that the file is for.
#pragma once

namespace fovea::attention_detail {
namespace {

// C[row][lane] = sum over steps of A(row, step) . B[step][lane], for whole vectors of lanes.
struct TiledProduct {
  const std::byte* a;     // 4 bytes a step
  int64_t a_row, a_step;  // bytes
  const uint32_t* b;
  int64_t b_step;  // steps of 4 bytes
  int64_t steps;
  float* c;
  int64_t c_row;
  float* lanes = nullptr;              // what Finish says, one a lane
  const float* row_factor = nullptr;   // of whole numbers: one a row
  const float* lane_factor = nullptr;  // one a lane
  const int32_t* start = nullptr;      // of sums of whole numbers, one a lane
};

enum class Finish {
  set,
  max,      // and lanes[lane] becomes the maximum of itself and the lane's results
  scaled,   // times lane_factor
  add,      // to what stands in C
  rescale,  // to lanes[lane] times that; whole numbers first times lane_factor
};

// Which index of A is contiguous.
enum class Contiguous { step, row };

inline __m512i broadcast_step(const std::byte* p) {
  int step;
  std::memcpy(&step, p, sizeof step);
  return _mm512_set1_epi32(step);
}

template <class Dot, Finish kFinish, Contiguous kA, int R, int V>
inline void tiled_tile(const TiledProduct& x, int64_t row, int64_t lane) {
  using Sum = typename Dot::Sum;
  constexpr bool kWhole = Dot::kWhole;  // sums are whole numbers
  constexpr bool kFromC = !kWhole && (kFinish == Finish::add || kFinish == Finish::rescale);
  const int64_t a_row = kA == Contiguous::row ? 4 : x.a_row;
  const int64_t a_step = kA == Contiguous::row ? x.a_step : 4;
  const int64_t b_step = x.b_step, c_row = x.c_row;
  const std::byte* a = x.a + row * a_row;
  const uint32_t* b = x.b + lane;
  float* const c = x.c + row * c_row + lane;
  Sum sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if constexpr (kFromC) {
        sum[r][v] = _mm512_load_ps(c + r * c_row + 16 * v);
        if constexpr (kFinish == Finish::rescale)
          sum[r][v] = _mm512_mul_ps(sum[r][v], _mm512_load_ps(x.lanes + lane + 16 * v));
      } else {
        sum[r][v] = Dot::start(x.start, lane + 16 * v);
      }
    }
  }
  for (int64_t k = x.steps; k > 0; --k) {
    __m512i right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = _mm512_load_si512(b + 16 * v);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512i left = broadcast_step(a + r * a_row);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = Dot::dot(sum[r][v], left, right[v]);
    }
    a += a_step;
    b += b_step;
  }
  __m512 result[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      result[r][v] = Dot::number(sum[r][v]);
      if constexpr (kWhole && kFinish != Finish::rescale)
        result[r][v] = _mm512_mul_ps(result[r][v], _mm512_set1_ps(x.row_factor[row + r]));
      if constexpr (kFinish == Finish::scaled)
        result[r][v] = _mm512_mul_ps(result[r][v], _mm512_load_ps(x.lane_factor + lane + 16 * v));
      if constexpr (kWhole && kFinish == Finish::rescale) {
        const __m512 before = _mm512_mul_ps(_mm512_load_ps(c + r * c_row + 16 * v),
                                            _mm512_load_ps(x.lanes + lane + 16 * v));
        result[r][v] =
            _mm512_fmadd_ps(result[r][v], _mm512_load_ps(x.lane_factor + lane + 16 * v), before);
      }
      _mm512_store_ps(c + r * c_row + 16 * v, result[r][v]);
    }
  }
  if constexpr (kFinish == Finish::max) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      __m512 max = _mm512_load_ps(x.lanes + lane + 16 * v);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) max = _mm512_maskz_max_ps(0xffff, max, result[r][v]);
      _mm512_store_ps(x.lanes + lane + 16 * v, max);
    }
  }
}

template <class Dot, Finish kFinish, Contiguous kA, int V>
[[gnu::noinline]] void tiled_columns_of(const TiledProduct& x, int64_t rows, int64_t lane) {
  constexpr int kMost = V == 4 ? 6 : 8;
  int64_t r = 0;
  for (; r + kMost <= rows; r += kMost) tiled_tile<Dot, kFinish, kA, kMost, V>(x, r, lane);
  if (r + 4 <= rows) {
    tiled_tile<Dot, kFinish, kA, 4, V>(x, r, lane);
    r += 4;
  }
  if (r + 2 <= rows) {
    tiled_tile<Dot, kFinish, kA, 2, V>(x, r, lane);
    r += 2;
  }
  if (r < rows) tiled_tile<Dot, kFinish, kA, 1, V>(x, r, lane);
}

template <class Dot, Finish kFinish, Contiguous kA>
inline void tiled_product(const TiledProduct& x, int64_t rows, int64_t lanes) {
  int64_t lane = 0;
  for (; lane + 64 <= lanes; lane += 64) tiled_columns_of<Dot, kFinish, kA, 4>(x, rows, lane);
  if (lanes - lane == 48) tiled_columns_of<Dot, kFinish, kA, 3>(x, rows, lane);
  if (lanes - lane == 32) tiled_columns_of<Dot, kFinish, kA, 2>(x, rows, lane);
  if (lanes - lane == 16) tiled_columns_of<Dot, kFinish, kA, 1>(x, rows, lane);
}

// 2^x; relative error 7.5e-5 (degree 3), 7.5e-8 (degree 5); 0 at -infinity.
template <int kDegree>
inline __m512 tiled_exp2(__m512 x) {
  const __m512 f = _mm512_maskz_reduce_ps(0xffff, x, 1);
  __m512 p;
  if constexpr (kDegree == 3) {
    p = _mm512_set1_ps(0.0780245227f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.226067155f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.695833541f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.999925219f));
  } else {
    p = _mm512_set1_ps(0.00187757667f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.00898934009f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0558263181f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240153617f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693153073f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.999999925f));
  }
  return _mm512_maskz_scalef_ps(0xffff, p, x);
}

// -infinity less the base is -infinity.
inline __m512 tiled_base(__m512 max) {
  const __mmask16 some = _mm512_cmp_ps_mask(max, _mm512_set1_ps(-HUGE_VALF), _CMP_NEQ_UQ);
  return _mm512_maskz_mov_ps(some, max);
}

}  // namespace
}  // namespace fovea::attention_detail

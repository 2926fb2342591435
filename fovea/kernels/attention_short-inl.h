// SIMD parts of the kernels for short sequences, included once a target: all keys of a head stand
// in the first cache at once, so there is no online softmax. Scores have their lanes over queries;
// products with the probabilities have theirs over the head dimension, where nothing is padded and
// the results come out as rows. The few queries that would begin another vector of lanes are taken
// one by one, with their lanes over the head dimension too.
#if defined(FOVEA_KERNELS_ATTENTION_SHORT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_ATTENTION_SHORT_INL_H_
#undef FOVEA_KERNELS_ATTENTION_SHORT_INL_H_
#else
#define FOVEA_KERNELS_ATTENTION_SHORT_INL_H_
#endif

#include <cstdint>
#include <utility>

#include "fovea/kernels/attention_scores-inl.h"
#include "fovea/kernels/attention_short.h"
#include "fovea/kernels/math-inl.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

// ---- Products

// C[row][column] from A(row, step) = a[row * a_row + step * a_step] and B[step][column], for
// columns in whole vectors.
struct ShortProduct {
  const float* a;
  int64_t a_row, a_step;
  const float* b;
  int64_t b_step;
  float* c;
  int64_t c_row;
  int64_t steps;
  float* extra;  // what Finish says, or null
  bool add;      // to what stands in C
};

enum class Finish {
  plain,
  max,    // extra[column] becomes the maximum of itself and the column
  scale,  // row r is multiplied by extra[r]
};

constexpr int kShortVecs = HWY_TARGET == HWY_AVX3 ? 4 : 3;
// Rows of accumulators that the registers hold beside the operands.
constexpr int short_rows(int vecs) {
  if (HWY_TARGET == HWY_AVX3) return vecs == 1 ? 28 : vecs == 2 ? 13 : vecs == 3 ? 8 : 6;
  return vecs == 1 ? 12 : vecs == 2 ? 6 : 4;
}

// kARow: a_row, or 0 where it is known at run time only. Known strides stand in the instructions;
// others need a register for each row.
template <int kARow, Finish kFinish, int kRows, int kVecs>
HWY_NOINLINE void short_tile(const ShortProduct& x, int64_t row, int64_t column) {
  const F32 d;
  const int64_t a_row = kARow ? kARow : x.a_row;
  const float* HWY_RESTRICT a = x.a + row * a_row;
  const float* HWY_RESTRICT b = x.b + column;
  float* HWY_RESTRICT c = x.c + row * x.c_row + column;
  Vec sum[kRows][kVecs];
  FOVEA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) sum[r][v] = hn::Zero(d);
  }
  const int64_t a_step = x.a_step, b_step = x.b_step;
  for (int64_t k = x.steps; k > 0; --k) {
    Vec right[kVecs];
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) right[v] = hn::LoadU(d, b + v * kLanes);
    FOVEA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec left = hn::Set(d, a[r * a_row]);
      FOVEA_UNROLL
      for (int v = 0; v < kVecs; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
    }
    a += a_step;
    b += b_step;
  }
  if (kFinish == Finish::plain && x.add) {
    FOVEA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FOVEA_UNROLL
      for (int v = 0; v < kVecs; ++v)
        sum[r][v] = hn::Add(sum[r][v], hn::LoadU(d, c + r * x.c_row + v * kLanes));
    }
  }
  FOVEA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      if (kFinish == Finish::scale) sum[r][v] = hn::Mul(sum[r][v], hn::Set(d, x.extra[row + r]));
      hn::StoreU(sum[r][v], d, c + r * x.c_row + v * kLanes);
    }
  }
  if (kFinish == Finish::max) {
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      Vec max = hn::Load(d, x.extra + column + v * kLanes);
      FOVEA_UNROLL
      for (int r = 0; r < kRows; ++r) max = hn::Max(max, sum[r][v]);
      hn::Store(max, d, x.extra + column + v * kLanes);
    }
  }
}

template <int kARow, Finish kFinish, int kVecs, int... kRow>
HWY_INLINE void short_rows_of(const ShortProduct& x, int64_t rows, int64_t column,
                              std::integer_sequence<int, kRow...>) {
  using Tile = void (*)(const ShortProduct&, int64_t, int64_t);
  static constexpr Tile kTiles[] = {short_tile<kARow, kFinish, kRow + 1, kVecs>...};
  constexpr int64_t kMost = sizeof...(kRow);
  // Tiles of nearly equal height: 49 rows are 24 and 25, or seven times 7.
  int64_t pieces = (rows + kMost - 1) / kMost;
  for (int64_t row = 0; pieces > 0; --pieces) {
    const int64_t height = (rows - row) / pieces;
    kTiles[height - 1](x, row, column);
    row += height;
  }
}

template <int kARow, Finish kFinish, int kVecs>
HWY_INLINE void short_columns(const ShortProduct& x, int64_t rows, int64_t column) {
  short_rows_of<kARow, kFinish, kVecs>(x, rows, column,
                                       std::make_integer_sequence<int, short_rows(kVecs)>());
}

// vecs: columns in vectors, cut into pieces of nearly equal width.
template <int kARow, Finish kFinish>
HWY_INLINE void short_product(const ShortProduct& x, int64_t rows, int64_t vecs) {
  int64_t pieces = (vecs + kShortVecs - 1) / kShortVecs;
  for (int64_t column = 0; pieces > 0; --pieces) {
    const int64_t width = (vecs + pieces - 1) / pieces;
    if constexpr (kShortVecs == 4) {
      if (width == 4) short_columns<kARow, kFinish, 4>(x, rows, column);
    }
    if (width == 3) short_columns<kARow, kFinish, 3>(x, rows, column);
    if (width == 2) short_columns<kARow, kFinish, 2>(x, rows, column);
    if (width == 1) short_columns<kARow, kFinish, 1>(x, rows, column);
    column += width * kLanes;
    vecs -= width;
  }
}

// ---- Sums over lanes

// out[j] = a_j . b_j for j in [0, n), rows of whole vectors; out has room up to whole vectors.
HWY_NOINLINE void row_dots(Rows a, Rows b, int64_t n, int64_t dim, float* out) {
  const F32 d;
  int64_t j = 0;
  const auto products = [&](int64_t i) HWY_ATTR {
    const float* x = a.first + i * a.stride;
    const float* y = b.first + i * b.stride;
    Vec sum = hn::Mul(hn::LoadU(d, x), hn::LoadU(d, y));
    for (int64_t c = kLanes; c < dim; c += kLanes)
      sum = hn::MulAdd(hn::LoadU(d, x + c), hn::LoadU(d, y + c), sum);
    return sum;
  };
  for (; n - j > 3; j += kLanes) {
    Vec m[kLanes];
    FOVEA_UNROLL
    for (int64_t i = 0; i < kLanes; ++i) m[i] = products(HWY_MIN(j + i, n - 1));
    const auto each = [&](int64_t i) HWY_ATTR { return m[i]; };
    hn::StoreU(simd::join_each(each, simd::Plus()), d, out + j);
  }
  for (; j < n; ++j) out[j] = hn::GetLane(hn::SumOfLanes(d, products(j)));
}

// ---- Operands

// Rows as they lie if they can be read in whole vectors, else copied to `room`, padded with zeros.
template <class T>
HWY_NOINLINE Rows operand(const T* from, const AttentionStrides& strides, int64_t rows, int64_t dim,
                          float* room) {
  if constexpr (std::is_same_v<T, float>) {
    if (dim % kLanes == 0 && !attention_detail::scattered(strides, dim))
      return {from, strides.token};
  }
  return copied(from, strides, rows, dim, room);
}

// Where rows are computed: in place if they can be written in whole vectors, else in `room`.
struct Target {
  float* first;
  int64_t stride;
};
template <class T>
HWY_INLINE Target target(T* to, const AttentionStrides& strides, int64_t dim, float* room) {
  if constexpr (std::is_same_v<T, float>) {
    if (dim % kLanes == 0) return {to, strides.token};
  }
  return {room, whole_vectors(dim)};
}
template <class T>
HWY_NOINLINE void write(const Target& from, T* to, const AttentionStrides& strides, int64_t rows,
                        int64_t dim) {
  if (static_cast<const void*>(from.first) == to) return;
  store_rows(from.first, from.stride, rows, dim, to, strides.token);
}
// factor * rows into [dim][stride], for `lanes` rows, a whole number of vectors. Rows that are not
// there repeat the last: their results are never used. Rows are padded to whole vectors.
HWY_NOINLINE void transpose_rows(Rows from, int64_t rows, int64_t lanes, int64_t dim, float factor,
                                 float* HWY_RESTRICT to, int64_t stride) {
#if HWY_TARGET == HWY_AVX3
  const __m512 f = _mm512_set1_ps(factor);
  for (int64_t r = 0; r < lanes; r += 16) {
    const float* row[16];
    for (int64_t i = 0; i < 16; ++i) row[i] = from.first + HWY_MIN(r + i, rows - 1) * from.stride;
    for (int64_t c = 0; c < dim; c += 4) {
      // Blocks of four by four: block b of x[i] is row 4 b + i, so shuffles within blocks do.
      __m512 x[4];
      FOVEA_UNROLL
      for (int i = 0; i < 4; ++i) {
        const auto quad = [&](int block) HWY_ATTR { return _mm_loadu_ps(row[4 * block + i] + c); };
        __m512 v = _mm512_castps128_ps512(quad(0));
        v = _mm512_mask_broadcast_f32x4(v, 0x00f0, quad(1));
        v = _mm512_mask_broadcast_f32x4(v, 0x0f00, quad(2));
        v = _mm512_mask_broadcast_f32x4(v, 0xf000, quad(3));
        x[i] = _mm512_mul_ps(v, f);
      }
      const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(x[0], x[1]));
      const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(x[0], x[1]));
      const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(x[2], x[3]));
      const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(x[2], x[3]));
      float* at = to + c * stride + r;
      _mm512_store_pd(at, _mm512_unpacklo_pd(low01, low23));
      _mm512_store_pd(at + stride, _mm512_unpackhi_pd(low01, low23));
      _mm512_store_pd(at + 2 * stride, _mm512_unpacklo_pd(high01, high23));
      _mm512_store_pd(at + 3 * stride, _mm512_unpackhi_pd(high01, high23));
    }
  }
#else
  load_transposed(from.first, from.stride, HWY_MIN(rows, lanes), dim, factor, to, stride);
#endif
}

// How the queries of a head are spread over lanes.
struct Spread {
  explicit Spread(int64_t queries) {
    const int64_t rest = queries % kLanes;
    single = rest <= kMostSingle ? rest : 0;
    width = whole_vectors(queries - single);
    vecs = width / kLanes;
    first_single = queries - single;
  }
  // A query alone costs about a third of the vector that it would begin.
  static constexpr int64_t kMostSingle = kLanes == 16 ? 3 : kLanes == 8 ? 2 : 1;
  int64_t vecs, width;  // of those with lanes of their own
  int64_t single;       // the others
  int64_t first_single;
};

// scores[j] where the key j + first lies in [begin, end), else -infinity, for n keys in whole
// vectors.
HWY_INLINE void mask_row(float* scores, int64_t first, int64_t n, int64_t begin, int64_t end) {
  const F32 d;
  const I32 di;
  const auto low = hn::Set(di, static_cast<int32_t>(begin));
  const auto high = hn::Set(di, static_cast<int32_t>(end));
  for (int64_t j = 0; j < n; j += kLanes) {
    const auto key = hn::Iota(di, static_cast<int32_t>(first + j));
    const auto seen = hn::AndNot(hn::Lt(key, low), hn::Lt(key, high));
    const Vec score = hn::LoadU(d, scores + j);
    hn::StoreU(hn::IfThenElse(hn::RebindMask(d, seen), score, hn::Set(d, -HUGE_VALF)), d,
               scores + j);
  }
}

// The natural logarithm of what is at least 1, or infinity, or 0 (-infinity); NaN stays.
HWY_INLINE Vec log_of_sum(Vec x) {
  const F32 d;
  const I32 di;
  // x = 2^n m, m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172.
  const auto bits = hn::BitCast(di, x);
  const auto shifted = hn::Sub(bits, hn::Set(di, 0x3f3504f3));
  const auto n = hn::ShiftRight<23>(shifted);
  const Vec m = hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<23>(n)));
  const Vec one = hn::Set(d, 1.0f);
  const Vec s = hn::Div(hn::Sub(m, one), hn::Add(m, one));
  const Vec z = hn::Mul(s, s);
  Vec p = hn::Set(d, 2.0f / 9);
  p = hn::MulAdd(p, z, hn::Set(d, 2.0f / 7));
  p = hn::MulAdd(p, z, hn::Set(d, 2.0f / 5));
  p = hn::MulAdd(p, z, hn::Set(d, 2.0f / 3));
  p = hn::MulAdd(p, z, hn::Set(d, 2.0f));
  const Vec ln = hn::MulAdd(hn::ConvertTo(d, n), hn::Set(d, 0.693147180559945f), hn::Mul(p, s));
  const Vec infinity = hn::Set(d, HUGE_VALF);
  const auto ordinary = hn::And(hn::Gt(x, hn::Zero(d)), hn::Lt(x, infinity));
  const Vec special = hn::IfThenElse(hn::Eq(x, hn::Zero(d)), hn::Neg(infinity), x);
  return hn::IfThenElse(ordinary, ln, special);
}

// ---- A task

// What the two directions share: operands and masks of a task's heads.
template <class Args, class Layout>
class ShortHeads {
 public:
  ShortHeads(const attention_detail::ShortTask<Args>& task, float* scratch)
      : p_(task.problem),
        args_(task.args),
        task_(task),
        layout_(p_),
        scratch_(scratch),
        spread_(p_.tq),
        lanes_(p_, scratch_ + layout_.begin, layout_.end - layout_.begin),
        seen_(fill_lanes(p_, attention_detail::Seen(p_, task.args.links, task.batch), 0, p_.tq,
                         layout_.lanes, lanes_)),
        from_(seen_.high.begin),
        keys_(HWY_MAX(0, seen_.high.end - from_)),
        mask_(!seen_.full(from_, keys_)),
        factor_(static_cast<float>(p_.scale * kLog2E)) {}

 protected:
  template <class T>
  const T* at(const void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<const T*>(base), s, task_.batch, token, head);
  }
  template <class T>
  T* at(void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<T*>(base), s, task_.batch, token, head);
  }

  // Of the keys that some query sees.
  template <class T>
  void load_keys(int64_t kv_head) {
    k_ = operand(at<T>(args_.k, p_.k, from_, kv_head), p_.k, keys_, p_.head_dim,
                 scratch_ + layout_.k);
    v_ = operand(at<T>(args_.v, p_.v, from_, kv_head), p_.v, keys_, p_.value_dim,
                 scratch_ + layout_.v);
  }

  // Rows of queries into [dim][lanes] at `to`.
  void transpose_queries(Rows rows, int64_t dim, float factor, int64_t to) const {
    transpose_rows(rows, p_.tq, spread_.width, dim, factor, scratch_ + to, layout_.lanes);
  }

  // Scores of query i alone, times log2(e), up to a whole vector.
  void single_scores(const float* q, int64_t i, float* scores) const {
    const F32 d;
    float* scaled = scratch_ + layout_.single_q;
    for (int64_t c = 0; c < p_.head_dim; c += kLanes)
      hn::Store(hn::Mul(hn::LoadU(d, q + c), hn::Set(d, factor_)), d, scaled + c);
    row_dots(k_, {scaled, 0}, keys_, p_.head_dim, scores);
    if (mask_) mask_row(scores, from_, keys_, lanes_.begin[i], lanes_.end[i]);
  }

  // [keys][lanes] at `at`: scores, or their gradients.
  ScoreBlock block(float* at) const {
    return {.scores = at,
            .stride = layout_.lanes,
            .width = spread_.width,
            .first_key = from_,
            .keys = keys_,
            .lanes = lanes_};
  }

  const AttentionProblem& p_;
  const Args& args_;
  const attention_detail::ShortTask<Args>& task_;
  const Layout layout_;
  float* const scratch_;
  const Spread spread_;
  const LaneKeys lanes_;
  const TouchedKeys seen_;
  const int64_t from_, keys_;  // that some query sees
  const bool mask_;            // not every query sees them all
  const float factor_;         // scale log2(e)
  Rows k_{}, v_{};
};

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

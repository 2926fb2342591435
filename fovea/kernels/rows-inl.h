// Rows of any width in vectors, for the Highway kernels; included once a target: what stands at the
// end of a row is a vector in part, and the sums of several rows are joined together.
#if defined(FOVEA_KERNELS_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_ROWS_INL_H_
#undef FOVEA_KERNELS_ROWS_INL_H_
#else
#define FOVEA_KERNELS_ROWS_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "fovea/kernels/math-inl.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace simd {

// A whole vector, or its first n < kLanes elements, at the end of a row.
struct Whole {};
struct Some {
  int64_t n;
};
template <class T>
HWY_INLINE Vec get(const T* p, Whole) {
  return load(p);
}
// Absent lanes are 0.
template <class T>
HWY_INLINE Vec get(const T* p, Some s) {
  return load_some(p, s.n);
}
template <class T>
HWY_INLINE void put(Vec v, T* p, Whole) {
  store(v, p);
}
template <class T>
HWY_INLINE void put(Vec v, T* p, Some s) {
  store_some(v, p, s.n);
}
// v, or 0 in the absent lanes.
HWY_INLINE Vec present(Vec v, Whole) { return v; }
HWY_INLINE Vec present(Vec v, Some s) {
  return hn::IfThenElseZero(hn::FirstN(F32(), static_cast<size_t>(s.n)), v);
}

HWY_INLINE int64_t whole_vectors(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Calls f(column, Whole or Some) for the vectors of a row.
template <class F>
HWY_INLINE void for_columns(int64_t cols, const F& f) {
  int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) f(c, Whole());
  if (c < cols) f(c, Some{cols - c});
}

struct Plus {
  HWY_INLINE Vec operator()(Vec a, Vec b) const { return hn::Add(a, b); }
};
struct Larger {
  HWY_INLINE Vec operator()(Vec a, Vec b) const { return hn::Max(a, b); }
};

// Four rows from r on: in each block of 128 bits, one partial result for each.
template <class Row, class Join>
HWY_INLINE Vec join_four(const Row& row, int64_t r, Join join) {
  const F32 d;
  const hn::RepartitionToWide<F32> d64;
  const Vec x0 = row(r), x1 = row(r + 1), x2 = row(r + 2), x3 = row(r + 3);
  const Vec x01 = join(hn::InterleaveLower(d, x0, x1), hn::InterleaveUpper(d, x0, x1));
  const Vec x23 = join(hn::InterleaveLower(d, x2, x3), hn::InterleaveUpper(d, x2, x3));
  const auto a = hn::BitCast(d64, x01), b = hn::BitCast(d64, x23);
  return join(hn::BitCast(d, hn::InterleaveLower(d64, a, b)),
              hn::BitCast(d, hn::InterleaveUpper(d64, a, b)));
}

template <class Join>
HWY_INLINE Vec join_halves(Vec a, Vec b, Join join) {
  const F32 d;
  return join(hn::ConcatLowerLower(d, b, a), hn::ConcatUpperUpper(d, b, a));
}

// Of what join_four gave for rows 4 i to 4 i + 3, four(i), for i in [0, kLanes / 4): lane r becomes
// what row r gives.
template <class Four, class Join>
HWY_INLINE Vec join_fours(const Four& four, Join join) {
#if HWY_TARGET == HWY_AVX3
  const Vec a = join_halves(four(0), four(2), join);
  const Vec b = join_halves(four(1), four(3), join);
  return join(hn::OddEvenBlocks(b, a),
              hn::OddEvenBlocks(hn::SwapAdjacentBlocks(b), hn::SwapAdjacentBlocks(a)));
#elif HWY_TARGET == HWY_AVX2
  return join_halves(four(0), four(1), join);
#else
  return four(0);
#endif
}

// Lane r joins the lanes of the vector row(r), for r in [0, kLanes): a transposition on the way,
// one join for each row in place of one over its lanes.
template <class Row, class Join>
HWY_INLINE Vec join_each(const Row& row, Join join) {
  return join_fours([&](int64_t i) HWY_ATTR { return join_four(row, 4 * i, join); }, join);
}

// The same of rows [kLanes][kLanes] in memory.
template <class Join>
HWY_INLINE Vec join_each_row(const float* rows, Join join) {
  return join_each([&](int64_t r) HWY_ATTR { return hn::Load(F32(), rows + r * kLanes); }, join);
}

}  // namespace simd
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

// Rows of q and k as attention's products read them, and their gradients as they are written
// (attention_rows.h), included once a target.
#if defined(FOVEA_KERNELS_ATTENTION_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_ATTENTION_ROWS_INL_H_
#undef FOVEA_KERNELS_ATTENTION_ROWS_INL_H_
#else
#define FOVEA_KERNELS_ATTENTION_ROWS_INL_H_
#endif

#include <cmath>
#include <cstdint>

#include "fovea/kernels/attention-inl.h"
#include "fovea/kernels/attention_rows.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

// x[first], x[second] turned by the angle of each frequency, or back.
template <bool kBack>
HWY_INLINE void rotate_row(float* x, RotaryLayout layout, const float* cosines, int64_t half) {
  const F32 d;
  const float* sines = cosines + half;
  const auto turn = [](auto c, auto s, auto& a, auto& b) HWY_ATTR {
    const auto from = a;
    if constexpr (kBack) {
      a = hn::MulAdd(a, c, hn::Mul(b, s));
      b = hn::NegMulAdd(from, s, hn::Mul(b, c));
    } else {
      a = hn::NegMulAdd(b, s, hn::Mul(a, c));
      b = hn::MulAdd(from, s, hn::Mul(b, c));
    }
  };
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Vec c = hn::LoadU(d, cosines + i), s = hn::LoadU(d, sines + i);
    Vec a, b;
    if (layout == RotaryLayout::pairs) {
      hn::LoadInterleaved2(d, x + 2 * i, a, b);
      turn(c, s, a, b);
      hn::StoreInterleaved2(a, b, d, x + 2 * i);
    } else {
      a = hn::LoadU(d, x + i);
      b = hn::LoadU(d, x + half + i);
      turn(c, s, a, b);
      hn::StoreU(a, d, x + i);
      hn::StoreU(b, d, x + half + i);
    }
  }
  for (; i < half; ++i) {
    const RotaryPair pair =
        rotary_pair(layout, static_cast<size_t>(i), static_cast<size_t>(2 * half));
    const float a = x[pair.first], b = x[pair.second], c = cosines[i];
    const float s = kBack ? -sines[i] : sines[i];
    x[pair.first] = a * c - b * s;
    x[pair.second] = b * c + a * s;
  }
}

template <class A, class B>
HWY_INLINE float dot_rows(const A* a, const B* b, int64_t n) {
  const F32 d;
  Vec sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum = hn::MulAdd(simd::load(a + i), simd::load(b + i), sum);
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < n; ++i) total += static_cast<float>(a[i]) * static_cast<float>(b[i]);
  return total;
}

HWY_INLINE void scale_rows(float* x, int64_t n, float factor) {
  const Vec f = hn::Set(F32(), factor);
  simd::for_columns(n, [&](int64_t c, auto count) HWY_ATTR {
    simd::put(hn::Mul(f, simd::get(x + c, count)), x + c, count);
  });
}

// Rows of one problem.
class RowsChange {
 public:
  RowsChange(const AttentionProblem& p, const attention_detail::RotaryTable<float>& table)
      : p_(p), table_(table), any_(attention_detail::changes_rows(p)) {}

  bool any() const { return any_; }

  // In place; the first row stands at the position.
  HWY_NOINLINE void apply(float* rows, int64_t stride, int64_t count, int64_t position) const {
    for (int64_t i = 0; i < count; ++i, rows += stride) {
      if (p_.cosine) scale_rows(rows, p_.head_dim, inverse_norm(rows));
      if (p_.rotary > 0)
        rotate_row<false>(rows, p_.rotary_layout, table_.row(position + i), table_.half());
    }
  }

  // g: the gradient of what apply() made of x, becomes `factor` times that of x. Gives the product
  // of the two rows that apply() has left and found: of the gradient's and its own.
  template <class T>
  HWY_NOINLINE float undo(float* g, const T* x, int64_t position, float factor) const {
    if (p_.rotary > 0) rotate_row<true>(g, p_.rotary_layout, table_.row(position), table_.half());
    const float along = dot_rows(x, g, p_.head_dim);
    if (!p_.cosine) {
      if (factor != 1.0f) scale_rows(g, p_.head_dim, factor);
      return along;
    }
    const F32 d;
    const float r = inverse_norm(x);
    const Vec own = hn::Set(d, factor * r), by = hn::Set(d, -factor * r * r * r * along);
    simd::for_columns(p_.head_dim, [&](int64_t c, auto n) HWY_ATTR {
      const Vec to = hn::Mul(own, simd::get(g + c, n));
      simd::put(hn::MulAdd(by, simd::get(x + c, n), to), g + c, n);
    });
    return r * along;
  }

 private:
  template <class T>
  float inverse_norm(const T* x) const {
    return 1.0f / std::sqrt(dot_rows(x, x, p_.head_dim) + static_cast<float>(p_.cosine_eps));
  }

  const AttentionProblem& p_;
  const attention_detail::RotaryTable<float>& table_;
  const bool any_;
};

// Rows as they lie, or copied to `gathered` if they are scattered, not floats or changed; the first
// one stands at the position.
template <class T>
HWY_INLINE Rows gather_changed(const RowsChange& change, const T* from,
                               const AttentionStrides& strides, int64_t rows, int64_t dim,
                               float* gathered, int64_t position) {
  if (!change.any()) return gather_rows(from, strides, rows, dim, gathered);
  const Rows copy = copied(from, strides, rows, dim, gathered);
  change.apply(gathered, copy.stride, rows, position);
  return copy;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

// The softmax of tiled attention, forward, as it goes from one block of keys to the next, and its
// end; included once a target.
#if defined(FOVEA_KERNELS_ATTENTION_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_ATTENTION_SOFTMAX_INL_H_
#undef FOVEA_KERNELS_ATTENTION_SOFTMAX_INL_H_
#else
#define FOVEA_KERNELS_ATTENTION_SOFTMAX_INL_H_
#endif

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "fovea/kernels/attention_cuts-inl.h"
#include "fovea/kernels/attention_dropout.h"
#include "fovea/kernels/attention_scores-inl.h"
#include "fovea/kernels/attention_statistics-inl.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

constexpr double kLn2 = 0.6931471805599453;

// One number a query.
struct LaneRows {
  float* max;      // of the scores so far, times log2(e)
  float* sum;      // of exp2(score - max)
  float* rescale;  // from the previous maximum to this one
  float* new_max;
  float* surprise;  // sum of exp2(x) x for x = score - max
  float* maxima;    // of groups of keys, the largest ones
  LaneKeys keys;
};

// s becomes exp2(s - maximum); maximum, sum and rescale follow, and with kEntropy the surprise.
// Vectors without keys are left as they are.
template <bool kEntropy>
HWY_INLINE void online_softmax(const LaneRows& lane, int64_t vecs, const BlockCuts& cuts,
                               float* s) {
  const F32 d;
  const int64_t width = vecs * kLanes;
  for (int64_t v = 0; v < width; v += kLanes) {
    const KeyRange rows = cuts.rows[v / kLanes];
    if (rows.empty()) continue;
    const Vec max = hn::Load(d, lane.new_max + v);
    const Vec base = simd::base_of(max);
    const Vec shift = hn::Sub(hn::Load(d, lane.max + v), base);
    const Vec rescale = exp2(shift);
    Vec sum = hn::Zero(d);
    Vec surprise = hn::Zero(d);
    if (kEntropy)
      surprise =
          moved_surprise(hn::Load(d, lane.surprise + v), hn::Load(d, lane.sum + v), rescale, shift);
    for (float* row = s + rows.begin * width + v; row < s + rows.end * width; row += width) {
      const Vec x = hn::Sub(hn::Load(d, row), base);
      const Vec p = exp2(x);
      hn::Store(p, d, row);
      sum = hn::Add(sum, p);
      if (kEntropy) surprise = times_log(p, x, surprise);
    }
    if (kEntropy) hn::Store(surprise, d, lane.surprise + v);
    hn::Store(hn::MulAdd(hn::Load(d, lane.sum + v), rescale, sum), d, lane.sum + v);
    hn::Store(rescale, d, lane.rescale + v);
    hn::Store(max, d, lane.max + v);
  }
}

// rows: room for the output in f32, where it is converted.
template <class T>
HWY_INLINE void finish(const AttentionProblem& p, const LaneRows& lane, int64_t vecs,
                       int64_t queries, float* ot, T* out, float* rows, float* lse) {
  const F32 d;
  const int64_t width = vecs * kLanes;
  const Vec kept = hn::Set(d, static_cast<float>(attention_detail::kept_factor(p)));
  for (int64_t v = 0; v < width; v += kLanes) {
    const Vec inverse = hn::Mul(simd::inverse_or_zero(hn::Load(d, lane.sum + v)), kept);
    for (int64_t c = 0; c < p.value_dim; ++c) {
      float* at = ot + c * width + v;
      hn::Store(hn::Mul(hn::Load(d, at), inverse), d, at);
    }
  }
  const bool direct = std::is_same_v<T, float> && !attention_detail::scattered(p.out, p.value_dim);
  if constexpr (std::is_same_v<T, float>) {
    if (direct) transpose<false>(ot, width, p.value_dim, queries, 1.0f, out, p.out.token);
  }
  if (!direct) {
    const int64_t padded = whole_vectors(p.value_dim);
    transpose<false>(ot, width, p.value_dim, queries, 1.0f, rows, padded);
    store_rows(rows, padded, queries, p.value_dim, out, p.out.token);
  }
  if (!lse) return;
  for (int64_t i = 0; i < queries; ++i) {
    // The logarithm of 0 is the -infinity of a query without keys.
    const double max = lane.sum[i] == 0.0f ? 0.0 : static_cast<double>(lane.max[i]) * kLn2;
    lse[i] = static_cast<float>(max + static_cast<double>(std::log(lane.sum[i])));
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

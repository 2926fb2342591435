// SIMD parts shared by the kernels of additive and subtraction attention, included once a target.
// The lanes run over queries. With a = e^2q and b = e^2k, made once for a block, tanh(q + k) = 1 -
// 2 r with r = 1 / (1 + a b): a product and an inverse for each pair of coordinates in place of a
// hyperbolic tangent. Its slope is 4 (r - r^2).
#if defined(FOVEA_KERNELS_PAIR_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_PAIR_ATTENTION_INL_H_
#undef FOVEA_KERNELS_PAIR_ATTENTION_INL_H_
#else
#define FOVEA_KERNELS_PAIR_ATTENTION_INL_H_
#endif

#include "fovea/kernels/attention-inl.h"
#include "fovea/kernels/pair_attention_layout.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using pair_attention_detail::KeyRange;
using pair_attention_detail::kKeyBlock;
using pair_attention_detail::kLargest;
using pair_attention_detail::Layout;

// How a pair of coordinates is met: two numbers for each key and query, whose term is
// kOffset + kFactor * value, with the slope kSlope * slope.
struct TanhByPowers {  // of e^2q and e^2k
  static constexpr float kOffset = 1, kFactor = -2, kSlope = 4, kOfKey = 1;
  static HWY_INLINE Vec value(Vec a, Vec b) {
    return simd::inverse(hn::MulAdd(a, b, hn::Set(F32(), 1.0f)));
  }
  static HWY_INLINE Vec times_slope(Vec r, Vec, Vec, Vec ds) {
    return hn::Mul(hn::NegMulAdd(r, r, r), ds);
  }
};
struct TanhItself {  // of q and k, for the same r
  static constexpr float kOffset = 1, kFactor = -2, kSlope = 4, kOfKey = 1;
  static HWY_INLINE Vec value(Vec q, Vec k) {
    const Vec half = hn::Set(F32(), 0.5f);
    return hn::NegMulAdd(half, simd::tanh(hn::Add(q, k)), half);
  }
  static HWY_INLINE Vec times_slope(Vec r, Vec, Vec, Vec ds) {
    return hn::Mul(hn::NegMulAdd(r, r, r), ds);
  }
};
struct Difference {
  static constexpr float kOffset = 0, kFactor = 1, kSlope = 1, kOfKey = -1;
  static HWY_INLINE Vec value(Vec q, Vec k) { return simd::at_least(hn::Sub(q, k), 0.0f); }
  static HWY_INLINE Vec times_slope(Vec, Vec q, Vec k, Vec ds) {
    // A NaN of q or k comes through value().
    return hn::IfThenElseZero(hn::Gt(q, k), ds);
  }
};

// A block of keys against the queries of a panel.
struct Block {
  const float* qt;  // [dim][width]
  const float* k;   // [keys][k_stride]
  const float* w;   // [dim], times scale log2(e)
  float* scores;    // [keys][width]
  int64_t width, k_stride, dim, keys;
};

template <class Pair, int kRows, int kVecs>
HWY_INLINE void score_tile(const Block& x, int64_t key, int64_t column, float offset) {
  const F32 d;
  Vec sum[kRows][kVecs];
  FOVEA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) sum[r][v] = hn::Set(d, offset);
  }
  const float* HWY_RESTRICT q = x.qt + column;
  const float* HWY_RESTRICT k = x.k + key * x.k_stride;
  for (int64_t c = 0; c < x.dim; ++c, q += x.width) {
    const Vec factor = hn::Set(d, Pair::kFactor * x.w[c]);
    Vec query[kVecs];
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v) query[v] = hn::Load(d, q + v * kLanes);
    FOVEA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec one_key = hn::Set(d, k[r * x.k_stride + c]);
      FOVEA_UNROLL
      for (int v = 0; v < kVecs; ++v)
        sum[r][v] = hn::MulAdd(factor, Pair::value(query[v], one_key), sum[r][v]);
    }
  }
  FOVEA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FOVEA_UNROLL
    for (int v = 0; v < kVecs; ++v)
      hn::Store(sum[r][v], d, x.scores + (key + r) * x.width + column + v * kLanes);
  }
}

// S^T of the block.
template <class Pair>
HWY_NOINLINE void scores_of(const Block& x) {
  float offset = 0;
  for (int64_t c = 0; c < x.dim; ++c) offset += Pair::kOffset * x.w[c];
  int64_t j = 0;
  for (; j + 4 <= x.keys; j += 4) {
    int64_t v = 0;
    for (; v + 2 * kLanes <= x.width; v += 2 * kLanes) score_tile<Pair, 4, 2>(x, j, v, offset);
    if (v < x.width) score_tile<Pair, 4, 1>(x, j, v, offset);
  }
  for (; j < x.keys; ++j)
    for (int64_t v = 0; v < x.width; v += kLanes) score_tile<Pair, 1, 1>(x, j, v, offset);
}

HWY_NOINLINE void powers(const float* from, int64_t floats, float* to) {
  const F32 d;
  for (int64_t i = 0; i < floats; i += kLanes) {
    const Vec x = hn::Load(d, from + i);
    hn::Store(simd::exp(hn::Add(x, x)), d, to + i);
  }
}
// Whether no number is beyond the limit, or NaN.
HWY_NOINLINE bool all_small(const float* from, int64_t floats) {
  const F32 d;
  for (int64_t i = 0; i < floats; i += kLanes)
    if (!hn::AllTrue(d, hn::Le(hn::Abs(hn::Load(d, from + i)), hn::Set(d, kLargest)))) return false;
  return true;
}

// What both directions share: a panel of queries and the blocks of keys that it meets.
template <class T, class TaskType>
class Panels {
 public:
  Panels(const TaskType& task, const Layout& layout, float* scratch)
      : p_(task.problem),
        args_(task.args),
        task_(task),
        layout_(layout),
        scratch_(scratch),
        length_(p_.key_length(task.args.key_lengths, task.batch)) {}

 protected:
  const T* at(const void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<const T*>(base), s, task_.batch, token, head);
  }
  T* at(void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<T*>(base), s, task_.batch, token, head);
  }
  float* room(int64_t at) const { return scratch_ + at; }
  int32_t* begin() const { return reinterpret_cast<int32_t*>(room(layout_.begin)); }
  int32_t* end() const { return reinterpret_cast<int32_t*>(room(layout_.end)); }

  // The weights of a head times `factor`.
  void load_weights(int64_t head, double factor) const {
    const T* const w = static_cast<const T*>(args_.w) + head * p_.head_dim;
    for (int64_t c = 0; c < p_.head_dim; ++c)
      room(layout_.w)[c] = static_cast<float>(factor * double{static_cast<float>(w[c])});
  }

  // Rows of a panel turned round; absent queries are 0.
  void load_panel(const void* from, const AttentionStrides& strides, int64_t dim, int64_t padded,
                  int64_t head, float* to) const {
    copy_rows(at(from, strides, first_, head), strides.token, count_, dim, room(layout_.rows),
              padded);
    load_transposed(room(layout_.rows), padded, count_, dim, 1.0f, to, width_);
  }

  void start(int64_t first, int64_t head) {
    first_ = first;
    count_ = HWY_MIN(layout_.width, p_.tq - first);
    width_ = whole_vectors(count_);
    load_panel(args_.q, p_.q, p_.head_dim, layout_.dim, head, room(layout_.qt));
    small_ = false;
    if (p_.score == PairScore::additive) {
      small_ = all_small(room(layout_.qt), p_.head_dim * width_);
      if (small_) powers(room(layout_.qt), p_.head_dim * width_, room(layout_.at));
    }
    touched_ = {p_.tk, 0};
    for (int64_t i = 0; i < width_; ++i) {
      // Absent queries see nothing.
      const KeyRange keys =
          i < count_ ? pair_attention_detail::visible_keys(p_, first + i, length_) : KeyRange{0, 0};
      begin()[i] = static_cast<int32_t>(HWY_MIN(keys.begin, p_.tk));
      end()[i] = static_cast<int32_t>(keys.end);
      if (keys.end <= keys.begin) continue;
      touched_.begin = HWY_MIN(touched_.begin, keys.begin);
      touched_.end = HWY_MAX(touched_.end, keys.end);
    }
  }

  // Calls f(first key, keys) for the blocks that the panel touches, each within one block of dkt.
  template <class F>
  void for_blocks(const F& f) const {
    for (int64_t j = touched_.begin; j < touched_.end;) {
      const int64_t next = HWY_MIN(touched_.end, (j / kKeyBlock + 1) * kKeyBlock);
      f(j, next - j);
      j = next;
    }
  }

  // Loads the keys and calls f with the way to meet them and the block.
  template <class F>
  void with_keys(int64_t j, int64_t keys, int64_t kv_head, const F& f) const {
    float* const k = room(layout_.k);
    copy_rows(at(args_.k, p_.k, j, kv_head), p_.k.token, keys, p_.head_dim, k, layout_.dim);
    copy_rows(at(args_.v, p_.v, j, kv_head), p_.v.token, keys, p_.value_dim, room(layout_.v),
              layout_.value_dim);
    Block block{room(layout_.qt), k,           room(layout_.w), room(layout_.scores),
                width_,           layout_.dim, p_.head_dim,     keys};
    if (p_.score == PairScore::subtraction) return f(Difference(), block);
    if (!small_ || !all_small(k, keys * layout_.dim)) return f(TanhItself(), block);
    powers(k, keys * layout_.dim, k);
    block.qt = room(layout_.at);
    f(TanhByPowers(), block);
  }

  // The score of a key in the lanes that see it, else -infinity.
  HWY_INLINE Vec seen_score(const float* score, int64_t key, int64_t v) const {
    const F32 d;
    const I32 di;
    const auto j = hn::Set(di, static_cast<int32_t>(key));
    const auto before = hn::Lt(j, hn::Load(di, begin() + v));
    const auto inside = hn::Lt(j, hn::Load(di, end() + v));
    return hn::IfThenElse(hn::RebindMask(d, hn::AndNot(before, inside)), hn::Load(d, score),
                          hn::Set(d, -HUGE_VALF));
  }

  const PairAttentionProblem& p_;
  decltype(TaskType::args) args_;
  const TaskType& task_;
  const Layout& layout_;
  float* const scratch_;
  const int64_t length_;
  int64_t first_ = 0, count_ = 0, width_ = 0;  // of the panel
  bool small_ = false;                         // its powers stay within the range of floats
  KeyRange touched_;                           // by any of its queries
};

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif

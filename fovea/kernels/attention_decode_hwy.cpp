// Decoding in SIMD of each target, with f32 products: rows of K and V are converted when they are
// loaded. A block of keys at a time: scores with the lanes over head_dim, joined four keys at a
// time into vectors of keys; the online softmax with the lanes over keys; P V with the lanes over
// value_dim.
#include <cmath>

#define HWY_TARGET_INCLUDE "fovea/kernels/attention_decode_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/attention-inl.h"
#include "fovea/kernels/attention_decode.h"

#ifndef FOVEA_ATTENTION_DECODE_ONCE
#define FOVEA_ATTENTION_DECODE_ONCE
namespace fovea::attention_detail {
namespace {

// Where one worker's scratch holds what, in floats.
struct DecodeLayout {
  explicit DecodeLayout(const AttentionProblem& p) {
    const DecodeCut cut(p);
    const int64_t rows = cut.rows;
    ScratchPieces scratch;
    q = scratch.take(cut.kv_heads * rows * padded(p.head_dim));
    sums = scratch.take(4 * kDecodeBlock * 4);  // kDecodeBlock / 4 vectors of 16
    scores = scratch.take(rows * kDecodeBlock);
    rescale = scratch.take(rows);
    k_at = scratch.take(4 * kDecodeBlock);
    v_at = scratch.take(4 * kDecodeBlock);
    k_scale = scratch.take(kDecodeBlock);
    v_scale = scratch.take(kDecodeBlock);
    k = scratch.take(kDecodeBlock * padded(p.head_dim));
    v = scratch.take(kDecodeBlock * padded(p.value_dim));
    total = scratch.used();
  }

  int64_t q;        // [kv_heads][rows], times scale log2(e)
  int64_t sums;     // four lanes of each key's products, for four rows
  int64_t scores;   // [rows][kDecodeBlock], then the powers
  int64_t rescale;  // of each row, from the previous maximum to this one
  int64_t k_at, v_at;
  int64_t k_scale, v_scale;
  int64_t k, v;  // rows filled up with zeros to whole vectors, where they are not that
  int64_t total;
};

}  // namespace
}  // namespace fovea::attention_detail
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using attention_detail::CacheRows;
using attention_detail::DecodeKeys;
using attention_detail::DecodeLayout;
using attention_detail::DecodeTask;
using attention_detail::kDecodeBlock;

// Queries of one pass over a block, as many as the registers hold beside the operands, and vectors
// of a row of V.
constexpr int kRowsAtOnce = HWY_TARGET == HWY_AVX3 ? 4 : 2;
constexpr int kVecsAtOnce = 4;

template <class T>
HWY_INLINE Vec load_cached(const T* p) {
  if constexpr (std::is_same_v<T, int8_t>) {
    const hn::Rebind<int8_t, F32> d8;
    return hn::ConvertTo(F32(), hn::PromoteTo(I32(), hn::LoadU(d8, p)));
  } else {
    return simd::load(p);
  }
}

// Of four keys and kRows queries: vectors that hold, for each key, as many partial sums as a vector
// has blocks of four lanes.
template <class T, int kRows>
HWY_INLINE void score_tile(const T* const* k, int64_t offset, const float* HWY_RESTRICT q,
                           int64_t q_stride, int64_t dim, float* HWY_RESTRICT sums) {
  const F32 d;
  Vec sum[kRows][4];
  FOVEA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FOVEA_UNROLL
    for (int i = 0; i < 4; ++i) sum[r][i] = hn::Zero(d);
  }
  const T *k0 = k[0] + offset, *k1 = k[1] + offset, *k2 = k[2] + offset, *k3 = k[3] + offset;
  for (int64_t c = 0; c < dim; c += kLanes) {
    const Vec x0 = load_cached(k0 + c), x1 = load_cached(k1 + c);
    const Vec x2 = load_cached(k2 + c), x3 = load_cached(k3 + c);
    FOVEA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec y = hn::Load(d, q + r * q_stride + c);
      sum[r][0] = hn::MulAdd(x0, y, sum[r][0]);
      sum[r][1] = hn::MulAdd(x1, y, sum[r][1]);
      sum[r][2] = hn::MulAdd(x2, y, sum[r][2]);
      sum[r][3] = hn::MulAdd(x3, y, sum[r][3]);
    }
  }
  FOVEA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const auto row = [&](int64_t i) HWY_ATTR { return sum[r][i]; };
    hn::Store(simd::join_four(row, 0, simd::Plus()), d, sums + r * 4 * kDecodeBlock);
  }
}

// O[row][c] = rescale[row] O[row][c] + sum over keys of P[row][key] V[key][c], for kVecs vectors.
template <class T, int kRows, int kVecs>
HWY_INLINE void value_tile(const DecodeKeys<T>& v, int64_t keys, int64_t column,
                           const float* HWY_RESTRICT p, const float* HWY_RESTRICT rescale,
                           float* HWY_RESTRICT out, int64_t stride) {
  const F32 d;
  Vec sum[kRows][kVecs];
  FOVEA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const Vec factor = hn::Set(d, rescale[r]);
    FOVEA_UNROLL
    for (int c = 0; c < kVecs; ++c)
      sum[r][c] = hn::Mul(hn::Load(d, out + r * stride + column + c * kLanes), factor);
  }
  const int64_t offset = v.offset + column;
  for (int64_t j = 0; j < keys; ++j) {
    const T* from = v.at[j] + offset;
    attention_detail::fetch_ahead(v.ahead[j] + offset, kVecs * kLanes);
    Vec x[kVecs];
    FOVEA_UNROLL
    for (int c = 0; c < kVecs; ++c) x[c] = load_cached(from + c * kLanes);
    FOVEA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec y = hn::Set(d, p[r * kDecodeBlock + j]);
      FOVEA_UNROLL
      for (int c = 0; c < kVecs; ++c) sum[r][c] = hn::MulAdd(y, x[c], sum[r][c]);
    }
  }
  FOVEA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FOVEA_UNROLL
    for (int c = 0; c < kVecs; ++c) hn::Store(sum[r][c], d, out + r * stride + column + c * kLanes);
  }
}

// scores = by tanh(scores / by), to whole vectors.
HWY_INLINE void cap_scores(float* scores, int64_t keys, float by) {
  const F32 d;
  for (int64_t j = 0; j < keys; j += kLanes) {
    const Vec x = hn::Mul(hn::Load(d, scores + j), hn::Set(d, 1 / by));
    hn::Store(hn::Mul(simd::tanh(x), hn::Set(d, by)), d, scores + j);
  }
}

template <class T>
class Decode {
 public:
  Decode(const DecodeTask& task, float* scratch)
      : task_(task),
        p_(task.problem),
        layout_(p_),
        scratch_(scratch),
        k_rows_(attention_detail::cached_keys(p_, task.args)),
        v_rows_(attention_detail::cached_values(p_, task.args)),
        k_(task, k_rows_, p_.head_dim, whole_vectors(p_.head_dim),
           reinterpret_cast<T*>(scratch + layout_.k), scratch + layout_.k_at),
        v_(task, v_rows_, p_.value_dim, whole_vectors(p_.value_dim),
           reinterpret_cast<T*>(scratch + layout_.v), scratch + layout_.v_at) {}

  void run() {
    start();
    attention_detail::each_decode_block(task_, [&](int64_t first, int64_t keys, int64_t next)
                                                   HWY_ATTR { block(first, keys, next); });
  }

 private:
  void start() const {
    const F32 d;
    const int64_t width = whole_vectors(p_.head_dim);
    for (int64_t kv = 0; kv < task_.kv_heads; ++kv) {
      for (int64_t r = 0; r < task_.rows(kv); ++r) {
        float* to = queries(kv) + r * width;
        const float factor = attention_detail::score_factor(task_, kv, r);
        if (p_.dtype == DType::f32)
          query<float>(kv, r, factor, to);
        else
          query<bf16>(kv, r, factor, to);
        float* out = task_.result(kv, r);
        for (int64_t c = 0; c < task_.max_at; c += kLanes) hn::Store(hn::Zero(d), d, out + c);
        out[task_.max_at] = -HUGE_VALF;
        out[task_.max_at + 1] = 0;
      }
    }
  }

  float* queries(int64_t kv) const {
    return scratch_ + layout_.q + kv * task_.room * whole_vectors(p_.head_dim);
  }

  template <class Q>
  HWY_INLINE void query(int64_t kv, int64_t r, float factor, float* to) const {
    const Q* from = attention_detail::row(static_cast<const Q*>(task_.args.q), p_.q, task_.batch,
                                          task_.query(r), task_.head(kv, r));
    simd::for_columns(p_.head_dim, [&](int64_t c, auto n) HWY_ATTR {
      simd::store(hn::Mul(simd::get(from + c, n), hn::Set(F32(), factor)), to + c);
    });
  }

  void block(int64_t first, int64_t keys, int64_t next) {
    k_.go_on(first, keys, next);
    v_.go_on(first, keys, next);
    for (int64_t kv = 0; kv < task_.kv_heads; ++kv) {
      if constexpr (std::is_same_v<T, int8_t>) {
        attention_detail::find_scales(task_, k_rows_, first, keys, kv, scratch_ + layout_.k_scale);
        attention_detail::find_scales(task_, v_rows_, first, keys, kv, scratch_ + layout_.v_scale);
      }
      const int64_t rows = task_.rows(kv);
      const Part part{k_.of(kv), v_.of(kv), kv, first, keys};
      int64_t r = 0;
      for (; r + kRowsAtOnce <= rows; r += kRowsAtOnce) some<kRowsAtOnce>(part, r);
      if (kRowsAtOnce > 3 && rows - r == 3) some<3>(part, r);
      if (kRowsAtOnce > 2 && rows - r == 2) some<2>(part, r);
      if (rows - r == 1) some<1>(part, r);
    }
  }

  // A block's keys of one head.
  struct Part {
    DecodeKeys<T> k, v;
    int64_t kv, first, keys;
  };

  template <int kRows>
  HWY_NOINLINE void some(const Part& part, int64_t r) const {
    const int64_t width = whole_vectors(p_.head_dim), keys = part.keys;
    float* const sums = scratch_ + layout_.sums;
    for (int64_t j = 0; j < keys; j += 4) {
      for (int64_t i = j; i < j + 4; ++i)
        attention_detail::fetch_ahead(part.k.ahead[i] + part.k.offset, width);
      score_tile<T, kRows>(part.k.at + j, part.k.offset, queries(part.kv) + r * width, width, width,
                           sums + j / 4 * kLanes);
    }
    for (int64_t i = 0; i < kRows; ++i) softmax(part, r + i, sums + i * 4 * kDecodeBlock);
    const float* p = scratch_ + layout_.scores + r * kDecodeBlock;
    const float* rescale = scratch_ + layout_.rescale + r;
    float* out = task_.result(part.kv, r);
    const int64_t columns = whole_vectors(p_.value_dim);
    int64_t c = 0;
    for (; c + kVecsAtOnce * kLanes <= columns; c += kVecsAtOnce * kLanes)
      value_tile<T, kRows, kVecsAtOnce>(part.v, keys, c, p, rescale, out, task_.stride);
    for (; c < columns; c += kLanes)
      value_tile<T, kRows, 1>(part.v, keys, c, p, rescale, out, task_.stride);
  }

  // The scores of one row become powers; its maximum, sum and rescale follow.
  HWY_INLINE void softmax(const Part& part, int64_t r, const float* sums) const {
    const F32 d;
    float* const s = scratch_ + layout_.scores + r * kDecodeBlock;
    const int64_t whole = whole_vectors(part.keys);
    for (int64_t j = 0; j < whole; j += kLanes) {
      const float* at = sums + j / 4 * kLanes;
      Vec x = simd::join_fours([&](int64_t i) HWY_ATTR { return hn::Load(d, at + i * kLanes); },
                               simd::Plus());
      if constexpr (std::is_same_v<T, int8_t>)
        x = hn::Mul(x, hn::Load(d, scratch_ + layout_.k_scale + j));
      hn::Store(x, d, s + j);
    }
    if (attention_detail::has_decode_links(p_))
      attention_detail::DecodeLinks(p_, task_.args.links, task_.batch, task_.head(part.kv, r),
                                    task_.query(r))
          .apply(part.first, part.keys, s, cap_scores);
    attention_detail::mask_decode_row(task_.seen(r), part.first, part.keys, s);
    Vec largest = hn::Set(d, -HUGE_VALF);
    for (int64_t j = 0; j < whole; j += kLanes) largest = hn::Max(largest, hn::Load(d, s + j));
    float* const state = task_.result(part.kv, r) + task_.max_at;
    const Vec old = hn::Set(d, state[0]);
    const Vec max = hn::Max(hn::MaxOfLanes(d, largest), old);
    const Vec base = simd::base_of(max);
    const Vec rescale = exp2(hn::Sub(old, base));
    Vec sum = hn::Zero(d);
    for (int64_t j = 0; j < whole; j += kLanes) {
      Vec x = exp2(hn::Sub(hn::Load(d, s + j), base));
      sum = hn::Add(sum, x);
      if constexpr (std::is_same_v<T, int8_t>)
        x = hn::Mul(x, hn::Load(d, scratch_ + layout_.v_scale + j));
      hn::Store(x, d, s + j);
    }
    state[0] = hn::GetLane(max);
    state[1] = state[1] * hn::GetLane(rescale) + hn::GetLane(hn::SumOfLanes(d, sum));
    scratch_[layout_.rescale + r] = hn::GetLane(rescale);
  }

  const DecodeTask& task_;
  const AttentionProblem& p_;
  const DecodeLayout layout_;
  float* const scratch_;
  const CacheRows k_rows_, v_rows_;
  attention_detail::DecodeRows<T> k_, v_;
};

}  // namespace

void attention_decode(const DecodeTask& task, float* scratch) {
  const DType type = task.problem.kv_dtype.value_or(task.problem.dtype);
  if (type == DType::f32)
    Decode<float>(task, scratch).run();
  else if (type == DType::bf16)
    Decode<bf16>(task, scratch).run();
  else
    Decode<int8_t>(task, scratch).run();
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::attention_detail {
namespace {

template <DecodeFunction kFunction>
std::unique_ptr<KernelPlan<AttentionArgs>> plan_decode_hwy(const AttentionProblem& problem) {
  check(problem, false);
  if (!decodes(problem)) return nullptr;
  return plan_decode(problem, kFunction, DecodeLayout(problem).total);
}

}  // namespace

void append_decode([[maybe_unused]] std::vector<AttentionKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit)               \
    list.push_back({decode_name(name), plan_decode_hwy<target::attention_decode>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::attention_detail
#endif  // HWY_ONCE

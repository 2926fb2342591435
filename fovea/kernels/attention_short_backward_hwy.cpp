// Attention for short sequences, backward. With the lanes over queries, P^T = exp2(K Q^T - lse) and
// dP^T = V dO^T, dS = P * (dP - delta); then, with the lanes over the head dimension
// (FlashAttention, algorithm 4), dV = P^T dO, dK = dS^T Q, dQ = dS K. dO^T and delta carry the
// scale of dS.
#include <cmath>

#define HWY_TARGET_INCLUDE "fovea/kernels/attention_short_backward_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/attention_short-inl.h"

#ifndef FOVEA_ATTENTION_SHORT_BACKWARD_ONCE
#define FOVEA_ATTENTION_SHORT_BACKWARD_ONCE
namespace fovea::attention_detail {
namespace {

using ShortBackwardTask = ShortTask<AttentionBackwardArgs>;

// Where one worker's scratch holds what, in floats. Rows are padded to vectors of any target.
struct ShortBackwardLayout {
  explicit ShortBackwardLayout(const AttentionProblem& p) {
    lanes = p.tq <= 64 ? 64 : 128;
    const int64_t dim = padded(p.head_dim), value_dim = padded(p.value_dim);
    ScratchPieces scratch;
    p_block = scratch.take(p.tk * lanes);
    ds_block = scratch.take(p.tk * lanes);
    qt = scratch.take(dim * lanes);
    dot = scratch.take(value_dim * lanes);
    q = scratch.take(p.tq * dim);
    k = scratch.take(p.tk * dim);
    v = scratch.take(p.tk * value_dim);
    out = scratch.take(p.tq * value_dim);
    dout = scratch.take(p.tq * value_dim);
    dq = scratch.take(p.tq * dim);
    dk = scratch.take(p.tk * dim);
    dv = scratch.take(p.tk * value_dim);
    lse = scratch.take(lanes);
    delta = scratch.take(lanes);
    begin = scratch.take(lanes);
    end = scratch.take(lanes);
    single_s = scratch.take(padded(p.tk));
    single_dp = scratch.take(padded(p.tk));
    single_q = scratch.take(dim);
    total = scratch.used();
  }

  int64_t lanes;              // row of one number a query: 64 or 128
  int64_t p_block, ds_block;  // P^T and dS^T, [tk][lanes]
  int64_t qt, dot;            // Q^T times scale log2(e), dO^T times scale, [dim][lanes]
  int64_t q, k, v, out, dout, dq, dk, dv;  // rows, where they cannot be used as they lie
  int64_t lse, delta;                      // times log2(e); times scale
  int64_t begin, end;                      // int32: keys that the query sees
  int64_t single_s, single_dp;             // of one query
  int64_t single_q;                        // it, times scale log2(e)
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

using attention_detail::ShortBackwardLayout;
using attention_detail::ShortBackwardTask;

template <class T>
class ShortBackward : ShortHeads<AttentionBackwardArgs, ShortBackwardLayout> {
 public:
  using ShortHeads::ShortHeads;

  void run() {
    for (int64_t g = task_.first_kv_head; g < task_.end_kv_head; ++g) group(g);
  }

 private:
  // A key/value head and the query heads that read it.
  void group(int64_t g) {
    const int64_t count = p_.heads / p_.kv_heads;
    const int64_t kept = keys_ > 0 ? attention_detail::kept_in_group(p_, g) : 0;
    for (int64_t h = kept; h < count; ++h)
      write_zeros(at<T>(args_.dq, p_.dq, 0, g * count + h), p_.dq, p_.tq, p_.head_dim);
    T* const dk = at<T>(args_.dk, p_.dk, 0, g);
    T* const dv = at<T>(args_.dv, p_.dv, 0, g);
    if (kept == 0) {
      write_zeros(dk, p_.dk, p_.tk, p_.head_dim);
      write_zeros(dv, p_.dv, p_.tk, p_.value_dim);
      return;
    }
    load_keys<T>(g);
    T* const dk_seen = dk + from_ * p_.dk.token;
    T* const dv_seen = dv + from_ * p_.dv.token;
    const Target to_dk = target(dk_seen, p_.dk, p_.head_dim, scratch_ + layout_.dk);
    const Target to_dv = target(dv_seen, p_.dv, p_.value_dim, scratch_ + layout_.dv);
    for (int64_t h = 0; h < kept; ++h) head(g * count + h, h > 0, to_dk, to_dv);
    write(to_dk, dk_seen, p_.dk, keys_, p_.head_dim);
    write(to_dv, dv_seen, p_.dv, keys_, p_.value_dim);
    unseen(dk, p_.dk, p_.head_dim);
    unseen(dv, p_.dv, p_.value_dim);
  }

  // Gradients of keys that no query sees.
  void unseen(T* to, const AttentionStrides& strides, int64_t dim) const {
    const int64_t end = from_ + keys_;
    write_zeros(to, strides, from_, dim);
    write_zeros(to + end * strides.token, strides, p_.tk - end, dim);
  }

  void head(int64_t head, bool add, const Target& dk, const Target& dv) const {
    const float scale = static_cast<float>(p_.scale);
    const Rows q =
        operand(at<T>(args_.q, p_.q, 0, head), p_.q, p_.tq, p_.head_dim, scratch_ + layout_.q);
    const Rows dout = operand(at<T>(args_.dout, p_.dout, 0, head), p_.dout, p_.tq, p_.value_dim,
                              scratch_ + layout_.dout);
    per_query(head, dout, scale);
    float* p = scratch_ + layout_.p_block;
    float* ds = scratch_ + layout_.ds_block;
    if (spread_.vecs > 0) {
      transpose_queries(q, p_.head_dim, factor_, layout_.qt);
      transpose_queries(dout, p_.value_dim, scale, layout_.dot);
      scores(k_, layout_.qt, p_.head_dim, p);
      scores(v_, layout_.dot, p_.value_dim, ds);
      probabilities(block(p), mask_ ? Look::range : Look::none, ds, scratch_ + layout_.lse,
                    scratch_ + layout_.delta);
    }
    for (int64_t i = spread_.first_single; i < p_.tq; ++i)
      single(q.first + i * q.stride, dout.first + i * dout.stride, i, scale, p, ds);
    if (layout_.lanes == 64)
      key_gradients<64>(q, dout, add, dk, dv, p, ds);
    else
      key_gradients<128>(q, dout, add, dk, dv, p, ds);
    T* const dq = at<T>(args_.dq, p_.dq, 0, head);
    const Target to = target(dq, p_.dq, p_.head_dim, scratch_ + layout_.dq);
    short_product<1, Finish::plain>({.a = ds,
                                     .a_row = 1,
                                     .a_step = layout_.lanes,
                                     .b = k_.first,
                                     .b_step = k_.stride,
                                     .c = to.first,
                                     .c_row = to.stride,
                                     .steps = keys_,
                                     .extra = nullptr,
                                     .add = false},
                                    p_.tq, whole_vectors(p_.head_dim) / kLanes);
    write(to, dq, p_.dq, p_.tq, p_.head_dim);
  }

  // The log-sum-exp and rowsum(dO * O) of each query, as the lanes want them.
  void per_query(int64_t head, Rows dout, float scale) const {
    const F32 d;
    const Rows out = operand(at<T>(args_.out, p_.out, 0, head), p_.out, p_.tq, p_.value_dim,
                             scratch_ + layout_.out);
    float* delta = scratch_ + layout_.delta;
    float* lse = scratch_ + layout_.lse;
    row_dots(dout, out, p_.tq, p_.value_dim, delta);
    const float* from =
        static_cast<const float*>(args_.lse) + (task_.batch * p_.heads + head) * p_.tq;
    const Vec infinity = hn::Set(d, HUGE_VALF);
    for (int64_t i = 0; i < p_.tq; i += kLanes) {
      const Vec x =
          i + kLanes <= p_.tq ? hn::LoadU(d, from + i) : simd::load_some(from + i, p_.tq - i);
      // log2(e) in two parts. +infinity makes the probabilities of a query without keys 0.
      const Vec low = hn::Mul(x, hn::Set(d, 1.92596299e-8f));
      const Vec scaled = hn::MulAdd(x, hn::Set(d, 1.44269502f), low);
      const auto none = hn::Eq(x, hn::Neg(infinity));
      hn::Store(hn::IfThenElse(none, infinity, scaled), d, lse + i);
      hn::Store(hn::Mul(hn::Load(d, delta + i), hn::Set(d, scale)), d, delta + i);
    }
  }

  // C[key][query] = rows of keys times what stands transposed at `right`.
  void scores(Rows keys, int64_t right, int64_t dim, float* c) const {
    short_product<0, Finish::plain>({.a = keys.first,
                                     .a_row = keys.stride,
                                     .a_step = 1,
                                     .b = scratch_ + right,
                                     .b_step = layout_.lanes,
                                     .c = c,
                                     .c_row = layout_.lanes,
                                     .steps = dim,
                                     .extra = nullptr,
                                     .add = false},
                                    keys_, spread_.vecs);
  }

  // One query, into column i of p and ds.
  HWY_NOINLINE void single(const float* q, const float* dout, int64_t i, float scale, float* p,
                           float* ds) const {
    const F32 d;
    float* s = scratch_ + layout_.single_s;
    float* dp = scratch_ + layout_.single_dp;
    single_scores(q, i, s);
    row_dots(v_, {dout, 0}, keys_, p_.value_dim, dp);
    const Vec lse = hn::Set(d, scratch_[layout_.lse + i]);
    const Vec delta = hn::Set(d, scratch_[layout_.delta + i]);
    for (int64_t j = 0; j < keys_; j += kLanes) {
      const Vec e = exp2(hn::Sub(hn::Load(d, s + j), lse));
      const Vec g = hn::MulSub(hn::Load(d, dp + j), hn::Set(d, scale), delta);
      hn::Store(e, d, s + j);
      hn::Store(hn::Mul(e, g), d, dp + j);
    }
    for (int64_t j = 0; j < keys_; ++j) {
      p[j * layout_.lanes + i] = s[j];
      ds[j * layout_.lanes + i] = dp[j];
    }
  }

  template <int kRow>
  void key_gradients(Rows q, Rows dout, bool add, const Target& dk, const Target& dv,
                     const float* p, const float* ds) const {
    const auto gradient = [&](const float* a, Rows right, const Target& to, int64_t dim) HWY_ATTR {
      short_product<kRow, Finish::plain>({.a = a,
                                          .a_row = kRow,
                                          .a_step = 1,
                                          .b = right.first,
                                          .b_step = right.stride,
                                          .c = to.first,
                                          .c_row = to.stride,
                                          .steps = p_.tq,
                                          .extra = nullptr,
                                          .add = add},
                                         keys_, whole_vectors(dim) / kLanes);
    };
    gradient(p, dout, dv, p_.value_dim);
    gradient(ds, q, dk, p_.head_dim);
  }
};

}  // namespace

void short_backward(const ShortBackwardTask& task, float* scratch) {
  if (task.problem.dtype == DType::f32)
    ShortBackward<float>(task, scratch).run();
  else
    ShortBackward<bf16>(task, scratch).run();
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::attention_detail {
void append_backward_short([[maybe_unused]] std::vector<AttentionBackwardKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit)               \
    list.push_back(                  \
        {short_name(name),           \
         plan_short<AttentionBackwardArgs, ShortBackwardLayout, target::short_backward>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::attention_detail
#endif  // HWY_ONCE

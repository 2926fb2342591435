// Attention for short sequences, forward: S^T = K Q^T with the lanes over queries, the softmax down
// its columns, and O = P V with the lanes over the head dimension.
#include <cmath>

#define HWY_TARGET_INCLUDE "fovea/kernels/attention_short_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/attention_short-inl.h"

#ifndef FOVEA_ATTENTION_SHORT_ONCE
#define FOVEA_ATTENTION_SHORT_ONCE
namespace fovea::attention_detail {
namespace {

using ShortForwardTask = ShortTask<AttentionArgs>;

// Where one worker's scratch holds what, in floats. Rows are padded to vectors of any target.
struct ShortForwardLayout {
  explicit ShortForwardLayout(const AttentionProblem& p) {
    lanes = padded(p.tq);
    ScratchPieces scratch;
    qt = scratch.take(padded(p.head_dim) * lanes);
    scores = scratch.take(p.tk * lanes);
    q = scratch.take(p.tq * padded(p.head_dim));
    k = scratch.take(p.tk * padded(p.head_dim));
    v = scratch.take(p.tk * padded(p.value_dim));
    out = scratch.take(p.tq * padded(p.value_dim));
    max = scratch.take(lanes);
    sum = scratch.take(lanes);
    inverse = scratch.take(lanes);
    begin = scratch.take(lanes);
    end = scratch.take(lanes);
    single = scratch.take(padded(p.tk));
    single_q = scratch.take(padded(p.head_dim));
    total = scratch.used();
  }

  int64_t lanes;         // row of one number a query
  int64_t qt;            // Q^T times scale log2(e), [head_dim][lanes]
  int64_t scores;        // S^T, then P^T, [tk][lanes]
  int64_t q, k, v, out;  // rows, where they cannot be used as they lie
  int64_t max, sum, inverse;
  int64_t begin, end;  // int32: keys that the query sees
  int64_t single;      // scores of one query
  int64_t single_q;    // it, times scale log2(e)
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

using attention_detail::ShortForwardLayout;
using attention_detail::ShortForwardTask;

template <class T>
class ShortForward : ShortHeads<AttentionArgs, ShortForwardLayout> {
 public:
  using ShortHeads::ShortHeads;

  void run() {
    const int64_t group = p_.heads / p_.kv_heads;
    for (int64_t g = task_.first_kv_head; g < task_.end_kv_head; ++g) {
      if (keys_ > 0 && g * group < p_.heads_kept) load_keys<T>(g);
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        if (h >= p_.heads_kept)
          nothing(h, 0.0f);
        else if (keys_ == 0)
          nothing(h, -HUGE_VALF);
        else
          head(h);
      }
    }
  }

 private:
  T* out_of(int64_t head) const { return at<T>(args_.out, p_.out, 0, head); }
  float* lse_of(int64_t head) const {
    if (!p_.want_lse || !args_.lse) return nullptr;
    return static_cast<float*>(args_.lse) + (task_.batch * p_.heads + head) * p_.tq;
  }

  void nothing(int64_t head, float lse_value) const {
    write_zeros(out_of(head), p_.out, p_.tq, p_.value_dim);
    if (float* lse = lse_of(head))
      for (int64_t i = 0; i < p_.tq; ++i) lse[i] = lse_value;
  }

  void head(int64_t head) const {
    const F32 d;
    float* s = scratch_ + layout_.scores;
    const Rows q =
        operand(at<T>(args_.q, p_.q, 0, head), p_.q, p_.tq, p_.head_dim, scratch_ + layout_.q);
    if (spread_.vecs > 0) {
      transpose_queries(q, p_.head_dim, factor_, layout_.qt);
      for (int64_t i = 0; i < spread_.width; i += kLanes)
        hn::Store(hn::Set(d, -HUGE_VALF), d, scratch_ + layout_.max + i);
      short_product<0, Finish::max>({.a = k_.first,
                                     .a_row = k_.stride,
                                     .a_step = 1,
                                     .b = scratch_ + layout_.qt,
                                     .b_step = layout_.lanes,
                                     .c = s,
                                     .c_row = layout_.lanes,
                                     .steps = p_.head_dim,
                                     .extra = scratch_ + layout_.max,
                                     .add = false},
                                    keys_, spread_.vecs);
      if (mask_) mask_scores(block(s), Look::range, nullptr, scratch_ + layout_.max);
      softmax(s);
    }
    for (int64_t i = spread_.first_single; i < p_.tq; ++i) single(q.first + i * q.stride, i, s);
    const Target o = target(out_of(head), p_.out, p_.value_dim, scratch_ + layout_.out);
    short_product<1, Finish::scale>({.a = s,
                                     .a_row = 1,
                                     .a_step = layout_.lanes,
                                     .b = v_.first,
                                     .b_step = v_.stride,
                                     .c = o.first,
                                     .c_row = o.stride,
                                     .steps = keys_,
                                     .extra = scratch_ + layout_.inverse,
                                     .add = false},
                                    p_.tq, whole_vectors(p_.value_dim) / kLanes);
    write(o, out_of(head), p_.out, p_.tq, p_.value_dim);
    if (float* lse = lse_of(head)) write_lse(lse);
  }

  // Scores become exp2(score - maximum).
  HWY_NOINLINE void softmax(float* s) const {
    const F32 d;
    for (int64_t v = 0; v < spread_.width; v += kLanes) {
      const Vec base = simd::base_of(hn::Load(d, scratch_ + layout_.max + v));
      Vec sum = hn::Zero(d);
      float* const last = s + v + keys_ * layout_.lanes;
      for (float* row = s + v; row < last; row += layout_.lanes) {
        const Vec e = exp2(hn::Sub(hn::Load(d, row), base));
        hn::Store(e, d, row);
        sum = hn::Add(sum, e);
      }
      hn::Store(sum, d, scratch_ + layout_.sum + v);
      hn::Store(simd::inverse_or_zero(sum), d, scratch_ + layout_.inverse + v);
    }
  }

  // One query, with its probabilities put into column i of s.
  HWY_NOINLINE void single(const float* q, int64_t i, float* s) const {
    const F32 d;
    float* scores = scratch_ + layout_.single;
    single_scores(q, i, scores);
    for (int64_t j = keys_; j < whole_vectors(keys_); ++j) scores[j] = -HUGE_VALF;
    Vec max = hn::Set(d, -HUGE_VALF);
    for (int64_t j = 0; j < keys_; j += kLanes) max = hn::Max(max, hn::Load(d, scores + j));
    max = hn::MaxOfLanes(d, max);
    const Vec base = simd::base_of(max);
    Vec sum = hn::Zero(d);
    for (int64_t j = 0; j < keys_; j += kLanes) {
      const Vec e = exp2(hn::Sub(hn::Load(d, scores + j), base));
      hn::Store(e, d, scores + j);
      sum = hn::Add(sum, e);
    }
    for (int64_t j = 0; j < keys_; ++j) s[j * layout_.lanes + i] = scores[j];
    sum = hn::SumOfLanes(d, sum);
    scratch_[layout_.max + i] = hn::GetLane(max);
    scratch_[layout_.sum + i] = hn::GetLane(sum);
    scratch_[layout_.inverse + i] = hn::GetLane(simd::inverse_or_zero(sum));
  }

  HWY_NOINLINE void write_lse(float* lse) const {
    const F32 d;
    for (int64_t i = 0; i < p_.tq; i += kLanes) {
      const Vec base = simd::base_of(hn::Load(d, scratch_ + layout_.max + i));
      const Vec ln = log_of_sum(hn::Load(d, scratch_ + layout_.sum + i));
      const Vec value = hn::MulAdd(base, hn::Set(d, 0.693147180559945f), ln);
      if (i + kLanes <= p_.tq)
        hn::StoreU(value, d, lse + i);
      else
        simd::store_some(value, lse + i, p_.tq - i);
    }
  }
};

}  // namespace

void short_forward(const ShortForwardTask& task, float* scratch) {
  if (task.problem.dtype == DType::f32)
    ShortForward<float>(task, scratch).run();
  else
    ShortForward<bf16>(task, scratch).run();
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::attention_detail {
void append_short([[maybe_unused]] std::vector<AttentionKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit)               \
    list.push_back(                  \
        {short_name(name), plan_short<AttentionArgs, ShortForwardLayout, target::short_forward>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::attention_detail
#endif  // HWY_ONCE

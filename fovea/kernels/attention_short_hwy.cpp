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

struct ShortForwardTask {
  const AttentionProblem& problem;
  const AttentionArgs& args;
  int64_t batch, first_kv_head, end_kv_head;
};

// Where one worker's scratch holds what, in floats. Rows are padded to vectors of any target.
struct ShortForwardLayout {
  explicit ShortForwardLayout(const AttentionProblem& p) {
    const auto round = [](int64_t n) { return (n + 15) / 16 * 16; };
    lanes = round(p.tq);
    ShortScratch scratch;
    qt = scratch.take(round(p.head_dim) * lanes);
    scores = scratch.take(p.tk * lanes);
    q = scratch.take(p.tq * round(p.head_dim));
    k = scratch.take(p.tk * round(p.head_dim));
    v = scratch.take(p.tk * round(p.value_dim));
    out = scratch.take(p.tq * round(p.value_dim));
    max = scratch.take(lanes);
    sum = scratch.take(lanes);
    inverse = scratch.take(lanes);
    begin = scratch.take(lanes);
    end = scratch.take(lanes);
    single = scratch.take(round(p.tk));
    single_q = scratch.take(round(p.head_dim));
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
class ShortForward {
 public:
  ShortForward(const ShortForwardTask& task, float* scratch)
      : p_(task.problem),
        task_(task),
        layout_(p_),
        scratch_(scratch),
        spread_(p_.tq),
        length_(attention_detail::key_length(p_, task.args.key_lengths, task.batch)) {}

  void run() {
    seen_ = block_keys(p_, 0, p_.tq, length_, layout_.lanes, begin(), end());
    from_ = seen_.touched.begin;
    keys_ = seen_.touched.end - from_;
    const int64_t group = p_.heads / p_.kv_heads;
    for (int64_t g = task_.first_kv_head; g < task_.end_kv_head; ++g) {
      if (keys_ > 0 && g * group < p_.heads_kept) {
        k_ = operand(at(task_.args.k, p_.k, from_, g), p_.k, keys_, p_.head_dim,
                     scratch_ + layout_.k);
        v_ = operand(at(task_.args.v, p_.v, from_, g), p_.v, keys_, p_.value_dim,
                     scratch_ + layout_.v);
      }
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        if (h >= p_.heads_kept)
          nothing(h, 0.0f);
        else if (keys_ <= 0)
          nothing(h, -HUGE_VALF);
        else
          head(h);
      }
    }
  }

 private:
  const T* at(const void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return static_cast<const T*>(base) + task_.batch * s.batch + token * s.token + head * s.head;
  }
  T* out_of(int64_t head) const {
    return static_cast<T*>(task_.args.out) + task_.batch * p_.out.batch + head * p_.out.head;
  }
  float* lse_of(int64_t head) const {
    if (!p_.want_lse || !task_.args.lse) return nullptr;
    return static_cast<float*>(task_.args.lse) + (task_.batch * p_.heads + head) * p_.tq;
  }

  void nothing(int64_t head, float lse_value) const {
    write_zeros(out_of(head), p_.out, p_.tq, p_.value_dim);
    if (float* lse = lse_of(head))
      for (int64_t i = 0; i < p_.tq; ++i) lse[i] = lse_value;
  }

  void head(int64_t head) const {
    const F32 d;
    constexpr double kLog2E = 1.4426950408889634;
    const float factor = static_cast<float>(p_.scale * kLog2E);
    float* s = scratch_ + layout_.scores;
    const Rows q =
        operand(at(task_.args.q, p_.q, 0, head), p_.q, p_.tq, p_.head_dim, scratch_ + layout_.q);
    const bool mask = seen_.full.begin > from_ || seen_.full.end < from_ + keys_;
    if (spread_.vecs > 0) {
      transpose_rows(q, p_.tq, spread_.width, p_.head_dim, factor, scratch_ + layout_.qt,
                     layout_.lanes);
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
      if (mask) mask_scores(s);
      softmax(s);
    }
    for (int64_t i = spread_.first_single; i < p_.tq; ++i)
      single(q.first + i * q.stride, i, factor, mask, s);
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

  void mask_scores(float* s) const {
    const F32 d;
    for (int64_t v = 0; v < spread_.width; v += kLanes) {
      Vec max = hn::Set(d, -HUGE_VALF);
      for (int64_t j = 0; j < keys_; ++j) {
        float* row = s + j * layout_.lanes + v;
        const Vec score = masked(hn::Load(d, row), from_ + j, begin() + v, end() + v);
        hn::Store(score, d, row);
        max = hn::Max(max, score);
      }
      hn::Store(max, d, scratch_ + layout_.max + v);
    }
  }

  // Scores become exp2(score - maximum).
  HWY_NOINLINE void softmax(float* s) const {
    const F32 d;
    for (int64_t v = 0; v < spread_.width; v += kLanes) {
      const Vec base = finite(hn::Load(d, scratch_ + layout_.max + v));
      Vec sum = hn::Zero(d);
      float* const last = s + v + keys_ * layout_.lanes;
      for (float* row = s + v; row < last; row += layout_.lanes) {
        const Vec e = exp2(hn::Sub(hn::Load(d, row), base));
        hn::Store(e, d, row);
        sum = hn::Add(sum, e);
      }
      hn::Store(sum, d, scratch_ + layout_.sum + v);
      hn::Store(inverse(sum), d, scratch_ + layout_.inverse + v);
    }
  }

  // One query, with its probabilities put into column i of s.
  HWY_NOINLINE void single(const float* q, int64_t i, float factor, bool mask, float* s) const {
    const F32 d;
    float* scaled = scratch_ + layout_.single_q;
    float* scores = scratch_ + layout_.single;
    for (int64_t c = 0; c < p_.head_dim; c += kLanes)
      hn::Store(hn::Mul(hn::LoadU(d, q + c), hn::Set(d, factor)), d, scaled + c);
    row_dots(k_, {scaled, 0}, keys_, p_.head_dim, scores);
    for (int64_t j = keys_; j < whole_vectors(keys_); ++j) scores[j] = -HUGE_VALF;
    if (mask) mask_row(scores, from_, keys_, begin()[i], end()[i]);
    Vec max = hn::Set(d, -HUGE_VALF);
    for (int64_t j = 0; j < keys_; j += kLanes) max = hn::Max(max, hn::Load(d, scores + j));
    max = hn::MaxOfLanes(d, max);
    const Vec base = finite(max);
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
    scratch_[layout_.inverse + i] = hn::GetLane(inverse(sum));
  }

  // Where no key is seen, -infinity - 0 keeps probabilities at 0 instead of NaN.
  static Vec finite(Vec max) {
    return hn::IfThenZeroElse(hn::Eq(max, hn::Set(F32(), -HUGE_VALF)), max);
  }
  static Vec inverse(Vec sum) {
    const F32 d;
    return hn::IfThenZeroElse(hn::Eq(sum, hn::Zero(d)), hn::Div(hn::Set(d, 1.0f), sum));
  }

  HWY_NOINLINE void write_lse(float* lse) const {
    const F32 d;
    for (int64_t i = 0; i < p_.tq; i += kLanes) {
      const Vec base = finite(hn::Load(d, scratch_ + layout_.max + i));
      const Vec ln = log_of_sum(hn::Load(d, scratch_ + layout_.sum + i));
      const Vec value = hn::MulAdd(base, hn::Set(d, 0.693147180559945f), ln);
      if (i + kLanes <= p_.tq)
        hn::StoreU(value, d, lse + i);
      else
        simd::store_some(value, lse + i, p_.tq - i);
    }
  }

  int32_t* begin() const { return reinterpret_cast<int32_t*>(scratch_ + layout_.begin); }
  int32_t* end() const { return reinterpret_cast<int32_t*>(scratch_ + layout_.end); }

  const AttentionProblem& p_;
  const ShortForwardTask& task_;
  const ShortForwardLayout layout_;
  float* const scratch_;
  const Spread spread_;
  const int64_t length_;
  BlockKeys seen_{};
  int64_t from_ = 0, keys_ = 0;  // that some query sees
  Rows k_{}, v_{};
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
namespace {

using ShortForwardFunction = void (*)(const ShortForwardTask&, float*);

class ShortForwardPlan final : public KernelPlan<AttentionArgs> {
 public:
  ShortForwardPlan(const AttentionProblem& problem, ShortForwardFunction function)
      : p_(problem), function_(function) {
    worker_scratch_bytes = static_cast<size_t>(ShortForwardLayout(p_).total) * sizeof(float);
  }

  void run(const AttentionArgs& args, const KernelContext& context) const noexcept override {
    const ShortTasks tasks(p_);
    context.pool->parallel_for(tasks.count, [&](int64_t task, int worker) {
      const int64_t each = p_.kv_heads / tasks.heads;
      const int64_t first = task % each * tasks.heads;
      function_({.problem = p_,
                 .args = args,
                 .batch = task / each,
                 .first_kv_head = first,
                 .end_kv_head = first + tasks.heads},
                context.worker<float>(worker));
    });
  }

 private:
  AttentionProblem p_;
  ShortForwardFunction function_;
};

template <ShortForwardFunction kFunction>
std::unique_ptr<KernelPlan<AttentionArgs>> plan_short(const AttentionProblem& problem) {
  check(problem, false);
  if (!short_enough(problem)) return nullptr;
  return std::make_unique<ShortForwardPlan>(problem, kFunction);
}

}  // namespace

void append_short([[maybe_unused]] std::vector<AttentionKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit) list.push_back({short_name(name), plan_short<target::short_forward>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::attention_detail
#endif  // HWY_ONCE

// Additive and subtraction attention, backward, in SIMD of each target; bf16 is converted when it
// is loaded and stored. The formulas stand in pair_attention_ref.cpp.
#include <cmath>

#define HWY_TARGET_INCLUDE "fovea/kernels/pair_attention_backward_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/base/error.h"
#include "fovea/kernels/pair_attention-inl.h"
#include "fovea/kernels/pair_attention_layout.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using pair_attention_detail::BackwardTask;

constexpr float kLn2 = 0.69314718f;

// Sums of dS times the slope over keys into dqt [dim][width]; over queries, times the weights, into
// dkt [dim][kKeyBlock]; and of dS times the value over both into dw [dim][lanes].
struct Gradients {
  const float* dscores;
  float *dqt, *dkt, *dw;
};

template <class Pair, int kKeys>
HWY_INLINE void gradient_tile(const Block& x, const Gradients& g, int64_t key, int64_t c) {
  const F32 d;
  const float* HWY_RESTRICT q = x.qt + c * x.width;
  float* HWY_RESTRICT dq = g.dqt + c * x.width;
  const float* HWY_RESTRICT ds = g.dscores + key * x.width;
  Vec one_key[kKeys], dk[kKeys];
  FOVEA_UNROLL
  for (int r = 0; r < kKeys; ++r) {
    one_key[r] = hn::Set(d, x.k[(key + r) * x.k_stride + c]);
    dk[r] = hn::Zero(d);
  }
  Vec dw = hn::Load(d, g.dw + c * kLanes);
  for (int64_t v = 0; v < x.width; v += kLanes) {
    const Vec query = hn::Load(d, q + v);
    Vec sum = hn::Load(d, dq + v);
    FOVEA_UNROLL
    for (int r = 0; r < kKeys; ++r) {
      const Vec link = hn::Load(d, ds + r * x.width + v);
      const Vec value = Pair::value(query, one_key[r]);
      const Vec slope = Pair::times_slope(value, query, one_key[r], link);
      sum = hn::Add(sum, slope);
      dk[r] = hn::Add(dk[r], slope);
      dw = hn::MulAdd(link, value, dw);
    }
    hn::Store(sum, d, dq + v);
  }
  hn::Store(dw, d, g.dw + c * kLanes);
  // Query heads of a group weigh their keys each in its own way, so the weight goes in here.
  const float weight = Pair::kOfKey * Pair::kSlope * kLn2 * x.w[c];
  float* const to = g.dkt + c * kKeyBlock + key;
  FOVEA_UNROLL
  for (int r = 0; r < kKeys; ++r) to[r] += weight * hn::GetLane(hn::SumOfLanes(d, dk[r]));
}

template <class Pair>
HWY_NOINLINE void gradients_of(const Block& x, const Gradients& g) {
  constexpr int kKeys = HWY_TARGET == HWY_AVX3 ? 8 : 4;
  int64_t j = 0;
  for (; j + kKeys <= x.keys; j += kKeys)
    for (int64_t c = 0; c < x.dim; ++c) gradient_tile<Pair, kKeys>(x, g, j, c);
  for (; j < x.keys; ++j)
    for (int64_t c = 0; c < x.dim; ++c) gradient_tile<Pair, 1>(x, g, j, c);
}

template <class T>
class Backward : Panels<T, BackwardTask> {
  using Base = Panels<T, BackwardTask>;
  using Base::args_, Base::at, Base::layout_, Base::length_, Base::p_, Base::room, Base::task_,
      Base::width_, Base::count_, Base::first_;

 public:
  using Base::Base;

  void run() {
    const F32 d;
    const int64_t blocks = (p_.tk + kKeyBlock - 1) / kKeyBlock;
    fill_zero(room(layout_.dv), blocks * kKeyBlock * layout_.value_dim);
    fill_zero(room(layout_.dkt), blocks * p_.head_dim * kKeyBlock);
    for (int64_t h = 0; h < p_.group(); ++h) {
      const int64_t head = task_.head * p_.group() + h;
      fill_zero(room(layout_.dw), p_.head_dim * kLanes);
      for (int64_t i = 0; i < p_.tq; i += layout_.width) queries(i, head);
      for (int64_t c = 0; c < p_.head_dim; ++c) {
        const float sum =
            hn::GetLane(hn::SumOfLanes(d, hn::Load(d, room(layout_.dw) + c * kLanes)));
        task_.dw[head * p_.head_dim + c] = p_.scale * factor() * double{sum};
      }
    }
    for (int64_t j = 0; j < p_.tk; j += kKeyBlock) write_keys(j, HWY_MIN(kKeyBlock, p_.tk - j));
  }

 private:
  bool additive() const { return p_.score == PairScore::additive; }
  double factor() const { return double{additive() ? TanhByPowers::kFactor : Difference::kFactor}; }
  float slope() const { return additive() ? TanhByPowers::kSlope : Difference::kSlope; }

  // A panel against all the keys that it sees.
  HWY_NOINLINE void queries(int64_t first, int64_t head) {
    const F32 d;
    Base::start(first, head);
    load_result(head);
    Base::load_panel(args_.dout, p_.dout, p_.value_dim, layout_.value_dim, head,
                     room(layout_.outt));
    // The rows of dO stay where they are for dV.
    fill_zero(room(layout_.dqt), p_.head_dim * width_);
    Base::load_weights(head, p_.scale * kLog2E);
    Base::for_blocks([&](int64_t j, int64_t keys) HWY_ATTR {
      const int64_t row = j / kKeyBlock * kKeyBlock, within = j - row;
      Base::with_keys(j, keys, task_.head, [&](auto pair, const Block& block) HWY_ATTR {
        scores_of<decltype(pair)>(block);
        product<Into::set, Contiguous::step>({.a = room(layout_.v),
                                              .a_stride = layout_.value_dim,
                                              .b = room(layout_.outt),
                                              .b_stride = width_,
                                              .c = room(layout_.dscores),
                                              .c_stride = width_,
                                              .lane_row = nullptr,
                                              .steps = p_.value_dim},
                                             keys, width_ / kLanes);
        probabilities_of(j, keys);
        product<Into::add, Contiguous::step>({.a = room(layout_.scores),
                                              .a_stride = width_,
                                              .b = room(layout_.rows),
                                              .b_stride = layout_.value_dim,
                                              .c = room(layout_.dv) + j * layout_.value_dim,
                                              .c_stride = layout_.value_dim,
                                              .lane_row = nullptr,
                                              .steps = count_},
                                             keys, layout_.value_dim / kLanes);
        gradients_of<decltype(pair)>(block, {.dscores = room(layout_.dscores),
                                             .dqt = room(layout_.dqt),
                                             .dkt = room(layout_.dkt) + row * p_.head_dim + within,
                                             .dw = room(layout_.dw)});
      });
    });
    Base::load_weights(head, p_.scale);
    float* const dqt = room(layout_.dqt);
    for (int64_t c = 0; c < p_.head_dim; ++c) {
      const Vec weight = hn::Set(d, slope() * room(layout_.w)[c]);
      for (int64_t v = c * width_; v < (c + 1) * width_; v += kLanes)
        hn::Store(hn::Mul(hn::Load(d, dqt + v), weight), d, dqt + v);
    }
    transpose<false>(dqt, width_, p_.head_dim, count_, 1.0f, room(layout_.rows), layout_.dim);
    store_rows(room(layout_.rows), layout_.dim, count_, p_.head_dim,
               at(args_.dq, p_.dq, first, head), p_.dq.token);
  }

  // The log-sum-exp in powers of 2, and delta = rowsum(dO * O).
  void load_result(int64_t head) const {
    const float* const lses =
        static_cast<const float*>(args_.lse) + (task_.batch * p_.heads + head) * p_.tq + first_;
    for (int64_t i = 0; i < width_; ++i) {
      // +infinity makes the probabilities of a query without keys, and of an absent one, 0.
      const bool none = i >= count_ || lses[i] == -HUGE_VALF;
      room(layout_.max)[i] = none ? HUGE_VALF : static_cast<float>(double{lses[i]} * kLog2E);
      float delta = 0;
      if (i < count_) {
        const T* const out = at(args_.out, p_.out, first_ + i, head);
        const T* const dout = at(args_.dout, p_.dout, first_ + i, head);
        for (int64_t e = 0; e < p_.value_dim; ++e)
          delta += static_cast<float>(out[e]) * static_cast<float>(dout[e]);
      }
      room(layout_.sum)[i] = delta;
    }
  }

  // Scores become P, dP becomes dS = P * (dP - delta).
  HWY_NOINLINE void probabilities_of(int64_t first_key, int64_t keys) const {
    const F32 d;
    for (int64_t v = 0; v < width_; v += kLanes) {
      const Vec lse = hn::Load(d, room(layout_.max) + v),
                delta = hn::Load(d, room(layout_.sum) + v);
      for (int64_t j = 0; j < keys; ++j) {
        float* const score = room(layout_.scores) + j * width_ + v;
        float* const ds = room(layout_.dscores) + j * width_ + v;
        const Vec p = exp2(hn::Sub(Base::seen_score(score, first_key + j, v), lse));
        hn::Store(p, d, score);
        hn::Store(hn::Mul(p, hn::Sub(hn::Load(d, ds), delta)), d, ds);
      }
    }
  }

  void write_keys(int64_t j, int64_t keys) const {
    store_rows(room(layout_.dv) + j * layout_.value_dim, layout_.value_dim, keys, p_.value_dim,
               at(args_.dv, p_.dv, j, task_.head), p_.dv.token);
    transpose<false>(room(layout_.dkt) + j * p_.head_dim, kKeyBlock, p_.head_dim, keys, 1.0f,
                     room(layout_.dk_rows), layout_.dim);
    store_rows(room(layout_.dk_rows), layout_.dim, keys, p_.head_dim,
               at(args_.dk, p_.dk, j, task_.head), p_.dk.token);
  }
};

}  // namespace

void pair_attention_backward(const BackwardTask& task, float* scratch) {
  const Layout layout(task.problem, kLanes, true);
  if (task.problem.dtype == DType::f32)
    Backward<float>(task, layout, scratch).run();
  else
    Backward<bf16>(task, layout, scratch).run();
}
int64_t pair_attention_backward_lanes() { return kLanes; }

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::pair_attention_detail {
namespace {

using Function = void (*)(const BackwardTask&, float*);

class HwyBackward final : public KernelPlan<PairAttentionBackwardArgs> {
 public:
  HwyBackward(const PairAttentionProblem& problem, Function function, int64_t lanes)
      : p_(problem), function_(function) {
    worker_scratch_bytes = static_cast<size_t>(Layout(p_, lanes, true).total) * sizeof(float);
    scratch_bytes = static_cast<size_t>(p_.batch * weights()) * sizeof(double);
  }

  void run(const PairAttentionBackwardArgs& args,
           const KernelContext& context) const noexcept override {
    FOVEA_ASSERT(args.lse != nullptr);
    // dw of each sample; added in their order.
    auto* const parts = reinterpret_cast<double*>(context.scratch);
    context.pool->parallel_for(p_.batch * p_.kv_heads, [&](int64_t task, int worker) {
      const int64_t batch = task / p_.kv_heads;
      function_({p_, args, batch, task % p_.kv_heads, 0, parts + batch * weights()},
                context.worker<float>(worker));
    });
    for (int64_t i = 0; i < weights(); ++i) {
      double sum = 0;
      for (int64_t b = 0; b < p_.batch; ++b) sum += parts[b * weights() + i];
      if (p_.dtype == DType::f32)
        static_cast<float*>(args.dw)[i] = static_cast<float>(sum);
      else
        static_cast<bf16*>(args.dw)[i] = bf16(static_cast<float>(sum));
    }
  }

 private:
  int64_t weights() const { return p_.heads * p_.head_dim; }

  PairAttentionProblem p_;
  Function function_;
};

template <void (*kFunction)(const BackwardTask&, float*), int64_t (*kLanesOf)()>
std::unique_ptr<KernelPlan<PairAttentionBackwardArgs>> plan_hwy(
    const PairAttentionProblem& problem) {
  check(problem, true);
  if (problem.dtype != DType::f32 && problem.dtype != DType::bf16) return nullptr;
  return std::make_unique<HwyBackward>(problem, kFunction, kLanesOf());
}

}  // namespace

void append_backward_hwy([[maybe_unused]] std::vector<PairAttentionBackwardKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit)               \
    list.push_back(                  \
        {name, plan_hwy<target::pair_attention_backward, target::pair_attention_backward_lanes>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::pair_attention_detail
#endif  // HWY_ONCE

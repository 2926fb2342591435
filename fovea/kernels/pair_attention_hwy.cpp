// Additive and subtraction attention, forward, in SIMD of each target; bf16 is converted when it is
// loaded and stored.
#include <cmath>

#define HWY_TARGET_INCLUDE "fovea/kernels/pair_attention_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/pair_attention-inl.h"
#include "fovea/kernels/pair_attention_layout.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using pair_attention_detail::ForwardTask;

template <class T>
class Forward : Panels<T, ForwardTask> {
  using Base = Panels<T, ForwardTask>;
  using Base::args_, Base::at, Base::layout_, Base::p_, Base::room, Base::task_, Base::width_,
      Base::count_, Base::first_;

 public:
  using Base::Base;

  void run() {
    const F32 d;
    const int64_t head = task_.head, kv_head = head / p_.group();
    Base::load_weights(head, p_.scale * kLog2E);
    Base::start(task_.block * layout_.width, head);
    for (int64_t v = 0; v < width_; v += kLanes) {
      hn::Store(hn::Set(d, -HUGE_VALF), d, room(layout_.max) + v);
      hn::Store(hn::Zero(d), d, room(layout_.sum) + v);
    }
    fill_zero(room(layout_.outt), p_.value_dim * width_);
    Base::for_blocks([&](int64_t j, int64_t keys) HWY_ATTR {
      Base::with_keys(j, keys, kv_head, [&](auto pair, const Block& block) HWY_ATTR {
        scores_of<decltype(pair)>(block);
      });
      online_softmax(j, keys);
      product<Into::rescale, Contiguous::row>({.a = room(layout_.v),
                                               .a_stride = layout_.value_dim,
                                               .b = room(layout_.scores),
                                               .b_stride = width_,
                                               .c = room(layout_.outt),
                                               .c_stride = width_,
                                               .lane_row = room(layout_.rescale),
                                               .steps = keys},
                                              p_.value_dim, width_ / kLanes);
    });
    finish();
  }

 private:
  HWY_NOINLINE void online_softmax(int64_t first_key, int64_t keys) const {
    const F32 d;
    for (int64_t v = 0; v < width_; v += kLanes) {
      float* const scores = room(layout_.scores) + v;
      const Vec before = hn::Load(d, room(layout_.max) + v);
      Vec max = before;
      for (int64_t j = 0; j < keys; ++j) {
        const Vec score = Base::seen_score(scores + j * width_, first_key + j, v);
        hn::Store(score, d, scores + j * width_);
        max = hn::Max(max, score);
      }
      const Vec base = simd::base_of(max);
      const Vec rescale = exp2(hn::Sub(before, base));
      Vec sum = hn::Zero(d);
      for (int64_t j = 0; j < keys; ++j) {
        const Vec p = exp2(hn::Sub(hn::Load(d, scores + j * width_), base));
        hn::Store(p, d, scores + j * width_);
        sum = hn::Add(sum, p);
      }
      float* const sums = room(layout_.sum) + v;
      hn::Store(hn::MulAdd(hn::Load(d, sums), rescale, sum), d, sums);
      hn::Store(rescale, d, room(layout_.rescale) + v);
      hn::Store(max, d, room(layout_.max) + v);
    }
  }

  void finish() const {
    const F32 d;
    float* const outt = room(layout_.outt);
    for (int64_t v = 0; v < width_; v += kLanes) {
      const Vec inverse = simd::inverse_or_zero(hn::Load(d, room(layout_.sum) + v));
      for (int64_t e = v; e < p_.value_dim * width_; e += width_)
        hn::Store(hn::Mul(hn::Load(d, outt + e), inverse), d, outt + e);
    }
    transpose<false>(outt, width_, p_.value_dim, count_, 1.0f, room(layout_.rows),
                     layout_.value_dim);
    store_rows(room(layout_.rows), layout_.value_dim, count_, p_.value_dim,
               at(args_.out, p_.out, first_, task_.head), p_.out.token);
    if (!p_.want_lse || !args_.lse) return;
    float* const lse =
        static_cast<float*>(args_.lse) + (task_.batch * p_.heads + task_.head) * p_.tq + first_;
    for (int64_t i = 0; i < count_; ++i) {
      const double sum = double{room(layout_.sum)[i]}, max = double{room(layout_.max)[i]};
      lse[i] = sum == 0 ? -HUGE_VALF : static_cast<float>(max / kLog2E + std::log(sum));
    }
  }
};

}  // namespace

void pair_attention_forward(const ForwardTask& task, float* scratch) {
  const Layout layout(task.problem, kLanes, false);
  if (task.problem.dtype == DType::f32)
    Forward<float>(task, layout, scratch).run();
  else
    Forward<bf16>(task, layout, scratch).run();
}
int64_t pair_attention_lanes() { return kLanes; }

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::pair_attention_detail {
namespace {

using Function = void (*)(const ForwardTask&, float*);

class HwyForward final : public KernelPlan<PairAttentionArgs> {
 public:
  HwyForward(const PairAttentionProblem& problem, Function function, int64_t lanes)
      : p_(problem), function_(function) {
    const Layout layout(p_, lanes, false);
    worker_scratch_bytes = static_cast<size_t>(layout.total) * sizeof(float);
    blocks_ = (p_.tq + layout.width - 1) / layout.width;
  }

  void run(const PairAttentionArgs& args, const KernelContext& context) const noexcept override {
    context.pool->parallel_for(p_.batch * p_.heads * blocks_, [&](int64_t task, int worker) {
      const int64_t head = task / blocks_;
      function_({p_, args, head / p_.heads, head % p_.heads, task % blocks_, nullptr},
                context.worker<float>(worker));
    });
  }

 private:
  PairAttentionProblem p_;
  Function function_;
  int64_t blocks_;
};

template <void (*kFunction)(const ForwardTask&, float*), int64_t (*kLanesOf)()>
std::unique_ptr<KernelPlan<PairAttentionArgs>> plan_hwy(const PairAttentionProblem& problem) {
  check(problem, false);
  if (problem.dtype != DType::f32 && problem.dtype != DType::bf16) return nullptr;
  return std::make_unique<HwyForward>(problem, kFunction, kLanesOf());
}

}  // namespace

void append_hwy([[maybe_unused]] std::vector<PairAttentionKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit)               \
    list.push_back({name, plan_hwy<target::pair_attention_forward, target::pair_attention_lanes>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::pair_attention_detail
#endif  // HWY_ONCE

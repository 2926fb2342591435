// The plan of tiled attention, backward: tasks, tables that all heads share, and gradients that
// several heads or samples add to.
#include "fovea/kernels/attention_backward_blocks.h"

#include <algorithm>
#include <cstdint>
#include <memory>

#include "fovea/base/error.h"

namespace fovea::attention_detail {

namespace {

class HwyBackward final : public KernelPlan<AttentionBackwardArgs> {
 public:
  HwyBackward(const AttentionProblem& problem, const BackwardTarget& target)
      : p_(problem), target_(target), rotary_(problem) {
    worker_scratch_bytes =
        static_cast<size_t>(BackwardLayout(p_, target.lanes()).total) * sizeof(float);
    const int64_t relative =
        p_.relative_keys ? 3 * p_.kv_heads * relative_room(p_) + p_.heads * biases_room(p_) : 0;
    scratch_bytes = SharedSums::bytes(p_) + static_cast<size_t>(relative) * sizeof(float);
  }

  void run(const AttentionBackwardArgs& wanted,
           const KernelContext& context) const noexcept override {
    FOVEA_ASSERT(wanted.lse != nullptr);
    const AttentionBackwardArgs args = named(p_, wanted);
    const SharedSums sums(p_, context.scratch);
    RelativeScratch relative;
    if (p_.relative_keys) {
      relative.transposed = reinterpret_cast<float*>(context.scratch + SharedSums::bytes(p_));
      relative.rows = relative.transposed + p_.kv_heads * relative_room(p_);
      relative.drows = relative.rows + p_.kv_heads * relative_room(p_);
      relative.bias_sums = relative.drows + p_.kv_heads * relative_room(p_);
      lay_out(args, relative, context);
    }
    sums.sweep(args, rotary_, target_.distances, context,
               [&](const HeadBackwardTask& task, float* scratch) {
                 target_.backward({task, relative}, scratch);
               });
    sums.write(args, context);
    if (p_.relative_keys) write_relative(args, relative, context);
    for (int64_t head = 0; head < p_.heads; ++head) {
      if (args.dspans)
        static_cast<float*>(args.dspans)[head] =
            span_gradient(sums.of_head(head), HeadSpan(p_, args.links, head));
      if (args.dtemperatures && p_.relative_keys)
        static_cast<float*>(args.dtemperatures)[head] +=
            along_biases(args.links, relative.bias_sums + head * biases_room(p_), head);
    }
  }

 private:
  // Relative keys as the products read them, and zeros for what is summed up.
  void lay_out(const AttentionBackwardArgs& args, const RelativeScratch& relative,
               const KernelContext& context) const {
    const int64_t group = p_.heads / p_.kv_heads;
    context.pool->parallel_for(p_.kv_heads, [&](int64_t head, int) {
      const int64_t at = head * relative_room(p_);
      target_.relative(p_,
                       static_cast<const float*>(args.links.relative_keys) +
                           head * (p_.tq + p_.tk - 1) * p_.head_dim,
                       relative.rows + at, relative.transposed + at);
      std::fill_n(relative.drows + at, relative_room(p_), 0.0f);
      std::fill_n(relative.bias_sums + head * group * biases_room(p_), group * biases_room(p_),
                  0.0f);
    });
  }
  void write_relative(const AttentionBackwardArgs& args, const RelativeScratch& relative,
                      const KernelContext& context) const {
    const int64_t dim = p_.head_dim, count = p_.tq + p_.tk - 1;
    const int64_t row = (dim + target_.lanes() - 1) / target_.lanes() * target_.lanes();
    const auto write = [dim](void* to, int64_t at, const float* from, float factor) {
      if (!to) return;
      for (int64_t c = 0; c < dim; ++c) static_cast<float*>(to)[at * dim + c] = factor * from[c];
    };
    context.pool->parallel_for(p_.kv_heads, [&](int64_t head, int) {
      for (int64_t n = 0; n < count; ++n)
        write(args.drelative_keys, head * count + n,
              relative.drows + head * relative_room(p_) + n * row, static_cast<float>(p_.scale));
    });
    for (int64_t h = 0; h < p_.heads; ++h) {
      const float* sums = relative.bias_sums + h * biases_room(p_);
      const float t = temperature(p_, args.links, h);
      write(args.dcontent_biases, h, sums, t);
      write(args.dposition_biases, h, sums + padded(dim), t);
    }
  }
  // What the biases of a head add to the gradient of its temperature.
  float along_biases(const AttentionLinks& links, const float* sums, int64_t head) const {
    double sum = 0;
    for (const float* bias : {content_bias(p_, links, head), position_bias(p_, links, head)}) {
      for (int64_t c = 0; bias && c < p_.head_dim; ++c)
        sum += static_cast<double>(bias[c]) * static_cast<double>(sums[c]);
      sums += padded(p_.head_dim);
    }
    return static_cast<float>(sum);
  }

  // from: as add_distances().
  float span_gradient(const float* from, const HeadSpan& span) const {
    double sum = 0;
    for (int64_t n = 0; n < p_.tq + p_.tk - 1; ++n) {
      const double slope = span.slope(distance_of(p_, n));
      if (slope == 0) continue;
      for (int64_t b = 0; b < p_.batch; ++b)
        sum += slope * static_cast<double>(from[b * p_.heads * distance_row(p_) + n]);
    }
    return static_cast<float>(sum);
  }

  AttentionProblem p_;
  BackwardTarget target_;
  RotaryTable<float> rotary_;
};

}  // namespace

std::unique_ptr<KernelPlan<AttentionBackwardArgs>> plan_backward_blocks(
    const AttentionProblem& problem, const BackwardTarget& target) {
  check(problem, true);
  if (problem.dtype != DType::f32 && problem.dtype != DType::bf16) return nullptr;
  if (!by_softmax(problem)) return nullptr;
  if (problem.head_dim > 256 || problem.value_dim > 256) return nullptr;
  return std::make_unique<HwyBackward>(problem, target);
}

}  // namespace fovea::attention_detail

// The plan of tiled attention, backward: tasks, tables that all heads share, and gradients that
// several heads or samples add to.
#include "fovea/kernels/attention_backward_blocks.h"

#include <algorithm>
#include <cstdint>
#include <memory>

#include "fovea/base/error.h"
#include "fovea/kernels/attention_shared_sums.h"

namespace fovea::attention_detail {

namespace {

class HwyBackward final : public KernelPlan<AttentionBackwardArgs> {
 public:
  HwyBackward(const AttentionProblem& problem, const BackwardTarget& target)
      : p_(problem),
        target_(target),
        rotary_(problem),
        row_(has_distances(p_) ? distance_row(p_) : 0) {
    worker_scratch_bytes =
        static_cast<size_t>(BackwardLayout(p_, target.lanes()).total) * sizeof(float);
    scratch_bytes =
        static_cast<size_t>(p_.heads * (1 + p_.batch) * row_) * sizeof(float) +
        static_cast<size_t>((p_.sink + p_.temperature) * p_.batch * p_.heads) * sizeof(double) +
        static_cast<size_t>(p_.relative_keys
                                ? 3 * p_.kv_heads * relative_room(p_) + p_.heads * biases_room(p_)
                                : 0) *
            sizeof(float);
  }

  void run(const AttentionBackwardArgs& wanted,
           const KernelContext& context) const noexcept override {
    FOVEA_ASSERT(wanted.lse != nullptr);
    const AttentionBackwardArgs args = attention_detail::named(p_, wanted);
    float* distances = reinterpret_cast<float*>(context.scratch);
    float* distance_sums = distances + p_.heads * row_;
    RelativeScratch relative{.transposed = distance_sums + p_.batch * p_.heads * row_};
    if (p_.relative_keys) {
      relative.rows = relative.transposed + p_.kv_heads * relative_room(p_);
      relative.drows = relative.rows + p_.kv_heads * relative_room(p_);
      relative.bias_sums = relative.drows + p_.kv_heads * relative_room(p_);
      lay_out(args, relative, context);
    }
    double* sink_sums = reinterpret_cast<double*>(
        p_.relative_keys ? relative.bias_sums + p_.heads * biases_room(p_) : relative.transposed);
    double* temperature_sums = sink_sums + (p_.sink ? p_.batch * p_.heads : 0);
    const int64_t links = p_.tq + p_.tk - 1;
    if (has_distances(p_)) {
      context.pool->parallel_for(p_.heads, [&](int64_t head, int) {
        target_.distances(p_, args.links, head, distances + head * row_);
      });
    }
    const GradientChains chains(p_, args);
    context.pool->parallel_for(chains.count, [&](int64_t chain, int worker) {
      chains.zero_bias(chain);
      for (int64_t n = 0; n < chains.samples * chains.groups; ++n) {
        target_.backward({.problem = p_,
                          .args = args,
                          .distances = distances,
                          .distance_sums = distance_sums,
                          .sink_sums = sink_sums,
                          .temperature_sums = temperature_sums,
                          .rotary = rotary_,
                          .relative = relative,
                          .batch = chains.first_sample(chain) + n / chains.groups,
                          .kv_head = chains.first_kv_head(chain) + n % chains.groups},
                         context.worker<float>(worker));
      }
    });
    if (p_.relative_keys) write_relative(args, relative, context);
    if (!args.ddistance_bias && !args.dsinks && !args.dtemperatures && !args.dspans) return;
    context.pool->parallel_for(p_.heads, [&](int64_t head, int) {
      if (args.ddistance_bias)
        add_distances(p_, distance_sums + head * row_,
                      static_cast<float*>(args.ddistance_bias) + head * links);
      if (args.dspans)
        static_cast<float*>(args.dspans)[head] =
            span_gradient(distance_sums + head * row_, HeadSpan(p_, args.links, head));
      if (args.dsinks) add_samples(p_, sink_sums, head, args.dsinks);
      if (!args.dtemperatures) return;
      add_samples(p_, temperature_sums, head, args.dtemperatures);
      if (p_.relative_keys)
        static_cast<float*>(args.dtemperatures)[head] +=
            along_biases(args.links, relative.bias_sums + head * biases_room(p_), head);
    });
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
        sum += slope * static_cast<double>(from[b * p_.heads * row_ + n]);
    }
    return static_cast<float>(sum);
  }

  AttentionProblem p_;
  BackwardTarget target_;
  RotaryTable<float> rotary_;
  int64_t row_;  // of distances
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

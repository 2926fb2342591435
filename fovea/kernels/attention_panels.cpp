// The plan of tiled attention, forward: tasks, tables that all heads share, and sums of what keys
// receive.
#include <algorithm>
#include <cstdint>
#include <memory>

#include "fovea/kernels/attention_panels.h"

namespace fovea::attention_detail {

namespace {

class HwyForward final : public KernelPlan<AttentionArgs> {
 public:
  HwyForward(const AttentionProblem& problem, const ForwardTarget& target)
      : p_(problem), panels_(problem, target.lanes()), target_(target), rotary_(problem) {
    worker_scratch_bytes = static_cast<size_t>(ForwardLayout(p_, panels_).total) * sizeof(float);
    if (has_distances(p_))
      scratch_bytes = static_cast<size_t>(p_.heads * distance_row(p_)) * sizeof(float);
    if (p_.relative_keys)
      scratch_bytes +=
          static_cast<size_t>(p_.kv_heads * p_.head_dim * relative_width(p_)) * sizeof(float);
    if (p_.want_mass)
      scratch_bytes += static_cast<size_t>(p_.batch * p_.heads * parts() * p_.tk) * sizeof(float);
  }

  void run(const AttentionArgs& args, const KernelContext& context) const noexcept override {
    float* distances = reinterpret_cast<float*>(context.scratch);
    if (has_distances(p_)) {
      context.pool->parallel_for(p_.heads, [&](int64_t head, int) {
        target_.distances(p_, args.links, head, distances + head * distance_row(p_));
      });
    }
    float* relative = distances + (has_distances(p_) ? p_.heads * distance_row(p_) : 0);
    if (p_.relative_keys) {
      context.pool->parallel_for(p_.kv_heads, [&](int64_t head, int) {
        target_.relative(p_,
                         static_cast<const float*>(args.links.relative_keys) +
                             head * (p_.tq + p_.tk - 1) * p_.head_dim,
                         relative + head * p_.head_dim * relative_width(p_));
      });
    }
    float* masses =
        relative + (p_.relative_keys ? p_.kv_heads * p_.head_dim * relative_width(p_) : 0);
    const bool together = heads_together(p_, panels_);
    context.pool->parallel_for(p_.batch * p_.heads * parts(), [&](int64_t block, int worker) {
      const int64_t sample = block / (p_.heads * parts()), of_sample = block % (p_.heads * parts());
      const int64_t head = together ? of_sample % p_.heads : of_sample / parts();
      const int64_t part = together ? of_sample / p_.heads : of_sample % parts();
      float* mass = nullptr;
      if (p_.want_mass) {
        mass = masses + ((sample * p_.heads + head) * parts() + part) * p_.tk;
        std::fill_n(mass, p_.tk, 0.0f);
      }
      const int64_t end = (part + 1) * panels_.tasks / parts();
      for (int64_t n = part * panels_.tasks / parts(); n < end; ++n) {
        const int64_t first = n * panels_.per_task;
        const ForwardTask task{.problem = p_,
                               .args = args,
                               .panels = panels_,
                               .distances = distances,
                               .rotary = rotary_,
                               .relative = relative,
                               .mass = mass,
                               .batch = sample,
                               .head = head,
                               .first_panel = first,
                               .end_panel = std::min(first + panels_.per_task, panels_.count)};
        if (head < p_.heads_kept)
          target_.forward(task, context.worker<float>(worker));
        else if (p_.dtype == DType::f32)
          drop<float>(task);
        else
          drop<bf16>(task);
      }
    });
    if (!p_.want_mass) return;
    context.pool->parallel_for(p_.batch * p_.heads, [&](int64_t head, int) {
      float* to = static_cast<float*>(args.mass) + head * p_.tk;
      const float* from = masses + head * parts() * p_.tk;
      std::copy_n(from, p_.tk, to);
      for (int64_t part = 1; part < parts(); ++part)
        for (int64_t j = 0; j < p_.tk; ++j) to[j] += from[part * p_.tk + j];
    });
  }

 private:
  // Into how many pieces the queries of a head are cut.
  int64_t parts() const {
    return p_.want_mass ? std::min(panels_.tasks, kMassParts) : panels_.tasks;
  }
  // Zeros for the queries of a head that is not kept.
  template <class T>
  void drop(const ForwardTask& task) const {
    const int64_t end = task.end_panel < panels_.count
                            ? std::min(p_.tq, panels_.first_query(task.end_panel))
                            : p_.tq;
    for (int64_t i = panels_.first_query(task.first_panel); i < end; ++i) {
      std::fill_n(row(static_cast<T*>(task.args.out), p_.out, task.batch, i, task.head),
                  p_.value_dim, T(0.0f));
      const int64_t row_of_all = (task.batch * p_.heads + task.head) * p_.tq + i;
      if (p_.want_lse && task.args.lse) static_cast<float*>(task.args.lse)[row_of_all] = 0;
      if (p_.want_entropy) static_cast<float*>(task.args.entropy)[row_of_all] = 0;
      if (p_.top_links > 0) clear_top(p_, task.args, row_of_all, 1);
    }
  }

  AttentionProblem p_;
  Panels panels_;
  ForwardTarget target_;
  RotaryTable<float> rotary_;
};

}  // namespace

std::unique_ptr<KernelPlan<AttentionArgs>> plan_panels(const AttentionProblem& problem,
                                                       const ForwardTarget& target) {
  check(problem, false);
  if (problem.dtype != DType::f32 && problem.dtype != DType::bf16) return nullptr;
  if (reads_cache(problem) || !by_softmax(problem)) return nullptr;
  if (problem.head_dim > 256 || problem.value_dim > 256) return nullptr;
  return std::make_unique<HwyForward>(problem, target);
}

}  // namespace fovea::attention_detail

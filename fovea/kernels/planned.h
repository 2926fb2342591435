// A kernel's plan with the memory that it works in, for those who call kernels without a session.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "fovea/base/aligned.h"
#include "fovea/base/error.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

template <class Args>
struct Planned {
  std::unique_ptr<KernelPlan<Args>> plan;
  std::string kernel;  // its name in the list
  AlignedBuffer scratch, worker_scratch;
  KernelContext context;

  // One call at a time.
  void run(const Args& args) const noexcept { plan->run(args, context); }
};

// The first kernel of the list that supports the problem; the pool must outlive the plan. Throws
// Error: unsupported where there is none, and what planning throws. family stands in errors.
template <class Problem, class Args>
Planned<Args> make_planned(std::span<const Kernel<Problem, Args>> kernels, const Problem& problem,
                           ThreadPool& pool, const char* family) {
  Planned<Args> planned;
  for (auto& kernel : kernels) {
    planned.plan = kernel.plan(problem);
    if (!planned.plan) continue;
    planned.kernel = kernel.name;
    break;
  }
  if (!planned.plan)
    throw Error(ErrorCode::unsupported,
                std::string("[kernels] no kernel of ") + family + " takes these types and sizes");
  constexpr size_t kLine = 64;
  const size_t stride = (planned.plan->worker_scratch_bytes + kLine - 1) / kLine * kLine;
  planned.scratch = AlignedBuffer(planned.plan->scratch_bytes, family);
  planned.worker_scratch = AlignedBuffer(stride * static_cast<size_t>(pool.threads()), family);
  planned.context = {&pool, planned.scratch.data(), planned.worker_scratch.data(), stride};
  return planned;
}

}  // namespace fovea

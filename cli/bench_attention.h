// What the benchmarks of attention kernels on raw memory share.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/bench_case.h"
#include "fovea/base/aligned.h"
#include "fovea/kernels/attention.h"

namespace fovea::cli {

template <class Args>
struct Planned {
  std::string name;
  std::unique_ptr<KernelPlan<Args>> plan;  // nullptr: no kernel supports the problem
};

// The kernel of this name, or the first that supports the problem.
template <class Problem, class Args>
Planned<Args> plan_of(std::span<const Kernel<Problem, Args>> kernels, const std::string& name,
                      const Problem& problem) {
  for (const auto& kernel : kernels)
    if (name.empty() || kernel.name == name)
      if (auto plan = kernel.plan(problem)) return {std::string(kernel.name), std::move(plan)};
  return {};
}

// Whether the kernel of this name, or any, supports the problem.
bool supports(const AttentionProblem& problem, bool backward, const std::string& kernel);

// Numbers in [-1, 1) that depend on the name alone, the same in every type; in i8 times 127.
AlignedBuffer random_values(int64_t elements, DType dtype, std::string_view name);

// What rivals read: q, k, v and dout in f32, each of this shape [B,N,H*D].
void write_attention_inputs(const std::filesystem::path& folder,
                            const std::array<int64_t, 3>& shape);

// Memory for a plan's scratch.
template <class Args>
struct Scratch {
  Scratch(const KernelPlan<Args>& plan, ThreadPool& pool)
      : stride((plan.worker_scratch_bytes + 63) / 64 * 64),
        shared(plan.scratch_bytes, "scratch"),
        workers(stride * static_cast<size_t>(pool.threads()), "scratch of the workers"),
        context{.pool = &pool,
                .scratch = shared.data(),
                .worker_scratch = workers.data(),
                .worker_stride = stride} {}
  size_t stride;
  AlignedBuffer shared, workers;
  KernelContext context;
};

// bf16 and 8 bits at length.
std::vector<BenchCase> low_precision_cases(const std::string& kernel);
// Attention with positions, biases, other normalisers, dropout, statistics or a learned span, each
// beside attention without.
std::vector<BenchCase> attention_extra_cases(const std::string& kernel);
// Lists of blocks made from data.
std::vector<BenchCase> attention_block_cases(const std::string& kernel);
// Few queries against a long cache.
std::vector<BenchCase> decode_cases(const std::string& kernel);

}  // namespace fovea::cli

// Tests that run once for every kernel of a family's list: TEST_P on a fixture that is an
// EveryKernel, instantiated with kernel_names(). Where that kernel does not support a
// problem, the next in the list is taken, as the runtime does it.
#pragma once

#include <algorithm>
#include <string>

#include "fovea/kernels/leaf_test.h"

namespace fovea::leaf {

class EveryKernel : public testing::TestWithParam<std::string> {
 public:
  // The kernel of the test that is running; empty: the best.
  static std::string& current() {
    static std::string name;
    return name;
  }

 protected:
  void SetUp() override { current() = GetParam(); }
  void TearDown() override { current().clear(); }
};

template <class Problem, class Args>
std::vector<std::string> kernel_names(std::span<const Kernel<Problem, Args>> kernels) {
  std::vector<std::string> names;
  for (const auto& kernel : kernels) names.emplace_back(kernel.name);
  return names;
}
inline std::string name_of(const testing::TestParamInfo<std::string>& info) { return info.param; }

// The first plan from the current kernel on.
template <class Problem, class Args>
std::unique_ptr<KernelPlan<Args>> plan_current(std::span<const Kernel<Problem, Args>> kernels,
                                               const Problem& problem) {
  auto kernel = kernels.begin();
  if (!EveryKernel::current().empty())
    kernel = std::find_if(kernels.begin(), kernels.end(),
                          [](const auto& k) { return k.name == EveryKernel::current(); });
  for (; kernel != kernels.end(); ++kernel)
    if (auto plan = kernel->plan(problem)) return plan;
  return nullptr;
}

template <class Problem, class Args>
void run_current(std::span<const Kernel<Problem, Args>> kernels, const Problem& problem,
                 const std::type_identity_t<Args>& args, int threads = 1) {
  ASSERT_FALSE(kernels.empty());
  EXPECT_EQ(kernels.back().name, "ref");
  const auto plan = plan_current(kernels, problem);
  ASSERT_NE(plan, nullptr);
  run<Problem, Args>(*plan, args, threads);
}

// Whether the current kernel itself, none after it, supports the problem.
template <class Problem, class Args>
bool current_supports(std::span<const Kernel<Problem, Args>> kernels, const Problem& problem) {
  for (const auto& kernel : kernels)
    if (kernel.name == EveryKernel::current()) return kernel.plan(problem) != nullptr;
  return false;
}

}  // namespace fovea::leaf

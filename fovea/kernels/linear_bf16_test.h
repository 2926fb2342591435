// What the tests of the bf16 kernels "amx" and "avx512bf16" share. Each test runs once for both;
// where the processor has no AMX, "amx" runs on emulated tiles, and the test's name says so.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "fovea/kernels/amx.h"
#include "fovea/kernels/amx_emulator.h"
#include "fovea/kernels/avx512_bf16.h"
#include "fovea/kernels/every_kernel_test.h"
#include "fovea/kernels/linear.h"
#include "fovea/kernels/linear_test.h"

namespace fovea::linear_test {

// "amx_hardware" or "amx_emulated" or "amx_absent", then "avx512bf16".
inline std::vector<std::string> bf16_kernels() {
  const bool emulated = !amx::available() && amx::Emulator::make() != nullptr;
  return {amx::available() ? "amx_hardware"
          : emulated       ? "amx_emulated"
                           : "amx_absent",
          "avx512bf16"};
}

class Bf16Kernel : public testing::TestWithParam<std::string> {
 public:
  // Of the kernel of the test that is running.
  static std::unique_ptr<KernelPlan<LinearArgs>> plan(const LinearProblem& problem) {
    return current() == "avx512bf16" ? linear_detail::plan_avx512bf16(problem)
                                     : linear_detail::plan_amx(problem);
  }
  static std::unique_ptr<KernelPlan<LinearGradWeightArgs>> plan(
      const LinearGradWeightProblem& problem) {
    return current() == "avx512bf16" ? linear_detail::plan_grad_weight_avx512bf16(problem)
                                     : linear_detail::plan_grad_weight_amx(problem);
  }

 protected:
  void SetUp() override {
    current() = GetParam();
    if (current() == "amx_absent")
      GTEST_SKIP() << "this processor has no AMX, and it cannot be emulated here";
    if (current() == "amx_emulated") emulator_ = amx::Emulator::make();
    if (!avx512_bf16::available()) GTEST_SKIP() << "this processor has no AVX-512 with bf16";
  }

 private:
  static std::string& current() {
    static std::string name;
    return name;
  }

  std::unique_ptr<amx::Emulator> emulator_;
};

// On memory that is NaN where nothing was written.
template <class Args>
void run(const KernelPlan<Args>& plan, const Args& args, int threads = 1, bool packed = false) {
  ThreadPool pool(threads);
  const leaf::Scratch shared(plan.scratch_bytes), ahead(plan.packed_bytes);
  const size_t stride = (plan.worker_scratch_bytes + 63) / 64 * 64;
  const leaf::Scratch each(stride * static_cast<size_t>(threads));
  if (packed) plan.pack(args, ahead.get());
  plan.run(args, {&pool, shared.get(), each.get(), stride, packed ? ahead.get() : nullptr});
}

inline Array array(DType type, int64_t n, uint64_t seed, double low = -2, double high = 2) {
  return {type, leaf::numbers<double>(n, seed, low, high)};
}

constexpr DType kFloats[] = {DType::f32, DType::bf16};

}  // namespace fovea::linear_test

// The functions of elementwise.h in SIMD, over blocks in the first cache, and the plan that runs
// any chain of them. unary, binary, select and cast are chains of one step or none, so that fused
// and unfused give the same bits.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "fovea/kernels/elementwise.h"
#include "fovea/kernels/elementwise_chain.h"
#include "fovea/kernels/hwy_targets.h"
#include "fovea/kernels/kernel.h"

namespace fovea::elementwise {

inline constexpr size_t kUnaryOps = static_cast<size_t>(UnaryOp::logical_not) + 1;
inline constexpr size_t kBinaryOps = static_cast<size_t>(BinaryOp::relu_grad) + 1;
inline constexpr size_t kDTypes = static_cast<size_t>(DType::boolean) + 1;

// Floats in whole vectors. step is the number of lanes, or 0: the same vector again and again.
struct Operand {
  const float* p;
  int64_t step;
};

// y[i] = f(a[i], b[i], c[i]) for n elements, n a multiple of the lanes; y may be an operand of step
// not 0. What the function does not need is left out.
using StepFunction = void (*)(Operand a, Operand b, Operand c, float* y, int64_t n);
// n elements from x[offset] on, `stride` apart, as floats; may write garbage behind them, up to the
// next multiple of the lanes.
using ReadFunction = void (*)(const void* x, int64_t offset, int64_t stride, float* y, int64_t n);
// n floats to y[offset] and on; touches nothing else.
using WriteFunction = void (*)(const float* x, void* y, int64_t offset, int64_t n);

// What one instruction set offers; null: not this type.
struct BlockFunctions {
  int64_t lanes = 0;
  std::array<StepFunction, kUnaryOps> unary{};
  std::array<StepFunction, kBinaryOps> binary{};
  StepFunction select = nullptr;
  std::array<ReadFunction, kDTypes> read{};
  std::array<WriteFunction, kDTypes> write{};
};

// Throws what elementwise_chain.h promises.
void check(const ChainProblem& problem);

// More than the public family can: y may be bool too, and without steps y is the only input.
std::unique_ptr<KernelPlan<ChainArgs>> plan_blocks(const ChainProblem& problem,
                                                   const BlockFunctions& functions);

std::unique_ptr<KernelPlan<ChainArgs>> plan_chain_ref(const ChainProblem& problem);

}  // namespace fovea::elementwise

namespace fovea {
#define FOVEA_DECLARE(bit, target, name)                \
  namespace target {                                    \
  const elementwise::BlockFunctions& block_functions(); \
  }
FOVEA_FOR_EACH_TARGET(FOVEA_DECLARE)
#undef FOVEA_DECLARE
}  // namespace fovea

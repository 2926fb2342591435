// Several functions of one element after another, run block by block in the first cache: what
// would be a node each, without the memory in between.
#pragma once

#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "fovea/base/dtype.h"
#include "fovea/kernels/elementwise.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

// One instruction; its operands are registers. Registers 0.. are the inputs, each step writes the
// next one.
struct ChainStep {
  enum class Kind { unary, binary, select };
  Kind kind = Kind::unary;
  UnaryOp unary = UnaryOp::neg;
  BinaryOp binary = BinaryOp::add;
  int a = 0, b = 0, c = 0;  // select: a ? b : c
};

// y = the last step's register, for each element of `dims`. Everything is computed in f32; bools
// are 0 and 1. Inputs are f32, bf16, u8, i32 (exact up to 2^24) or bool, converted where they are
// read; y is f32 or bf16 (rounded to nearest even). Strides as in elementwise.h: in elements, one
// for each dimension, 0 where an input is broadcast; empty: dense.
struct ChainInput {
  DType dtype = DType::f32;
  std::vector<int64_t> strides;
};
struct ChainProblem {
  std::vector<int64_t> dims;
  std::vector<ChainInput> inputs;  // at most kChainInputs
  std::vector<ChainStep> steps;    // 1 to kChainSteps
  DType y = DType::f32;
};
inline constexpr int kChainInputs = 16;
inline constexpr int kChainSteps = 32;

struct ChainArgs {
  const void* const* inputs = nullptr;
  void* y = nullptr;  // may be a dense input of y's type
};

// "hwy_<target>", then "ref". Planning throws invalid_argument for a step that reads a register
// that is not written yet and for the limits above.
std::span<const Kernel<ChainProblem, ChainArgs>> chain_kernels();

}  // namespace fovea

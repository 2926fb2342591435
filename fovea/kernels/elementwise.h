// Functions of one element, of two, the choice between two, and conversion of types; each operand
// may be broadcast or strided, the output is dense.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

// gelu is exact, x Phi(x) (Hendrycks and Gimpel 2016, "Gaussian error linear units"); silu is
// x sigmoid(x); sign(0) = 0. NaN passes through all of them.
enum class UnaryOp {
  neg,
  abs,
  exp,
  log,
  sqrt,
  rsqrt,
  tanh,
  sigmoid,
  relu,
  silu,
  gelu,
  square,
  reciprocal,
  erf,
  sin,
  cos,
  sign,
  floor,
  is_finite,    // gives bool
  logical_not,  // gives bool
};
inline std::span<const std::string_view> enum_names(UnaryOp) {
  static constexpr std::array<std::string_view, 20> kNames = {
      "neg",     "abs",  "exp",  "log",   "sqrt",      "rsqrt",      "tanh",
      "sigmoid", "relu", "silu", "gelu",  "square",    "reciprocal", "erf",
      "sin",     "cos",  "sign", "floor", "is_finite", "logical_not"};
  return kNames;
}

// x_grad(a, b): the gradient b of the output, carried back to the input; a is the input x for gelu,
// silu and relu, and the output y for tanh and sigmoid. max and min of a NaN are NaN. Whole numbers
// wrap around; a quotient by zero is zero.
enum class BinaryOp {
  add,
  sub,
  mul,
  div,
  max,
  min,
  pow,
  equal,  // from here to logical_or: gives bool
  not_equal,
  less,
  less_equal,
  greater,
  greater_equal,
  logical_and,
  logical_or,
  gelu_grad,
  silu_grad,
  tanh_grad,
  sigmoid_grad,
  relu_grad,
};
inline std::span<const std::string_view> enum_names(BinaryOp) {
  static constexpr std::array<std::string_view, 20> kNames = {
      "add",        "sub",       "mul",           "div",          "max",
      "min",        "pow",       "equal",         "not_equal",    "less",
      "less_equal", "greater",   "greater_equal", "logical_and",  "logical_or",
      "gelu_grad",  "silu_grad", "tanh_grad",     "sigmoid_grad", "relu_grad"};
  return kNames;
}

// The type of the results for operands of type `dtype`.
constexpr DType result_type(UnaryOp op, DType dtype) {
  return op == UnaryOp::is_finite || op == UnaryOp::logical_not ? DType::boolean : dtype;
}
constexpr DType result_type(BinaryOp op, DType dtype) {
  return op >= BinaryOp::equal && op <= BinaryOp::logical_or ? DType::boolean : dtype;
}

// In all four: dims is the shape of the output; strides are in elements, one for each dimension, 0
// where the operand is broadcast; empty strides mean a dense operand of the same shape. A dense
// operand of the output's type may lie where the output lies.

// All ops for f32 and f64; neg, abs, relu, square, sign for i32; logical_not for bool.
struct UnaryProblem {
  UnaryOp op = UnaryOp::neg;
  DType dtype = DType::f32;
  std::vector<int64_t> dims;
  std::vector<int64_t> strides;
};
struct UnaryArgs {
  const void* x = nullptr;
  void* y = nullptr;
};
std::span<const Kernel<UnaryProblem, UnaryArgs>> unary_kernels();

// All but the logical ops for f32 and f64; add to min and the comparisons for i32; max, min and the
// comparisons for u8; equal, not_equal and the logical ops for bool.
struct BinaryProblem {
  BinaryOp op = BinaryOp::add;
  DType dtype = DType::f32;
  std::vector<int64_t> dims;
  std::vector<int64_t> a_strides;
  std::vector<int64_t> b_strides;
};
struct BinaryArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;
};
std::span<const Kernel<BinaryProblem, BinaryArgs>> binary_kernels();

// y = cond ? a : b, for elements of any type; cond is bool.
struct SelectProblem {
  DType dtype = DType::f32;
  std::vector<int64_t> dims;
  std::vector<int64_t> cond_strides;
  std::vector<int64_t> a_strides;
  std::vector<int64_t> b_strides;
};
struct SelectArgs {
  const void* cond = nullptr;
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;
};
std::span<const Kernel<SelectProblem, SelectArgs>> select_kernels();

// Between f32, f64, bf16, i32, u8, i8 and bool. To whole numbers: towards zero, held at the ends of
// the range, NaN gives 0. To bool: whether it differs from 0. f64 to bf16 rounds by way of f32.
struct CastProblem {
  DType from = DType::f32;
  DType to = DType::f32;
  std::vector<int64_t> dims;
  std::vector<int64_t> strides;
};
struct CastArgs {
  const void* x = nullptr;
  void* y = nullptr;
};
std::span<const Kernel<CastProblem, CastArgs>> cast_kernels();

}  // namespace fovea

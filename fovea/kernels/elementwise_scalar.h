// The functions of elementwise.h for one element, as the plain kernels compute them.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "fovea/kernels/elementwise.h"
#include "fovea/kernels/lanes.h"

namespace fovea::elementwise {

// Whole numbers wrap around: computed without a sign, where that is defined.
template <class T>
inline auto wide(T x) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<uint32_t>(x);
  else
    return x;
}

template <UnaryOp Op, class T>
inline auto apply(T x) {
  if constexpr (Op == UnaryOp::is_finite)
    return static_cast<uint8_t>(std::isfinite(x));
  else if constexpr (Op == UnaryOp::logical_not)
    return static_cast<uint8_t>(x == 0);
  else if constexpr (Op == UnaryOp::neg && std::is_integral_v<T>)
    return static_cast<T>(0u - wide(x));
  else if constexpr (Op == UnaryOp::neg)
    return -x;
  else if constexpr (Op == UnaryOp::abs && std::is_integral_v<T>)
    return static_cast<T>(x < 0 ? 0u - wide(x) : wide(x));
  else if constexpr (Op == UnaryOp::abs)
    return std::abs(x);
  else if constexpr (Op == UnaryOp::exp)
    return lanes::exp(x);
  else if constexpr (Op == UnaryOp::log)
    return std::log(x);
  else if constexpr (Op == UnaryOp::sqrt)
    return std::sqrt(x);
  else if constexpr (Op == UnaryOp::rsqrt)
    return T{1} / std::sqrt(x);
  else if constexpr (Op == UnaryOp::tanh)
    return std::tanh(x);
  else if constexpr (Op == UnaryOp::sigmoid)
    return lanes::sigmoid(x);
  else if constexpr (Op == UnaryOp::relu)
    return x < 0 ? T{0} : x;
  else if constexpr (Op == UnaryOp::silu)
    return x * lanes::sigmoid(x);
  else if constexpr (Op == UnaryOp::gelu)
    return x * lanes::normal(x).cumulative;
  else if constexpr (Op == UnaryOp::square)
    return static_cast<T>(wide(x) * wide(x));
  else if constexpr (Op == UnaryOp::reciprocal)
    return T{1} / x;
  else if constexpr (Op == UnaryOp::erf)
    return std::erf(x);
  else if constexpr (Op == UnaryOp::sin)
    return std::sin(x);
  else if constexpr (Op == UnaryOp::cos)
    return std::cos(x);
  else if constexpr (Op == UnaryOp::floor)
    return std::floor(x);
  else {
    static_assert(Op == UnaryOp::sign);
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>((x > 0) - (x < 0));
    else
      return x > 0 ? T{1} : x < 0 ? T{-1} : x;  // zero and NaN stay
  }
}

template <BinaryOp Op, class T>
inline auto apply(T a, T b) {
  if constexpr (Op == BinaryOp::add)
    return static_cast<T>(wide(a) + wide(b));
  else if constexpr (Op == BinaryOp::sub)
    return static_cast<T>(wide(a) - wide(b));
  else if constexpr (Op == BinaryOp::mul)
    return static_cast<T>(wide(a) * wide(b));
  else if constexpr (Op == BinaryOp::div && std::is_integral_v<T>)
    return b == 0 ? T{0} : static_cast<T>(int64_t{a} / b);
  else if constexpr (Op == BinaryOp::div)
    return a / b;
  else if constexpr (Op == BinaryOp::max)
    return lanes::larger(a, b);
  else if constexpr (Op == BinaryOp::min)
    return lanes::smaller(a, b);
  else if constexpr (Op == BinaryOp::pow)
    return std::pow(a, b);
  else if constexpr (Op == BinaryOp::equal)
    return static_cast<uint8_t>(a == b);
  else if constexpr (Op == BinaryOp::not_equal)
    return static_cast<uint8_t>(a != b);
  else if constexpr (Op == BinaryOp::less)
    return static_cast<uint8_t>(a < b);
  else if constexpr (Op == BinaryOp::less_equal)
    return static_cast<uint8_t>(a <= b);
  else if constexpr (Op == BinaryOp::greater)
    return static_cast<uint8_t>(a > b);
  else if constexpr (Op == BinaryOp::greater_equal)
    return static_cast<uint8_t>(a >= b);
  else if constexpr (Op == BinaryOp::logical_and)
    return static_cast<uint8_t>(a != 0 && b != 0);
  else if constexpr (Op == BinaryOp::logical_or)
    return static_cast<uint8_t>(a != 0 || b != 0);
  else if constexpr (Op == BinaryOp::gelu_grad) {
    const auto p = lanes::normal(a);
    return b * (p.cumulative + a * p.density);
  } else if constexpr (Op == BinaryOp::silu_grad) {
    const T s = lanes::sigmoid(a);
    return b * (s * (T{1} + a * (T{1} - s)));
  } else if constexpr (Op == BinaryOp::tanh_grad)
    return b * (T{1} - a * a);
  else if constexpr (Op == BinaryOp::sigmoid_grad)
    return b * (a * (T{1} - a));
  else {
    static_assert(Op == BinaryOp::relu_grad);
    return a > 0 ? b : T{0};
  }
}

// The values of both enums as template arguments.
using UnaryOps = std::make_index_sequence<static_cast<size_t>(UnaryOp::logical_not) + 1>;
using BinaryOps = std::make_index_sequence<static_cast<size_t>(BinaryOp::relu_grad) + 1>;

}  // namespace fovea::elementwise

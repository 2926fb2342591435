// Conversion of one number between the types of values.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "fovea/base/dtype.h"

namespace fovea {

// To whole numbers: towards zero, held at the ends of the range, NaN gives 0. To bool (ToBool,
// since u8 and bool are the same in memory): whether it differs from 0. f64 to bf16 rounds by way
// of f32.
template <class To, bool ToBool, class From>
To convert(From x) {
  if constexpr (std::is_same_v<From, To> && !ToBool) {
    return x;
  } else if constexpr (std::is_same_v<From, bf16>) {
    return convert<To, ToBool>(static_cast<float>(x));
  } else if constexpr (ToBool) {
    return static_cast<To>(x != 0);
  } else if constexpr (std::is_same_v<To, bf16>) {
    return bf16(static_cast<float>(x));
  } else if constexpr (std::is_floating_point_v<To>) {
    return static_cast<To>(x);
  } else if constexpr (std::is_integral_v<From>) {
    using Limits = std::numeric_limits<To>;
    return static_cast<To>(std::clamp<int64_t>(x, Limits::min(), Limits::max()));
  } else {
    using Limits = std::numeric_limits<To>;
    // The ends of every whole type are exact in double.
    const double v = x != x ? 0.0 : static_cast<double>(x);
    return static_cast<To>(std::clamp<double>(v, Limits::min(), Limits::max()));
  }
}

}  // namespace fovea

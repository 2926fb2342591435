// The C++ type that stands for each DType in memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "fovea/base/dtype.h"

namespace fovea {

// f16 is only moved, never computed with; a bool is a byte of 0 or 1.
template <DType D>
using Storage = std::conditional_t<
    D == DType::f32, float,
    std::conditional_t<
        D == DType::f64, double,
        std::conditional_t<
            D == DType::bf16, bf16,
            std::conditional_t<
                D == DType::f16, uint16_t,
                std::conditional_t<D == DType::i8, int8_t,
                                   std::conditional_t<D == DType::i32, int32_t, uint8_t>>>>>>;

// Calls f.template operator()<D>() with the dtype as a constant: visit_dtype(t, []<DType D>() { ...
// }).
template <class F>
decltype(auto) visit_dtype(DType t, F&& f) {
  switch (t) {
    case DType::f32:
      return f.template operator()<DType::f32>();
    case DType::bf16:
      return f.template operator()<DType::bf16>();
    case DType::f16:
      return f.template operator()<DType::f16>();
    case DType::f64:
      return f.template operator()<DType::f64>();
    case DType::i8:
      return f.template operator()<DType::i8>();
    case DType::u8:
      return f.template operator()<DType::u8>();
    case DType::i32:
      return f.template operator()<DType::i32>();
    case DType::boolean:
      break;
  }
  return f.template operator()<DType::boolean>();
}

}  // namespace fovea

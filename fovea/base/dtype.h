// Element types of values, and the storage types bf16 and f16.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace fovea {

enum class DType { f32, bf16, f16, f64, i8, u8, i32, boolean };

inline std::span<const std::string_view> enum_names(DType) {
  static constexpr std::array<std::string_view, 8> kNames = {"f32", "bf16", "f16", "f64",
                                                             "i8",  "u8",   "i32", "bool"};
  return kNames;
}
inline std::string_view dtype_name(DType t) { return enum_names(t)[static_cast<size_t>(t)]; }

constexpr size_t dtype_size(DType t) {
  switch (t) {
    case DType::f64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::i8:
    case DType::u8:
    case DType::boolean:
      return 1;
  }
  return 0;
}
constexpr bool is_floating(DType t) {
  return t == DType::f32 || t == DType::bf16 || t == DType::f16 || t == DType::f64;
}

// bfloat16: the upper half of an IEEE single; rounds to nearest even, keeps NaN quiet.
struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<uint16_t>(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};

}  // namespace fovea

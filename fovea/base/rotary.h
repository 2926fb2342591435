// Which coordinates of a head rotary positions turn together (Su et al. 2021, RoFormer,
// section 3.2).
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

namespace fovea {

// Of n coordinates that are turned, frequency i turns 2 i and 2 i + 1 (as in RoFormer), or i and
// i + n / 2 (as in GPT-NeoX and Llama). A permutation of the columns of the projections leads from
// one to the other.
enum class RotaryLayout { pairs, halves };

inline std::span<const std::string_view> enum_names(RotaryLayout) {
  static constexpr std::array<std::string_view, 2> kNames = {"pairs", "halves"};
  return kNames;
}

// The two coordinates that frequency i of n / 2 turns.
struct RotaryPair {
  size_t first = 0, second = 0;
};
constexpr RotaryPair rotary_pair(RotaryLayout layout, size_t i, size_t n) {
  return layout == RotaryLayout::pairs ? RotaryPair{2 * i, 2 * i + 1} : RotaryPair{i, i + n / 2};
}

}  // namespace fovea

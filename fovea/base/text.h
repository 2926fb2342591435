// Small help with words: the name that a user probably meant.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace fovea {

// Insertions, deletions, replacements and swaps of neighbours that turn a into b (optimal string
// alignment; Damerau 1964). Takes O(a * b) time.
size_t edit_distance(std::string_view a, std::string_view b);

// The candidate nearest to the name, the first of equals; empty where none is near enough to be
// meant: at most a third of the longer word, rounded up, may differ.
std::string nearest(std::string_view name, std::span<const std::string_view> candidates);
std::string nearest(std::string_view name, std::span<const std::string> candidates);

// "; did you mean 'x'?" for the nearest candidate, or nothing.
std::string did_you_mean(std::string_view name, std::span<const std::string_view> candidates);
std::string did_you_mean(std::string_view name, std::span<const std::string> candidates);

}  // namespace fovea

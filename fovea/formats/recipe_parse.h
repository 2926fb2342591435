// TOML as recipes need it: paths to keys, and a parser that refuses what would exhaust it. Private
// to recipe*.cpp: toml++ is a heavy header.
#pragma once

#include <fmt/format.h>
#include <toml++/toml.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fovea/base/error.h"

namespace fovea::recipe_detail {

constexpr int kMaxDots = 16;  // of a path

template <class... Args>
[[noreturn]] void refuse(const std::string& place, fmt::format_string<Args...> format,
                         Args&&... args) {
  throw Error{
      ErrorCode::invalid_argument,
      fmt::format("[recipe] {}: {}", place, fmt::format(format, std::forward<Args>(args)...))};
}

// Whether a key may stand without quotes.
bool is_bare(char c);

// A key of the file as it stands in a path; quoted where it could be taken for several.
std::string shown_key(std::string_view key);

std::string join(std::string_view section, std::string_view key);

// One table deep, or one element of an array of tables.
struct Step {
  std::string key;
  std::optional<size_t> index;
};

// nullopt where the path is badly formed.
std::optional<std::vector<Step>> split(std::string_view path);

// Throws Error (invalid_argument) with file and line.
toml::table parse_toml(std::string_view text, const std::string& file);

// A value, for messages: "the integer 3".
std::string describe(const toml::node& node);

}  // namespace fovea::recipe_detail

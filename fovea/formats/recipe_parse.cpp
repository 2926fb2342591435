#include "fovea/formats/recipe_parse.h"

#include <algorithm>
#include <charconv>

namespace fovea::recipe_detail {

bool is_bare(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-';
}

std::string shown_key(std::string_view key) {
  if (!key.empty() && std::all_of(key.begin(), key.end(), is_bare)) return std::string(key);
  return fmt::format("\"{}\"", key);
}

std::string join(std::string_view section, std::string_view key) {
  return section.empty() ? std::string(key) : fmt::format("{}.{}", section, key);
}

std::optional<std::vector<Step>> split(std::string_view path) {
  std::vector<Step> steps;
  while (!path.empty()) {
    const size_t dot = path.find('.');
    std::string_view part = path.substr(0, dot);
    if (dot == path.size() - 1) return std::nullopt;
    path = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
    Step step;
    if (const size_t open = part.find('['); open != std::string_view::npos) {
      size_t index = 0;
      const auto [end, error] =
          std::from_chars(part.data() + open + 1, part.data() + part.size(), index);
      if (error != std::errc() || end != part.data() + part.size() - 1 || *end != ']') {
        return std::nullopt;
      }
      step.index = index;
      part = part.substr(0, open);
    }
    if (part.empty() || !std::all_of(part.begin(), part.end(), is_bare)) return std::nullopt;
    step.key = part;
    steps.push_back(std::move(step));
  }
  return steps;
}

namespace {

// The position after the string that begins at i. Unfinished strings are the parser's to refuse.
size_t skip_string(std::string_view text, size_t i) {
  const char quote = text[i];
  const std::string triple(3, quote);
  const bool multi_line = text.substr(i, 3) == triple;
  for (i += multi_line ? 3 : 1; i < text.size(); ++i) {
    if (quote == '"' && text[i] == '\\') {
      ++i;
    } else if (multi_line ? text.substr(i, 3) == triple : text[i] == quote || text[i] == '\n') {
      return i + (multi_line ? 3 : 1);
    }
  }
  return text.size();
}

// The parser makes a table for each dot of a key and destroys them recursively: a long line of dots
// would exhaust the stack.
void check_depth(std::string_view text, const std::string& file) {
  int dots = 0, line = 1;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (c == '"' || c == '\'') {
      const size_t end = skip_string(text, i);
      line += static_cast<int>(std::count(text.begin() + i, text.begin() + end, '\n'));
      i = end;
      continue;
    }
    if (c == '#') {
      i = std::min(text.find('\n', i), text.size());
      continue;
    }
    if (c == '.') {
      if (++dots > kMaxDots)
        refuse(fmt::format("{}:{}", file, line), "tables are nested too deep (at most {})",
               kMaxDots);
    } else if (!is_bare(c) && c != ' ' && c != '\t') {
      dots = 0;
    }
    if (c == '\n') ++line;
    ++i;
  }
}

}  // namespace

toml::table parse_toml(std::string_view text, const std::string& file) {
  check_depth(text, file);
  try {
    return toml::parse(text, std::string_view(file));
  } catch (const toml::parse_error& error) {
    refuse(fmt::format("{}:{}", file, error.source().begin.line), "not valid TOML: {}",
           error.description());
  }
}

std::string describe(const toml::node& node) {
  if (const auto* v = node.as_string()) return fmt::format("the string '{}'", v->get());
  if (const auto* v = node.as_integer()) return fmt::format("the integer {}", v->get());
  if (const auto* v = node.as_floating_point()) return fmt::format("the real number {}", v->get());
  if (const auto* v = node.as_boolean()) return fmt::format("the boolean {}", v->get());
  if (node.is_array()) return "an array";
  if (node.is_table()) return "a table";
  return "a date or time (put it in quotes)";
}

}  // namespace fovea::recipe_detail

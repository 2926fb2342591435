#include <fmt/format.h>

#include "fovea/formats/recipe.h"

namespace fovea {

namespace {

std::string toml_string(const std::string& s) {
  std::string out = "\"";
  for (const char c : s) {
    if (c == '"' || c == '\\')
      out += fmt::format("\\{}", c);
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\u{:04X}", static_cast<unsigned char>(c));
    else
      out += c;
  }
  return out + "\"";
}

// The shortest text that reads back as the same number, and as a real.
std::string real_text(double v) {
  if (v != v) return "nan";
  const std::string s = fmt::format("{}", v);
  return s.find_first_of(".en") == std::string::npos ? s + ".0" : s;
}

template <class T, class F>
std::string list(const std::vector<T>& values, F&& text) {
  std::string out;
  for (const T& v : values) out += (out.empty() ? "" : ", ") + text(v);
  return "[" + out + "]";
}

}  // namespace

void RecipeWriter::boolean(std::string_view name, bool& v) {
  lines += fmt::format("{} = {}\n", name, v);
}
void RecipeWriter::integer(std::string_view name, int64_t& v) {
  lines += fmt::format("{} = {}\n", name, v);
}
void RecipeWriter::real(std::string_view name, double& v) {
  lines += fmt::format("{} = {}\n", name, real_text(v));
}
void RecipeWriter::text(std::string_view name, std::string& v) {
  lines += fmt::format("{} = {}\n", name, toml_string(v));
}
void RecipeWriter::integers(std::string_view name, std::vector<int64_t>& v) {
  lines += fmt::format("{} = {}\n", name, list(v, [](int64_t n) { return std::to_string(n); }));
}
void RecipeWriter::reals(std::string_view name, std::vector<double>& v) {
  lines += fmt::format("{} = {}\n", name, list(v, real_text));
}
void RecipeWriter::texts(std::string_view name, std::vector<std::string>& v) {
  lines += fmt::format("{} = {}\n", name, list(v, toml_string));
}
void RecipeWriter::enumeration(std::string_view name, int& index,
                               std::span<const std::string_view> names) {
  std::string word(names[static_cast<size_t>(index)]);
  text(name, word);
}

}  // namespace fovea

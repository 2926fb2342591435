#include "fovea/data/csv_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "fovea/base/error.h"
#include "fovea/base/text.h"

namespace fovea {
namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return result;
}

}  // namespace

CsvHeader::CsvHeader(const CsvTable& table, std::string file) : file_(std::move(file)) {
  for (int64_t c = 0; c < table.columns(); ++c) names_.emplace_back(table.at(0, c));
}

int64_t CsvHeader::find(std::string_view name) const {
  const auto it = std::find(names_.begin(), names_.end(), name);
  if (it != names_.end()) return it - names_.begin();
  for (size_t c = 0; c < names_.size(); ++c) {
    if (lower(names_[c]) == lower(name)) return static_cast<int64_t>(c);
  }
  return -1;
}

int64_t CsvHeader::find(const std::string& asked, const char* key,
                        std::span<const std::string_view> usual) const {
  if (!asked.empty()) {
    const auto it = std::find(names_.begin(), names_.end(), asked);
    if (it == names_.end()) {
      throw Error{ErrorCode::invalid_argument,
                  fmt::format("[data] '{}': there is no column '{}' in {}{} (columns: {})", key,
                              asked, file_, did_you_mean(asked, names_), fmt::join(names_, ", "))};
    }
    return it - names_.begin();
  }
  for (const std::string_view name : usual) {
    if (const int64_t column = find(name); column >= 0) return column;
  }
  return -1;
}

std::optional<Split> split_named(std::string_view text) {
  static const std::map<std::string, Split> kNames = {
      {"train", Split::train},      {"training", Split::train}, {"validation", Split::validation},
      {"valid", Split::validation}, {"val", Split::validation}, {"dev", Split::validation},
      {"test", Split::test},        {"testing", Split::test}};
  const auto it = kNames.find(lower(text));
  return it == kNames.end() ? std::nullopt : std::optional(it->second);
}

}  // namespace fovea

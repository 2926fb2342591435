// The first line of a table, which names its columns.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fovea/data/data_options.h"
#include "fovea/formats/csv.h"

namespace fovea {

// Names that such columns usually have, in small letters.
inline constexpr std::array<std::string_view, 6> kLabelColumns = {
    "label", "class", "target", "category", "class_name", "y"};
inline constexpr std::array<std::string_view, 4> kSplitColumns = {"split", "set", "subset", "part"};

class CsvHeader {
 public:
  // `file` stands in errors. The table has a row.
  CsvHeader(const CsvTable& table, std::string file);

  // The column of this name, whatever its case where there is no such exactly; -1: none.
  int64_t find(std::string_view name) const;
  // The column that the recipe's `key` names, or else one of the usual names, or else -1. Error
  // (invalid_argument) with the nearest name where there is none of the name that was asked for.
  int64_t find(const std::string& asked, const char* key,
               std::span<const std::string_view> usual) const;
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::string file_;
  std::vector<std::string> names_;
};

// The part that a field of a split column means, such as "val"; nothing where it means none.
std::optional<Split> split_named(std::string_view text);

}  // namespace fovea

#include "fovea/data/image_csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>

#include "fovea/base/error.h"
#include "fovea/base/text.h"
#include "fovea/data/csv_header.h"
#include "fovea/formats/csv.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const std::string& what) {
  throw Error{ErrorCode::invalid_argument, "[data] " + what};
}

constexpr std::array<std::string_view, 8> kImageColumns = {
    "image", "path", "file", "filename", "image_path", "filepath", "file_name", "image_id"};

// Which column of the table is which; -1: none.
struct Columns {
  int64_t image = -1, label = -1, split = -1;
};

Columns find_columns(const CsvTable& table, const DataOptions& o) {
  const CsvHeader header(table, o.file);
  Columns columns;
  columns.image = header.find(o.image_column, "image_column", kImageColumns);
  columns.label = header.find(o.label_column, "label_column", kLabelColumns);
  columns.split = header.find(o.split_column, "split_column", kSplitColumns);
  for (const auto& [column, key, what] :
       {std::tuple(columns.image, "image_column", "paths"),
        std::tuple(columns.label, "label_column", "class names")}) {
    if (column >= 0) continue;
    refuse(
        fmt::format("'{}': expected a first line that names the column of the {} in {} "
                    "(columns: {})",
                    key, what, o.file, fmt::join(header.names(), ", ")));
  }
  return columns;
}

std::vector<std::string> class_names_in(const CsvTable& table, int64_t column,
                                        const DataOptions& options) {
  std::set<std::string> seen;
  for (int64_t r = 1; r < table.rows(); ++r) seen.emplace(table.at(r, column));
  std::vector<std::string> names(seen.begin(), seen.end());
  if (!options.classes.empty()) {
    for (const std::string& name : options.classes) {
      if (seen.count(name) == 0) {
        refuse(fmt::format("'classes': no row of {} has the label '{}'{}", options.file, name,
                           did_you_mean(name, names)));
      }
    }
    names = options.classes;
  } else {
    sort_names(names);
  }
  if (names.size() < 2) {
    refuse(fmt::format(
        "expected at least two classes in {}, got {} (is data.label the column of the classes?)",
        options.file, names.empty() ? "no rows" : fmt::format("only '{}'", names[0])));
  }
  return names;
}

}  // namespace

ImageFiles list_image_csv(const DataOptions& options) {
  if (options.file.empty())
    refuse("'file': expected the CSV file that names the images, got none (set data.file)");
  const CsvTable table = read_csv(options.file);
  if (table.rows() == 0)
    refuse(fmt::format(
        "expected rows in {}, got none (a first line of names, then a line for each image)",
        options.file));
  const Columns columns = find_columns(table, options);
  const fs::path base =
      options.dir.empty() ? fs::path(options.file).parent_path() : fs::path(options.dir);
  ImageFiles list;
  list.source = options.file;
  list.class_names = class_names_in(table, columns.label, options);
  std::map<std::string, int32_t, std::less<>> label_of;
  for (const std::string& name : list.class_names) {
    label_of.emplace(name, static_cast<int32_t>(label_of.size()));
  }
  for (int64_t r = 1; r < table.rows(); ++r) {
    const std::string_view path = table.at(r, columns.image);
    const std::string_view name = table.at(r, columns.label);
    const auto broken = [&](const std::string& what) {
      throw Error{ErrorCode::corrupt, fmt::format("[data] {}: {}", table.place(r), what)};
    };
    if (path.empty()) broken("a row without a path");
    if (name.empty()) broken("a row without a label");
    const auto label = label_of.find(name);
    if (label == label_of.end()) continue;  // the recipe takes other classes
    ImageFile file;
    file.path = base / path;
    file.label = label->second;
    if (columns.split >= 0) {
      const std::optional<Split> split = split_named(table.at(r, columns.split));
      if (!split) {
        broken(fmt::format("expected train, validation or test, got '{}'",
                           table.at(r, columns.split).substr(0, 60)));
      }
      file.split = *split;
      list.given[static_cast<size_t>(*split)] = true;
    }
    list.files.push_back(std::move(file));
  }
  return list;
}

}  // namespace fovea

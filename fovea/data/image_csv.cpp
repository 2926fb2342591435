#include "fovea/data/image_csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "fovea/base/error.h"
#include "fovea/base/text.h"
#include "fovea/formats/csv.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const std::string& what) {
  throw Error{ErrorCode::invalid_argument, "[data] " + what};
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return result;
}

std::optional<Split> split_of(std::string_view text) {
  static const std::map<std::string, Split> kNames = {
      {"train", Split::train},      {"training", Split::train}, {"validation", Split::validation},
      {"valid", Split::validation}, {"val", Split::validation}, {"dev", Split::validation},
      {"test", Split::test},        {"testing", Split::test}};
  const auto it = kNames.find(lower(text));
  return it == kNames.end() ? std::nullopt : std::optional(it->second);
}

// Which column of the table is which; -1: none.
struct Columns {
  int64_t image = -1, label = -1, split = -1;
};

class Header {
 public:
  explicit Header(const CsvTable& table, const std::string& file) : file_(file) {
    for (int64_t c = 0; c < table.columns(); ++c) names_.emplace_back(table.at(0, c));
  }

  // The column that the recipe names, or else one of the usual names, or else -1.
  int64_t find(const std::string& asked, const char* key,
               std::initializer_list<std::string_view> usual) const {
    if (!asked.empty()) {
      const auto it = std::find(names_.begin(), names_.end(), asked);
      if (it == names_.end()) {
        refuse(fmt::format("'{}': there is no column '{}' in {}{} (columns: {})", key, asked, file_,
                           did_you_mean(asked, names_), fmt::join(names_, ", ")));
      }
      return it - names_.begin();
    }
    for (std::string_view name : usual) {
      for (size_t c = 0; c < names_.size(); ++c) {
        if (lower(names_[c]) == name) return static_cast<int64_t>(c);
      }
    }
    return -1;
  }
  const std::vector<std::string>& names() const { return names_; }

 private:
  const std::string& file_;
  std::vector<std::string> names_;
};

Columns find_columns(const CsvTable& table, const DataOptions& o) {
  const Header header(table, o.file);
  Columns columns;
  columns.image = header.find(
      o.image_column, "image_column",
      {"image", "path", "file", "filename", "image_path", "filepath", "file_name", "image_id"});
  columns.label = header.find(o.label_column, "label_column",
                              {"label", "class", "target", "category", "class_name", "y"});
  columns.split = header.find(o.split_column, "split_column", {"split", "set", "subset", "part"});
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
      const std::optional<Split> split = split_of(table.at(r, columns.split));
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

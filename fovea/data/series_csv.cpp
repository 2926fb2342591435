#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "fovea/base/error.h"
#include "fovea/base/text.h"
#include "fovea/data/csv_header.h"
#include "fovea/data/image_files.h"
#include "fovea/data/series_table.h"

namespace fovea {
namespace {

constexpr std::array<std::string_view, 8> kNoValue = {"",    "NA",   "N/A",  "NaN",
                                                      "nan", "null", "NULL", "?"};
constexpr float kMissing = std::numeric_limits<float>::quiet_NaN();

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

bool is_no_value(std::string_view field) {
  return std::find(kNoValue.begin(), kNoValue.end(), trimmed(field)) != kNoValue.end();
}

class CsvSeries {
 public:
  CsvSeries(const std::string& file, const DataOptions& options, const SeriesReading& reading)
      : file_(file), o_(options), reading_(reading), table_(read_csv(file)) {}

  SeriesTable run() {
    if (table_.rows() == 0) refuse("the file is empty (expected a line with the names of columns)");
    find_columns();
    if (table_.rows() == 1) refuse("there is a line of names, and no row below it");
    result_.source = file_;
    read_rows();
    make_samples();
    return std::move(result_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error{ErrorCode::invalid_argument, fmt::format("[data] {}: {}", file_, what)};
  }
  [[noreturn]] void broken(int64_t row, const std::string& what) const {
    throw Error{ErrorCode::corrupt, fmt::format("[data] {}: {}", table_.place(row), what)};
  }

  void find_columns() {
    const CsvHeader header(table_, file_);
    const std::vector<std::string>& names = header.names();
    check_names(names);
    if (reading_.labelled) {
      label_ = header.find(o_.label_column, "label_column", kLabelColumns);
      if (label_ < 0)
        refuse(fmt::format("expected data.label_column, the column of the classes (columns: {})",
                           fmt::join(names, ", ")));
      split_ = header.find(o_.split_column, "split_column", kSplitColumns);
    } else {  // those that are there are left out of the features
      label_ = o_.label_column.empty() ? header.find("", "", kLabelColumns)
                                       : header.find(o_.label_column);
      split_ = o_.split_column.empty() ? header.find("", "", kSplitColumns)
                                       : header.find(o_.split_column);
    }
    if (!o_.group_column.empty()) {
      group_ = reading_.labelled ? header.find(o_.group_column, "group_column", {})
                                 : header.find(o_.group_column);
    }
    std::vector<std::string> asked = reading_.columns.empty() ? o_.features : reading_.columns;
    for (const std::string& name : o_.ignore) header.find(name, "ignore", {});
    if (asked.empty()) {
      for (size_t c = 0; c < names.size(); ++c) {
        const auto column = static_cast<int64_t>(c);
        const bool other =
            column == label_ || column == split_ || column == group_ ||
            std::find(o_.ignore.begin(), o_.ignore.end(), names[c]) != o_.ignore.end();
        if (!other && !names[c].empty()) asked.push_back(names[c]);
      }
    }
    if (asked.empty())
      refuse("no column is left for the model to see (data.features, data.ignore)");
    for (const std::string& name : asked) {
      features_.push_back(header.find(name, "features", {}));
      if (features_.back() == label_ && reading_.labelled)
        refuse(fmt::format("the column '{}' is the label, and among data.features", name));
    }
    result_.columns = asked;
  }

  void check_names(const std::vector<std::string>& names) const {
    const auto number = [](const std::string& name) {
      return !name.empty() && name.find_first_not_of("0123456789.+-eE ") == std::string::npos;
    };
    if (std::all_of(names.begin(), names.end(), number))
      refuse(
          "the first line holds numbers; expected the names of the columns (put such a line "
          "before the rows)");
    for (size_t i = 0; i < names.size(); ++i) {
      if (names[i].empty()) continue;
      if (std::count(names.begin(), names.end(), names[i]) > 1)
        refuse(
            fmt::format("two columns have the name '{}' (give each a name of its own)", names[i]));
    }
  }

  float number_at(int64_t row, size_t f) const {
    const int64_t column = features_[f];
    const std::string_view field = table_.at(row, column);
    const std::string& name = result_.columns[f];
    if (is_no_value(field)) {
      if (o_.missing == Missing::error)
        broken(row, fmt::format("column '{}': there is no value ('{}'; data.missing = \"mean\" "
                                "takes the mean of training there, \"skip\" leaves the sample out)",
                                name, field.substr(0, 60)));
      return kMissing;
    }
    double value = 0;
    try {
      value = csv_number(table_, row, column);
    } catch (const Error&) {
      value = std::numeric_limits<double>::infinity();
    }
    if (!(std::abs(value) <= static_cast<double>(std::numeric_limits<float>::max())))
      broken(row, fmt::format("column '{}': expected a finite number, got '{}' (mend it, or leave "
                              "the column out: data.ignore = [\"{}\"]; categories need a column of "
                              "0 and 1 each)",
                              name, field.substr(0, 60), name));
    return static_cast<float>(value);
  }

  // Rows in the order of their groups, and of the file within each.
  void read_rows() {
    rows_.resize(static_cast<size_t>(table_.rows() - 1));
    std::iota(rows_.begin(), rows_.end(), int64_t{1});
    group_of_.assign(static_cast<size_t>(table_.rows()), 0);
    if (group_ >= 0) {
      std::map<std::string, int64_t, std::less<>> known;
      for (const int64_t r : rows_) {
        const std::string_view name = table_.at(r, group_);
        if (name.empty())
          broken(r, fmt::format("column '{}': a row without a name", o_.group_column));
        auto it = known.find(name);
        if (it == known.end()) {
          it = known.emplace(name, static_cast<int64_t>(known.size())).first;
          result_.groups.emplace_back(name);
        }
        group_of_[static_cast<size_t>(r)] = it->second;
      }
      std::stable_sort(rows_.begin(), rows_.end(), [&](int64_t a, int64_t b) {
        return group_of_[static_cast<size_t>(a)] < group_of_[static_cast<size_t>(b)];
      });
    }
    if (reading_.labelled) read_labels();
    result_.values.reserve(rows_.size() * features_.size());
    for (const int64_t r : rows_)
      for (size_t f = 0; f < features_.size(); ++f) result_.values.push_back(number_at(r, f));
  }

  void read_labels() {
    std::vector<std::string> names =
        reading_.class_names.empty() ? o_.classes : reading_.class_names;
    std::set<std::string> seen;
    for (const int64_t r : rows_) {
      const std::string_view label = trimmed(table_.at(r, label_));
      if (is_no_value(label)) broken(r, "a row without a label");
      seen.emplace(label);
    }
    if (names.empty()) {
      names.assign(seen.begin(), seen.end());
      sort_names(names);
      if (names.size() < 2)
        refuse(fmt::format("expected at least two classes in the column '{}', got only '{}'",
                           table_.at(0, label_), names[0]));
      if (names.size() > kMostClasses)
        refuse(
            fmt::format("the column '{}' has {} different values: too many for classes (name "
                        "another one with data.label_column)",
                        table_.at(0, label_), names.size()));
    } else if (reading_.class_names.empty()) {
      for (const std::string& name : names)
        if (seen.count(name) == 0)
          refuse(fmt::format("data.classes: no row has the label '{}'{}", name,
                             did_you_mean(name, std::vector(seen.begin(), seen.end()))));
    }
    result_.class_names = names;
    std::map<std::string, int32_t, std::less<>> index;
    for (const std::string& name : names) index.emplace(name, static_cast<int32_t>(index.size()));
    labels_.assign(static_cast<size_t>(table_.rows()), -1);
    for (const int64_t r : rows_) {
      const std::string_view label = trimmed(table_.at(r, label_));
      const auto it = index.find(label);
      if (it != index.end())
        labels_[static_cast<size_t>(r)] = it->second;
      else if (o_.classes.empty())  // else rows of other classes are left out
        broken(r, fmt::format("the label '{}' is none of the classes that are trained ({})",
                              label.substr(0, 60), fmt::join(names, ", ")));
    }
  }

  Split split_at(int64_t row) {
    if (split_ < 0 || !reading_.labelled) return Split::train;
    const std::optional<Split> split = split_named(trimmed(table_.at(row, split_)));
    if (!split)
      broken(row, fmt::format("column '{}': expected train, validation or test, got '{}'",
                              table_.at(0, split_), table_.at(row, split_).substr(0, 60)));
    result_.given[static_cast<size_t>(*split)] = true;
    return *split;
  }

  int32_t label_at(int64_t row) const {
    return labels_.empty() ? -1 : labels_[static_cast<size_t>(row)];
  }

  // rows_[first, first + count) as a sample, where it is one.
  void add(int64_t first, int64_t count, int64_t line_of) {
    const auto row = [&](int64_t i) { return rows_[static_cast<size_t>(i)]; };
    SeriesSample sample{first, count, label_at(row(first + count - 1)), split_at(row(first)),
                        group_of_[static_cast<size_t>(row(first))]};
    for (int64_t i = first + 1; split_ >= 0 && i < first + count; ++i)
      if (split_at(row(i)) != sample.split) {
        if (o_.window > 0) return;  // it would lie in two parts
        broken(row(i), fmt::format("'{}' lies in two parts",
                                   result_.groups[static_cast<size_t>(sample.group)]));
      }
    if (reading_.labelled && sample.label < 0) return;  // the recipe takes other classes
    const size_t width = features_.size();
    const auto begin = result_.values.begin() + first * static_cast<int64_t>(width);
    if (o_.missing == Missing::skip) {
      const auto end = begin + count * static_cast<int64_t>(width);
      const auto gap = std::find_if(begin, end, [](float v) { return std::isnan(v); });
      if (gap != end) return skip(sample, line_of, static_cast<size_t>(gap - begin));
    }
    result_.samples.push_back(sample);
    result_.places.push_back(table_.line(row(line_of)));
  }

  // The number with that place in the sample is missing.
  void skip(const SeriesSample& sample, int64_t line_of, size_t number) {
    const auto line = [&](int64_t i) { return table_.line(rows_[static_cast<size_t>(i)]); };
    const int64_t gap = line(sample.first + static_cast<int64_t>(number / features_.size()));
    const std::string& column = result_.columns[number % features_.size()];
    const bool sequence = o_.window == 0 && !result_.groups.empty();
    std::string why = fmt::format("{}, ", file_);
    why += sequence ? result_.groups[static_cast<size_t>(sample.group)]
                    : fmt::format("line {}", line(line_of));
    why += fmt::format(": no value in '{}'", column);
    if (sequence || gap != line(line_of)) why += fmt::format(" (line {})", gap);
    result_.skipped.push_back({std::move(why), sample.split});
  }

  void make_samples() {
    const auto all = static_cast<int64_t>(rows_.size());
    if (o_.window == 0 && o_.group_column.empty()) {
      for (int64_t i = 0; i < all; ++i) add(i, 1, i);
    } else {
      for (int64_t begin = 0, end = 0; begin < all; begin = end) {
        const auto group = [&](int64_t i) {
          return group_of_[static_cast<size_t>(rows_[static_cast<size_t>(i)])];
        };
        for (end = begin + 1; end < all && group(end) == group(begin);) ++end;
        if (o_.window == 0) {
          add_sequence(begin, end);
          continue;
        }
        for (int64_t first = begin; first + o_.window <= end; first += o_.stride)
          add(first, o_.window, first + o_.window - 1);
      }
    }
    result_.ragged = o_.window == 0 && !o_.group_column.empty();
    if (!result_.samples.empty()) return;
    if (o_.missing == Missing::skip)
      refuse("no sample is left: each misses a value (data.missing = \"mean\" keeps them)");
    refuse(o_.window > 0 ? fmt::format("no {} rows in turn make a window{} (a smaller data.window)",
                                       o_.window, group_ >= 0 ? " within a group" : "")
                         : "no row has a class that the recipe names (data.classes)");
  }

  void add_sequence(int64_t begin, int64_t end) {
    for (int64_t i = begin + 1; i < end && !labels_.empty(); ++i) {
      const int64_t row = rows_[static_cast<size_t>(i)];
      if (label_at(row) != label_at(rows_[static_cast<size_t>(begin)]))
        broken(row, fmt::format("the sequence '{}' has two labels (its rows must agree; with "
                                "data.window, each window takes that of its last row)",
                                table_.at(row, group_)));
    }
    const size_t before = result_.samples.size();
    add(begin, end - begin, begin);
    if (result_.samples.size() > before)
      result_.names.push_back(
          result_.groups.empty()
              ? file_
              : fmt::format("{}, {}", file_, table_.at(rows_[static_cast<size_t>(begin)], group_)));
  }

  static constexpr size_t kMostClasses = 1000;
  const std::string& file_;
  const DataOptions& o_;
  const SeriesReading& reading_;
  const CsvTable table_;
  SeriesTable result_;
  int64_t label_ = -1, split_ = -1, group_ = -1;
  std::vector<int64_t> features_;  // columns of the file
  std::vector<int64_t> rows_;      // of the file, by group
  std::vector<int64_t> group_of_;  // by row of the file
  std::vector<int32_t> labels_;    // by row of the file
};

}  // namespace

int64_t SeriesTable::longest() const {
  int64_t most = 0;
  for (const SeriesSample& sample : samples) most = std::max(most, sample.count);
  return most;
}

SeriesTable read_series_csv(const std::string& file, const DataOptions& options,
                            const SeriesReading& reading) {
  return CsvSeries(file, options, reading).run();
}

}  // namespace fovea

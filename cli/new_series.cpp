#include "cli/new_series.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "cli/new_recipe.h"
#include "fovea/base/error.h"
#include "fovea/base/text.h"
#include "fovea/data/csv_header.h"
#include "fovea/data/splits.h"
#include "fovea/formats/recipe.h"

namespace fovea::cli {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kWindow = 16;        // rows before a row that stands in time
constexpr int64_t kMostTokens = 64;    // that attention looks at
constexpr int64_t kManyRows = 20'000;  // from which windows need not begin at each row
constexpr size_t kMostClasses = 20;    // of a column that is taken for the label by its place
constexpr double kImbalance = 1.5;     // as for images
constexpr int64_t kFewSamples = 500, kTooFewOfAClass = 20;
constexpr std::array<std::string_view, 8> kGroupColumns = {
    "group", "sequence", "sequence_id", "series", "series_id", "subject", "trial", "id"};

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::invalid_argument, "[new] " + what);
}

// The first of these that is there, in the folder; empty: none.
std::string there(const fs::path& folder, std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (std::error_code ignored; fs::is_regular_file(folder / name, ignored))
      return (folder / name).string();
  return {};
}

// Which files hold which part.
void find_files(const std::string& path, DataOptions& data) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    data.file = path;
    data.kind = path.ends_with(".npy") ? DataKind::npy : DataKind::csv;
    if (data.kind == DataKind::csv) return;
    // x.npy has its labels in x_labels.npy, or beside it in labels.npy.
    const fs::path file(path);
    const std::string own = file.stem().string() + "_labels.npy";
    data.labels_file = there(file.parent_path(), {own.c_str(), "labels.npy", "y.npy"});
    if (data.labels_file.empty())
      refuse(fmt::format("{}: expected the class of each sample in {} beside it", path, own));
    return;
  }
  data.file = there(path, {"train.csv", "training.csv"});
  if (!data.file.empty()) {
    data.kind = DataKind::csv;
    data.validation_file = there(path, {"validation.csv", "valid.csv", "val.csv"});
    data.test_file = there(path, {"test.csv"});
    return;
  }
  data.file = there(path, {"train.npy"});
  if (data.file.empty())
    refuse(
        fmt::format("{}: expected train.csv, or train.npy and train_labels.npy, in this folder "
                    "(or give a .csv or .npy file)",
                    path));
  data.kind = DataKind::npy;
  data.labels_file = there(path, {"train_labels.npy"});
  if (data.labels_file.empty()) refuse(fmt::format("{}: expected train_labels.npy there", path));
  data.validation_file = there(path, {"validation.npy", "valid.npy", "val.npy"});
  data.validation_labels_file =
      there(path, {"validation_labels.npy", "valid_labels.npy", "val_labels.npy"});
  data.test_file = there(path, {"test.npy"});
  data.test_labels_file = there(path, {"test_labels.npy"});
}

// A column of a table, looked at.
struct Column {
  bool numbers = true;           // all that have a value
  bool gaps = false;             // some have none
  bool ascending = true;         // each is not below the one before
  std::set<std::string> values;  // up to kMostClasses + 1
  std::string example;
};

Column look_at(const CsvTable& table, int64_t c) {
  Column column;
  std::string_view before;
  std::optional<double> number_before;
  for (int64_t r = 1; r < table.rows(); ++r) {
    const std::string_view field = table.at(r, c);
    if (column.values.size() <= kMostClasses) column.values.emplace(field);
    if (field.empty() || field == "NA" || field == "NaN" || field == "nan" || field == "?") {
      column.gaps = true;
      continue;
    }
    if (column.example.empty()) column.example = field;
    std::optional<double> number;
    try {
      if (column.numbers) number = csv_number(table, r, c);
    } catch (const Error&) {
      column.numbers = false;
    }
    if (number && number_before && *number < *number_before) column.ascending = false;
    if (!number && field < before) column.ascending = false;
    number_before = number;
    before = field;
  }
  return column;
}

bool has_word(std::string name, std::initializer_list<std::string_view> words) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::any_of(words.begin(), words.end(),
                     [&](std::string_view word) { return name.find(word) != std::string::npos; });
}

class TableSurvey {
 public:
  TableSurvey(SeriesSurvey& survey, const SeriesWish& wish)
      : s_(survey), wish_(wish), table_(read_csv(survey.data.file)) {}

  void run() {
    if (table_.rows() < 2)
      refuse(fmt::format("{}: expected a line with the names of columns, and rows", s_.data.file));
    const CsvHeader header(table_, s_.data.file);
    for (int64_t c = 0; c < table_.columns(); ++c) columns_.push_back(look_at(table_, c));
    find_label(header);
    find_group(header);
    find_features(header);
    choose_window();
  }

 private:
  void find_label(const CsvHeader& header) {
    label_ = header.find(wish_.label, "--label", kLabelColumns);
    const auto last = static_cast<int64_t>(columns_.size()) - 1;
    if (label_ < 0) {
      const size_t values = columns_[static_cast<size_t>(last)].values.size();
      if (values < 2 || values > kMostClasses)
        refuse(fmt::format("{}: which column holds the classes? Say --label COLUMN (columns: {})",
                           s_.data.file, fmt::join(header.names(), ", ")));
      label_ = last;
      s_.remarks.push_back(
          fmt::format("the last column, '{}', is taken for the class (--label says another)",
                      header.names()[static_cast<size_t>(last)]));
    }
    s_.data.label_column = header.names()[static_cast<size_t>(label_)];
    split_ = header.find("", "", kSplitColumns);
    if (split_ >= 0) s_.data.split_column = header.names()[static_cast<size_t>(split_)];
  }

  void find_group(const CsvHeader& header) {
    group_ = header.find(wish_.group, "--group", kGroupColumns);
    if (group_ < 0 || group_ == label_) {
      group_ = -1;
      return;
    }
    // A name for each row groups nothing.
    std::map<std::string, int64_t, std::less<>> rows;
    for (int64_t r = 1; r < table_.rows(); ++r) ++rows[std::string(table_.at(r, group_))];
    if (wish_.group.empty() && static_cast<int64_t>(rows.size()) * 2 > table_.rows() - 1) {
      unused_ = group_;
      group_ = -1;
      return;
    }
    s_.data.group_column = header.names()[static_cast<size_t>(group_)];
    std::map<std::string, std::string, std::less<>> labels;
    for (int64_t r = 1; r < table_.rows(); ++r) {
      const auto [it, added] =
          labels.try_emplace(std::string(table_.at(r, group_)), table_.at(r, label_));
      one_label_each_ = one_label_each_ && it->second == table_.at(r, label_);
    }
  }

  void find_features(const CsvHeader& header) {
    for (size_t c = 0; c < columns_.size(); ++c) {
      const auto at = static_cast<int64_t>(c);
      const std::string& name = header.names()[c];
      if (at == label_ || at == split_ || at == group_ || name.empty()) continue;
      const Column& column = columns_[c];
      const bool time = has_word(name, {"time", "date"}) ||
                        (!column.numbers && column.ascending &&
                         column.example.find_first_of(":-/") != std::string::npos);
      if (time || !column.numbers || at == unused_) {
        if (time && column.ascending && column.values.size() > 1) {
          s_.in_time = true;
          s_.time_column = name;
        }
        s_.remarks.push_back(
            fmt::format("the column '{}' is left out: {}", name,
                        time            ? "a time"
                        : at == unused_ ? "a name for each row"
                                        : fmt::format("it holds words, such as '{}' (categories "
                                                      "need a column of 0 and 1 each)",
                                                      column.example.substr(0, 40))));
        continue;
      }
      if (column.gaps) s_.data.missing = Missing::mean;
      s_.data.features.push_back(name);
    }
    if (s_.data.features.empty())
      refuse(fmt::format("{}: no column of numbers is left beside the class", s_.data.file));
  }

  void choose_window() {
    s_.data.window = wish_.window                                 ? *wish_.window
                     : group_ >= 0                                ? (one_label_each_ ? 0 : kWindow)
                     : s_.in_time && table_.rows() > 10 * kWindow ? kWindow
                                                                  : 0;
    if (s_.data.window > 0 && table_.rows() > kManyRows)
      s_.data.stride = std::max<int64_t>(1, s_.data.window / 4);
    if (s_.data.window == 0 && s_.in_time && group_ < 0) s_.data.split_by = SplitBy::time;
  }

  SeriesSurvey& s_;
  const SeriesWish& wish_;
  const CsvTable table_;
  std::vector<Column> columns_;
  int64_t label_ = -1, split_ = -1, group_ = -1, unused_ = -1;
  bool one_label_each_ = true;
};

void count(SeriesSurvey& s) {
  const std::array<Dataset, 3> splits = load_splits(s.data);
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    const Dataset& part = splits[static_cast<size_t>(split)];
    s.samples[static_cast<size_t>(split)] = part.size();
    if (split != Split::train) continue;
    const DataInput& series = *part.input(kSeriesInput);
    s.steps = series.shape[0];
    s.features = series.shape[1];
    s.ragged = part.input(kLengthInput) != nullptr;
    s.class_names = part.class_names;
    s.class_counts = class_counts(part);
  }
}

void add_remarks(SeriesSurvey& s) {
  const auto [least, most] = std::minmax_element(s.class_counts.begin(), s.class_counts.end());
  const auto name = [&](auto it) {
    return s.class_names[static_cast<size_t>(it - s.class_counts.begin())];
  };
  if (*least < kTooFewOfAClass)
    s.remarks.push_back(
        fmt::format("the class '{}' has {} sample{} to train with: expect little of it",
                    name(least), *least, *least == 1 ? "" : "s"));
  if (static_cast<double>(*most) >= kImbalance * static_cast<double>(*least))
    s.remarks.push_back(fmt::format(
        "'{}' has {:.1f} times as many samples to train with as '{}': task.balance makes up for it",
        name(most), static_cast<double>(*most) / static_cast<double>(std::max<int64_t>(*least, 1)),
        name(least)));
  if (s.samples[0] < kFewSamples)
    s.remarks.push_back(fmt::format("{} samples are few to learn from", s.samples[0]));
  if (s.data.missing == Missing::mean)
    s.remarks.push_back("values are missing: the mean of training stands in for them");
  if (s.samples[1] == 0)
    s.remarks.push_back("no samples to validate: the last weights are kept, not the best");
  if (s.samples[2] == 0)
    s.remarks.push_back("no samples to test: nothing will say how good the model is");
}

std::string list_text(const std::vector<std::string>& names) {
  std::vector<std::string> quoted;
  for (const std::string& name : names) quoted.push_back(toml_string(name));
  return fmt::format("[{}]", fmt::join(quoted, ", "));
}

}  // namespace

SeriesSurvey survey_series(const std::string& path, const SeriesWish& wish) {
  SeriesSurvey survey;
  find_files(path, survey.data);
  if (survey.data.kind == DataKind::csv) {
    TableSurvey(survey, wish).run();
  } else if (!wish.label.empty() || !wish.group.empty() || wish.window) {
    refuse("--label, --group and --window are for tables; an .npy file has no columns with names");
  }
  try {
    count(survey);
  } catch (const Error& e) {
    // Arrays are looked through here, not before.
    if (survey.data.kind != DataKind::npy || e.code() != ErrorCode::corrupt ||
        std::string(e.what()).find("is NaN (data.missing") == std::string::npos)
      throw;
    survey.data.missing = Missing::mean;
    count(survey);
  }
  add_remarks(survey);
  return survey;
}

std::string sequence_classifier_recipe(const SeriesSurvey& s, const std::string& command,
                                       const std::string& file) {
  std::string out;
  const auto line = [&](const std::string& text, const std::string& comment = "") {
    out += comment.empty() ? text + "\n" : fmt::format("{:<26} # {}\n", text, comment);
  };
  const auto path = [&](const char* key, const std::string& value, const std::string& comment) {
    if (!value.empty()) line(fmt::format("{} = {}", key, toml_string(value)), comment);
  };
  const int64_t n = s.samples[0];
  const bool few = n < 2000;
  const int64_t patch = (s.steps + kMostTokens - 1) / kMostTokens;
  int64_t batch = 128;
  while (batch > 16 && n / batch < 20) batch /= 2;
  const int64_t steps = std::max<int64_t>(1, n / batch);
  const int64_t epochs = std::clamp<int64_t>((1500 + steps - 1) / steps, 10, 60);
  const auto [least, most] = std::minmax_element(s.class_counts.begin(), s.class_counts.end());
  const bool unequal = static_cast<double>(*most) >= kImbalance * static_cast<double>(*least);

  line("# Written by: " + command);
  line(fmt::format("# It saw {} classes; {} samples to train with, {} to validate, {} to test.",
                   s.class_names.size(), s.samples[0], s.samples[1], s.samples[2]));
  for (std::string remark : s.remarks) {
    std::replace_if(
        remark.begin(), remark.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
    line("# - " + remark);
  }
  line("# Train it: fovea train " + file);
  line("\n[task]");
  line("kind = \"sequence_classification\"", "a class for each row, window or sequence");
  line(fmt::format("balance = {:.1f}", unequal ? 1.0 : 0.0),
       unequal ? "1: as if all classes were equally frequent; 0: as they are"
               : "classes are about equally frequent; 1 would make up for it");
  line("\n[data]");
  line(fmt::format("kind = \"{}\"", enum_name(s.data.kind)));
  path("file", s.data.file, "from the folder in which fovea runs");
  path("labels_file", s.data.labels_file, "the class of each sample");
  path("validation_file", s.data.validation_file, "");
  path("validation_labels_file", s.data.validation_labels_file, "");
  path("test_file", s.data.test_file, "");
  path("test_labels_file", s.data.test_labels_file, "");
  path("label_column", s.data.label_column, "");
  path("group_column", s.data.group_column, "rows with the same name here belong together");
  path("split_column", s.data.split_column, "says train, validation or test");
  if (!s.data.features.empty()) line("features = " + list_text(s.data.features));
  if (s.data.window > 0) {
    line(fmt::format("window = {}", s.data.window),
         "rows that the model sees; the class is the last's");
    line(fmt::format("stride = {}", s.data.stride), "rows from one window to the next");
  }
  const bool cut_validation = s.data.validation_file.empty() && s.data.split_column.empty();
  const bool cut_test = s.data.test_file.empty() && s.data.split_column.empty();
  if (cut_validation) line("validation = 0.1", "share cut from train");
  if (cut_test) line("test = 0.15", "likewise");
  if (cut_validation || cut_test) {
    const bool time =
        s.data.split_by == SplitBy::time || (s.data.window > 0 && s.data.group_column.empty());
    const bool group = s.data.window > 0 && !s.data.group_column.empty();
    line(fmt::format("split_by = \"{}\"", time    ? "time"
                                          : group ? "group"
                                                  : "random"),
         time    ? "the first rows train, the last test: no row is near one of another part"
         : group ? "no group lies in two parts"
                 : "each class in proportion");
  }
  if (s.data.missing != Missing::error)
    line("missing = \"mean\"", "of training; \"skip\" leaves such samples out");
  line("\n[model]");
  if (s.steps > 1) {
    line(fmt::format("patch = {}", patch),
         fmt::format("steps of a token: {} tokens for attention", (s.steps + patch - 1) / patch));
  } else {
    line("tokens = \"features\"", fmt::format("each of the {} columns is one", s.features));
  }
  line(fmt::format("width = {}", few ? 48 : 64), few ? "small, since the samples are few" : "");
  line("heads = 4");
  line(fmt::format("layers = {}", few ? 2 : 3));
  line(fmt::format("mlp = {}", few ? 96 : 128));
  line(fmt::format("dropout = {:.1f}", few ? 0.2 : 0.1), "against learning by heart");
  line("\n[train]");
  line(fmt::format("epochs = {}", epochs), fmt::format("{} steps", epochs * steps));
  line(fmt::format("batch = {}", batch));
  line("learning_rate = 1e-3");
  line("weight_decay = 0.05");
  line("warmup = 0.05");
  line("average = 0.99", "moving average of the weights");
  line("seed = 1");
  return out;
}

}  // namespace fovea::cli

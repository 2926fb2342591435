#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "fovea/base/error.h"
#include "fovea/data/image_files.h"
#include "fovea/data/series_table.h"
#include "fovea/formats/npy.h"

namespace fovea {
namespace {

class NpySeries {
 public:
  NpySeries(const std::string& file, const DataOptions& options, const SeriesReading& reading)
      : file_(file), o_(options), reading_(reading) {
    result_.source = file;
    result_.unit = "sample";
  }

  SeriesTable run(const std::string& labels_file) {
    read_numbers();
    std::vector<int32_t> labels;
    if (reading_.labelled) labels = read_labels(labels_file);
    for (int64_t n = 0; n < samples_; ++n) {
      if (reading_.labelled && labels[static_cast<size_t>(n)] < 0) continue;
      add(n, reading_.labelled ? labels[static_cast<size_t>(n)] : -1);
    }
    if (result_.samples.empty()) refuse("no sample is left (data.classes, data.missing)");
    return std::move(result_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error{ErrorCode::invalid_argument, fmt::format("[data] {}: {}", file_, what)};
  }
  [[noreturn]] void broken(const std::string& what) const {
    throw Error{ErrorCode::corrupt, fmt::format("[data] {}: {}", file_, what)};
  }

  void read_numbers() {
    const NpyArray array = read_npy(file_);
    const size_t axes = array.shape.size();
    const bool one_sequence = !reading_.labelled && reading_.steps > 1 && axes == 2;
    if (axes != 2 && axes != 3)
      broken(
          fmt::format("expected numbers [samples, steps, features] or [samples, features], got "
                      "an array of {} ax{}s (reshape it)",
                      axes, axes == 1 ? "i" : "e"));
    samples_ = one_sequence ? 1 : array.shape[0];
    steps_ = axes == 3 ? array.shape[1] : one_sequence ? array.shape[0] : 1;
    width_ = array.shape.back();
    if (samples_ < 1 || steps_ < 1 || width_ < 1)
      broken(fmt::format("the array [{}] is empty", fmt::join(array.shape, ",")));
    result_.values = npy_to_f32(array);
    result_.columns = reading_.columns.empty() ? o_.features : reading_.columns;
    if (result_.columns.empty())
      for (int64_t f = 0; f < width_; ++f) result_.columns.push_back(fmt::format("{}", f));
    if (result_.features() != width_)
      refuse(fmt::format("expected {} features ({}), got {}", result_.features(),
                         fmt::join(result_.columns, ", "), width_));
  }

  // The index of a class for each sample; -1 where the recipe takes other classes.
  std::vector<int32_t> read_labels(const std::string& labels_file) {
    if (labels_file.empty())
      refuse("expected data.labels_file, the .npy file with the class of each sample");
    const NpyArray array = read_npy(labels_file);
    const std::vector<int32_t> numbers = npy_to_i32(array, labels_file);
    if (static_cast<int64_t>(numbers.size()) != samples_)
      throw Error{
          ErrorCode::corrupt,
          fmt::format("[data] {}: expected a label for each of the {} samples of {}, got {}",
                      labels_file, samples_, file_, numbers.size())};
    std::set<std::string> seen;
    for (const int32_t n : numbers) seen.insert(std::to_string(n));
    std::vector<std::string> names =
        reading_.class_names.empty() ? o_.classes : reading_.class_names;
    if (names.empty()) {
      if (seen.size() < 2)
        throw Error{ErrorCode::invalid_argument,
                    fmt::format("[data] {}: expected at least two classes, got only '{}'",
                                labels_file, *seen.begin())};
      if (seen.size() > kMostClasses)
        throw Error{ErrorCode::invalid_argument,
                    fmt::format("[data] {}: {} different numbers are too many for classes",
                                labels_file, seen.size())};
      names.assign(seen.begin(), seen.end());
      sort_names(names);
    }
    result_.class_names = names;
    // Names that are the numbers themselves mean these; others are in the order of the numbers.
    const bool by_name = std::any_of(names.begin(), names.end(),
                                     [&](const std::string& name) { return seen.count(name) > 0; });
    std::vector<int32_t> labels;
    for (size_t i = 0; i < numbers.size(); ++i) {
      const auto at = std::find(names.begin(), names.end(), std::to_string(numbers[i]));
      int64_t label = by_name ? (at == names.end() ? -1 : at - names.begin()) : numbers[i];
      if ((!by_name || o_.classes.empty()) &&
          (label < 0 || label >= static_cast<int64_t>(names.size())))
        throw Error{ErrorCode::corrupt,
                    fmt::format("[data] {}: sample {} has the label {}, expected {} (name every "
                                "class in the recipe's data.classes)",
                                labels_file, i, numbers[i],
                                by_name ? fmt::format("one of {}", fmt::join(names, ", "))
                                        : fmt::format("0 to {}", names.size() - 1))};
      labels.push_back(static_cast<int32_t>(label));
    }
    return labels;
  }

  void add(int64_t n, int32_t label) {
    const float* row = result_.values.data() + n * steps_ * width_;
    const auto nan = [](float v) { return std::isnan(v); };
    int64_t count = steps_;
    while (count > 0 && std::all_of(row + (count - 1) * width_, row + count * width_, nan)) --count;
    // Of one step only, it is not padding.
    if (steps_ == 1) count = 1;
    if (count == 0) broken(fmt::format("sample {} is NaN throughout", n));
    std::string gap;  // the first
    for (int64_t i = 0; i < count * width_; ++i) {
      if (std::isfinite(row[i])) continue;
      const std::string where =
          steps_ == 1 ? fmt::format("sample {}, feature {}", n, i)
                      : fmt::format("sample {}, step {}, feature {}", n, i / width_, i % width_);
      if (std::isinf(row[i]))
        broken(fmt::format("{} is infinite (expected finite numbers; mend it)", where));
      if (o_.missing == Missing::error)
        broken(
            fmt::format("{} is NaN (data.missing = \"mean\" takes the mean of training there, "
                        "\"skip\" leaves the sample out)",
                        where));
      if (gap.empty()) gap = where;
    }
    if (!gap.empty() && o_.missing == Missing::skip) {
      result_.skipped.push_back({fmt::format("{}, {}: no value", file_, gap), Split::train});
      return;
    }
    result_.ragged = result_.ragged || count < steps_;
    result_.samples.push_back({n * steps_, count, label, Split::train, 0});
    result_.places.push_back(n);
  }

  static constexpr size_t kMostClasses = 1000;
  const std::string& file_;
  const DataOptions& o_;
  const SeriesReading& reading_;
  SeriesTable result_;
  int64_t samples_ = 0, steps_ = 0, width_ = 0;
};

}  // namespace

SeriesTable read_series_npy(const std::string& file, const std::string& labels_file,
                            const DataOptions& options, const SeriesReading& reading) {
  return NpySeries(file, options, reading).run(labels_file);
}

}  // namespace fovea

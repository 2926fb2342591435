#include "fovea/data/series_dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fovea/base/error.h"
#include "fovea/base/progress.h"
#include "fovea/base/visit.h"
#include "fovea/data/image_files.h"
#include "fovea/data/permutation.h"
#include "fovea/data/series_table.h"
#include "fovea/data/split_size.h"

namespace fovea {
namespace {

constexpr int64_t kMostSteps = 1 << 20;

[[noreturn]] void refuse(const std::string& what) {
  throw Error{ErrorCode::invalid_argument, "[data] " + what};
}

void check_options(const DataOptions& o) {
  if (o.file.empty())
    refuse(fmt::format("'file': expected the {} file to train with", enum_name(o.kind)));
  for (const auto& [key, value, least] :
       {std::tuple("window", o.window, int64_t{0}), std::tuple("stride", o.stride, int64_t{1}),
        std::tuple("steps", o.steps, int64_t{0})})
    if (value < least || value > kMostSteps)
      refuse(fmt::format("'{}': expected {} to {}, got {}", key, least, kMostSteps, value));
  if (o.kind == DataKind::csv) return;
  for (const auto& [key, given] :
       {std::pair("window", o.window > 0), std::pair("group_column", !o.group_column.empty()),
        std::pair("label_column", !o.label_column.empty()),
        std::pair("split_column", !o.split_column.empty()), std::pair("ignore", !o.ignore.empty())})
    if (given) refuse(fmt::format("'{}' is for csv; an .npy file has no columns with names", key));
}

const std::string& file_of(const DataOptions& o, Split split) {
  return split == Split::train        ? o.file
         : split == Split::validation ? o.validation_file
                                      : o.test_file;
}

SeriesTable read_part(const DataOptions& o, Split split, const SeriesReading& reading) {
  const std::string& file = file_of(o, split);
  if (o.kind == DataKind::csv) return read_series_csv(file, o, reading);
  return read_series_npy(file,
                         split == Split::train        ? o.labels_file
                         : split == Split::validation ? o.validation_labels_file
                                                      : o.test_labels_file,
                         o, reading);
}

SplitBy way_of(const DataOptions& o) {
  if (o.split_by != SplitBy::automatic) return o.split_by;
  if (o.window == 0) return SplitBy::random;  // a group is one sample
  return o.group_column.empty() ? SplitBy::time : SplitBy::group;
}

// Which parts are cut from the table, and how much of it.
struct Cut {
  double validation = 0, test = 0;
};

void cut_random(SeriesTable& table, const DataOptions& o) {
  if (o.window > o.stride)
    refuse(
        fmt::format("'split_by': windows of {} rows that overlap (stride {}) would put the same "
                    "rows into train and test (take time, or group)",
                    o.window, o.stride));
  ImageFiles list;  // whose samples are cut, each class in proportion
  list.class_names = table.class_names;
  list.given = table.given;
  for (const SeriesSample& sample : table.samples)
    list.files.push_back({{}, sample.label, sample.split});
  cut_splits(list, o);
  for (size_t i = 0; i < table.samples.size(); ++i) table.samples[i].split = list.files[i].split;
}

void cut_groups(SeriesTable& table, const DataOptions& o, const Cut& cut) {
  if (o.group_column.empty()) refuse("'split_by': group needs data.group_column");
  const auto count = static_cast<int64_t>(table.groups.size());
  const auto part = [&](double share) {
    const auto rounded = std::llround(share * static_cast<double>(count));
    return share > 0 ? std::max<int64_t>(1, rounded) : 0;
  };
  const int64_t validated = part(cut.validation), tested = part(cut.test);
  if (validated + tested >= count)
    refuse(
        fmt::format("{} groups in '{}' are too few to cut {} for validation and {} for test "
                    "from (data.validation, data.test, or data.split_by)",
                    count, o.group_column, validated, tested));
  std::vector<int64_t> order;
  philox_permutation(count, static_cast<uint64_t>(o.validation_seed), "split.groups", 0, order);
  std::vector<Split> of(order.size(), Split::train);
  for (int64_t i = 0; i < validated + tested; ++i)
    of[static_cast<size_t>(order[static_cast<size_t>(i)])] =
        i < tested ? Split::test : Split::validation;
  for (SeriesSample& sample : table.samples)
    if (sample.split == Split::train) sample.split = of[static_cast<size_t>(sample.group)];
}

// The first samples train, then come those to validate, then those to test; what would lie in two
// parts is left out.
void cut_time(SeriesTable& table, const DataOptions& o, const Cut& cut) {
  if (!o.group_column.empty() && o.window > 0)
    refuse(
        "'split_by': time is for one series in one file, and data.group_column names several "
        "(take group)");
  const auto all = static_cast<double>(table.samples.size());
  const auto tested = static_cast<size_t>(std::llround(cut.test * all));
  const auto validated = static_cast<size_t>(std::llround(cut.validation * all));
  const size_t first_test = table.samples.size() - tested;
  const size_t first_validation = first_test - std::min(first_test, validated);
  std::vector<SeriesSample> kept;
  std::vector<int64_t> places;
  std::vector<std::string> names;
  for (size_t i = 0; i < table.samples.size(); ++i) {
    SeriesSample sample = table.samples[i];
    sample.split = i >= first_test         ? Split::test
                   : i >= first_validation ? Split::validation
                                           : Split::train;
    const size_t next = i >= first_test         ? table.samples.size()
                        : i >= first_validation ? first_test
                                                : first_validation;
    if (next < table.samples.size() && sample.first + sample.count > table.samples[next].first)
      continue;
    kept.push_back(sample);
    places.push_back(table.places[i]);
    if (!table.names.empty()) names.push_back(table.names[i]);
  }
  table.samples = std::move(kept);
  table.places = std::move(places);
  table.names = std::move(names);
}

void cut(SeriesTable& table, const DataOptions& o) {
  for (const Split split : {Split::validation, Split::test})
    table.given[static_cast<size_t>(split)] =
        table.given[static_cast<size_t>(split)] || !file_of(o, split).empty();
  const auto whole =
      std::count_if(table.samples.begin(), table.samples.end(),
                    [](const SeriesSample& sample) { return sample.split == Split::train; });
  const auto share = [&](Split split) {
    return table.given[static_cast<size_t>(split)] ? 0 : share_of(o, split, whole);
  };
  const Cut shares{share(Split::validation), share(Split::test)};
  if (shares.validation + shares.test >= 1)
    refuse(
        fmt::format("'validation': expected less than the whole for validation and test, got "
                    "{:.3g} and {:.3g} of {} samples",
                    shares.validation, shares.test, whole));
  if (shares.validation + shares.test == 0) return;
  switch (way_of(o)) {
    case SplitBy::group:
      return cut_groups(table, o, shares);
    case SplitBy::time:
      if (table.given[1] || table.given[2]) {
        const auto other =
            std::any_of(table.samples.begin(), table.samples.end(),
                        [](const SeriesSample& sample) { return sample.split != Split::train; });
        if (other)
          refuse(
              "'split_by': time cuts a whole file, this one has a column of parts (name all "
              "parts in it, or take another way)");
      }
      return cut_time(table, o, shares);
    case SplitBy::random:
    case SplitBy::automatic:
      return cut_random(table, o);
  }
}

// The samples of a part as a data set, padded with zeros.
Dataset make_dataset(const SeriesTable& table, const std::vector<size_t>& chosen,
                     const SeriesShape& shape, int64_t memory_limit) {
  if (memory_limit == 0) memory_limit = default_memory_limit();
  const double needed = static_cast<double>(chosen.size()) * static_cast<double>(shape.steps) *
                        static_cast<double>(shape.features) * sizeof(float);
  if (needed > static_cast<double>(memory_limit))
    refuse(
        fmt::format("{}: {} samples of {} steps and {} features take {}, more than the {} that "
                    "data may take here (a larger data.stride, a smaller data.window, or fewer "
                    "rows)",
                    table.source, chosen.size(), shape.steps, shape.features, format_bytes(needed),
                    format_bytes(static_cast<double>(memory_limit))));
  Dataset data;
  data.source = table.source;
  data.unit = table.unit;
  data.columns = table.columns;
  data.class_names = table.class_names;
  data.gaps = shape.gaps;
  data.inputs.push_back({std::string(kSeriesInput), DType::f32, {shape.steps, shape.features}, {}});
  if (shape.ragged) data.inputs.push_back({std::string(kLengthInput), DType::i32, {}, {}});
  std::vector<uint8_t>& series = data.inputs[0].bytes;
  const size_t sample_bytes = data.inputs[0].sample_bytes();
  series.resize(chosen.size() * sample_bytes);
  for (size_t i = 0; i < chosen.size(); ++i) {
    const SeriesSample& sample = table.samples[chosen[i]];
    std::memcpy(series.data() + i * sample_bytes,
                table.values.data() + sample.first * shape.features,
                static_cast<size_t>(sample.count * shape.features) * sizeof(float));
    if (shape.ragged) {
      const auto length = static_cast<int32_t>(sample.count);
      const auto* bytes = reinterpret_cast<const uint8_t*>(&length);
      data.inputs[1].bytes.insert(data.inputs[1].bytes.end(), bytes, bytes + sizeof length);
    }
    data.labels.push_back(sample.label);
    data.places.push_back(table.places[chosen[i]]);
    if (!table.names.empty()) data.files.push_back(table.names[chosen[i]]);
  }
  return data;
}

void check_lengths(const SeriesTable& table, const SeriesShape& shape) {
  for (size_t i = 0; i < table.samples.size(); ++i) {
    const int64_t count = table.samples[i].count;
    if (count == shape.steps || (shape.ragged && count < shape.steps)) continue;
    const std::string place =
        table.names.empty() ? fmt::format("{}, {} {}", table.source, table.unit, table.places[i])
                            : table.names[i];
    refuse(fmt::format(
        "{}: {} steps, the model takes {}{} ({})", place, count, shape.ragged ? "at most " : "",
        shape.steps,
        count > shape.steps
            ? fmt::format("train with data.steps = {} for such, or cut it", table.longest())
            : "train with data in which lengths differ, too"));
  }
}

// The table that is trained with, cut into parts, and what a model of it takes.
SeriesTable read_main(const DataOptions& o, SeriesShape& shape) {
  check_options(o);
  SeriesTable table = read_part(o, Split::train, {});
  cut(table, o);
  shape = {o.steps > 0 ? o.steps : table.longest(), table.features(),
           table.ragged || (o.steps > table.longest() && o.window == 0),
           o.missing == Missing::mean};
  return table;
}

}  // namespace

bool series_has_split(const DataOptions& o, Split split) {
  if (split == Split::train || !file_of(o, split).empty()) return true;
  SeriesShape shape;
  const SeriesTable table = read_main(o, shape);
  return std::any_of(table.samples.begin(), table.samples.end(),
                     [&](const SeriesSample& sample) { return sample.split == split; });
}

namespace {

// The samples of a part, or none, where `whole` is what read_main gave.
Dataset part_of(const SeriesTable& whole, const SeriesShape& shape, const DataOptions& o,
                Split split, const LoadContext& context) {
  SeriesTable other;
  const bool own_file = split != Split::train && !file_of(o, split).empty();
  if (own_file) {
    SeriesReading reading;
    reading.columns = whole.columns;
    reading.class_names = whole.class_names;
    other = read_part(o, split, reading);
    for (SeriesSample& sample : other.samples) sample.split = split;
    for (SkippedSample& sample : other.skipped) sample.split = split;
  }
  const SeriesTable& table = own_file ? other : whole;
  std::vector<size_t> chosen;
  for (size_t i = 0; i < table.samples.size(); ++i)
    if (table.samples[i].split == split) chosen.push_back(i);
  if (chosen.empty()) return {};
  check_lengths(table, shape);
  Dataset data = make_dataset(table, chosen, shape, context.memory_limit);
  for (const SkippedSample& sample : table.skipped)
    if (sample.split == split) data.skipped.push_back(sample.why);
  return data;
}

}  // namespace

Dataset load_series(const DataOptions& o, Split split, const LoadContext& context) {
  SeriesShape shape;
  const SeriesTable table = read_main(o, shape);
  Dataset data = part_of(table, shape, o, split, context);
  if (data.size() == 0) refuse_split(split);
  return data;
}

std::array<Dataset, 3> load_series_splits(const DataOptions& o, const LoadContext& context) {
  SeriesShape shape;
  const SeriesTable table = read_main(o, shape);
  std::array<Dataset, 3> splits;
  for (const Split split : {Split::train, Split::validation, Split::test})
    splits[static_cast<size_t>(split)] = part_of(table, shape, o, split, context);
  if (splits[0].size() == 0) refuse_split(Split::train);
  return splits;
}

Dataset load_series_file(const std::string& file, const DataOptions& options,
                         const SeriesShape& shape) {
  DataOptions o = options;
  SeriesReading reading;
  reading.labelled = false;
  reading.columns = o.features;
  reading.steps = shape.steps;
  SeriesTable table;
  if (file.size() > 4 && file.ends_with(".npy")) {
    table = read_series_npy(file, "", o, reading);
  } else {
    // What was trained with arrays takes a table, too: its rows are one sequence.
    if (o.kind != DataKind::csv) {
      o = DataOptions();
      o.missing = options.missing;
      reading.columns.clear();
      if (shape.steps > 1) o.group_column.assign(1, ' ');
    }
    table = read_series_csv(file, o, reading);
  }
  if (table.features() != shape.features)
    refuse(fmt::format("{}: expected {} features, as the model takes, got {} ({})", file,
                       shape.features, table.features(), fmt::join(table.columns, ", ")));
  check_lengths(table, shape);
  std::vector<size_t> all(table.samples.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  Dataset data = make_dataset(table, all, shape, 0);
  for (const SkippedSample& sample : table.skipped) data.skipped.push_back(sample.why);
  return data;
}

}  // namespace fovea

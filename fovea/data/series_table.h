// Rows of numbers as files hold them, and which of them make a sample: what csv and npy have in
// common before they are cut into parts.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "fovea/data/data_options.h"

namespace fovea {

// Rows [first, first + count) of a table.
struct SeriesSample {
  int64_t first = 0, count = 1;
  int32_t label = -1;  // index of a class name; -1: not known
  Split split = Split::train;
  int64_t group = 0;
};

// A sample that data.missing = "skip" leaves out, and why, for people.
struct SkippedSample {
  std::string why;
  Split split = Split::train;  // as the file says
};

struct SeriesTable {
  std::string source;
  std::vector<std::string> columns;   // names of the features
  std::vector<float> values;          // [rows, columns]; NaN: no value
  std::vector<SeriesSample> samples;  // in the order of the file
  std::vector<int64_t> places;        // of the samples: their line, or their index
  std::vector<std::string> names;     // of the samples; empty where places say enough
  std::string unit = "line";          // what places count
  std::vector<SkippedSample> skipped;
  std::vector<std::string> class_names;
  std::array<bool, 3> given = {};  // by Split: the file itself says which samples belong to it
  std::vector<std::string> groups;
  bool ragged = false;  // samples may differ in length

  int64_t features() const { return static_cast<int64_t>(columns.size()); }
  int64_t longest() const;
};

// What is known of the data before a file is read.
struct SeriesReading {
  bool labelled = true;                       // false: for predictions, labels are not looked at
  std::vector<std::string> columns = {};      // the features to read, in this order; empty: found
  std::vector<std::string> class_names = {};  // empty: found
  int64_t steps = 0;  // of npy without labels: 1: two axes are samples, more: one sequence
};

// A table with a header (RFC 4180, other separators too). Errors name file, line and column:
// corrupt for a field that is no number or not finite, no value where options.missing does not
// allow for one, a row without a label or with one that is no class, two labels in a sequence;
// invalid_argument for columns that are not there, a header that is none, or no whole sample.
SeriesTable read_series_csv(const std::string& file, const DataOptions& options,
                            const SeriesReading& reading);

// Numbers [N,T,F] or [N,F] and their labels [N]. Steps at the end that are all NaN are padding.
// Errors as above, with the index of the number.
SeriesTable read_series_npy(const std::string& file, const std::string& labels_file,
                            const DataOptions& options, const SeriesReading& reading);

}  // namespace fovea

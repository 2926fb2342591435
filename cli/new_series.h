// A recipe written for tables or sequences of numbers that somebody has.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "fovea/data/dataset.h"
#include "fovea/data/statistics.h"

namespace fovea::cli {

// What is said of a file beforehand; empty: found out.
struct SeriesWish {
  std::string label, group;  // columns
  std::optional<int64_t> window = {};
};

struct SeriesSurvey {
  DataOptions data;                     // as the recipe will have them
  std::array<int64_t, 3> samples = {};  // by Split
  std::vector<std::string> class_names;
  std::vector<int64_t> class_counts;  // of train
  int64_t steps = 0, features = 0;
  bool ragged = false;
  bool in_time = false;  // rows stand in the order of a column of times
  std::string time_column;
  std::vector<std::string> remarks;  // what was seen and decided
};

// Looks at a .csv or .npy file, or at a folder that holds train.csv (or train.npy with
// train_labels.npy) and perhaps the same of validation and test. Throws what load_dataset throws.
SeriesSurvey survey_series(const std::string& path, const SeriesWish& wish);

// The recipe, with the reasons for its numbers as comments. `command` is how it was asked for,
// `file` its own name.
std::string sequence_classifier_recipe(const SeriesSurvey& survey, const std::string& command,
                                       const std::string& file);

}  // namespace fovea::cli

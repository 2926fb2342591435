// Tables and sequences of numbers (csv, npy) as data sets: the inputs "series" f32 [T,F] and, where
// sequences differ in length, "length" i32. Numbers are as the file has them; the model itself
// takes the mean of the training part from them (see SeriesInfo in tasks/task.h).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "fovea/data/dataset.h"

namespace fovea {

// What load_dataset() and has_split() do for these kinds; errors are theirs and those of
// series_table.h. invalid_argument, too, for sequences longer than options.steps, for cuts that
// cannot be (windows that overlap cut at random, fewer groups than parts) and for what does not fit
// into memory.
Dataset load_series(const DataOptions& options, Split split, const LoadContext& context = {});
// What load_splits() does for them.
std::array<Dataset, 3> load_series_splits(const DataOptions& options,
                                          const LoadContext& context = {});
bool series_has_split(const DataOptions& options, Split split);

// What a model takes.
struct SeriesShape {
  int64_t steps = 1, features = 0;
  bool ragged = false;
  bool gaps = false;  // values may be NaN, which stands for none
};

// The rows of a file to predict, read as the options of the training read theirs; columns of labels
// and parts need not be there, and where the column of groups is not, all rows are one sequence.
// All labels are -1. What
// data.missing = "skip" leaves out is named in `skipped`. Errors as above, and where the numbers do
// not fit the shape.
Dataset load_series_file(const std::string& file, const DataOptions& options,
                         const SeriesShape& shape);

}  // namespace fovea

// What a data set holds, in numbers: what people look at before they train.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "fovea/data/dataset.h"

namespace fovea {

// Samples of each class, in the order of class_names.
std::vector<int64_t> class_counts(const Dataset& dataset);

// By channel, of pixels between 0 (black) and 1; nothing where the samples are no images.
struct PixelStatistics {
  std::vector<double> mean, deviation;
};
PixelStatistics pixel_statistics(const Dataset& dataset);

// By feature, of the steps that are there and have a value; nothing where the samples are no
// series.
struct SeriesStatistics {
  std::vector<double> mean, deviation;  // deviation with 1/N
  std::vector<double> least, most;
  std::vector<int64_t> missing;  // steps without a value
};
SeriesStatistics series_statistics(const Dataset& dataset);

// Two samples with the same inputs: `first` of split `a` and `second` of split `b`. Of more than
// two equal ones, each is paired with the first of them.
struct Twins {
  Split a = Split::train, b = Split::train;
  int64_t first = 0, second = 0;
  bool same_label = true;
};

// By Split; an empty data set stands for a split that there is not. In the order train, validation,
// test, so that a pair over two splits is a leak from train where train has the sample. Data sets
// of different shapes have no twins.
std::vector<Twins> find_twins(const std::array<Dataset, 3>& splits);

}  // namespace fovea

// What a data set holds, in numbers: what people look at before they train.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "fovea/data/dataset.h"

namespace fovea {

// Samples of each class, in the order of class_names.
std::vector<int64_t> class_counts(const ImageDataset& dataset);

// By channel, of pixels between 0 (black) and 1.
struct PixelStatistics {
  std::vector<double> mean, deviation;
};
PixelStatistics pixel_statistics(const ImageDataset& dataset);

// Two samples with the same pixels: `first` of split `a` and `second` of split `b`. Of more than
// two equal ones, each is paired with the first of them.
struct Twins {
  Split a = Split::train, b = Split::train;
  int64_t first = 0, second = 0;
  bool same_label = true;
};

// By Split; an empty data set stands for a split that there is not. In the order train, validation,
// test, so that a pair over two splits is a leak from train where train has the image. Data sets of
// different shapes have no twins.
std::vector<Twins> find_twins(const std::array<ImageDataset, 3>& splits);

}  // namespace fovea

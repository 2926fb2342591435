// A picture of samples of numbers as a model sees them: curves of sequences, a table of rows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fovea/data/dataset.h"
#include "fovea/data/statistics.h"
#include "fovea/formats/image.h"

namespace fovea::cli {

// Sequences: a row for each of the first 12 classes that have samples, with four of them drawn by
// the seed; the curves of the first six features, each from three deviations of `train` below its
// mean to three above, in colours that the colour-blind tell apart; grey where a sequence is over.
// Single rows: a table of four of each class, with the first eight columns.
Image series_sheet(const Dataset& dataset, const SeriesStatistics& train, uint64_t seed);

// The curves of one sequence over so many steps (longer than it: grey behind it), on white; mean
// and deviation by feature as above.
struct CurvesScale {
  std::vector<double> mean, deviation;
  int64_t steps = 0;
};
// A single row has a bar for each column instead, from the mean up or down.
Image curves_picture(const Dataset& dataset, int64_t sample, const CurvesScale& scale,
                     int64_t height, int64_t width);

// The colours of the curves, "#d55e00", by feature; further ones have no curve.
std::vector<std::string> curve_colours();

}  // namespace fovea::cli

// All parts of a data set at once, as training and a look at the data want them.
#pragma once

#include <array>
#include <functional>

#include "fovea/data/dataset.h"

namespace fovea {

// What load_dataset() gives for each split that there is, by Split; without samples where there is
// none. A table or an array is read and parsed once for all of them. context is asked before each
// split is read. Errors are those of load_dataset().
std::array<Dataset, 3> load_splits(const DataOptions& options,
                                   const std::function<LoadContext(Split)>& context = {});

// What is to be said of samples that were left out of a split; empty where none were. "t.csv: 3
// samples of the train split miss a value and are left out, the first: ..."
std::string skipped_text(const DataOptions& options, const Dataset& dataset, Split split);

}  // namespace fovea

// Image data sets in one NumPy archive, as MedMNIST keeps them.
#pragma once

#include "fovea/data/dataset.h"

namespace fovea {

// The split's arrays {train,val,test}_images u8 [N,H,W] or [N,H,W,C] and _labels [N] or [N,1] of
// the options' file. Classes are named by options.classes, or else by the numbers up to the largest
// label of any split. Errors: not_found for a missing file or array; corrupt for arrays that do not
// fit; invalid_argument for options that cannot be.
ImageDataset load_npz_dataset(const DataOptions& options, Split split);
bool npz_has_split(const DataOptions& options, Split split);

}  // namespace fovea

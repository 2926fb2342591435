// Data sets in the files of MNIST and its relatives:
// {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz].
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "fovea/data/dataset.h"

namespace fovea {

// Images [N, H, W] or [N, H, W, C] and labels [N]; train or test files. Errors: not_found where a
// file is missing, with the remedy behind it; corrupt where sizes, counts or labels are wrong.
ImageDataset load_idx_dataset(const std::filesystem::path& folder, bool train,
                              std::vector<std::string> class_names, const std::string& remedy = "");

}  // namespace fovea

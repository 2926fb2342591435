// CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their binary files: 32x32 colour images.
#pragma once

#include <filesystem>

#include "fovea/data/dataset.h"

namespace fovea {

// The folder holds data_batch_1.bin to data_batch_5.bin, test_batch.bin and batches.meta.txt
// (CIFAR-10), or train.bin, test.bin and fine_label_names.txt (CIFAR-100, whose fine labels are
// taken). Where the file of names is missing, classes are named by their numbers. Errors: not_found
// where files are missing; corrupt where a file is no whole number of records, or a label is no
// class.
ImageDataset load_cifar(const std::filesystem::path& folder, bool train);

}  // namespace fovea

// Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747): 60,000 grey images of 28 x 28
// pixels to train with and 10,000 to test, in ten classes; from Debian's package
// dataset-fashion-mnist.
#pragma once

#include <filesystem>

#include "fovea/data/dataset.h"

namespace fovea {

inline constexpr const char* kFashionMnistFolder = "/usr/share/datasets/fashion-mnist";

// Error (not_found), with the command that installs it, where it is missing.
ImageDataset load_fashion_mnist(bool train,
                                const std::filesystem::path& folder = kFashionMnistFolder);

}  // namespace fovea

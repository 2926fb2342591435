#include "fovea/data/fashion_mnist.h"

#include "fovea/data/idx_dataset.h"

namespace fovea {

ImageDataset load_fashion_mnist(bool train, const std::filesystem::path& folder) {
  return load_idx_dataset(folder, train,
                          {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
                           "Sneaker", "Bag", "Ankle boot"},
                          "install it: apt-get install dataset-fashion-mnist");
}

}  // namespace fovea

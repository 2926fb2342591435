#include "fovea/data/dataset.h"

#include <fmt/format.h>

#include <algorithm>

#include "fovea/base/error.h"
#include "fovea/data/fashion_mnist.h"
#include "fovea/data/idx_dataset.h"
#include "fovea/data/permutation.h"

namespace fovea {
namespace {

ImageDataset load_whole(const DataOptions& options, bool train) {
  switch (options.kind) {
    case DataKind::fashion_mnist: {
      if (!options.classes.empty()) {
        throw Error{ErrorCode::invalid_argument,
                    "[data] expected no 'classes' for fashion_mnist, which names its own"};
      }
      return load_fashion_mnist(train, options.dir.empty() ? kFashionMnistFolder : options.dir);
    }
    case DataKind::idx: {
      if (options.dir.empty()) {
        throw Error{ErrorCode::invalid_argument,
                    "[data] expected 'dir', the folder of the idx files"};
      }
      std::vector<std::string> classes = options.classes;
      for (int i = 0; i < 10 && options.classes.empty(); ++i) classes.push_back(std::to_string(i));
      return load_idx_dataset(options.dir, train, std::move(classes));
    }
    case DataKind::memory:
      throw Error{ErrorCode::unsupported,
                  "[data] the data of this model were given in code (kind 'memory'); there is no "
                  "file to open (use predict, or set data.kind and data.dir)"};
  }
  FOVEA_ASSERT(false);
  return {};
}

}  // namespace

std::span<const uint8_t> ImageDataset::image(int64_t i) const {
  const auto bytes = static_cast<size_t>(image_size());
  if (i < 0 || i >= size() ||
      images.size() / std::max<size_t>(bytes, 1) <= static_cast<size_t>(i)) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[data] {}: expected a sample below {}, got {}", source, size(), i)};
  }
  return std::span(images).subspan(static_cast<size_t>(i) * bytes, bytes);
}

void check_dataset(const ImageDataset& dataset) {
  const auto wrong = [&](const std::string& what) {
    throw Error{ErrorCode::corrupt, fmt::format("[data] {}: {}", dataset.source, what)};
  };
  int64_t bytes = 0;
  if (dataset.height < 1 || dataset.width < 1 || dataset.channels < 1 ||
      __builtin_mul_overflow(dataset.height, dataset.width, &bytes) ||
      __builtin_mul_overflow(bytes, dataset.channels, &bytes) ||
      dataset.images.size() % static_cast<uint64_t>(bytes) != 0) {
    wrong(fmt::format("{} bytes are no images of {} x {} x {}", dataset.images.size(),
                      dataset.height, dataset.width, dataset.channels));
  }
  const auto images = static_cast<int64_t>(dataset.images.size()) / bytes;
  if (images != dataset.size()) {
    wrong(fmt::format("expected as many labels as images, got {} labels for {} images",
                      dataset.size(), images));
  }
  for (int64_t i = 0; i < dataset.size(); ++i) {
    const int32_t label = dataset.labels[static_cast<size_t>(i)];
    if (label < 0 || static_cast<size_t>(label) >= dataset.class_names.size()) {
      wrong(
          fmt::format("sample {} has the label {}, expected 0 to {} (name every class in the "
                      "recipe's data.classes)",
                      i, label, static_cast<int64_t>(dataset.class_names.size()) - 1));
    }
  }
}

ImageDataset select(const ImageDataset& dataset, std::span<const int64_t> indices) {
  ImageDataset part;
  part.source = dataset.source;
  part.height = dataset.height;
  part.width = dataset.width;
  part.channels = dataset.channels;
  part.class_names = dataset.class_names;
  part.images.reserve(indices.size() * static_cast<size_t>(dataset.image_size()));
  part.labels.reserve(indices.size());
  for (int64_t i : indices) {
    const std::span<const uint8_t> image = dataset.image(i);
    part.images.insert(part.images.end(), image.begin(), image.end());
    part.labels.push_back(dataset.labels[static_cast<size_t>(i)]);
  }
  return part;
}

ImageDataset load_dataset(const DataOptions& options, Split split) {
  if (options.validation < 0) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[data] 'validation': expected at least 0 samples, got {}",
                            options.validation)};
  }
  if (split == Split::test) return load_whole(options, false);
  if (split == Split::validation && options.validation == 0) {
    throw Error{ErrorCode::invalid_argument,
                "[data] there is no validation split: data.validation is 0 (set it, or take test)"};
  }
  ImageDataset whole = load_whole(options, true);
  if (options.validation == 0) return whole;
  if (options.validation >= whole.size()) {
    throw Error{
        ErrorCode::invalid_argument,
        fmt::format("[data] 'validation': expected less than the {} training samples, got {}",
                    whole.size(), options.validation)};
  }
  std::vector<int64_t> order;
  philox_permutation(whole.size(), static_cast<uint64_t>(options.validation_seed), "validation", 0,
                     order);
  const auto cut = order.end() - options.validation;
  std::vector<int64_t> part = split == Split::train ? std::vector<int64_t>(order.begin(), cut)
                                                    : std::vector<int64_t>(cut, order.end());
  std::sort(part.begin(), part.end());
  return select(whole, part);
}

}  // namespace fovea

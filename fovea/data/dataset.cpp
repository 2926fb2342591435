#include "fovea/data/dataset.h"

#include <fmt/format.h>

#include <algorithm>

#include "fovea/base/error.h"
#include "fovea/data/cifar.h"
#include "fovea/data/fashion_mnist.h"
#include "fovea/data/idx_dataset.h"
#include "fovea/data/image_files.h"
#include "fovea/data/npz_dataset.h"
#include "fovea/data/permutation.h"
#include "fovea/data/split_size.h"

namespace fovea {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error{ErrorCode::invalid_argument, "[data] " + what};
}

[[noreturn]] void refuse_split(Split split) {
  const std::string_view name = enum_name(split);
  refuse(
      fmt::format("there is no {} split: the data have none, and data.{} cuts none from train "
                  "(set it, or take another split)",
                  name, name));
}

bool has_files(const DataOptions& options) {
  return options.kind == DataKind::image_folder || options.kind == DataKind::image_csv;
}

bool has_files_of(const ImageFiles& list, Split split) {
  return std::any_of(list.files.begin(), list.files.end(),
                     [&](const ImageFile& file) { return file.split == split; });
}

// Of the kinds that are one file a split: whether they have this one.
bool has_whole(const DataOptions& options, Split split) {
  if (options.kind == DataKind::npz) return npz_has_split(options, split);
  return split != Split::validation;
}

ImageDataset load_whole(const DataOptions& options, Split split) {
  const bool train = split == Split::train;
  switch (options.kind) {
    case DataKind::fashion_mnist: {
      if (!options.classes.empty()) {
        refuse(
            "expected no 'classes' for fashion_mnist, which names its own (leave data.classes "
            "out)");
      }
      return load_fashion_mnist(train, options.dir.empty() ? kFashionMnistFolder : options.dir);
    }
    case DataKind::idx: {
      if (options.dir.empty())
        refuse("expected 'dir', the folder of the idx files, got none (set data.dir)");
      std::vector<std::string> classes = options.classes;
      for (int i = 0; i < 10 && options.classes.empty(); ++i) classes.push_back(std::to_string(i));
      return load_idx_dataset(options.dir, train, std::move(classes));
    }
    case DataKind::cifar: {
      if (options.dir.empty())
        refuse("expected 'dir', the folder of the binary files of CIFAR, got none (set data.dir)");
      if (!options.classes.empty())
        refuse("expected no 'classes' for cifar, which names its own (leave data.classes out)");
      return load_cifar(options.dir, train);
    }
    case DataKind::npz:
      return load_npz_dataset(options, split);
    case DataKind::memory:
      throw Error{ErrorCode::unsupported,
                  "[data] the data of this model were given in code (kind 'memory'); there is no "
                  "file to open (use predict, or set data.kind and data.dir)"};
    case DataKind::image_folder:
    case DataKind::image_csv:
      break;
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

std::string ImageDataset::name(int64_t i) const {
  if (i >= 0 && static_cast<size_t>(i) < files.size()) return files[static_cast<size_t>(i)];
  return fmt::format("{}, sample {}", source, i);
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
    if (!dataset.files.empty()) part.files.push_back(dataset.name(i));
  }
  return part;
}

bool has_split(const DataOptions& options, Split split) {
  if (split == Split::train) return true;
  if (has_files(options)) return has_files_of(list_image_files(options), split);
  if (has_whole(options, split)) return true;
  // Whether something would be cut; how many samples there are is not known before they are read.
  return share_of(options, split, int64_t{1} << 40) > 0;
}

ImageDataset load_dataset(const DataOptions& options, Split split, const LoadContext& context) {
  if (has_files(options)) {
    const ImageFiles list = list_image_files(options);
    if (!has_files_of(list, split)) refuse_split(split);
    return read_image_files(list, split, options, context);
  }
  if (split != Split::train && has_whole(options, split)) return load_whole(options, split);
  if (!has_split(options, split)) refuse_split(split);
  ImageDataset whole = load_whole(options, Split::train);
  const auto cut = [&](Split part) {
    return has_whole(options, part) ? 0 : samples_of(options, part, whole.size());
  };
  const int64_t validation = cut(Split::validation), test = cut(Split::test);
  if (validation == 0 && test == 0) return whole;
  if (validation + test >= whole.size()) {
    refuse(fmt::format(
        "'validation' and 'test': expected less than the {} training samples, got {} (lower them)",
        whole.size(), validation + test));
  }
  std::vector<int64_t> order;
  philox_permutation(whole.size(), static_cast<uint64_t>(options.validation_seed), "validation", 0,
                     order);
  // From the back: validation, then test; what is before them is left to train.
  const auto first_validation = order.end() - validation, first_test = first_validation - test;
  std::vector<int64_t> part;
  switch (split) {
    case Split::train:
      part.assign(order.begin(), first_test);
      break;
    case Split::validation:
      part.assign(first_validation, order.end());
      break;
    case Split::test:
      part.assign(first_test, first_validation);
      break;
  }
  std::sort(part.begin(), part.end());
  return select(whole, part);
}

}  // namespace fovea

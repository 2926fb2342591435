#include "fovea/data/dataset.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "fovea/base/error.h"
#include "fovea/base/visit.h"
#include "fovea/data/cifar.h"
#include "fovea/data/fashion_mnist.h"
#include "fovea/data/idx_dataset.h"
#include "fovea/data/image_files.h"
#include "fovea/data/npz_dataset.h"
#include "fovea/data/permutation.h"
#include "fovea/data/series_dataset.h"
#include "fovea/data/split_size.h"

namespace fovea {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error{ErrorCode::invalid_argument, "[data] " + what};
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
    case DataKind::csv:
    case DataKind::npy:
      break;
  }
  FOVEA_ASSERT(false);
  return {};
}

}  // namespace

[[noreturn]] void refuse_split(Split split) {
  const std::string_view name = enum_name(split);
  refuse(
      fmt::format("there is no {} split: the data have none, and data.{} cuts none from train "
                  "(set it, or take another split)",
                  name, name));
}

bool is_series(DataKind kind) { return kind == DataKind::csv || kind == DataKind::npy; }

int64_t default_memory_limit() {
  const auto pages = static_cast<int64_t>(::sysconf(_SC_PHYS_PAGES));
  const auto page = static_cast<int64_t>(::sysconf(_SC_PAGESIZE));
  return pages > 0 && page > 0 ? pages / 4 * 3 * page : INT64_MAX;
}

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

size_t DataInput::sample_bytes() const {
  size_t size = dtype_size(dtype);
  for (const int64_t n : shape) size *= static_cast<size_t>(n);
  return size;
}

std::span<const uint8_t> DataInput::sample(int64_t i) const {
  const size_t size = sample_bytes(), at = static_cast<size_t>(i) * size;
  if (i < 0 || at + size > bytes.size()) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[data] '{}': expected a sample below {}, got {}", name,
                            bytes.size() / std::max<size_t>(size, 1), i)};
  }
  return std::span(bytes).subspan(at, size);
}

Dataset::Dataset(ImageDataset images)
    : source(std::move(images.source)),
      labels(std::move(images.labels)),
      class_names(std::move(images.class_names)),
      files(std::move(images.files)),
      skipped(std::move(images.skipped)) {
  inputs.push_back({std::string(kImageInput),
                    DType::u8,
                    {images.height, images.width, images.channels},
                    std::move(images.images)});
}

const DataInput* Dataset::input(std::string_view name) const {
  const auto it = std::find_if(inputs.begin(), inputs.end(),
                               [&](const DataInput& input) { return input.name == name; });
  return it == inputs.end() ? nullptr : &*it;
}

std::string Dataset::name(int64_t i) const {
  const auto at = static_cast<size_t>(i);
  if (i >= 0 && at < files.size()) return files[at];
  return fmt::format("{}, {} {}", source, unit, i >= 0 && at < places.size() ? places[at] : i);
}

ImageDataset as_images(Dataset dataset, const std::string& what) {
  if (dataset.inputs.empty() && dataset.size() == 0) return {};
  if (dataset.inputs.size() != 1 || dataset.inputs[0].name != kImageInput) {
    throw Error{ErrorCode::unsupported,
                fmt::format("{}: expected images, {} has tables or sequences of numbers", what,
                            dataset.source)};
  }
  DataInput& image = dataset.inputs[0];
  return {std::move(dataset.source),
          image.shape[0],
          image.shape[1],
          image.shape[2],
          std::move(image.bytes),
          std::move(dataset.labels),
          std::move(dataset.class_names),
          std::move(dataset.files),
          std::move(dataset.skipped)};
}

namespace {

void check_labels(const std::string& source, const std::vector<int32_t>& labels, size_t classes) {
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] >= 0 && static_cast<size_t>(labels[i]) < classes) continue;
    throw Error{ErrorCode::corrupt,
                fmt::format("[data] {}: sample {} has the label {}, expected 0 to {} (name every "
                            "class in the recipe's data.classes)",
                            source, i, labels[i], static_cast<int64_t>(classes) - 1)};
  }
}

}  // namespace

void check_dataset(const Dataset& dataset) {
  for (const DataInput& input : dataset.inputs) {
    int64_t bytes = static_cast<int64_t>(dtype_size(input.dtype));
    bool sound = true;
    for (const int64_t n : input.shape) {
      sound = sound && n >= 1 && !__builtin_mul_overflow(bytes, n, &bytes);
    }
    if (!sound || input.bytes.size() % static_cast<uint64_t>(bytes) != 0 ||
        static_cast<int64_t>(input.bytes.size()) / bytes != dataset.size()) {
      throw Error{ErrorCode::corrupt,
                  fmt::format("[data] {}: {} bytes of '{}' are no {} samples of {} [{}]",
                              dataset.source, input.bytes.size(), input.name, dataset.size(),
                              dtype_name(input.dtype), fmt::join(input.shape, ","))};
    }
  }
  check_labels(dataset.source, dataset.labels, dataset.class_names.size());
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
  check_labels(dataset.source, dataset.labels, dataset.class_names.size());
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

Dataset select(const Dataset& dataset, std::span<const int64_t> indices) {
  Dataset part;
  part.source = dataset.source;
  part.class_names = dataset.class_names;
  part.columns = dataset.columns;
  part.unit = dataset.unit;
  part.gaps = dataset.gaps;
  for (const DataInput& input : dataset.inputs) {
    part.inputs.push_back({input.name, input.dtype, input.shape, {}});
    std::vector<uint8_t>& bytes = part.inputs.back().bytes;
    bytes.reserve(indices.size() * input.sample_bytes());
    for (const int64_t i : indices) {
      const std::span<const uint8_t> sample = input.sample(i);
      bytes.insert(bytes.end(), sample.begin(), sample.end());
    }
  }
  for (const int64_t i : indices) {
    const auto at = static_cast<size_t>(i);
    part.labels.push_back(dataset.labels[at]);
    if (!dataset.files.empty()) part.files.push_back(dataset.files[at]);
    if (!dataset.places.empty()) part.places.push_back(dataset.places[at]);
  }
  return part;
}

bool has_split(const DataOptions& options, Split split) {
  if (split == Split::train) return true;
  if (is_series(options.kind)) return series_has_split(options, split);
  if (has_files(options)) return has_files_of(list_image_files(options), split);
  if (has_whole(options, split)) return true;
  // Whether something would be cut; how many samples there are is not known before they are read.
  return share_of(options, split, int64_t{1} << 40) > 0;
}

Dataset load_dataset(const DataOptions& options, Split split, const LoadContext& context) {
  if (is_series(options.kind)) return load_series(options, split, context);
  return load_images(options, split, context);
}

ImageDataset load_images(const DataOptions& options, Split split, const LoadContext& context) {
  if (is_series(options.kind)) {
    throw Error{
        ErrorCode::unsupported,
        fmt::format("[data] expected images, the kind {} is tables and sequences of numbers",
                    enum_name(options.kind))};
  }
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

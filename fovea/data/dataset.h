// Data sets of labelled images, in memory as bytes, and how a recipe asks for one.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fovea {

struct ImageDataset {
  std::string source;  // where it came from, for reports
  int64_t height = 0, width = 0, channels = 0;
  std::vector<uint8_t> images;  // [N, height, width, channels]
  std::vector<int32_t> labels;  // [N], indices of class_names
  std::vector<std::string> class_names;

  int64_t size() const { return static_cast<int64_t>(labels.size()); }
  int64_t image_size() const { return height * width * channels; }
  // Sample i, [height, width, channels]; Error (invalid_argument) where there is none.
  std::span<const uint8_t> image(int64_t i) const;
};

// Error (corrupt) where the images are not as many as the labels, or a label has no class.
void check_dataset(const ImageDataset& dataset);

// The samples with these indices, in this order.
ImageDataset select(const ImageDataset& dataset, std::span<const int64_t> indices);

enum class Split { train, validation, test };
inline std::span<const std::string_view> enum_names(Split) {
  static constexpr std::array<std::string_view, 3> kNames = {"train", "validation", "test"};
  return kNames;
}

// memory: given in code (TrainJob), so there is no file to open.
enum class DataKind { fashion_mnist, idx, memory };
inline std::span<const std::string_view> enum_names(DataKind) {
  static constexpr std::array<std::string_view, 3> kNames = {"fashion_mnist", "idx", "memory"};
  return kNames;
}

// The section [data] of a recipe.
struct DataOptions {
  DataKind kind = DataKind::fashion_mnist;
  std::string dir = {};                   // of its files; empty: Debian's, for fashion_mnist
  std::vector<std::string> classes = {};  // names of the classes of idx; empty: the digits 0 to 9
  int64_t validation = 5000;              // samples cut from train
  int64_t validation_seed = 0;            // which ones; apart from the seed of the run

  template <class V>
  void visit(V& v) {
    v("kind", kind);
    v("dir", dir);
    v("classes", classes);
    v("validation", validation);
    v("validation_seed", validation_seed);
  }
};

// Train and validation are the same for the same options, have no sample in common, and keep the
// order of the file. Errors: not_found for a missing file, saying what to install; corrupt for a
// wrong one; invalid_argument for options that cannot be.
ImageDataset load_dataset(const DataOptions& options, Split split);

}  // namespace fovea

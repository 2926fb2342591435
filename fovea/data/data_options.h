// The section [data] of a recipe: which data set, and how its samples are made of its files.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fovea {

enum class Split { train, validation, test };
inline std::span<const std::string_view> enum_names(Split) {
  static constexpr std::array<std::string_view, 3> kNames = {"train", "validation", "test"};
  return kNames;
}

enum class DataKind { fashion_mnist, idx, image_folder, image_csv, cifar, npz, csv, npy, memory };
inline std::span<const std::string_view> enum_names(DataKind) {
  static constexpr std::array<std::string_view, 9> kNames = {
      "fashion_mnist", "idx", "image_folder", "image_csv", "cifar", "npz", "csv", "npy", "memory"};
  return kNames;
}

// How an image of another shape becomes one of height x width. crop: scaled until it covers them,
// and what stands out is cut off on both sides; pad: scaled until it fits in, with black beside it;
// stretch: both sides scaled on their own.
enum class ResizeMode { crop, pad, stretch };
inline std::span<const std::string_view> enum_names(ResizeMode) {
  static constexpr std::array<std::string_view, 3> kNames = {"crop", "pad", "stretch"};
  return kNames;
}

// What happens where an image file cannot be read.
enum class Unreadable { error, skip };
inline std::span<const std::string_view> enum_names(Unreadable) {
  static constexpr std::array<std::string_view, 2> kNames = {"error", "skip"};
  return kNames;
}

// What happens where a table has no value: an empty field, NA, NaN, null or ?, in .npy NaN. mean:
// the model takes the mean of the training part, skip: the sample is left out.
enum class Missing { error, mean, skip };
inline std::span<const std::string_view> enum_names(Missing) {
  static constexpr std::array<std::string_view, 3> kNames = {"error", "mean", "skip"};
  return kNames;
}

// How csv and npy are cut into parts. random: each class in proportion; time: the first rows
// train, the last test, and no window lies in two parts; group: whole groups. automatic: group
// where there are windows and a group column, time where there are windows, else random.
enum class SplitBy { automatic, random, time, group };
inline std::span<const std::string_view> enum_names(SplitBy) {
  static constexpr std::array<std::string_view, 4> kNames = {"auto", "random", "time", "group"};
  return kNames;
}

// Paths are relative to the folder in which the program runs.
struct DataOptions {
  DataKind kind = DataKind::fashion_mnist;
  std::string dir = {};  // of its files; empty: Debian's for fashion_mnist, the CSV's for image_csv
  std::string file = {};  // the table of image_csv or csv, the archive of npz, the array of npy
  // Names of the classes. idx: in the order of the labels; empty: the digits 0 to 9. image_folder,
  // image_csv: those to take, in this order; empty: all, in alphabetical order.
  std::vector<std::string> classes = {};
  // Cut from train where the data have no part of that name. Below 1: a share, from 1: samples.
  // -1: of fashion_mnist, idx and cifar 5000 to validate; of others 0.1 to validate, 0.15 to test.
  double validation = -1;
  double test = -1;
  int64_t validation_seed = 0;  // which samples are cut; apart from the seed of the run
  // Of the samples made of image files; 0: as the first file is, and all must be so.
  int64_t height = 0, width = 0, channels = 0;
  ResizeMode resize = ResizeMode::crop;
  Unreadable unreadable = Unreadable::error;
  // Of image_csv; empty: found by their usual names. A table may have no split column.
  std::string image_column = {}, label_column = {}, split_column = {};
  // Of csv and npy: parts in files of their own; what is not given is cut from `file`.
  std::string validation_file = {}, test_file = {};
  // Of npy: the class of each sample, whole numbers [N].
  std::string labels_file = {}, validation_labels_file = {}, test_labels_file = {};
  // Of csv: the columns that the model sees; empty: all that have a name, but those of label,
  // split and group and those to ignore.
  std::vector<std::string> features = {}, ignore = {};
  // Rows with the same name here are one sequence, in their order.
  std::string group_column = {};
  // Of csv: so many rows in turn are one sample, with the label of the last; 0: each row is one,
  // or each group.
  int64_t window = 0;
  int64_t stride = 1;  // rows from one window to the next
  int64_t steps = 0;   // of the model; shorter sequences are padded; 0: as many as the longest has
  Missing missing = Missing::error;
  SplitBy split_by = SplitBy::automatic;

  template <class V>
  void visit(V& v) {
    v("kind", kind);
    v("dir", dir);
    v("file", file);
    v("classes", classes);
    v("validation", validation);
    v("test", test);
    v("validation_seed", validation_seed);
    v("height", height);
    v("width", width);
    v("channels", channels);
    v("resize", resize);
    v("unreadable", unreadable);
    v("image_column", image_column);
    v("label_column", label_column);
    v("split_column", split_column);
    v("validation_file", validation_file);
    v("test_file", test_file);
    v("labels_file", labels_file);
    v("validation_labels_file", validation_labels_file);
    v("test_labels_file", test_labels_file);
    v("features", features);
    v("ignore", ignore);
    v("group_column", group_column);
    v("window", window);
    v("stride", stride);
    v("steps", steps);
    v("missing", missing);
    v("split_by", split_by);
  }
};

}  // namespace fovea

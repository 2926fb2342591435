// Data sets of labelled samples, in memory as bytes, and how a recipe asks for one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fovea/base/dtype.h"
#include "fovea/base/thread_pool.h"
#include "fovea/base/visit.h"
#include "fovea/data/data_options.h"

namespace fovea {

struct ImageDataset {  // images of one size, with a label each
  std::string source;  // where it came from, for reports
  int64_t height = 0, width = 0, channels = 0;
  std::vector<uint8_t> images;  // [N, height, width, channels]
  std::vector<int32_t> labels;  // [N], indices of class_names
  std::vector<std::string> class_names;
  std::vector<std::string> files = {};    // [N], paths; empty where samples are no files
  std::vector<std::string> skipped = {};  // why files were left out, one by one

  int64_t size() const { return static_cast<int64_t>(labels.size()); }
  int64_t image_size() const { return height * width * channels; }
  // Sample i, [height, width, channels]; Error (invalid_argument) where there is none.
  std::span<const uint8_t> image(int64_t i) const;
  // How people find sample i again: its file, or "SOURCE, sample i".
  std::string name(int64_t i) const;
};

// Names of what models take; each is an input of the graph, with the batch B before it.
inline constexpr std::string_view kImageInput = "image";    // u8 [B,H,W,C]
inline constexpr std::string_view kSeriesInput = "series";  // f32 [B,T,F]: steps and features
inline constexpr std::string_view kLengthInput = "length";  // i32 [B]: steps that are there

// One input of a model, for every sample.
struct DataInput {
  std::string name;
  DType dtype = DType::u8;
  std::vector<int64_t> shape;  // of one sample; empty: one number
  std::vector<uint8_t> bytes;  // [N, shape...], dense

  size_t sample_bytes() const;
  // Sample i; Error (invalid_argument) where there is none.
  std::span<const uint8_t> sample(int64_t i) const;
};

// What is trained with and measured on: samples with the inputs that a model takes, and a label
// each. Images become one without a copy.
struct Dataset {
  std::string source;  // where it came from, for reports
  std::vector<DataInput> inputs;
  std::vector<int32_t> labels;  // [N], indices of class_names; negative: not known
  std::vector<std::string> class_names;
  std::vector<std::string> files = {};    // [N], paths or other names; or empty
  std::vector<std::string> skipped = {};  // as in ImageDataset
  std::vector<int64_t> places = {};       // [N], where in the source; empty: one after another
  std::string unit = "sample";            // what places count: "line"
  std::vector<std::string> columns = {};  // of series: the names of their features, or empty
  bool gaps = false;                      // of series: NaN stands for a value that is not known

  Dataset() = default;
  Dataset(ImageDataset images);  // NOLINT: meant to convert

  int64_t size() const { return static_cast<int64_t>(labels.size()); }
  // nullptr where there is no such input.
  const DataInput* input(std::string_view name) const;
  std::string name(int64_t i) const;
};

// The way back. Error (unsupported) where the samples are no images; `what` begins its message.
ImageDataset as_images(Dataset dataset, const std::string& what);

// Error (corrupt) where an input has not as many samples as there are labels, or a label has no
// class.
void check_dataset(const ImageDataset& dataset);
void check_dataset(const Dataset& dataset);

// The samples with these indices, in this order.
ImageDataset select(const ImageDataset& dataset, std::span<const int64_t> indices);
Dataset select(const Dataset& dataset, std::span<const int64_t> indices);

// How reading goes, apart from what is read.
struct LoadContext {
  std::shared_ptr<ThreadPool> pool = nullptr;                    // that decodes; none: one is made
  std::function<void(int64_t done, int64_t all)> progress = {};  // files; called now and then
  int64_t memory_limit = 0;  // bytes of samples; 0: three quarters of this machine's memory
};

// Train and validation are the same for the same options, have no sample in common, and keep the
// order of the file. Errors: not_found for a missing file, saying what to install; corrupt for a
// wrong one; invalid_argument for options that cannot be, and for a split that there is not.
Dataset load_dataset(const DataOptions& options, Split split, const LoadContext& context = {});
// The same for kinds of images; others are an Error (unsupported).
ImageDataset load_images(const DataOptions& options, Split split, const LoadContext& context = {});
// Whether the samples of a kind are numbers (csv, npy), not images.
bool is_series(DataKind kind);

// What data may take where LoadContext does not say: three quarters of this machine's memory.
int64_t default_memory_limit();

// "there is no test split: ..."
[[noreturn]] void refuse_split(Split split);

// Whether there is such a split; train there is always. Errors as above.
bool has_split(const DataOptions& options, Split split);

}  // namespace fovea

// Data sets of labelled images, in memory as bytes, and how a recipe asks for one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fovea/base/thread_pool.h"
#include "fovea/base/visit.h"
#include "fovea/data/data_options.h"

namespace fovea {

struct ImageDataset {
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

// Error (corrupt) where the images are not as many as the labels, or a label has no class.
void check_dataset(const ImageDataset& dataset);

// The samples with these indices, in this order.
ImageDataset select(const ImageDataset& dataset, std::span<const int64_t> indices);

// How reading goes, apart from what is read.
struct LoadContext {
  std::shared_ptr<ThreadPool> pool = nullptr;                    // that decodes; none: one is made
  std::function<void(int64_t done, int64_t all)> progress = {};  // files; called now and then
  int64_t memory_limit = 0;  // bytes of samples; 0: three quarters of this machine's memory
};

// Train and validation are the same for the same options, have no sample in common, and keep the
// order of the file. Errors: not_found for a missing file, saying what to install; corrupt for a
// wrong one; invalid_argument for options that cannot be, and for a split that there is not.
ImageDataset load_dataset(const DataOptions& options, Split split, const LoadContext& context = {});

// Whether there is such a split; train there is always. Errors as above.
bool has_split(const DataOptions& options, Split split);

}  // namespace fovea

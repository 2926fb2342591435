#include "fovea/data/npz_dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "fovea/base/error.h"
#include "fovea/formats/npy.h"

namespace fovea {
namespace {

using Arrays = std::map<std::string, NpyArray>;

std::string prefix_of(Split split) {
  switch (split) {
    case Split::train:
      return "train";
    case Split::validation:
      return "val";
    case Split::test:
      return "test";
  }
  FOVEA_ASSERT(false);
  return {};
}

Arrays read_arrays(const DataOptions& options) {
  if (options.file.empty()) {
    throw Error{ErrorCode::invalid_argument,
                "[data] 'file': expected the .npz file of the images, got none (set data.file)"};
  }
  return read_npz(options.file);
}

const NpyArray& array_named(const Arrays& arrays, const std::string& name,
                            const std::string& file) {
  const auto it = arrays.find(name);
  if (it == arrays.end()) {
    std::vector<std::string> names;
    for (const auto& entry : arrays) names.push_back(entry.first);
    throw Error{ErrorCode::not_found, fmt::format("[data] {}: there is no array '{}' (arrays: {})",
                                                  file, name, fmt::join(names, ", "))};
  }
  return it->second;
}

}  // namespace

ImageDataset load_npz_dataset(const DataOptions& options, Split split) {
  const Arrays arrays = read_arrays(options);
  const std::string prefix = prefix_of(split);
  const NpyArray& images = array_named(arrays, prefix + "_images", options.file);
  const auto wrong = [&](const std::string& what) {
    throw Error{ErrorCode::corrupt,
                fmt::format("[data] {}:{}_images: {}", options.file, prefix, what)};
  };
  const size_t axes = images.shape.size();
  if (images.type != NpyType::u8 || (axes != 3 && axes != 4)) {
    wrong(fmt::format("expected u8 [N,H,W] or [N,H,W,C], got {} of {} axes",
                      npy_type_name(images.type), axes));
  }
  ImageDataset data;
  data.source = fmt::format("{}:{}", options.file, prefix);
  data.height = images.shape[1];
  data.width = images.shape[2];
  data.channels = axes == 4 ? images.shape[3] : 1;
  if (data.channels != 1 && data.channels != 3) {
    wrong(fmt::format("expected 1 or 3 channels, got {}", data.channels));
  }
  data.images.resize(images.bytes.size());
  if (!images.bytes.empty()) {
    std::memcpy(data.images.data(), images.bytes.data(), images.bytes.size());
  }
  int32_t largest = 0;
  for (Split any : {Split::train, Split::validation, Split::test}) {
    const std::string name = prefix_of(any) + "_labels";
    if (any != split && arrays.count(name) == 0) continue;
    std::vector<int32_t> labels =
        npy_to_i32(array_named(arrays, name, options.file), options.file + ":" + name);
    for (int32_t label : labels) largest = std::max(largest, label);
    if (any == split) data.labels = std::move(labels);
  }
  data.class_names = options.classes;
  // A label beyond this is nonsense, not a class.
  if (data.class_names.empty() && largest < 1 << 20) {
    for (int32_t i = 0; i <= largest; ++i) data.class_names.push_back(std::to_string(i));
  }
  check_dataset(data);
  return data;
}

bool npz_has_split(const DataOptions& options, Split split) {
  return read_arrays(options).count(prefix_of(split) + "_images") > 0;
}

}  // namespace fovea

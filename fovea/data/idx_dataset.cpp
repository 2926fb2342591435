#include "fovea/data/idx_dataset.h"

#include <fmt/format.h>

#include <utility>

#include "fovea/base/error.h"
#include "fovea/formats/idx.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

fs::path find_file(const fs::path& folder, const std::string& name, const std::string& remedy) {
  for (const char* ending : {"", ".gz"}) {
    const fs::path path = folder / (name + ending);
    std::error_code ignored;
    if (fs::exists(path, ignored)) return path;
  }
  throw Error{ErrorCode::not_found,
              fmt::format("[data] no file {} or {}.gz in the folder {}{}", name, name,
                          folder.string(), remedy.empty() ? "" : fmt::format(" ({})", remedy))};
}

}  // namespace

ImageDataset load_idx_dataset(const fs::path& folder, bool train,
                              std::vector<std::string> class_names, const std::string& remedy) {
  const std::string prefix = train ? "train" : "t10k";
  const fs::path image_path = find_file(folder, prefix + "-images-idx3-ubyte", remedy);
  const fs::path label_path = find_file(folder, prefix + "-labels-idx1-ubyte", remedy);
  IdxArray images = read_idx(image_path);
  const IdxArray labels = read_idx(label_path);
  if (images.shape.size() != 3 && images.shape.size() != 4) {
    throw Error{ErrorCode::corrupt, fmt::format("[data] {}: expected images of 3 or 4 dimensions, "
                                                "got {} (is it the file of the images?)",
                                                image_path.string(), images.shape.size())};
  }
  if (labels.shape.size() != 1) {
    throw Error{
        ErrorCode::corrupt,
        fmt::format(
            "[data] {}: expected labels of 1 dimension, got {} (is it the file of the labels?)",
            label_path.string(), labels.shape.size())};
  }
  ImageDataset dataset;
  dataset.source = image_path.string();
  dataset.height = images.shape[1];
  dataset.width = images.shape[2];
  dataset.channels = images.shape.size() == 4 ? images.shape[3] : 1;
  dataset.images = std::move(images.values);
  dataset.labels.assign(labels.values.begin(), labels.values.end());
  dataset.class_names = std::move(class_names);
  check_dataset(dataset);
  return dataset;
}

}  // namespace fovea

#include "fovea/data/cifar.h"

#include <fmt/format.h>

#include <system_error>

#include "fovea/base/error.h"
#include "fovea/formats/file.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kSide = 32, kChannels = 3, kPlane = kSide * kSide;
constexpr uint64_t kMaxFileBytes = uint64_t{1} << 30;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// The names of classes, one a line.
std::vector<std::string> read_names(const fs::path& path, size_t classes) {
  std::vector<std::string> names;
  if (is_there(path)) {
    const std::string text = read_text_file(path, 1 << 16);
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      std::string name = text.substr(at, end - at);
      if (name.ends_with('\r')) name.pop_back();
      if (!name.empty()) names.push_back(name);
      at = end + 1;
    }
    if (names.size() != classes) {
      throw Error{ErrorCode::corrupt,
                  fmt::format("[data] {}: expected {} names of classes, got {} (copy the data set "
                              "again; without this file the classes are numbers)",
                              path.string(), classes, names.size())};
    }
  }
  for (size_t i = names.size(); i < classes; ++i) names.push_back(std::to_string(i));
  return names;
}

// Records of `labels` bytes, of which the last counts, and three planes.
void read_records(const fs::path& path, size_t labels, ImageDataset& to) {
  const std::vector<std::byte> file = read_file(path, kMaxFileBytes);
  const size_t record = labels + static_cast<size_t>(kPlane * kChannels);
  if (file.empty() || file.size() % record != 0) {
    throw Error{ErrorCode::corrupt,
                fmt::format("[data] {}: expected records of {} bytes, got {} bytes (the binary "
                            "version of CIFAR is needed)",
                            path.string(), record, file.size())};
  }
  to.images.reserve(to.images.size() + file.size());
  for (size_t at = 0; at < file.size(); at += record) {
    to.labels.push_back(static_cast<int32_t>(file[at + labels - 1]));
    const std::byte* planes = file.data() + at + labels;
    for (int64_t i = 0; i < kPlane; ++i) {
      for (int64_t c = 0; c < kChannels; ++c) {
        to.images.push_back(static_cast<uint8_t>(planes[c * kPlane + i]));
      }
    }
  }
}

}  // namespace

ImageDataset load_cifar(const fs::path& folder, bool train) {
  ImageDataset data;
  data.source = folder.string();
  data.height = data.width = kSide;
  data.channels = kChannels;
  if (is_there(folder / "train.bin") || is_there(folder / "test.bin")) {
    data.class_names = read_names(folder / "fine_label_names.txt", 100);
    read_records(folder / (train ? "train.bin" : "test.bin"), 2, data);
  } else if (is_there(folder / "data_batch_1.bin") || is_there(folder / "test_batch.bin")) {
    data.class_names = read_names(folder / "batches.meta.txt", 10);
    for (int i = 1; i <= (train ? 5 : 1); ++i) {
      read_records(folder / (train ? fmt::format("data_batch_{}.bin", i) : "test_batch.bin"), 1,
                   data);
    }
  } else {
    throw Error{ErrorCode::not_found,
                fmt::format("[data] neither data_batch_1.bin (CIFAR-10) nor train.bin (CIFAR-100) "
                            "is in the folder {} (data.dir names the folder of the binary version)",
                            folder.string())};
  }
  check_dataset(data);
  return data;
}

}  // namespace fovea

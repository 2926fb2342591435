#include "cli/data_export.h"

#include <errno.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <system_error>

#include "cli/cli_support.h"
#include "cli/stop_on_signal.h"
#include "fovea/base/error.h"
#include "fovea/formats/image.h"

namespace fovea::cli {
namespace {

namespace fs = std::filesystem;

// A class name as the name of a folder: one that is visible and is no path.
std::string folder_name(std::string name) {
  for (char& c : name)
    if (c == '/' || static_cast<unsigned char>(c) < 0x20) c = '_';
  if (name.empty() || name[0] == '.') name = "_" + name;
  return name;
}

std::vector<std::string> folder_names(const std::vector<std::string>& classes) {
  std::vector<std::string> names;
  for (const std::string& name : classes) {
    names.push_back(folder_name(name));
    if (std::count(names.begin(), names.end(), names.back()) > 1)
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[--export] two classes would lie in the folder '{}' (give them "
                              "other names in data.classes)",
                              names.back()));
  }
  return names;
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    throw Error(ErrorCode::io,
                fmt::format("[--export] the folder {} cannot be made: {} (choose another one)",
                            folder.string(), error.message()));
}

// Not atomically, as other files are written: that waits for the disk each time.
void write_image(const fs::path& path, const Image& image) {
  const std::vector<std::byte> png = encode_png(image);
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(png.data()), static_cast<std::streamsize>(png.size()));
  file.close();
  if (!file)
    throw Error(ErrorCode::io,
                fmt::format("[--export] {} cannot be written: {} (is the disk full?)",
                            path.string(), std::strerror(errno)));
}

}  // namespace

int64_t export_images(const DataOptions& options, const fs::path& folder,
                      std::optional<int64_t> limit, const std::shared_ptr<ThreadPool>& pool) {
  std::error_code ignored;
  if (fs::exists(folder, ignored) && !fs::is_empty(folder, ignored))
    throw Error(
        ErrorCode::invalid_argument,
        fmt::format("[--export] {} holds something already; give a new folder", folder.string()));
  Progress progress(stderr);
  const StopOnSignal stop("finishing this image");
  int64_t written = 0;
  for (Split split : {Split::train, Split::validation, Split::test}) {
    if (!has_split(options, split)) continue;
    const ImageDataset data =
        as_images(load_with_progress(options, split, pool), "[--export] PNG files");
    const std::string name(enum_name(split));
    const std::vector<std::string> folders = folder_names(data.class_names);
    for (const std::string& one : folders) make_folder(folder / name / one);
    std::vector<int64_t> counts(folders.size());
    for (int64_t i = 0; i < data.size(); ++i) {
      const auto label = static_cast<size_t>(data.labels[static_cast<size_t>(i)]);
      if (limit && counts[label] == *limit) continue;
      ++counts[label];
      const auto pixels = data.image(i);
      const Image image{data.height, data.width, data.channels, {pixels.begin(), pixels.end()}};
      write_image(folder / name / folders[label] / fmt::format("{:06}.png", i), image);
      ++written;
      if (StopOnSignal::asked())
        throw Error(
            ErrorCode::interrupted,
            fmt::format("[--export] stopped after {} images, which {} holds (remove it, and "
                        "export again)",
                        written, folder.string()));
      if (i % 64 == 0)
        progress.update(static_cast<double>(i) / static_cast<double>(data.size()),
                        fmt::format("writing {}: {} images", name, written));
    }
    progress.finish();
  }
  return written;
}

}  // namespace fovea::cli

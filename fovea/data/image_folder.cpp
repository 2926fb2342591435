#include "fovea/data/image_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "fovea/base/error.h"
#include "fovea/base/text.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const std::string& what) {
  throw Error{ErrorCode::invalid_argument, "[data] " + what};
}

[[noreturn]] void cannot_read(const fs::path& folder, const std::error_code& error) {
  const bool missing = error == std::errc::no_such_file_or_directory;
  throw Error{missing ? ErrorCode::not_found : ErrorCode::io,
              fmt::format("[data] the folder {} cannot be read: {} (data.dir names the folder of "
                          "the images)",
                          folder.string(), error.message())};
}

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with('.'); }

// What lies in a folder, hidden names left out.
struct Listing {
  std::vector<std::string> folders;  // also behind symbolic links
  std::vector<fs::path> images;
  int64_t others = 0;
};

Listing list(const fs::path& folder) {
  std::error_code error;
  Listing listing;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (is_hidden(it->path())) continue;
    if (it->is_directory(ignored)) {
      listing.folders.push_back(it->path().filename().string());
    } else if (has_image_name(it->path())) {
      listing.images.push_back(it->path());
    } else {
      ++listing.others;
    }
  }
  if (error) cannot_read(folder, error);
  std::sort(listing.images.begin(), listing.images.end());
  return listing;
}

// All images below a folder. Links to folders are not followed here: they may lead in circles.
void list_below(const fs::path& folder, std::vector<fs::path>& images, int64_t& others) {
  Listing listing = list(folder);
  images.insert(images.end(), listing.images.begin(), listing.images.end());
  others += listing.others;
  std::sort(listing.folders.begin(), listing.folders.end());
  for (const std::string& name : listing.folders) {
    if (!fs::is_symlink(folder / name)) list_below(folder / name, images, others);
  }
}

// The folder of a part beside "train", or nothing.
fs::path part_folder(const fs::path& dir, Split split) {
  static constexpr std::array<std::array<std::string_view, 3>, 3> kNames = {
      {{"train", "training", ""}, {"validation", "valid", "val"}, {"test", "testing", ""}}};
  for (std::string_view name : kNames[static_cast<size_t>(split)]) {
    std::error_code ignored;
    if (!name.empty() && fs::is_directory(dir / name, ignored)) return dir / name;
  }
  return {};
}

std::vector<std::string> class_names_in(const fs::path& folder, const DataOptions& options) {
  Listing listing = list(folder);
  if (!options.classes.empty()) {
    for (const std::string& name : options.classes) {
      if (std::find(listing.folders.begin(), listing.folders.end(), name) ==
          listing.folders.end()) {
        refuse(fmt::format("'classes': there is no folder '{}' in {}{}", name, folder.string(),
                           did_you_mean(name, listing.folders)));
      }
    }
    listing.folders = options.classes;
  }
  if (listing.folders.size() < 2) {
    const std::string found = listing.folders.empty()
                                  ? fmt::format("no folder and {} image{}", listing.images.size(),
                                                listing.images.size() == 1 ? "" : "s")
                                  : fmt::format("only '{}'", listing.folders[0]);
    refuse(
        fmt::format("expected a folder for each of at least two classes in {}, got {} (sort "
                    "the images into folders by class, or name them in a CSV file with "
                    "data.kind=image_csv)",
                    folder.string(), found));
  }
  sort_names(listing.folders);
  if (!options.classes.empty()) return options.classes;
  return listing.folders;
}

void add_part(ImageFiles& to, const fs::path& folder, Split split, const DataOptions& options) {
  const Listing listing = list(folder);
  for (const std::string& name : listing.folders) {
    const bool known =
        std::find(to.class_names.begin(), to.class_names.end(), name) != to.class_names.end();
    if (!known && options.classes.empty()) {
      refuse(fmt::format("{} is no class to train: there is no such folder beside the classes {}{}",
                         (folder / name).string(), fmt::join(to.class_names, ", "),
                         did_you_mean(name, to.class_names)));
    }
  }
  to.others += listing.others + static_cast<int64_t>(listing.images.size());
  for (size_t c = 0; c < to.class_names.size(); ++c) {
    const fs::path class_folder = folder / to.class_names[c];
    std::error_code ignored;
    if (!fs::is_directory(class_folder, ignored)) continue;  // only train must have them all
    std::vector<fs::path> images;
    list_below(class_folder, images, to.others);
    if (images.empty() && split == Split::train) {
      refuse(
          fmt::format("the class folder {} holds no image files (PNG or JPEG; remove the folder "
                      "if it is no class)",
                      class_folder.string()));
    }
    for (fs::path& path : images) {
      to.files.push_back({std::move(path), static_cast<int32_t>(c), split});
    }
  }
}

}  // namespace

ImageFiles list_image_folder(const DataOptions& options) {
  if (options.dir.empty())
    refuse("'dir': expected the folder of the images, got none (set data.dir)");
  const fs::path dir = options.dir;
  list(dir);  // complains where there is none
  ImageFiles files;
  files.source = dir.string();
  const fs::path train = part_folder(dir, Split::train);
  if (train.empty()) {
    files.class_names = class_names_in(dir, options);
    add_part(files, dir, Split::train, options);
    return files;
  }
  files.class_names = class_names_in(train, options);
  for (Split split : {Split::train, Split::validation, Split::test}) {
    const fs::path folder = part_folder(dir, split);
    if (folder.empty()) continue;
    add_part(files, folder, split, options);
    files.given[static_cast<size_t>(split)] = true;
  }
  return files;
}

}  // namespace fovea

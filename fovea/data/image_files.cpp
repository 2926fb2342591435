#include "fovea/data/image_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "fovea/base/error.h"
#include "fovea/base/progress.h"
#include "fovea/data/image_csv.h"
#include "fovea/data/image_folder.h"
#include "fovea/data/permutation.h"
#include "fovea/data/prepare_image.h"
#include "fovea/data/split_size.h"
#include "fovea/formats/image.h"

namespace fovea {
namespace {

constexpr size_t kChunk = 64;      // files between two reports of progress
constexpr size_t kNamedFiles = 3;  // of those that cannot be read

[[noreturn]] void refuse(const std::string& what) {
  throw Error{ErrorCode::invalid_argument, "[data] " + what};
}

// "[image] a.png: broken ..." without the place, since another one is put before it.
std::string reason_of(const Error& error) {
  std::string text = error.what();
  if (const size_t end = text.find("] "); text.starts_with('[') && end != std::string::npos) {
    text = text.substr(end + 2);
  }
  return text;
}

std::string size_text(const Image& image) {
  return fmt::format("{}x{} {}", image.width, image.height,
                     image.channels == 1 ? "grey" : "colour");
}

// The shape of all samples. What the options leave open is that of the first file of the whole
// list, so that all parts agree.
ImageShape shape_of(const ImageFiles& list, const DataOptions& options, std::string& first_name) {
  ImageShape shape = {options.height, options.width, options.channels};
  if (shape.height > 0 && shape.channels > 0) return shape;
  std::optional<Error> error;
  for (const ImageFile& file : list.files) {
    try {
      const Image image = read_image(file.path);
      if (shape.height == 0) {
        shape.height = image.height;
        shape.width = image.width;
      }
      if (shape.channels == 0) shape.channels = image.channels;
      first_name = fmt::format("{} ({})", file.path.string(), size_text(image));
      return shape;
    } catch (const Error& e) {
      if (!error) error = e;
    }
  }
  if (error) return {1, 1, 1};  // none can be read, which is told with all their names
  refuse(fmt::format("{}: there are no image files", list.source));
}

void check_options(const DataOptions& options) {
  if (options.height < 0 || options.width < 0 || (options.height == 0) != (options.width == 0)) {
    refuse(
        fmt::format("'height': expected both height and width in pixels, or none, got height "
                    "{} and width {}",
                    options.height, options.width));
  }
  if (options.channels != 0 && options.channels != 1 && options.channels != 3) {
    refuse(fmt::format("'channels': expected 1 (grey), 3 (colour) or 0 (as the files are), got {}",
                       options.channels));
  }
}

void check_memory(const ImageFiles& list, size_t files, const ImageShape& shape, int64_t limit) {
  if (limit == 0) limit = default_memory_limit();
  const double bytes = static_cast<double>(files) * static_cast<double>(shape.height) *
                       static_cast<double>(shape.width) * static_cast<double>(shape.channels);
  if (bytes <= static_cast<double>(limit)) return;
  refuse(fmt::format(
      "{}: {} images of {}x{} in {} channel{} take {}, more than the {} that data may take here "
      "(make them smaller: data.height and data.width; grey: data.channels=1; or take fewer files)",
      list.source, files, shape.width, shape.height, shape.channels, shape.channels == 1 ? "" : "s",
      format_bytes(bytes), format_bytes(static_cast<double>(limit))));
}

// One part of the list, read into a data set.
class Reading {
 public:
  Reading(const ImageFiles& list, Split split, const DataOptions& options,
          const LoadContext& context)
      : list_(list), options_(options), context_(context) {
    for (const ImageFile& file : list.files)
      if (file.split == split) files_.push_back(&file);
    data_.source = list.source;
    data_.class_names = list.class_names;
  }

  ImageDataset run() {
    check_options(options_);
    const ImageShape shape = shape_of(list_, options_, first_);
    data_.height = shape.height;
    data_.width = shape.width;
    data_.channels = shape.channels;
    prepare_image(Image{1, 1, 1, {0}}, {shape.height, shape.width, shape.channels},
                  ResizeMode::stretch);  // refuses a shape that cannot be
    check_memory(list_, files_.size(), shape, context_.memory_limit);
    data_.images.resize(files_.size() * static_cast<size_t>(data_.image_size()));
    problems_.resize(files_.size());
    read_all();
    keep_readable();
    return std::move(data_);
  }

 private:
  void read_all() {
    ThreadPool* pool = context_.pool.get();
    std::optional<ThreadPool> own;
    if (pool == nullptr) pool = &own.emplace();
    for (size_t first = 0; first < files_.size(); first += kChunk) {
      const size_t count = std::min(kChunk, files_.size() - first);
      pool->parallel_for(static_cast<int64_t>(count), [&](int64_t i, int) {
        const size_t at = first + static_cast<size_t>(i);
        try {
          read_one(at);
        } catch (const Error& e) {
          problems_[at] = e;
        } catch (const std::exception& e) {
          problems_[at] = Error{ErrorCode::out_of_memory,
                                fmt::format("{}: {}", files_[at]->path.string(), e.what())};
        }
      });
      if (context_.progress) {
        context_.progress(static_cast<int64_t>(first + count), static_cast<int64_t>(files_.size()));
      }
    }
  }

  void read_one(size_t at) {
    const std::filesystem::path& path = files_[at]->path;
    const Image image = read_image(path);
    const bool sizes = image.height == data_.height && image.width == data_.width;
    if (options_.height == 0 && !sizes) {
      differ(path, image, "size", "set data.height and data.width, to which all are resized");
    }
    if (options_.channels == 0 && image.channels != data_.channels) {
      differ(path, image, "kind", "set data.channels to 1 or 3, to which all are converted");
    }
    const Image sample =
        prepare_image(image, {data_.height, data_.width, data_.channels}, options_.resize);
    const auto bytes = static_cast<size_t>(data_.image_size());
    std::memcpy(data_.images.data() + at * bytes, sample.pixels.data(), bytes);
  }

  // Such an image is not unreadable, so it is never skipped.
  [[noreturn]] void differ(const std::filesystem::path& path, const Image& image, const char* what,
                           const char* remedy) const {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[data] expected images of one {}, got {} ({}) beside {} ({})", what,
                            path.string(), size_text(image), first_, remedy)};
  }

  // Complains about files that cannot be read, or takes them out.
  void keep_readable() {
    std::vector<std::string> reasons;
    for (size_t i = 0; i < files_.size(); ++i) {
      if (!problems_[i]) continue;
      const bool differs = problems_[i]->code() == ErrorCode::invalid_argument &&
                           std::string_view(problems_[i]->what()).starts_with("[data]");
      if (differs && (reasons.empty() || options_.unreadable == Unreadable::skip)) {
        throw *problems_[i];
      }
      reasons.push_back(reason_of(*problems_[i]));
    }
    const bool skip = options_.unreadable == Unreadable::skip;
    if (!reasons.empty() && (!skip || reasons.size() == files_.size())) {
      const std::span named(reasons.data(), std::min(reasons.size(), kNamedFiles));
      throw Error{
          ErrorCode::corrupt,
          fmt::format("[data] {}: {} of {} image files cannot be read: {}{} ({})", list_.source,
                      reasons.size(), files_.size(), fmt::join(named, "; "),
                      reasons.size() > named.size() ? "; ..." : "",
                      skip ? "none is left" : "mend or remove them, or set data.unreadable=skip")};
    }
    const auto bytes = static_cast<size_t>(data_.image_size());
    size_t kept = 0;
    for (size_t i = 0; i < files_.size(); ++i) {
      if (problems_[i]) continue;
      if (kept != i) {
        std::memmove(data_.images.data() + kept * bytes, data_.images.data() + i * bytes, bytes);
      }
      ++kept;
      data_.labels.push_back(files_[i]->label);
      data_.files.push_back(files_[i]->path.string());
    }
    data_.images.resize(kept * bytes);
    data_.skipped = std::move(reasons);
  }

  const ImageFiles& list_;
  const DataOptions& options_;
  const LoadContext& context_;
  std::vector<const ImageFile*> files_;
  std::string first_;  // the file that gave the shape
  ImageDataset data_;
  std::vector<std::optional<Error>> problems_;  // by file
};

}  // namespace

ImageFiles list_image_files(const DataOptions& options) {
  FOVEA_ASSERT(options.kind == DataKind::image_folder || options.kind == DataKind::image_csv);
  ImageFiles list =
      options.kind == DataKind::image_folder ? list_image_folder(options) : list_image_csv(options);
  cut_splits(list, options);
  return list;
}

void cut_splits(ImageFiles& list, const DataOptions& options) {
  const bool cut_validation = !list.given[static_cast<size_t>(Split::validation)];
  const bool cut_test = !list.given[static_cast<size_t>(Split::test)];
  std::vector<std::vector<ImageFile*>> classes(list.class_names.size());
  int64_t whole = 0;
  for (ImageFile& file : list.files) {
    if (file.split != Split::train) continue;
    classes[static_cast<size_t>(file.label)].push_back(&file);
    ++whole;
  }
  const double validation = cut_validation ? share_of(options, Split::validation, whole) : 0;
  const double test = cut_test ? share_of(options, Split::test, whole) : 0;
  if (validation + test >= 1) {
    refuse(
        fmt::format("'validation': expected less than the whole for validation and test, got "
                    "{:.3g} and {:.3g} of {} samples",
                    validation, test, whole));
  }
  std::vector<int64_t> order;
  for (size_t c = 0; c < classes.size(); ++c) {
    const auto count = static_cast<int64_t>(classes[c].size());
    if (count < 2) continue;
    philox_permutation(count, static_cast<uint64_t>(options.validation_seed),
                       "split." + list.class_names[c], 0, order);
    const int64_t tested =
        std::min<int64_t>(std::llround(test * static_cast<double>(count)), count - 1);
    const int64_t validated = std::min<int64_t>(
        std::llround(validation * static_cast<double>(count)), count - 1 - tested);
    for (int64_t i = 0; i < tested + validated; ++i) {
      classes[c][static_cast<size_t>(order[static_cast<size_t>(i)])]->split =
          i < tested ? Split::test : Split::validation;
    }
  }
}

ImageDataset read_image_files(const ImageFiles& list, Split split, const DataOptions& options,
                              const LoadContext& context) {
  return Reading(list, split, options, context).run();
}

bool has_image_name(const std::filesystem::path& path) {
  std::string ending = path.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) {
    return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  });
  static constexpr std::array<std::string_view, 10> kEndings = {
      ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"};
  // macOS leaves files named "._a.png" beside a.png, which hold no image.
  return !path.filename().string().starts_with('.') &&
         std::find(kEndings.begin(), kEndings.end(), ending) != kEndings.end();
}

void sort_names(std::vector<std::string>& names) {
  const bool numbers = std::all_of(names.begin(), names.end(), [](const std::string& name) {
    return !name.empty() && name.size() < 18 &&
           name.find_first_not_of("0123456789") == std::string::npos;
  });
  std::sort(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
    if (numbers && std::stoll(a) != std::stoll(b)) return std::stoll(a) < std::stoll(b);
    return a < b;
  });
}

}  // namespace fovea

// Makes folders of images, a folder a class, out of two data sets as their authors publish them:
//   prepare_images pneumonia MEDMNIST OUT     pneumoniamnist_a.npz and _b.npz in MEDMNIST
//   prepare_images blood_cells BCCD OUT       the unpacked folder BCCD (JPEGImages, Annotations,
//   ...)
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "fovea/base/error.h"
#include "fovea/data/dataset.h"
#include "fovea/formats/file.h"
#include "fovea/formats/image.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

void write_png(const fs::path& path, const Image& image) {
  fs::create_directories(path.parent_path());
  const std::vector<std::byte> png = encode_png(image);
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(png.data()), static_cast<std::streamsize>(png.size()));
  if (!file.flush()) throw Error{ErrorCode::io, path.string() + " cannot be written"};
}

// The official PneumoniaMNIST: its validation and test images are those of file a; of its training
// images, a holds those with pneumonia, and b all those without.
int64_t make_pneumonia(const fs::path& from, const fs::path& to) {
  DataOptions options;
  options.kind = DataKind::npz;
  options.classes = {"normal", "pneumonia"};
  int64_t written = 0;
  const auto write = [&](const char* file, Split split, int32_t first, int32_t last) {
    options.file = (from / file).string();
    const ImageDataset data = load_images(options, split);
    for (int64_t i = 0; i < data.size(); ++i) {
      const int32_t label = data.labels[static_cast<size_t>(i)];
      if (label < first || label > last) continue;
      const auto pixels = data.image(i);
      write_png(to / enum_name(split) / options.classes[static_cast<size_t>(label)] /
                    fmt::format("{:05}.png", i),
                {data.height, data.width, data.channels, {pixels.begin(), pixels.end()}});
      ++written;
    }
  };
  write("pneumoniamnist_b.npz", Split::train, 0, 0);
  write("pneumoniamnist_a.npz", Split::train, 1, 1);
  write("pneumoniamnist_a.npz", Split::validation, 0, 1);
  write("pneumoniamnist_a.npz", Split::test, 0, 1);
  return written;
}

// The text between <tag> and </tag>, from `at` on, which moves behind it; empty where there is
// none.
std::string element(const std::string& xml, const std::string& tag, size_t& at) {
  const std::string open = "<" + tag + ">", close = "</" + tag + ">";
  const size_t begin = xml.find(open, at);
  const size_t end = begin == std::string::npos ? begin : xml.find(close, begin);
  if (end == std::string::npos) return {};
  at = end + close.size();
  return xml.substr(begin + open.size(), end - begin - open.size());
}

int64_t number(const std::string& xml, const std::string& tag) {
  size_t at = 0;
  const std::string text = element(xml, tag, at);
  if (text.empty()) throw Error{ErrorCode::corrupt, fmt::format("no <{}> in '{}'", tag, xml)};
  return std::stoll(text);
}

// Each box of a cell becomes an image, in the folder of its kind.
int64_t make_blood_cells(const fs::path& from, const fs::path& to) {
  int64_t written = 0;
  for (const auto& [list, split] :
       {std::pair("train", "train"), std::pair("val", "validation"), std::pair("test", "test")}) {
    std::ifstream names(from / "ImageSets" / "Main" / (std::string(list) + ".txt"));
    if (!names) throw Error{ErrorCode::not_found, "no ImageSets/Main in " + from.string()};
    for (std::string name; names >> name;) {
      const Image photo = read_image(from / "JPEGImages" / (name + ".jpg"));
      const std::string xml = read_text_file(from / "Annotations" / (name + ".xml"), 1 << 20);
      size_t at = 0;
      for (int cell = 0;; ++cell) {
        const std::string object = element(xml, "object", at);
        if (object.empty()) break;
        size_t inside = 0;
        const std::string kind = element(object, "name", inside);
        const int64_t left = std::clamp<int64_t>(number(object, "xmin"), 0, photo.width);
        const int64_t right = std::clamp<int64_t>(number(object, "xmax"), 0, photo.width);
        const int64_t top = std::clamp<int64_t>(number(object, "ymin"), 0, photo.height);
        const int64_t bottom = std::clamp<int64_t>(number(object, "ymax"), 0, photo.height);
        if (right - left < 8 || bottom - top < 8) continue;  // a sliver at the edge, or a slip
        Image crop{bottom - top, right - left, photo.channels, {}};
        for (int64_t y = top; y < bottom; ++y) {
          const auto row = photo.pixels.begin() + (y * photo.width + left) * photo.channels;
          crop.pixels.insert(crop.pixels.end(), row, row + crop.width * photo.channels);
        }
        write_png(to / split / kind / fmt::format("{}_{:02}.png", name, cell), crop);
        ++written;
      }
    }
  }
  return written;
}

int run(int argc, char** argv) {
  const std::string what = argc == 4 ? argv[1] : "";
  if (what != "pneumonia" && what != "blood_cells") {
    fmt::print(stderr,
               "usage: prepare_images pneumonia MEDMNIST OUT\n"
               "       prepare_images blood_cells BCCD OUT\n");
    return 2;
  }
  const int64_t written =
      what == "pneumonia" ? make_pneumonia(argv[2], argv[3]) : make_blood_cells(argv[2], argv[3]);
  fmt::print("{} images written to {}\n", written, argv[3]);
  return 0;
}

}  // namespace
}  // namespace fovea

int main(int argc, char** argv) {
  try {
    return fovea::run(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "prepare_images: {}\n", e.what());
    return 2;
  }
}

#include "cli/sample_sheet.h"

#include <algorithm>
#include <vector>

#include "cli/text_on_image.h"
#include "fovea/data/permutation.h"

namespace fovea::cli {
namespace {

constexpr size_t kRows = 16;
constexpr size_t kColumns = 8;
constexpr int64_t kCell = 128;  // pixels that a sample is enlarged to, or reduced
constexpr int64_t kGap = 8;
constexpr int64_t kText = 18;

// By a whole factor where it is small, so that its pixels can be seen.
Image enlarged(const Image& image) {
  const int64_t side = std::max(image.height, image.width);
  if (side > kCell)
    return resize(image, std::max<int64_t>(1, image.height * kCell / side),
                  std::max<int64_t>(1, image.width * kCell / side));
  const int64_t factor = kCell / side;
  Image large{image.height * factor, image.width * factor, 3, {}};
  large.pixels.reserve(static_cast<size_t>(large.height * large.width * 3));
  for (int64_t y = 0; y < large.height; ++y)
    for (int64_t x = 0; x < large.width; ++x)
      for (int64_t c = 0; c < 3; ++c)
        large.pixels.push_back(
            image.pixels[static_cast<size_t>(((y / factor) * image.width + x / factor) * 3 + c)]);
  return large;
}

Image sample_of(const ImageDataset& data, int64_t i, const AugmentOptions& options, uint64_t seed) {
  Image image{data.height, data.width, data.channels, {}};
  image.pixels.resize(static_cast<size_t>(data.image_size()));
  augment(data.image(i), image.pixels, {data.height, data.width, data.channels}, options,
          {seed, 0, i});
  return enlarged(to_rgb(image));
}

void paste(Image& sheet, const Image& image, int64_t top, int64_t left) {
  for (int64_t y = 0; y < image.height; ++y)
    std::copy_n(image.pixels.begin() + y * image.width * 3, image.width * 3,
                sheet.pixels.begin() + ((top + y) * sheet.width + left) * 3);
}

}  // namespace

Image sample_sheet(const ImageDataset& data, const AugmentOptions& augment_options, uint64_t seed) {
  std::vector<int64_t> order;
  philox_permutation(data.size(), seed, "sheet", 0, order);
  std::vector<std::vector<int64_t>> rows(data.class_names.size());
  for (int64_t i : order) {
    auto& row = rows[static_cast<size_t>(data.labels[static_cast<size_t>(i)])];
    if (row.size() < kColumns) row.push_back(i);
  }
  std::vector<std::pair<size_t, std::vector<int64_t>>> shown;
  for (size_t c = 0; c < rows.size() && shown.size() < kRows; ++c)
    if (!rows[c].empty()) shown.emplace_back(c, rows[c]);

  const int64_t step = kCell + kText + kGap;
  Image sheet{kGap + static_cast<int64_t>(shown.size()) * step,
              kGap + static_cast<int64_t>(kColumns) * (kCell + kGap),
              3,
              {}};
  sheet.pixels.assign(static_cast<size_t>(sheet.height * sheet.width * 3), 255);
  const TextDrawer text(kText);
  for (size_t r = 0; r < shown.size(); ++r) {
    const auto& [label, samples] = shown[r];
    for (size_t k = 0; k < samples.size(); ++k) {
      const int64_t top = kGap + static_cast<int64_t>(r) * step;
      const int64_t left = kGap + static_cast<int64_t>(k) * (kCell + kGap);
      const Image image = sample_of(data, samples[k], augment_options, seed);
      paste(sheet, image, top + (kCell - image.height) / 2, left + (kCell - image.width) / 2);
      const int64_t width = std::min(kCell, text.width(data.class_names[label]));
      text.draw(sheet, data.class_names[label], top + kCell, left + (kCell - width) / 2, kCell);
    }
  }
  return sheet;
}

}  // namespace fovea::cli

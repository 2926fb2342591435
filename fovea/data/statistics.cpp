#include "fovea/data/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>
#include <unordered_map>

namespace fovea {

std::vector<int64_t> class_counts(const ImageDataset& dataset) {
  check_dataset(dataset);
  std::vector<int64_t> counts(dataset.class_names.size());
  for (int32_t label : dataset.labels) ++counts[static_cast<size_t>(label)];
  return counts;
}

PixelStatistics pixel_statistics(const ImageDataset& dataset) {
  check_dataset(dataset);
  PixelStatistics result;
  const auto channels = static_cast<size_t>(dataset.channels);
  const double pixels = static_cast<double>(dataset.images.size()) / static_cast<double>(channels);
  for (size_t c = 0; c < channels && pixels > 0; ++c) {
    // Sums of bytes and of their squares are exact in 64 bits.
    uint64_t sum = 0, squares = 0;
    for (size_t i = c; i < dataset.images.size(); i += channels) {
      const uint64_t v = dataset.images[i];
      sum += v;
      squares += v * v;
    }
    const double mean = static_cast<double>(sum) / pixels;
    const double variance = static_cast<double>(squares) / pixels - mean * mean;
    result.mean.push_back(mean / 255);
    result.deviation.push_back(std::sqrt(std::max(variance, 0.0)) / 255);
  }
  return result;
}

std::vector<Twins> find_twins(const std::array<ImageDataset, 3>& splits) {
  struct Place {
    Split split;
    int64_t sample;
  };
  const auto pixels = [](std::span<const uint8_t> image) {
    return std::string_view(reinterpret_cast<const char*>(image.data()), image.size());
  };
  // Views into the data sets; equal keys are compared byte by byte, so no hash is trusted.
  std::unordered_map<std::string_view, Place> first;
  std::vector<Twins> twins;
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    const ImageDataset& data = splits[static_cast<size_t>(split)];
    for (int64_t i = 0; i < data.size(); ++i) {
      const auto [it, added] = first.try_emplace(pixels(data.image(i)), Place{split, i});
      if (added) continue;
      const Place& other = it->second;
      const ImageDataset& others = splits[static_cast<size_t>(other.split)];
      if (others.height != data.height || others.channels != data.channels) continue;
      twins.push_back({other.split, split, other.sample, i,
                       others.labels[static_cast<size_t>(other.sample)] ==
                           data.labels[static_cast<size_t>(i)]});
    }
  }
  return twins;
}

}  // namespace fovea

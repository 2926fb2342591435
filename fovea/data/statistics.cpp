#include "fovea/data/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>
#include <unordered_map>

namespace fovea {

std::vector<int64_t> class_counts(const Dataset& dataset) {
  check_dataset(dataset);
  std::vector<int64_t> counts(dataset.class_names.size());
  for (int32_t label : dataset.labels) ++counts[static_cast<size_t>(label)];
  return counts;
}

PixelStatistics pixel_statistics(const Dataset& dataset) {
  check_dataset(dataset);
  PixelStatistics result;
  const DataInput* input = dataset.input(kImageInput);
  if (input == nullptr) return result;
  const std::vector<uint8_t>& images = input->bytes;
  const auto channels = static_cast<size_t>(input->shape[2]);
  const double pixels = static_cast<double>(images.size()) / static_cast<double>(channels);
  for (size_t c = 0; c < channels && pixels > 0; ++c) {
    // Sums of bytes and of their squares are exact in 64 bits.
    uint64_t sum = 0, squares = 0;
    for (size_t i = c; i < images.size(); i += channels) {
      const uint64_t v = images[i];
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

SeriesStatistics series_statistics(const Dataset& dataset) {
  check_dataset(dataset);
  SeriesStatistics result;
  const DataInput* series = dataset.input(kSeriesInput);
  const DataInput* length = dataset.input(kLengthInput);
  if (series == nullptr) return result;
  const auto steps = static_cast<size_t>(series->shape[0]);
  const auto features = static_cast<size_t>(series->shape[1]);
  const auto count_of = [&](int64_t i) {
    int32_t count = static_cast<int32_t>(steps);
    if (length != nullptr) std::memcpy(&count, length->sample(i).data(), sizeof count);
    return static_cast<size_t>(count);
  };
  std::vector<float> row(features);
  // Calls f(feature, value) for each number.
  const auto for_each = [&](auto&& f) {
    for (int64_t i = 0; i < dataset.size(); ++i) {
      const uint8_t* at = series->sample(i).data();
      for (size_t t = 0; t < count_of(i); ++t, at += features * sizeof(float)) {
        std::memcpy(row.data(), at, features * sizeof(float));
        for (size_t k = 0; k < features; ++k) f(k, row[k]);
      }
    }
  };
  result.mean.assign(features, 0);
  result.deviation.assign(features, 0);
  result.least.assign(features, 0);
  result.most.assign(features, 0);
  result.missing.assign(features, 0);
  std::vector<int64_t> counts(features);
  for_each([&](size_t k, float value) {
    const auto v = static_cast<double>(value);
    if (std::isnan(v)) {
      ++result.missing[k];
      return;
    }
    result.least[k] = counts[k] == 0 ? v : std::min(result.least[k], v);
    result.most[k] = counts[k] == 0 ? v : std::max(result.most[k], v);
    result.mean[k] += v;
    ++counts[k];
  });
  const auto divide = [&](std::vector<double>& sums) {
    for (size_t k = 0; k < features; ++k)
      if (counts[k] > 0) sums[k] /= static_cast<double>(counts[k]);
  };
  divide(result.mean);
  // A second time, about the mean: sums of squares of large numbers would lose the difference.
  for_each([&](size_t k, float value) {
    const double d = static_cast<double>(value) - result.mean[k];
    if (!std::isnan(d)) result.deviation[k] += d * d;
  });
  divide(result.deviation);
  for (double& d : result.deviation) d = std::sqrt(d);
  return result;
}

std::vector<Twins> find_twins(const std::array<Dataset, 3>& splits) {
  struct Place {
    Split split;
    int64_t sample;
  };
  const auto bytes = [](const DataInput& input, int64_t i) {
    const std::span<const uint8_t> sample = input.sample(i);
    return std::string_view(reinterpret_cast<const char*>(sample.data()), sample.size());
  };
  // Views into the data sets, of their first inputs; equal keys are compared byte by byte, so no
  // hash is trusted.
  std::unordered_map<std::string_view, Place> first;
  std::vector<Twins> twins;
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    const Dataset& data = splits[static_cast<size_t>(split)];
    for (int64_t i = 0; i < data.size(); ++i) {
      const auto [it, added] = first.try_emplace(bytes(data.inputs.at(0), i), Place{split, i});
      if (added) continue;
      const Place& other = it->second;
      const Dataset& others = splits[static_cast<size_t>(other.split)];
      bool same = others.inputs.size() == data.inputs.size() &&
                  others.inputs[0].shape == data.inputs[0].shape;
      for (size_t k = 1; same && k < data.inputs.size(); ++k)
        same = bytes(data.inputs[k], i) == bytes(others.inputs[k], other.sample);
      if (!same) continue;
      twins.push_back({other.split, split, other.sample, i,
                       others.labels[static_cast<size_t>(other.sample)] ==
                           data.labels[static_cast<size_t>(i)]});
    }
  }
  return twins;
}

}  // namespace fovea

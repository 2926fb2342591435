#include "fovea/train/attention_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "fovea/runtime/compile.h"

namespace fovea {

namespace {

constexpr int64_t kSquare = 56;  // pixels of a side
constexpr int64_t kGap = 4;

// Bright is much. Nearest pixels, so that patches stay visible.
Image heat_map(std::span<const float> values, int64_t height, int64_t width) {
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  const float range = *most - *least;
  Image map{height, width, 1, {}};
  for (const float v : values)
    map.pixels.push_back(
        static_cast<uint8_t>(range > 0 ? std::lround(255 * (v - *least) / range) : 0));
  return map;
}

// The picture with its upper left corner at (top, left), stretched to a square of kSquare.
void paste(Image& sheet, const Image& picture, int64_t top, int64_t left) {
  for (int64_t y = 0; y < kSquare; ++y)
    for (int64_t x = 0; x < kSquare; ++x)
      for (int64_t c = 0; c < sheet.channels; ++c) {
        const int64_t from =
            (y * picture.height / kSquare) * picture.width + x * picture.width / kSquare;
        const int64_t channel = picture.channels == 1 ? 0 : c;
        sheet.pixels[static_cast<size_t>(((top + y) * sheet.width + left + x) * sheet.channels +
                                         c)] =
            picture.pixels[static_cast<size_t>(from * picture.channels + channel)];
      }
}

// Rows of patches of an image whose patches are squares; 0 where so many keys are no such grid.
int64_t grid_rows(const Image& image, int64_t keys) {
  for (int64_t rows = 1; rows <= keys; ++rows)
    if (keys % rows == 0 && rows * image.width == keys / rows * image.height) return rows;
  return 0;
}

Image head_picture(const Image& image, const AttentionMap& map, int64_t index, int64_t head) {
  const std::span<const float> all = map.probabilities_of(index);
  const auto matrix = all.subspan(static_cast<size_t>(head * map.queries * map.keys),
                                  static_cast<size_t>(map.queries * map.keys));
  const int64_t rows = grid_rows(image, map.keys);
  if (rows == 0) return heat_map(matrix, map.queries, map.keys);
  std::vector<float> received(static_cast<size_t>(map.keys));
  for (size_t i = 0; i < matrix.size(); ++i) received[i % received.size()] += matrix[i];
  return heat_map(received, rows, map.keys / rows);
}

Dataset first_of(const Dataset& data, int64_t count) {
  std::vector<int64_t> indices(static_cast<size_t>(std::min(count, data.size())));
  std::iota(indices.begin(), indices.end(), 0);
  return select(data, indices);
}

}  // namespace

std::vector<float> attention_entropy(const AttentionMap& map, int64_t head) {
  std::vector<float> entropies;
  const int64_t images = static_cast<int64_t>(map.probabilities.size()) /
                         std::max<int64_t>(1, map.heads * map.queries * map.keys);
  for (int64_t i = 0; i < images; ++i)
    for (int64_t q = 0; q < map.queries; ++q) {
      const float* row = map.probabilities_of(i).data() + (head * map.queries + q) * map.keys;
      double entropy = 0;
      for (int64_t k = 0; k < map.keys; ++k)
        if (row[k] > 0)
          entropy -= static_cast<double>(row[k]) * std::log(static_cast<double>(row[k]));
      entropies.push_back(static_cast<float>(entropy));
    }
  return entropies;
}

Image attention_picture(const Image& image, const AttentionMaps& maps, int64_t index) {
  int64_t columns = 0;
  for (const AttentionMap& map : maps.nodes) columns = std::max(columns, map.heads);
  const auto rows = static_cast<int64_t>(maps.nodes.size());
  Image sheet;
  sheet.channels = image.channels;
  sheet.width = (columns + 1) * (kSquare + kGap) - kGap;
  sheet.height = std::max<int64_t>(rows, 1) * (kSquare + kGap) - kGap;
  sheet.pixels.assign(static_cast<size_t>(sheet.width * sheet.height * sheet.channels), 255);
  paste(sheet, image, 0, 0);
  for (int64_t row = 0; row < rows; ++row) {
    const AttentionMap& map = maps.nodes[static_cast<size_t>(row)];
    for (int64_t head = 0; head < map.heads; ++head)
      paste(sheet, head_picture(image, map, index, head), row * (kSquare + kGap),
            (head + 1) * (kSquare + kGap));
  }
  return sheet;
}

std::unique_ptr<AttentionWatch> AttentionWatch::make(const TrainStart& start,
                                                     const RecordOptions& options) {
  if (options.attention_images == 0 || start.examples.size() == 0) return nullptr;
  try {
    return std::unique_ptr<AttentionWatch>(
        new AttentionWatch(expose_attention(start.task.infer), start, options));
  } catch (const Error& e) {
    if (e.code() == ErrorCode::unsupported) return nullptr;
    throw;
  }
}

AttentionWatch::AttentionWatch(Graph exposed, const TrainStart& start, const RecordOptions& options)
    : examples_(first_of(start.examples, options.attention_images)),
      pictures_(examples_.input(kImageInput) == nullptr
                    ? 0  // there is nothing to draw attention on
                    : std::min(options.attention_pictures, examples_.size())),
      reader_(compile(exposed), variables_, start.pool) {}

void AttentionWatch::add(EventSummary& summary,
                         const std::map<std::string, HostTensorPtr>& weights) {
  for (auto& [name, t] : weights)
    if (variables_->has(name)) variables_->set(name, t->dtype, t->shape, t->bytes);
  const AttentionMaps maps =
      reader_.read(input_bytes(examples_, 0, examples_.size()), examples_.size());
  for (const AttentionMap& map : maps.nodes)
    for (int64_t head = 0; head < map.heads; ++head) {
      const std::vector<float> entropy = attention_entropy(map, head);
      const double mean = std::accumulate(entropy.begin(), entropy.end(), 0.0) /
                          static_cast<double>(std::max<size_t>(1, entropy.size()));
      summary.scalar(fmt::format("attention_entropy/{}/head_{}", map.name, head), mean);
      if (!map.spans.empty())
        summary.scalar(fmt::format("attention_span/{}/head_{}", map.name, head),
                       static_cast<double>(map.spans[static_cast<size_t>(head)]));
      summary.histogram(fmt::format("attention_entropy/{}/head_{}/spread", map.name, head),
                        entropy);
    }
  for (int64_t i = 0; i < pictures_; ++i) {
    const DataInput& input = *examples_.input(kImageInput);
    const std::span<const uint8_t> pixels = input.sample(i);
    const Image image{
        input.shape[0], input.shape[1], input.shape[2], {pixels.begin(), pixels.end()}};
    summary.image(fmt::format("attention/example_{}", i), attention_picture(image, maps, i));
  }
}

}  // namespace fovea

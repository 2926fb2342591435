#include "cli/series_sheet.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "cli/text_on_image.h"
#include "fovea/data/permutation.h"

namespace fovea::cli {
namespace {

constexpr size_t kRows = 12, kColumns = 4, kCurves = 6, kCells = 8;
constexpr int64_t kWidth = 240, kHeight = 120, kGap = 12, kText = 18;
constexpr int64_t kCellWidth = 130;
constexpr double kShown = 3;  // deviations about the mean

struct Colour {
  uint8_t red, green, blue;
};
// Okabe and Ito 2008.
constexpr std::array<Colour, kCurves> kColours = {
    {{0, 114, 178}, {213, 94, 0}, {0, 158, 115}, {204, 121, 167}, {230, 159, 0}, {86, 180, 233}}};
constexpr Colour kGrey = {225, 225, 230};

Image white(int64_t height, int64_t width) {
  Image image{height, width, 3, {}};
  image.pixels.assign(static_cast<size_t>(height * width * 3), 255);
  return image;
}

void dot(Image& image, int64_t y, int64_t x, Colour c) {
  if (y < 0 || x < 0 || y >= image.height || x >= image.width) return;
  uint8_t* at = image.pixels.data() + (y * image.width + x) * 3;
  at[0] = c.red;
  at[1] = c.green;
  at[2] = c.blue;
}

void box(Image& image, int64_t top, int64_t left, int64_t height, int64_t width, Colour c) {
  for (int64_t y = top; y < top + height; ++y)
    for (int64_t x = left; x < left + width; ++x) dot(image, y, x, c);
}

// Two pixels thick.
void line(Image& image, double x0, double y0, double x1, double y1, Colour c) {
  const auto steps =
      static_cast<int64_t>(std::ceil(std::max({std::abs(x1 - x0), std::abs(y1 - y0), 1.0})));
  for (int64_t i = 0; i <= steps; ++i) {
    const double f = static_cast<double>(i) / static_cast<double>(steps);
    box(image, std::llround(y0 + f * (y1 - y0)), std::llround(x0 + f * (x1 - x0)), 2, 2, c);
  }
}

struct Sample {
  int64_t length = 0, features = 0;
  std::vector<float> values;  // [steps, features]
};

Sample sample_of(const Dataset& data, int64_t i) {
  const DataInput& series = *data.input(kSeriesInput);
  Sample sample{series.shape[0], series.shape[1], {}};
  sample.values.resize(static_cast<size_t>(sample.length * sample.features));
  std::memcpy(sample.values.data(), series.sample(i).data(), series.sample_bytes());
  if (const DataInput* length = data.input(kLengthInput)) {
    int32_t count = 0;
    std::memcpy(&count, length->sample(i).data(), sizeof count);
    sample.length = count;
  }
  return sample;
}

struct Place {
  int64_t top = 0, left = 0, height = kHeight, width = kWidth;
};

void draw_curves(Image& sheet, const Sample& sample, const CurvesScale& scale, const Place& place) {
  const int64_t top = place.top, left = place.left, height = place.height, width = place.width;
  const int64_t steps = scale.steps;
  box(sheet, top, left, height, width, {246, 246, 249});
  box(sheet, top + height / 2, left, 1, width, kGrey);
  const auto x = [&](int64_t t) {
    return static_cast<double>(left) + static_cast<double>(t * (width - 2)) /
                                           static_cast<double>(std::max<int64_t>(steps - 1, 1));
  };
  if (sample.length < steps) {
    const auto end = std::llround(x(sample.length - 1)) + 2;
    box(sheet, top, end, height, left + width - end, kGrey);
  }
  for (size_t f = std::min<size_t>(kCurves, static_cast<size_t>(sample.features)); f-- > 0;) {
    const double deviation = scale.deviation[f] > 0 ? scale.deviation[f] : 1;
    const auto y = [&](int64_t t) {
      const double v =
          static_cast<double>(sample.values[static_cast<size_t>(t * sample.features) + f]);
      const double z = std::clamp((v - scale.mean[f]) / deviation, -kShown, kShown);
      return static_cast<double>(top) + (kShown - z) / (2 * kShown) * (height - 2);
    };
    for (int64_t t = 0; t + 1 < sample.length; ++t)
      if (!std::isnan(y(t)) && !std::isnan(y(t + 1)))
        line(sheet, x(t), y(t), x(t + 1), y(t + 1), kColours[f]);
  }
}

// A bar for each column, in a strip of equal width.
void draw_bars(Image& picture, const Sample& row, const CurvesScale& scale) {
  const int64_t columns = row.features, middle = picture.height / 2;
  box(picture, 0, 0, picture.height, picture.width, {246, 246, 249});
  for (int64_t c = 0; c < columns; ++c) {
    const auto f = static_cast<size_t>(c);
    const int64_t left = c * picture.width / columns, right = (c + 1) * picture.width / columns;
    const double deviation = scale.deviation[f] > 0 ? scale.deviation[f] : 1;
    const double z = (static_cast<double>(row.values[f]) - scale.mean[f]) / deviation;
    if (!std::isnan(z)) {
      const auto end = middle - std::llround(std::clamp(z, -kShown, kShown) / kShown *
                                             static_cast<double>(middle - 2));
      const int64_t gap = std::min<int64_t>((right - left) / 5, 8);
      box(picture, std::min<int64_t>(end, middle), left + gap, std::abs(end - middle) + 1,
          std::max<int64_t>(right - left - 2 * gap, 1), kColours[0]);
    }
    if (c > 0 && right - left > 6) box(picture, 0, left, picture.height, 1, kGrey);
  }
  box(picture, middle, 0, 1, picture.width, {90, 90, 98});
}

// Up to `most` samples of each class that has any, drawn by the seed.
std::vector<std::vector<int64_t>> drawn(const Dataset& data, size_t most, uint64_t seed) {
  std::vector<int64_t> order;
  philox_permutation(data.size(), seed, "sheet", 0, order);
  std::vector<std::vector<int64_t>> rows(data.class_names.size());
  for (const int64_t i : order) {
    auto& row = rows[static_cast<size_t>(data.labels[static_cast<size_t>(i)])];
    if (row.size() < most) row.push_back(i);
  }
  std::erase_if(rows, [](const auto& row) { return row.empty(); });
  if (rows.size() > kRows) rows.resize(kRows);
  return rows;
}

Image curves_sheet(const Dataset& data, const SeriesStatistics& train,
                   const std::vector<std::vector<int64_t>>& rows) {
  const int64_t step = kHeight + kText + kGap;
  Image sheet = white(2 * kGap + kText + static_cast<int64_t>(rows.size()) * step,
                      kGap + static_cast<int64_t>(kColumns) * (kWidth + kGap));
  const TextDrawer text(kText);
  const size_t curves = std::min(kCurves, data.columns.size());
  const int64_t room = (sheet.width - kGap) / static_cast<int64_t>(curves) - 22;
  for (size_t f = 0; f < curves; ++f) {  // the legend
    const int64_t left = kGap + static_cast<int64_t>(f) * (room + 22);
    box(sheet, kGap + kText / 2 - 2, left, 5, 14, kColours[f]);
    text.draw(sheet, data.columns[f], kGap, left + 18, room - 6);
  }
  const CurvesScale scale{train.mean, train.deviation, data.input(kSeriesInput)->shape[0]};
  for (size_t r = 0; r < rows.size(); ++r)
    for (size_t k = 0; k < rows[r].size(); ++k) {
      const int64_t top = 2 * kGap + kText + static_cast<int64_t>(r) * step;
      const int64_t left = kGap + static_cast<int64_t>(k) * (kWidth + kGap);
      draw_curves(sheet, sample_of(data, rows[r][k]), scale, {top, left});
      const auto label = static_cast<size_t>(data.labels[static_cast<size_t>(rows[r][k])]);
      text.draw(sheet, data.class_names[label], top + kHeight, left, kWidth);
    }
  return sheet;
}

Image table_sheet(const Dataset& data, const std::vector<std::vector<int64_t>>& rows) {
  std::vector<int64_t> all;
  for (const auto& row : rows) all.insert(all.end(), row.begin(), row.end());
  const size_t columns = std::min(kCells, data.columns.size());
  Image sheet = white(2 * kGap + (static_cast<int64_t>(all.size()) + 1) * (kText + 6),
                      kGap + static_cast<int64_t>(columns + 1) * kCellWidth);
  const TextDrawer text(kText);
  const auto cell = [&](size_t row, size_t column, const std::string& what) {
    text.draw(sheet, what, kGap + static_cast<int64_t>(row) * (kText + 6),
              kGap + static_cast<int64_t>(column) * kCellWidth, kCellWidth - kGap);
  };
  cell(0, 0, "class");
  for (size_t f = 0; f < columns; ++f) cell(0, f + 1, data.columns[f]);
  box(sheet, kGap + kText + 1, kGap, 1, sheet.width - 2 * kGap, {90, 90, 98});
  for (size_t r = 0; r < all.size(); ++r) {
    const Sample sample = sample_of(data, all[r]);
    cell(r + 1, 0, data.class_names[static_cast<size_t>(data.labels[static_cast<size_t>(all[r])])]);
    for (size_t f = 0; f < columns; ++f)
      cell(r + 1, f + 1,
           std::isnan(sample.values[f]) ? "no value" : fmt::format("{:.5g}", sample.values[f]));
  }
  return sheet;
}

}  // namespace

Image curves_picture(const Dataset& data, int64_t sample, const CurvesScale& scale, int64_t height,
                     int64_t width) {
  Image picture = white(height, width);
  if (data.input(kSeriesInput)->shape[0] == 1) {
    draw_bars(picture, sample_of(data, sample), scale);
    return picture;
  }
  draw_curves(picture, sample_of(data, sample), scale, {0, 0, height, width});
  return picture;
}

std::vector<std::string> curve_colours() {
  std::vector<std::string> colours;
  for (const Colour& c : kColours)
    colours.push_back(fmt::format("#{:02x}{:02x}{:02x}", c.red, c.green, c.blue));
  return colours;
}

Image series_sheet(const Dataset& data, const SeriesStatistics& train, uint64_t seed) {
  const auto rows = drawn(data, kColumns, seed);
  return data.input(kSeriesInput)->shape[0] == 1 ? table_sheet(data, rows)
                                                 : curves_sheet(data, train, rows);
}

}  // namespace fovea::cli

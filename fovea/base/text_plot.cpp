#include "fovea/base/text_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace fovea {

namespace {

constexpr size_t kLabel = 9;  // columns of the numbers on the left
constexpr const char* kEighths[] = {" ",      "\u2581", "\u2582", "\u2583", "\u2584",
                                    "\u2585", "\u2586", "\u2587", "\u2588"};

// The mean of what falls into each column; NaN where nothing does.
std::vector<double> columns_of(std::span<const std::pair<double, double>> points, size_t columns) {
  const double first = points.front().first, last = points.back().first;
  std::vector<double> sums(columns), counts(columns);
  for (const auto& [x, y] : points) {
    if (!std::isfinite(x) || !std::isfinite(y)) continue;
    const double share = last > first ? (x - first) / (last - first) : 0;
    const auto column = static_cast<size_t>(
        std::clamp(share * static_cast<double>(columns), 0.0, static_cast<double>(columns - 1)));
    sums[column] += y;
    counts[column] += 1;
  }
  for (size_t i = 0; i < columns; ++i) sums[i] = counts[i] > 0 ? sums[i] / counts[i] : NAN;
  return sums;
}

}  // namespace

std::vector<std::string> text_plot(std::span<const std::pair<double, double>> points, size_t width,
                                   size_t height) {
  if (points.empty() || height == 0 || width < kLabel + 4) return {};
  // Few points get columns of equal width each.
  const size_t room = width - kLabel - 2;
  const size_t columns = std::min(room, points.size());
  const size_t wide = room / columns;
  const std::vector<double> values = columns_of(points, columns);
  double least = INFINITY, most = -INFINITY;
  for (const double v : values)
    if (std::isfinite(v)) {
      least = std::min(least, v);
      most = std::max(most, v);
    }
  if (!(least <= most)) return {};
  // In eighths of a line, from 1, so that the least value is seen.
  const auto eighths = [&](double v) {
    const double share = most > least ? (v - least) / (most - least) : 0.5;
    return 1 + static_cast<size_t>(std::lround(share * static_cast<double>(8 * height - 1)));
  };
  std::vector<std::string> lines;
  for (size_t row = 0; row < height; ++row) {
    std::string label;
    if (row == 0)
      label = fmt::format("{:.4g}", most);
    else if (row + 1 == height && least < most)
      label = fmt::format("{:.4g}", least);
    std::string line = fmt::format("{:>{}} \u2502", label, kLabel);
    const size_t below = 8 * (height - 1 - row);
    for (const double v : values) {
      const size_t filled = std::isfinite(v) ? eighths(v) : 0;
      const char* block = kEighths[filled <= below ? 0 : std::min<size_t>(filled - below, 8)];
      for (size_t i = 0; i < wide; ++i) line += block;
    }
    lines.push_back(std::move(line));
  }
  const std::string first = fmt::format("{:g}", points.front().first);
  const std::string last = fmt::format("{:g}", points.back().first);
  const size_t drawn = columns * wide;
  const size_t gap = drawn > first.size() + last.size() ? drawn - first.size() - last.size() : 1;
  lines.push_back(fmt::format("{:>{}} {}{}{}", "", kLabel, ' ' + first, std::string(gap, ' '),
                              points.size() > 1 ? last : ""));
  return lines;
}

}  // namespace fovea

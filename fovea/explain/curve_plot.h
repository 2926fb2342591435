// Curves with error bands as an SVG picture, for a page or a file of its own.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fovea {

struct PlotCurve {
  std::string name;
  std::vector<double> y;      // at even distances from x = 0 to 1
  std::vector<double> error;  // half of the band around it; empty: none
};

struct Plot {
  std::string title, x_label, y_label;
  std::vector<PlotCurve> curves;  // the first is what the others are compared with, and grey
};

// y from 0 to 1 (probabilities). Lines differ in dashes as well as in colours, and in light and
// dark surroundings they can be read. At most six curves.
std::string svg_plot(const Plot& plot);

}  // namespace fovea

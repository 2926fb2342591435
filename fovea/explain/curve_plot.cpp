#include "fovea/explain/curve_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "fovea/base/error.h"
#include "fovea/formats/xml.h"

namespace fovea {
namespace {

constexpr double kWidth = 440, kHeight = 330;
constexpr double kLeft = 66, kRight = 26, kTop = 34, kLine = 18;

struct Look {
  const char* colour;
  const char* dash;
};
// Apart for all common kinds of colour blindness, and of middle lightness.
constexpr std::array<Look, 6> kLooks = {{{"#808080", "3 3"},
                                         {"#2f7fc1", "none"},
                                         {"#d4692b", "9 3"},
                                         {"#2a9d78", "6 3 1 3"},
                                         {"#b04fa8", "1 3"},
                                         {"#a08000", "12 4"}}};

constexpr const char* kStyle =
    "<style>.plot text{fill:#333;font:13px system-ui,sans-serif}.plot .title{font-weight:600;"
    "font-size:15px}.plot .grid{stroke:#8884;stroke-width:1}.plot .axis{stroke:#888}"
    "@media(prefers-color-scheme:dark){.plot text{fill:#ddd}}</style>";

}  // namespace

std::string svg_plot(const Plot& plot) {
  FOVEA_ASSERT(!plot.curves.empty() && plot.curves.size() <= kLooks.size());
  const double legend = kLine * static_cast<double>(plot.curves.size());
  const double bottom = kHeight - 44, total = kHeight + legend;
  const auto px = [](double x) { return kLeft + x * (kWidth - kLeft - kRight); };
  const auto py = [&](double y) { return bottom - std::clamp(y, 0.0, 1.0) * (bottom - kTop); };

  std::string svg = fmt::format(
      "<svg class=\"plot\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" "
      "role=\"img\" aria-label=\"{}\">{}\n<text class=\"title\" x=\"{}\" y=\"18\">{}</text>\n",
      kWidth, total, xml_escaped(plot.title), kStyle, kLeft, xml_escaped(plot.title));
  for (int i = 0; i <= 4; ++i) {
    const double v = i / 4.0;
    svg += fmt::format(
        "<line class=\"{}\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:.0f} %</text>\n",
        i == 0 ? "axis" : "grid", px(0), px(1), py(v), py(v), kLeft - 6, py(v) + 4, v, px(v),
        bottom + 17, 100 * v);
  }
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", px(0.5),
                     bottom + 36, xml_escaped(plot.x_label));
  svg += fmt::format(
      "<text x=\"14\" y=\"{:.1f}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {:.1f})\">"
      "{}</text>\n",
      py(0.5), py(0.5), xml_escaped(plot.y_label));

  for (size_t c = 0; c < plot.curves.size(); ++c) {
    const PlotCurve& curve = plot.curves[c];
    FOVEA_ASSERT(curve.y.size() >= 2);
    const auto x = [&](size_t i) {
      return px(static_cast<double>(i) / static_cast<double>(curve.y.size() - 1));
    };
    std::string line, band;
    for (size_t i = 0; i < curve.y.size(); ++i)
      line += fmt::format("{:.1f},{:.1f} ", x(i), py(curve.y[i]));
    if (!curve.error.empty()) {
      FOVEA_ASSERT(curve.error.size() == curve.y.size());
      for (size_t i = 0; i < curve.y.size(); ++i)
        band += fmt::format("{:.1f},{:.1f} ", x(i), py(curve.y[i] + curve.error[i]));
      for (size_t i = curve.y.size(); i-- > 0;)
        band += fmt::format("{:.1f},{:.1f} ", x(i), py(curve.y[i] - curve.error[i]));
      svg += fmt::format("<polygon points=\"{}\" fill=\"{}\" opacity=\"0.22\"/>\n", band,
                         kLooks[c].colour);
    }
    svg += fmt::format(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" "
        "stroke-dasharray=\"{}\"/>\n",
        line, kLooks[c].colour, kLooks[c].dash);
    const double y = kHeight + 4 + kLine * static_cast<double>(c);
    svg += fmt::format(
        "<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" "
        "stroke-width=\"2.5\" stroke-dasharray=\"{}\"/><text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n",
        kLeft, kLeft + 34, y, y, kLooks[c].colour, kLooks[c].dash, kLeft + 42, y + 4,
        xml_escaped(curve.name));
  }
  return svg + "</svg>\n";
}

}  // namespace fovea

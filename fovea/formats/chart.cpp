#include "fovea/formats/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "fovea/formats/xml.h"

namespace fovea {

namespace {

constexpr double kWidth = 1040, kMargin = 24, kGap = 24;
constexpr double kChartHeight = 260, kPlotLeft = 58, kPlotTop = 34, kPlotBottom = 40;
constexpr double kRow = 22;
constexpr double kCharacter = 6.7;  // the width of one at 12 pixels, about

struct Style {
  std::string_view colour, dash;
};
constexpr std::array<Style, 6> kStyles = {{{"#0072b2", ""},
                                           {"#d55e00", "7 3"},
                                           {"#009e73", "2 3"},
                                           {"#cc79a7", "9 3 2 3"},
                                           {"#e69f00", ""},
                                           {"#56b4e9", "7 3"}}};
const Style& style_of(size_t kind) { return kStyles[kind % kStyles.size()]; }

// Bytes of the character that begins the text; 0 where it is no UTF-8 that XML takes.
size_t character_bytes(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = at(0);
  if (first < 0x80) return 1;
  const size_t bytes = first >= 0xf0 && first < 0xf5 ? 4
                       : first >= 0xe0               ? 3
                       : first >= 0xc2               ? 2
                                                     : 0;
  if (first >= 0xf5 || bytes == 0 || text.size() < bytes) return 0;
  for (size_t i = 1; i < bytes; ++i)
    if ((at(i) & 0xc0) != 0x80) return 0;
  if ((first == 0xe0 && at(1) < 0xa0) || (first == 0xed && at(1) > 0x9f) ||
      (first == 0xf0 && at(1) < 0x90) || (first == 0xf4 && at(1) > 0x8f) ||
      (first == 0xef && at(1) == 0xbf && at(2) >= 0xbe))
    return 0;
  return bytes;
}

// As XML takes it, at most so many characters; the rest becomes an ellipsis.
std::string text_of(std::string_view text, size_t most) {
  std::vector<std::string> characters;
  while (!text.empty()) {
    const size_t bytes = character_bytes(text);
    characters.push_back(bytes ? xml_escaped(text.substr(0, bytes)) : "\xef\xbf\xbd");
    text.remove_prefix(std::max<size_t>(bytes, 1));
  }
  const bool whole = characters.size() <= most;
  if (!whole) characters.resize(std::max<size_t>(most, 1) - 1);
  std::string out;
  for (const std::string& c : characters) out += c;
  return whole ? out : out + "\xe2\x80\xa6";
}

struct Range {
  double least = INFINITY, most = -INFINITY;
  void add(double v) {
    least = std::min(least, v);
    most = std::max(most, v);
  }
  // Something to draw even for one value, or none.
  void widen() {
    if (!(least <= most)) least = 0, most = 1;
    if (least == most) {
      const double half = least == 0 ? 1 : std::abs(least) * 0.1;
      least -= half;
      most += half;
    }
  }
};

bool is_finite(const std::pair<double, double>& p) {
  return std::isfinite(p.first) && std::isfinite(p.second);
}

std::string draw_line(const ChartLine& line, const auto& x, const auto& y) {
  const Style& style = style_of(line.kind);
  std::string path, dots;
  bool drawing = false;
  const size_t count = line.points.size();
  for (size_t i = 0; i < count; ++i) {
    const auto& p = line.points[i];
    if (!is_finite(p)) {
      drawing = false;
      continue;
    }
    path += fmt::format("{}{:.1f} {:.1f}", drawing ? "L" : "M", x(p.first), y(p.second));
    drawing = true;
    // A few points are shown as such, and so one alone is seen.
    if (count <= 60)
      dots += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.4\" fill=\"{}\"/>\n",
                          x(p.first), y(p.second), style.colour);
  }
  if (path.empty()) return {};
  const std::string dash =
      style.dash.empty() ? "" : fmt::format(" stroke-dasharray=\"{}\"", style.dash);
  return fmt::format(
             "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"{} "
             "stroke-linejoin=\"round\"/>\n",
             path, style.colour, dash) +
         dots;
}

std::string draw_chart(const Chart& chart, double left, double top, double width) {
  Range xs, ys;
  for (const ChartLine& line : chart.lines)
    for (const auto& p : line.points)
      if (is_finite(p)) {
        xs.add(p.first);
        ys.add(p.second);
      }
  const bool empty = !(xs.least <= xs.most);
  xs.widen();
  ys.widen();
  const double room = (ys.most - ys.least) * 0.04;
  ys.least -= room;
  ys.most += room;
  const double plot_left = left + kPlotLeft, plot_right = left + width - 8;
  const double plot_top = top + kPlotTop, plot_bottom = top + kChartHeight - kPlotBottom;
  const auto x = [&](double v) {
    return plot_left + (v - xs.least) / (xs.most - xs.least) * (plot_right - plot_left);
  };
  const auto y = [&](double v) {
    return plot_bottom - (v - ys.least) / (ys.most - ys.least) * (plot_bottom - plot_top);
  };
  std::string out = fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"h\">{}</text>\n", left,
                                top + 18, text_of(chart.title, 60));
  for (const double tick : axis_ticks(ys.least, ys.most, 5))
    out += fmt::format(
        "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"g\"/>"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"t\" text-anchor=\"end\">{:.4g}</text>\n",
        plot_left, y(tick), plot_right, y(tick), plot_left - 6, y(tick) + 4, tick);
  for (const double tick : axis_ticks(xs.least, xs.most, 6, chart.counts))
    out += fmt::format(
        "<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" class=\"a\"/>"
        "<text x=\"{0:.1f}\" y=\"{3:.1f}\" class=\"t\" text-anchor=\"middle\">{4:.6g}</text>\n",
        x(tick), plot_bottom, plot_bottom + 4, plot_bottom + 17, tick);
  out += fmt::format(
      "<line x1=\"{0:.1f}\" y1=\"{2:.1f}\" x2=\"{1:.1f}\" y2=\"{2:.1f}\" class=\"a\"/>"
      "<text x=\"{1:.1f}\" y=\"{3:.1f}\" class=\"t\" text-anchor=\"end\">{4}</text>\n",
      plot_left, plot_right, plot_bottom, plot_bottom + 33, text_of(chart.x_title, 40));
  if (empty)
    out += fmt::format(
        "<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"t\" text-anchor=\"middle\">nothing "
        "was recorded</text>\n",
        (plot_left + plot_right) / 2, (plot_top + plot_bottom) / 2);
  for (const ChartLine& line : chart.lines) out += draw_line(line, x, y);
  return out;
}

std::string draw_table(const ChartTable& table, double top) {
  std::string out = fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"h\">{}</text>\n", kMargin,
                                top + 18, text_of(table.title, 100));
  double y = top + 30;
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const auto& row = table.rows[i];
    const double column =
        (kWidth - 2 * kMargin) / static_cast<double>(std::max<size_t>(1, row.size()));
    const auto most = static_cast<size_t>(column / kCharacter) - 2;
    for (size_t c = 0; c < row.size(); ++c) {
      // What is cut off stands in the tooltip.
      const std::string whole = text_of(row[c], 10000), shown = text_of(row[c], most);
      const std::string tip = shown == whole ? "" : "<title>" + whole + "</title>";
      out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"{}\">{}{}</text>\n",
                         kMargin + column * static_cast<double>(c), y + 15, i == 0 ? "t" : "c", tip,
                         shown);
    }
    y += kRow;
    out += fmt::format(
        "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>\n", kMargin,
        y, kWidth - kMargin, y, i == 0 ? "a" : "g");
  }
  return out;
}

}  // namespace

std::vector<double> axis_ticks(double least, double most, int count, bool whole) {
  const double range = most - least;
  if (!(range > 0) || !std::isfinite(range) || count < 1) return {};
  const double rough = range / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough) {
      step = factor * power;
      break;
    }
  if (whole) step = std::max(step, 1.0);
  std::vector<double> ticks;
  const double first = std::ceil(least / step - 1e-9);
  for (int i = 0; i <= 2 * count; ++i) {
    const double tick = (first + i) * step;
    if (tick > most + step * 1e-9) break;
    ticks.push_back(std::abs(tick) < step * 1e-9 ? 0 : tick);
  }
  return ticks;
}

std::string svg_page(const ChartPage& page) {
  double y = kMargin;
  std::string body = fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"title\">{}</text>\n",
                                 kMargin, y + 18, text_of(page.title, 90));
  y += 30;
  if (!page.subtitle.empty()) {
    body += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"t\">{}</text>\n", kMargin, y + 12,
                        text_of(page.subtitle, 150));
    y += 22;
  }
  for (size_t i = 0; i < page.legend.size(); ++i) {
    const Style& style = style_of(i);
    body += fmt::format(
        "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" "
        "stroke-width=\"2.4\" stroke-dasharray=\"{}\"/>"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"c\">{}</text>\n",
        kMargin, y + 10, kMargin + 34, y + 10, style.colour,
        style.dash.empty() ? "none" : style.dash, kMargin + 44, y + 14,
        text_of(page.legend[i], 140));
    y += kRow;
  }
  y += kGap / 2;
  const double width = (kWidth - 2 * kMargin - kGap) / 2;
  for (size_t i = 0; i < page.charts.size(); ++i) {
    body += draw_chart(page.charts[i], kMargin + (i % 2 == 0 ? 0 : width + kGap), y, width);
    if (i % 2 == 1 || i + 1 == page.charts.size()) y += kChartHeight + kGap / 2;
  }
  for (const ChartTable& table : page.tables) {
    body += draw_table(table, y);
    y += 30 + kRow * static_cast<double>(table.rows.size()) + kGap;
  }
  y += kMargin / 2;
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
             "viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"system-ui, 'DejaVu Sans', Arial, "
             "sans-serif\">\n<title>{2}</title>\n"
             "<style>text{{fill:#222;font-size:12px}} .title{{font-size:20px;font-weight:600}} "
             ".h{{font-size:14px;font-weight:600}} .t{{fill:#666;font-size:11px}} "
             ".g{{stroke:#e4e4e4;stroke-width:1}} .a{{stroke:#888;stroke-width:1}}</style>\n"
             "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
             kWidth, y, text_of(page.title, 90)) +
         body + "</svg>\n";
}

}  // namespace fovea

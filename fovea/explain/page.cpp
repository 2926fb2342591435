#include "fovea/explain/page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "fovea/explain/colour_scale.h"
#include "fovea/explain/column_bars.h"
#include "fovea/explain/curve_plot.h"
#include "fovea/formats/xml.h"

namespace fovea {
namespace {

constexpr int64_t kSide = 176, kHeadSide = 88;  // pixels of the pictures
constexpr size_t kClasses = 5;                  // shown of each image
constexpr double kShown = 0.985;                // share of the heads' numbers within their scale

constexpr std::string_view kStyle = R"(
:root{color-scheme:light dark;--ink:#1d1d22;--soft:#5c5c66;--paper:#fff;--card:#f5f5f8;--line:#dcdce4;
--bar:#5b62b0;--wrong:#a63a12;--right:#1d6b45}
@media(prefers-color-scheme:dark){:root{--ink:#ececf1;--soft:#a5a5b2;--paper:#16161b;--card:#212129;
--line:#3a3a46;--bar:#8d95e8;--wrong:#ff9d73;--right:#6fd3a2}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.45 system-ui,sans-serif}
main{max-width:1200px;margin:0 auto;padding:20px 16px 48px}
h1{font-size:1.5rem;margin:.2em 0;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:0;overflow-wrap:anywhere}
p{margin:.5em 0;max-width:46em}
.soft{color:var(--soft);font-size:.9rem}
article,section{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:14px;margin:14px 0}
header{display:flex;flex-wrap:wrap;gap:4px 12px;align-items:baseline;margin-bottom:10px}
.right{color:var(--right)}.wrong{color:var(--wrong);font-weight:600}
.row{display:flex;flex-wrap:wrap;gap:16px 18px;align-items:flex-start}
figure{margin:0;width:176px}
figure img{display:block;width:100%;border-radius:4px}
figcaption{font-size:.85rem;line-height:1.3;margin-top:5px}
.scale{display:flex;align-items:center;gap:6px;font-size:.75rem;color:var(--soft);margin-top:5px}
.scale i{flex:1;height:9px;border-radius:2px}
.bars{width:210px}
.bar{margin-bottom:7px;font-size:.85rem}
.bar div{display:flex;justify-content:space-between;gap:8px}
.bar b{font-weight:400}.bar.top b,.bar.top span{font-weight:600}
.track{display:block;height:7px;border-radius:4px;background:var(--line);overflow:hidden}
.track i{display:block;height:100%;background:var(--bar)}
.heads{flex:1 1 300px;min-width:0}
.layer{display:flex;flex-wrap:wrap;gap:4px;align-items:center;margin-bottom:4px}
.layer span{width:20px;font-size:.75rem;color:var(--soft)}
.layer img{display:block;width:62px;border-radius:3px}
.heads .scale{max-width:280px}
.plots{display:flex;flex-wrap:wrap;gap:16px}
.plots svg{flex:1 1 320px;max-width:520px;min-width:0;width:100%;height:auto}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:4px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
@media(max-width:480px){th{white-space:normal;vertical-align:bottom}th,td{padding:4px 6px}main{padding:12px 10px 32px}article,section{padding:10px}.row{gap:12px 10px}
figure,.bars{width:calc(50% - 5px)}.heads{flex-basis:100%}.layer img{width:calc(25% - 10px)}}
)";

std::string data_uri(const Image& image) {
  return "data:image/png;base64," + base64(encode_png(image));
}

std::string scale_bar(Range range) {
  return fmt::format(
      "<div class=\"scale\"><span>{}</span><i class=\"ramp\"></i><span>{}</span></div>",
      share_text(range.low), high_text(range));
}

std::string figure(const Image& image, const std::string& alt, const std::string& below,
                   const std::string& caption) {
  return fmt::format("<figure><img src=\"{}\" alt=\"{}\">{}<figcaption>{}</figcaption></figure>\n",
                     data_uri(image), xml_escaped(alt), below, caption);
}

std::string heat_figure(const ExplainReport& report, const ExplainedImage& of,
                        const std::vector<double>& shares, const std::string& caption) {
  const Range range = range_of(shares);
  return figure(heat_map(of.image, shares, report.grid, range, kSide), "heat map over the input",
                scale_bar(range), caption);
}

std::string bars(const ExplainReport& report, const Explanation& e) {
  std::vector<int32_t> order(e.probabilities.size());
  std::iota(order.begin(), order.end(), 0);
  const auto p = [&](int32_t c) { return e.probabilities[static_cast<size_t>(c)]; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return p(a) > p(b); });
  order.resize(std::min(order.size(), kClasses));
  std::string html = "<div class=\"bars\">";
  for (const int32_t c : order)
    html += fmt::format(
        "<div class=\"bar{}\"><div><b>{}</b><span>{:.1f}&nbsp;%</span></div><span "
        "class=\"track\"><i style=\"width:{:.1f}%\"></i></span></div>",
        c == order[0] ? " top" : "", xml_escaped(class_name(report, c)), 100 * p(c), 100 * p(c));
  return html + "</div>\n";
}

std::string heads(const ExplainReport& report, const ExplainedImage& of) {
  const Range range = head_range(of.explanation);
  std::string html = "<div class=\"heads\">";
  for (size_t l = 0; l < of.explanation.layers.size(); ++l) {
    const Explanation::Layer& layer = of.explanation.layers[l];
    html += fmt::format("<div class=\"layer\"><span title=\"{}\">{}</span>",
                        xml_escaped(layer.name), l + 1);
    for (size_t h = 0; h < layer.heads.size(); ++h)
      html +=
          fmt::format("<img src=\"{}\" alt=\"layer {} head {}\">",
                      data_uri(heat_map(of.image, layer.heads[h], report.grid, range, kHeadSide)),
                      l + 1, h + 1);
    html += "</div>";
  }
  return html + scale_bar(range) +
         "<figcaption>Attention received, a line for each layer, a picture for each head"
         "</figcaption></div>\n";
}

// What the columns of numbers add; nothing for images.
std::string effects(const ExplainReport& report, const ExplainedImage& of) {
  const Explanation& e = of.explanation;
  const bool row = report.grid.kind == TokenKind::column;
  std::vector<ColumnBar> columns;
  for (size_t c = 0; c < of.column_effects.size(); ++c) {
    ColumnBar column;
    column.name = c < report.columns.size() ? report.columns[c] : fmt::format("column {}", c + 1);
    if (c < report.colours.size()) column.colour = report.colours[c];
    column.effect = of.column_effects[c];
    if (row) {
      column.name = fmt::format("{}. {}", c + 1, column.name);
      column.cells = {c >= of.values.size()      ? ""
                      : std::isnan(of.values[c]) ? "no value"
                                                 : fmt::format("{:.5g}", of.values[c]),
                      share_text(e.rollout[c]), share_text(e.gradient_rollout[c])};
    }
    columns.push_back(std::move(column));
  }
  if (columns.empty()) return "";
  return column_bars(
      row ? std::vector<std::string>{"value", "rollout", "weighted"} : std::vector<std::string>{},
      std::move(columns),
      fmt::format("What each column adds to <b>{}</b>, in percentage points",
                  xml_escaped(class_name(report, e.explained))));
}

std::string example(const ExplainReport& report, const ExplainedImage& of) {
  const Explanation& e = of.explanation;
  const std::string predicted = class_name(report, e.predicted);
  std::string verdict;
  if (!of.truth.empty())
    verdict = of.truth == predicted
                  ? fmt::format("<span class=\"right\">&#10003; {}</span>", xml_escaped(predicted))
                  : fmt::format("<span class=\"wrong\">&#10007; {}, truly {}</span>",
                                xml_escaped(predicted), xml_escaped(of.truth));
  else
    verdict = fmt::format("<span>{}</span>", xml_escaped(predicted));
  return fmt::format(
      "<article><header><h2>{}</h2>{}</header><div class=\"row\">\n{}{}{}{}{}{}</div></article>\n",
      xml_escaped(of.name), verdict, figure(enlarged(of.image, kSide), "the input", "", "Input"),
      bars(report, e), heat_figure(report, of, e.rollout, "Attention rollout"),
      heat_figure(report, of, e.gradient_rollout,
                  fmt::format("Gradient-weighted rollout, for <b>{}</b>",
                              xml_escaped(class_name(report, e.explained)))),
      effects(report, of), heads(report, of));
}

std::string plus_minus(const Estimate& e) {
  return fmt::format("{:.3f}&nbsp;&plusmn;&nbsp;{:.3f}", e.mean, e.error);
}

std::string ranking_text(Ranking ranking) {
  switch (ranking) {
    case Ranking::rollout:
      return "attention rollout";
    case Ranking::gradient_rollout:
      return "gradient-weighted rollout";
    case Ranking::last_layer:
      break;
  }
  return "attention of the last layer";
}

std::string faithfulness_section(const ExplainReport& report) {
  const Faithfulness& f = *report.faithfulness;
  const TokenWords words = token_words(report.grid.kind);
  std::string html = fmt::format(
      "<section><h2>Does the answer hang on what is ranked high?</h2><p>The {} of {} {} "
      "were removed in the order of each ranking (in {} parts; {} random orders of each), and {} "
      "put "
      "in their place. Deletion: the sooner the probability of the class falls, the better. "
      "Insertion, from nothing to the whole: the sooner it rises, the better. Bands and "
      "&plusmn; are standard errors over the {}.</p><div class=\"plots\">",
      words.parts, f.images, words.examples, f.steps, f.random_orders, xml_escaped(report.removed),
      words.examples);
  for (const Plot& plot : faithfulness_plots(f, report.grid.kind)) html += svg_plot(plot);
  html +=
      "</div><div class=\"wide\"><table><tr><th>area under the curve</th><th>deletion, highest "
      "first</th><th>below random</th><th>insertion, highest first</th><th>above random</th></tr>";
  for (const RankingFaithfulness& r : f.rankings)
    html += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                        ranking_text(r.ranking), plus_minus(r.highest_first.area),
                        plus_minus(r.deletion_gain), plus_minus(r.lowest_first.area),
                        plus_minus(r.insertion_gain));
  html += fmt::format("<tr><td>random order</td><td>{}</td><td></td><td>{}</td><td></td></tr>",
                      plus_minus(f.random.area), plus_minus(f.random.area));
  return html +
         "</table></div><p class=\"soft\">Putting the highest-ranked in first is removing the "
         "lowest-ranked first, read backwards: the area of insertion is that of removing the "
         "lowest first.</p></section>\n";
}

PlotCurve curve_of(const std::string& name, const RemovalCurve& removal, bool backwards) {
  PlotCurve curve{name, {}, {}};
  for (const Estimate& e : removal.probability) {
    curve.y.push_back(e.mean);
    curve.error.push_back(e.error);
  }
  if (backwards) {
    std::reverse(curve.y.begin(), curve.y.end());
    std::reverse(curve.error.begin(), curve.error.end());
  }
  return curve;
}

std::string ramp_style() {
  std::string stops;
  for (int i = 0; i <= 14; ++i) {
    const Colour c = scale_colour(i / 14.0);
    stops += fmt::format(",#{:02x}{:02x}{:02x}", c.red, c.green, c.blue);
  }
  return fmt::format(".ramp{{background:linear-gradient(90deg{})}}\n", stops);
}

}  // namespace

std::string class_name(const ExplainReport& report, int32_t of) {
  const auto i = static_cast<size_t>(of);
  return i < report.labels.size() ? report.labels[i] : std::to_string(of);
}

Range head_range(const Explanation& explanation) {
  std::vector<double> all;
  for (const auto& layer : explanation.layers)
    for (const auto& head : layer.heads) all.insert(all.end(), head.begin(), head.end());
  const Range whole = range_of(all);
  const auto high =
      all.begin() + static_cast<std::ptrdiff_t>(kShown * static_cast<double>(all.size() - 1));
  std::nth_element(all.begin(), high, all.end());
  if (*high <= 0 || *high >= whole.high) return {.low = 0, .high = whole.high};
  return {.low = 0, .high = *high, .more = true};
}

TokenWords token_words(TokenKind kind) {
  switch (kind) {
    case TokenKind::steps:
      return {"steps", "sequences"};
    case TokenKind::column:
      return {"columns", "rows"};
    case TokenKind::patch:
      break;
  }
  return {"patches", "images"};
}

std::vector<Plot> faithfulness_plots(const Faithfulness& f, TokenKind kind) {
  const TokenWords words = token_words(kind);
  Plot deletion{"Deletion, highest-ranked first",
                fmt::format("{} removed", words.parts),
                "probability of the class",
                {}};
  Plot insertion{"Insertion, highest-ranked first",
                 fmt::format("{} put in", words.parts),
                 "probability of the class",
                 {}};
  deletion.curves.push_back(curve_of("random order", f.random, false));
  insertion.curves.push_back(curve_of("random order", f.random, true));
  for (const RankingFaithfulness& r : f.rankings) {
    deletion.curves.push_back(curve_of(ranking_text(r.ranking), r.highest_first, false));
    insertion.curves.push_back(curve_of(ranking_text(r.ranking), r.lowest_first, true));
  }
  return {std::move(deletion), std::move(insertion)};
}

std::string explain_page(const ExplainReport& report) {
  std::string html = fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n{}\n<meta "
      "name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Where {} "
      "looks</title>\n<style>{}{}{}</style></head><body><main>\n<h1>Where {} looks</h1>\n<p "
      "class=\"soft\">{}</p>\n",
      kPageMark, xml_escaped(report.model), kStyle, column_bars_style(), ramp_style(),
      xml_escaped(report.model), xml_escaped(report.about));
  html += fmt::format(
      "<p>Light means more. 1x is an even share: what each of the {} tokens would get if all "
      "counted the same; each picture has its own scale. <b>Attention rollout</b> follows "
      "attention through all layers back to the input, whatever the answer was. "
      "<b>Gradient-weighted rollout</b> counts only attention that speaks for the named "
      "class.</p>\n",
      report.grid.tokens());
  if (report.grid.kind == TokenKind::column)
    html +=
        "<p>A token is a column of the table: in the pictures a strip, from left to right in the "
        "order of the table; its bar is the value, in deviations above or below the mean of "
        "training.</p>\n";
  if (report.grid.kind == TokenKind::steps)
    html += fmt::format(
        "<p>A token is {}, from left to right; curves are values, in deviations about the mean of "
        "training.</p>\n",
        report.grid.steps == 1 ? "a step in time"
                               : fmt::format("{} steps in time", report.grid.steps));
  if (report.grid.kind != TokenKind::patch)
    html +=
        "<p><b>What a column adds</b> is measured: by how much the probability of the named class "
        "falls when the mean of training stands in its place; less than nothing where the column "
        "speaks against the class. Columns that say the same may each seem to add "
        "nothing.</p>\n";
  for (const ExplainedImage& image : report.images) html += example(report, image);
  if (report.faithfulness) html += faithfulness_section(report);
  return html + "</main></body></html>\n";
}

std::string base64(std::span<const std::byte> bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t three = 0;
    for (size_t k = 0; k < 3; ++k)
      three = three << 8 | (i + k < bytes.size() ? std::to_integer<uint32_t>(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k)
      text += i + k <= bytes.size() ? kDigits[three >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

}  // namespace fovea

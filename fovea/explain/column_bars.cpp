#include "fovea/explain/column_bars.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "fovea/base/error.h"
#include "fovea/formats/xml.h"

namespace fovea {

std::string_view column_bars_style() {
  // What speaks against a class is known by its side and its sign, not by its colour alone.
  return R"(.columns{flex:1 1 380px;min-width:0;max-width:560px}
.columns table{width:100%;font-size:.82rem}
.columns th{font-weight:400;color:var(--soft);padding:2px 6px;white-space:normal;vertical-align:bottom}
.columns td{padding:3px 6px}.columns td:first-child{overflow-wrap:break-word;white-space:normal;max-width:12em}
.columns td.bars2{width:30%;min-width:44px}
.curve{display:inline-block;width:14px;height:4px;border-radius:2px;margin-right:6px;vertical-align:middle}
.both{display:flex;height:9px;border-radius:2px;background:var(--line)}
.both span{flex:1;display:flex}.both span:first-child{justify-content:flex-end;border-right:1px solid var(--soft)}
@media(max-width:480px){.columns{flex-basis:100%}.columns th,.columns td{padding:3px;font-size:.76rem}}
.both i{display:block;height:100%;background:var(--bar)}.both span:first-child i{background:var(--wrong)}
)";
}

std::string column_bars(const std::vector<std::string>& headings, std::vector<ColumnBar> columns,
                        const std::string& caption, size_t most) {
  std::stable_sort(columns.begin(), columns.end(), [](const ColumnBar& a, const ColumnBar& b) {
    return std::abs(a.effect) > std::abs(b.effect);
  });
  const double longest = std::max(columns.empty() ? 0 : std::abs(columns[0].effect), 0.01);
  std::string html = "<div class=\"columns\"><table><tr><th>column</th>";
  for (const std::string& heading : headings)
    html += fmt::format("<th>{}</th>", xml_escaped(heading));
  html += "<th></th><th>adds</th></tr>\n";
  for (size_t i = 0; i < std::min(columns.size(), most); ++i) {
    const ColumnBar& column = columns[i];
    FOVEA_ASSERT(column.cells.size() == headings.size());
    html += "<tr><td>";
    if (!column.colour.empty())
      html += fmt::format("<i class=\"curve\" style=\"background:{}\"></i>",
                          xml_escaped(column.colour));
    html += fmt::format("{}</td>", xml_escaped(column.name));
    for (const std::string& cell : column.cells)
      html += fmt::format("<td>{}</td>", xml_escaped(cell));
    const char* sign = std::abs(column.effect) < 0.0005 ? "" : column.effect < 0 ? "&minus;" : "+";
    const double part = 100 * std::abs(column.effect) / longest;
    html += fmt::format(
        "<td class=\"bars2\"><div class=\"both\"><span><i style=\"width:{:.1f}%\"></i></span><span>"
        "<i style=\"width:{:.1f}%\"></i></span></div></td><td>{}{:.1f}</td></tr>\n",
        column.effect < 0 ? part : 0, column.effect < 0 ? 0 : part, sign,
        100 * std::abs(column.effect));
  }
  html += "</table>";
  if (columns.size() > most)
    html += fmt::format("<p class=\"soft\">and {} more columns, each with less</p>",
                        columns.size() - most);
  return html + fmt::format("<figcaption>{}</figcaption></div>\n", caption);
}

}  // namespace fovea

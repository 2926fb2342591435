// Bars that say how much each column of a table counts for an answer, as a part of the page.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fovea {

struct ColumnBar {
  std::string name;
  std::string colour = {};         // of its curve, "#d55e00"; empty: it has none
  double effect = 0;               // on the probability, see column_effects.h
  std::vector<std::string> cells;  // what stands between name and bar, one for each heading
};

// HTML: a line for each column, those with the largest effects first, at most `most` of them; what
// is left out is counted below. A bar to the right speaks for the class, one to the left against
// it; the longest fills its half, and where even that is short (a hundredth), less. caption: HTML.
std::string column_bars(const std::vector<std::string>& headings, std::vector<ColumnBar> columns,
                        const std::string& caption, size_t most = 12);

// Its part of the page's style.
std::string_view column_bars_style();

}  // namespace fovea

#include "cli/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <utility>

#include "fovea/base/error.h"
#include "fovea/base/terminal.h"

namespace fovea::cli {

namespace {

constexpr size_t kGap = 2;     // between columns
constexpr size_t kFewest = 8;  // characters that a column of words keeps

}  // namespace

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

void Table::row(std::vector<std::string> cells, std::string mark) {
  FOVEA_ASSERT(cells.size() <= columns_.size());
  cells.resize(columns_.size());
  rows_.push_back({std::move(cells), std::move(mark)});
}

std::string Table::text(size_t width, bool colours) const {
  std::vector<size_t> widths;
  size_t mark = 0;
  for (const Column& column : columns_) widths.push_back(text_width(column.title));
  for (const Row& row : rows_) {
    for (size_t i = 0; i < widths.size(); ++i)
      widths[i] = std::max(widths[i], text_width(row.cells[i]));
    if (!row.mark.empty()) mark = std::max(mark, 1 + text_width(row.mark));
  }
  size_t all = std::accumulate(widths.begin(), widths.end(), mark + kGap * (widths.size() - 1));
  // The widest column of words gives first, that which names the row last.
  const auto can_give = [&](size_t i) {
    return columns_[i].align == Align::left && widths[i] > kFewest;
  };
  while (width > 0 && all > width) {
    size_t widest = 0;
    for (size_t i = 1; i < widths.size(); ++i)
      if (can_give(i) && (widest == 0 || widths[i] > widths[widest])) widest = i;
    if (!can_give(widest)) break;
    --widths[widest];
    --all;
  }
  std::string out;
  const auto line = [&](const Row& row, bool bold) {
    std::string words;
    for (size_t i = 0; i < widths.size(); ++i) {
      const std::string cell = shortened(row.cells[i], widths[i]);
      const std::string space(widths[i] - text_width(cell), ' ');
      if (i > 0) words.append(kGap, ' ');
      words += columns_[i].align == Align::left ? cell + space : space + cell;
    }
    if (!row.mark.empty()) words += " " + row.mark;
    words.erase(words.find_last_not_of(' ') + 1);
    out += inked(words, Ink::bold, bold && colours) + "\n";
  };
  Row titles;
  for (const Column& column : columns_) titles.cells.push_back(column.title);
  line(titles, true);
  for (const Row& row : rows_) line(row, !row.mark.empty());
  return out;
}

void Table::print() const {
  fmt::print("{}", text(is_terminal(stdout) ? terminal_columns(stdout) : 0, takes_colours(stdout)));
}

}  // namespace fovea::cli

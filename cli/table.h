// A table of words and numbers on standard output: as wide as its cells, but no wider than the
// terminal, where words lose their middles. In a file or a pipe they stay whole.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace fovea::cli {

class Table {
 public:
  enum class Align { left, right };  // words, numbers
  struct Column {
    std::string title;
    Align align = Align::left;
  };

  explicit Table(std::vector<Column> columns);

  // As many cells as columns; less is filled with empty ones. What stands in `mark` follows the
  // row, and on a terminal the row is bold then.
  void row(std::vector<std::string> cells, std::string mark = {});

  // In at most `width` characters a line, if the words can give that many; 0: any.
  std::string text(size_t width = 0, bool colours = false) const;
  // To standard output.
  void print() const;

 private:
  struct Row {
    std::vector<std::string> cells;
    std::string mark;
  };
  std::vector<Column> columns_;
  std::vector<Row> rows_;
};

}  // namespace fovea::cli

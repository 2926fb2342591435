// Curves as a page of SVG, which any browser shows: charts of lines in two columns, and tables.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace fovea {

// What is not finite breaks the line.
struct ChartLine {
  size_t kind = 0;  // which colour and dash: that of the page's legend
  std::vector<std::pair<double, double>> points;
};

struct Chart {
  std::string title;
  std::string x_title;
  std::vector<ChartLine> lines;
  bool counts = false;  // x counts something (steps, epochs): its axis shows whole numbers
};

struct ChartTable {
  std::string title;
  std::vector<std::vector<std::string>> rows;  // the first holds the headings
};

struct ChartPage {
  std::string title;
  std::string subtitle;             // may be empty
  std::vector<std::string> legend;  // of the kinds of lines, 0 first
  std::vector<Chart> charts;
  std::vector<ChartTable> tables;
};

// A document of SVG 1.1. Texts may hold anything: what XML does not allow is replaced. The colours
// are those of Okabe and Ito (2008), which the colour-blind tell apart.
std::string svg_page(const ChartPage& page);

// Round numbers that cover [least, most], about `count` of them, from the smallest; `whole`: none
// between whole numbers.
std::vector<double> axis_ticks(double least, double most, int count, bool whole = false);

}  // namespace fovea

#include "fovea/formats/chart.h"

#include <gtest/gtest.h>

#include <limits>

namespace fovea {
namespace {

size_t count(const std::string& text, std::string_view part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(Chart, TicksAreRoundNumbersWithinTheRange) {
  EXPECT_EQ(axis_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  const auto ticks = axis_ticks(-0.3, 0.7, 5);
  ASSERT_EQ(ticks.size(), 5u);
  EXPECT_NEAR(ticks.front(), -0.2, 1e-12);
  EXPECT_EQ(ticks[1], 0);
  EXPECT_NEAR(ticks.back(), 0.6, 1e-12);
  EXPECT_TRUE(axis_ticks(1, 1, 5).empty());
  // What is counted has nothing in between.
  EXPECT_EQ(axis_ticks(1, 3, 6), (std::vector<double>{1, 1.5, 2, 2.5, 3}));
  EXPECT_EQ(axis_ticks(1, 3, 6, true), (std::vector<double>{1, 2, 3}));
  EXPECT_EQ(axis_ticks(0.9, 1.1, 6, true), (std::vector<double>{1}));
  EXPECT_EQ(axis_ticks(0, 100, 5, true), axis_ticks(0, 100, 5));
}

TEST(Chart, EachLineIsAPathAndAGapBreaksIt) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  ChartPage page;
  page.title = "A page";
  page.legend = {"first", "second"};
  page.charts = {
      {"loss", "step", {{0, {{1, 2}, {2, 1}, {3, nan}, {4, 0.5}, {5, 0.4}}}, {1, {{1, 1}}}}}};
  const std::string svg = svg_page(page);
  EXPECT_TRUE(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  EXPECT_EQ(count(svg, "<path "), 2u);
  const size_t path = svg.find("<path d=\"");
  const std::string first = svg.substr(path, svg.find('"', path + 9) - path);
  EXPECT_EQ(count(first, "M"), 2u);
  EXPECT_EQ(count(first, "L"), 2u);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(count(svg, "<circle "), 5u);
  for (const char* text : {"A page", "first", "second", "loss", "step"})
    EXPECT_NE(svg.find(text), std::string::npos) << text;
}

TEST(Chart, TextsCannotBreakTheDocument) {
  ChartPage page;
  page.title = "a<b> & \"c\" \x01\xff\xed\xa0\x80";
  page.tables = {{"table", {{"key", "A"}, {"<script>", std::string(400, 'x')}}}};
  const std::string svg = svg_page(page);
  EXPECT_NE(svg.find("a&lt;b&gt; &amp; &quot;c&quot;"), std::string::npos);
  EXPECT_EQ(svg.find("<script>"), std::string::npos);
  for (const char bad : {'\x01', '\xff'}) EXPECT_EQ(svg.find(bad), std::string::npos);
  EXPECT_EQ(svg.find("\xed\xa0\x80"), std::string::npos);
  // The long cell is cut, and whole in its tooltip.
  EXPECT_EQ(count(svg, std::string(400, 'x')), 1u);
  EXPECT_NE(svg.find("\xe2\x80\xa6"), std::string::npos);
}

TEST(Chart, AChartWithoutPointsSaysSo) {
  ChartPage page;
  page.charts = {{"loss", "step", {{0, {}}}}};
  EXPECT_NE(svg_page(page).find("nothing was recorded"), std::string::npos);
}

}  // namespace
}  // namespace fovea

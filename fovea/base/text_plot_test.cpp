#include "fovea/base/text_plot.h"

#include <gtest/gtest.h>

#include <limits>

namespace fovea {
namespace {

using Points = std::vector<std::pair<double, double>>;

TEST(TextPlot, ARisingCurveFillsMoreFromColumnToColumn) {
  Points points;
  for (int i = 1; i <= 8; ++i) points.emplace_back(i, i);
  const auto lines = text_plot(points, 19, 1);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], "        8 \u2502\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588");
  EXPECT_EQ(lines[1], "           1      8");
}

TEST(TextPlot, TheLeastAndTheLargestValueStandOnTheLeft) {
  const Points points = {{10, 0.25}, {20, 4}};
  const auto lines = text_plot(points, 21, 3);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_TRUE(lines[0].starts_with("        4 \u2502")) << lines[0];
  EXPECT_TRUE(lines[2].starts_with("     0.25 \u2502")) << lines[2];
  // The first point stays at the ground, the second reaches the top; each has five columns.
  EXPECT_EQ(lines[0], "        4 \u2502     \u2588\u2588\u2588\u2588\u2588");
  EXPECT_EQ(lines[2],
            "     0.25 \u2502\u2581\u2581\u2581\u2581\u2581\u2588\u2588\u2588\u2588\u2588");
}

TEST(TextPlot, ManyPointsAreMeansAndGapsStayEmpty) {
  Points points;
  for (int i = 0; i < 1000; ++i)
    points.emplace_back(i, i >= 500 && i < 600 ? std::numeric_limits<double>::quiet_NaN() : i);
  const auto lines = text_plot(points, 21, 1);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].substr(lines[0].find("\u2502") + 3 + 5 * 3, 1), " ") << lines[0];
}

TEST(TextPlot, NothingAndOnePointAreFine) {
  EXPECT_TRUE(text_plot(Points{}, 40, 5).empty());
  EXPECT_TRUE(text_plot(Points{{1, std::numeric_limits<double>::infinity()}}, 40, 5).empty());
  EXPECT_TRUE(text_plot(Points{{1, 2}}, 5, 5).empty());
  const auto one = text_plot(Points{{1, 2}}, 40, 5);
  ASSERT_EQ(one.size(), 6u);
  EXPECT_TRUE(one[0].starts_with("        2 ")) << one[0];
}

}  // namespace
}  // namespace fovea

#include "fovea/explain/token_grid.h"

#include <gtest/gtest.h>

#include <functional>

#include "fovea/base/error.h"
#include "fovea/graph/ops.h"
#include "fovea/models/series.h"
#include "fovea/models/vision.h"
#include "fovea/tasks/task.h"

namespace fovea {
namespace {

Graph vision(int64_t height, int64_t width, const VisionOptions& options) {
  Graph g;
  const Value image = ops::input(g, kImageInput, DType::u8, {Size::symbol("B"), height, width, 3});
  g.set_output(kLogits, vision_classifier(g, image, 4, options, {}));
  return g;
}

TEST(TokenGrid, IsThatOfThePatchesBehindTheStem) {
  const TokenGrid plain = token_grid(vision(28, 28, {}));
  EXPECT_EQ(plain.rows, 7);
  EXPECT_EQ(plain.columns, 7);
  const TokenGrid wide = token_grid(vision(24, 64, {.stem = {8}, .patch = 4}));
  EXPECT_EQ(wide.rows, 3);
  EXPECT_EQ(wide.columns, 8);
  EXPECT_EQ(wide.tokens(), 24);
}

Graph series(int64_t steps, const SeriesOptions& options) {
  Graph g;
  const Value x = ops::input(g, kSeriesInput, DType::f32, {Size::symbol("B"), steps, 2});
  const std::vector<double> mean = {0, 0}, deviation = {1, 1};
  g.set_output(kLogits, series_classifier(g, {x, {}, mean, deviation}, 3, options, {}));
  return g;
}

TEST(TokenGrid, TokensOfASequenceLieBesideEachOther) {
  const Graph g = series(10, {.patch = 4});
  const TokenGrid grid = token_grid(g);
  EXPECT_EQ(grid.rows, 1);
  EXPECT_EQ(grid.columns, 3);
  EXPECT_EQ(grid.kind, TokenKind::steps);
  EXPECT_EQ(grid.steps, 4);
}

TEST(TokenGrid, TokensOfARowAreItsColumns) {
  const TokenGrid grid = token_grid(series(1, {}));
  EXPECT_EQ(grid.rows, 1);
  EXPECT_EQ(grid.columns, 2);
  EXPECT_EQ(grid.kind, TokenKind::column);
  EXPECT_EQ(token_grid(series(1, {.tokens = SeriesTokens::steps})).kind, TokenKind::steps);
}

TEST(TokenGrid, BoxesCoverEachPixelOnce) {
  const TokenGrid grid{3, 4};
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{12, 16}, {13, 30}, {28, 7}}) {
    std::vector<int> covered(static_cast<size_t>(height * width));
    for (int64_t t = 0; t < grid.tokens(); ++t) {
      const TokenGrid::Box box = grid.box(t, height, width);
      for (int64_t y = box.top; y < box.bottom; ++y)
        for (int64_t x = box.left; x < box.right; ++x)
          ++covered[static_cast<size_t>(y * width + x)];
    }
    for (int n : covered) EXPECT_EQ(n, 1);
  }
  const TokenGrid::Box box = grid.box(6, 12, 16);
  EXPECT_EQ(box.top, 4);
  EXPECT_EQ(box.bottom, 8);
  EXPECT_EQ(box.left, 8);
  EXPECT_EQ(box.right, 12);
}

std::string error_of(const Graph& graph) {
  try {
    token_grid(graph);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::unsupported);
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

TEST(TokenGrid, TokensThatAreNoPatchesHaveNone) {
  Graph text;
  const Value words = ops::input(text, "words", DType::i32, {Size::symbol("B"), 9});
  const Value x = ops::embedding(text, "embed", words, 50, 8);
  text.set_output("y", ops::attention(text, x, x, x, {.heads = 2}, "attn"));
  EXPECT_NE(error_of(text).find("attn lie on no grid"), std::string::npos);
  EXPECT_NE(error_of(Graph{}).find("no attention"), std::string::npos);

  // One token more than there are patches.
  Graph more;
  const Value image = ops::input(more, kImageInput, DType::f32, {Size::symbol("B"), 8, 8, 2});
  const Value p = ops::pad(more, ops::patches(more, image, 2), 1, 1, 0);
  more.set_output("y", ops::attention(more, p, p, p, {.heads = 2}, "attn"));
  EXPECT_NE(error_of(more).find("17 tokens"), std::string::npos);

  // Numbers in a model of somebody's own.
  Graph other;
  const Value s = ops::input(other, kSeriesInput, DType::f32, {Size::symbol("B"), 5, 8});
  other.set_output("y", ops::attention(other, s, s, s, {.heads = 2}, "attn"));
  EXPECT_NE(error_of(other).find("cannot be told"), std::string::npos);
}

}  // namespace
}  // namespace fovea

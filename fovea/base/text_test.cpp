#include "fovea/base/text.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

namespace fovea {
namespace {

TEST(EditDistance, CountsInsertionsDeletionsReplacementsAndSwaps) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("epoch", "epochs"), 1u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("btach", "batch"), 1u);
  EXPECT_EQ(edit_distance("abc", "xyz"), 3u);
}

TEST(Nearest, FindsTheNameThatWasMeant) {
  const std::array<std::string_view, 3> names = {"batch", "epochs", "learning_rate"};
  EXPECT_EQ(nearest("epoch", names), "epochs");
  EXPECT_EQ(nearest("learnin_rte", names), "learning_rate");
  EXPECT_EQ(did_you_mean("bacth", names), "; did you mean 'batch'?");
}

TEST(Nearest, SaysNothingWhereNothingIsNear) {
  const std::vector<std::string> names = {"batch", "epochs"};
  EXPECT_EQ(nearest("temperature", names), "");
  EXPECT_EQ(did_you_mean("temperature", names), "");
  EXPECT_EQ(nearest("x", std::vector<std::string>{}), "");
  EXPECT_EQ(nearest(std::string(100000, 'x'), names), "");
}

TEST(Nearest, TakesTheFirstOfEquallyNearNames) {
  const std::vector<std::string> names = {"bat", "cat"};
  EXPECT_EQ(nearest("rat", names), "bat");
}

}  // namespace
}  // namespace fovea

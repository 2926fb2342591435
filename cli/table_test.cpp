#include "cli/table.h"

#include <gtest/gtest.h>

namespace fovea::cli {
namespace {

Table example() {
  Table table({{"name"}, {"kernel"}, {"ms", Table::Align::right}});
  table.row({"vit.enc.0.attn", "attention:short_avx3", "0.0077"});
  table.row({"softmax", "softmax:ref", "12.5"}, "*");
  return table;
}

TEST(Table, ColumnsAreAsWideAsTheirCells) {
  EXPECT_EQ(example().text(),
            "name            kernel                    ms\n"
            "vit.enc.0.attn  attention:short_avx3  0.0077\n"
            "softmax         softmax:ref             12.5 *\n");
}

TEST(Table, WordsGiveWayToANarrowTerminal) {
  EXPECT_EQ(example().text(36),
            "name            kernel          ms\n"
            "vit.enc.0.attn  atte..avx3  0.0077\n"
            "softmax         soft..:ref    12.5 *\n");
  // The column that names the rows gives last.
  EXPECT_EQ(example().text(32),
            "name          kernel        ms\n"
            "vit.e...attn  att..vx3  0.0077\n"
            "softmax       sof..ref    12.5 *\n");
}

TEST(Table, NumbersStayWhole) {
  const std::string text = example().text(5);
  EXPECT_NE(text.find("0.0077"), std::string::npos) << text;
  EXPECT_NE(text.find("vit..ttn"), std::string::npos) << text;
}

TEST(Table, ARowThatIsMarkedIsBoldWhereThereAreColours) {
  const std::string text = example().text(0, true);
  EXPECT_TRUE(text.starts_with("\x1b[1mname")) << text;
  EXPECT_NE(text.find("\x1b[1msoftmax"), std::string::npos) << text;
  EXPECT_EQ(text.find("\x1b[1mvit"), std::string::npos) << text;
}

TEST(Table, CellsThatAreMissingAreEmpty) {
  Table table({{"a"}, {"b"}});
  table.row({"1"});
  EXPECT_EQ(table.text(), "a  b\n1\n");
}

}  // namespace
}  // namespace fovea::cli

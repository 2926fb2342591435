#include "fovea/formats/csv.h"

#include <gtest/gtest.h>

#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

CsvTable parse(std::string_view text, char separator = 0) {
  return parse_csv(to_bytes(text), "t.csv", separator);
}

std::vector<std::vector<std::string>> fields(const CsvTable& table) {
  std::vector<std::vector<std::string>> all;
  for (int64_t r = 0; r < table.rows(); ++r) {
    all.emplace_back();
    for (int64_t c = 0; c < table.columns(); ++c) all.back().emplace_back(table.at(r, c));
  }
  return all;
}

using Rows = std::vector<std::vector<std::string>>;

TEST(Csv, ReadsQuotedFieldsWithSeparatorsQuotesAndLineBreaks) {
  const CsvTable table = parse("a,\"b, c\",\"say \"\"hi\"\"\"\r\n\"two\nlines\",,\"\"\r\nx,y,z");
  EXPECT_EQ(fields(table),
            (Rows{{"a", "b, c", "say \"hi\""}, {"two\nlines", "", ""}, {"x", "y", "z"}}));
  EXPECT_EQ(table.line(1), 2);
  EXPECT_EQ(table.line(2), 4);
  EXPECT_EQ(table.place(2), "t.csv:4");
}

TEST(Csv, GuessesTheSeparator) {
  EXPECT_EQ(parse("a,b\n1,2\n").separator(), ',');
  EXPECT_EQ(parse("a;b\n1,5;2,5\n").separator(), ';');
  EXPECT_EQ(parse("a\tb\n1, x\t2\n").separator(), '\t');
  EXPECT_EQ(parse("a|b|c\n1,2|2|3\n").separator(), '|');
  EXPECT_EQ(parse("alone\n1\n").separator(), ',');
  EXPECT_EQ(parse("\"a;b\",c\n\"d\",e\n").separator(), ',');
  EXPECT_EQ(fields(parse("a,b;c\n", ';')), (Rows{{"a,b", "c"}}));
}

TEST(Csv, SkipsAByteOrderMarkAndEmptyLines) {
  const CsvTable table = parse("\xef\xbb\xbf\nn\xc3\xa4me,b\r\n\r\n\n1,2\r\n\n");
  EXPECT_EQ(fields(table), (Rows{{"n\xc3\xa4me", "b"}, {"1", "2"}}));
  EXPECT_EQ(table.line(1), 5);
}

TEST(Csv, AHeaderWithoutANameForTheRowNumbersGetsAnEmptyOne) {
  EXPECT_EQ(fields(parse("\"a\",\"b\"\n\"1\",2,3\n\"2\",4,5\n")),
            (Rows{{"", "a", "b"}, {"1", "2", "3"}, {"2", "4", "5"}}));
}

TEST(Csv, AnEmptyFileHasNoRows) {
  EXPECT_EQ(parse("").rows(), 0);
  EXPECT_EQ(parse("\n\r\n").rows(), 0);
  EXPECT_EQ(parse("").columns(), 0);
}

TEST(Csv, WhatIsNoTableIsAnErrorWithItsLine) {
  const auto corrupt = ErrorCode::corrupt;
  expect_error(corrupt, "[csv] t.csv:3: expected 2 fields as in the rows before, got 3",
               [] { parse("a,b\n1,2\n1,2,3\n"); });
  expect_error(corrupt, "stands in double quotes", [] { parse("a,b\n1,2,3\n1,2,3\n1,2\n"); });
  expect_error(corrupt, "t.csv:2: a quoted field has no end", [] { parse("a,b\n1,\"2\n3\n"); });
  expect_error(corrupt, "t.csv:2: a quote inside a field", [] { parse("a,b\n1,2\"\n"); });
  expect_error(corrupt, "expected ',' or the end of the line", [] { parse("a,b\n\"1\"x,2\n"); });
  expect_error(corrupt, "NUL byte", [] { parse(std::string_view("a,b\n1,\0\n", 8)); });
  expect_error(ErrorCode::invalid_argument, "as separator", [] { parse("a b\n", ' '); });
  expect_error(ErrorCode::not_found, "none.csv", [] { read_csv("none.csv"); });
}

TEST(Csv, ReadsNumbersAndRefusesWhatIsNone) {
  const CsvTable table = parse("1,-2.5e3, +7 ,x,,nan,1e999,+-1,12abc\n");
  EXPECT_EQ(csv_number(table, 0, 0), 1);
  EXPECT_EQ(csv_number(table, 0, 1), -2500);
  EXPECT_EQ(csv_number(table, 0, 2), 7);
  for (int64_t c = 3; c < table.columns(); ++c) {
    expect_error(ErrorCode::corrupt, "t.csv:1: column", [&] { csv_number(table, 0, c); });
  }
}

TEST(Csv, ReadsTheSharedSensorReadings) {
  const std::filesystem::path path = shared_data("occupancy/datatraining.txt");
  if (path.empty()) GTEST_SKIP() << "the shared data are not here";
  const CsvTable table = read_csv(path);
  ASSERT_EQ(table.rows(), 8144);
  ASSERT_EQ(table.columns(), 8);
  EXPECT_EQ(table.at(0, 7), "Occupancy");
  int64_t occupied = 0;
  for (int64_t r = 1; r < table.rows(); ++r) occupied += csv_number(table, r, 7) == 1;
  EXPECT_EQ(occupied, 1729);
}

}  // namespace
}  // namespace fovea

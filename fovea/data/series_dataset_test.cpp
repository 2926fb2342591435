#include "fovea/data/series_dataset.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "fovea/data/splits.h"
#include "fovea/data/statistics.h"
#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"
#include "fovea/formats/test_npy.h"

namespace fovea {
namespace {

class Series : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    write_file_atomically(folder_ / name, text);
    return (folder_ / name).string();
  }
  // A table whose parts are not cut.
  DataOptions csv(const std::string& text, const std::string& name = "t.csv") {
    DataOptions options;
    options.kind = DataKind::csv;
    options.file = write(name, text);
    options.validation = options.test = 0;
    return options;
  }

  const TemporaryFolder temporary_;
  const std::filesystem::path folder_ = temporary_.path();
};

std::vector<float> numbers(const Dataset& data, int64_t i) {
  const auto bytes = data.input(kSeriesInput)->sample(i);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}
std::vector<int32_t> lengths(const Dataset& data) {
  std::vector<int32_t> values(static_cast<size_t>(data.size()));
  std::memcpy(values.data(), data.input(kLengthInput)->bytes.data(),
              values.size() * sizeof(int32_t));
  return values;
}
using Floats = std::vector<float>;

// Rows x = 0, 1, 2, ... whose class is odd or even.
std::string counting(int rows) {
  std::string text = "x,label\n";
  for (int i = 0; i < rows; ++i) text += fmt::format("{},{}\n", i, i % 2 ? "odd" : "even");
  return text;
}

TEST_F(Series, EachRowOfATableIsASampleOfItsColumnsWithNames) {
  const Dataset data =
      load_dataset(csv("id,a,class,b\n1,0.5,yes,-2\n2,1e1,no,3\n3,7,yes,8\n"), Split::train);
  EXPECT_EQ(data.columns, (std::vector<std::string>{"id", "a", "b"}));
  EXPECT_EQ(data.class_names, (std::vector<std::string>{"no", "yes"}));
  EXPECT_EQ(data.labels, (std::vector<int32_t>{1, 0, 1}));
  EXPECT_EQ(numbers(data, 1), (Floats{2, 10, 3}));
  EXPECT_EQ(data.input(kSeriesInput)->shape, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(data.input(kLengthInput), nullptr);
  EXPECT_NE(data.name(1).find("t.csv, line 3"), std::string::npos) << data.name(1);
}

TEST_F(Series, TheRecipeChoosesColumnsAndTheirOrder) {
  DataOptions options = csv(",a,state,b,c\n1,2,on,3,x\n2,4,off,5,y\n");
  options.label_column = "state";
  options.ignore = {"c"};  // words; the column without a name, of row numbers, is left out anyway
  EXPECT_EQ(load_dataset(options, Split::train).columns, (std::vector<std::string>{"a", "b"}));
  options.features = {"b", "a"};
  EXPECT_EQ(numbers(load_dataset(options, Split::train), 0), (Floats{3, 2}));
  options.classes = {"on", "off"};
  EXPECT_EQ(load_dataset(options, Split::train).labels, (std::vector<int32_t>{0, 1}));
}

TEST_F(Series, WindowsTakeTheLabelOfTheirLastRowAndPartsShareNoRow) {
  DataOptions options = csv(counting(100));
  options.window = 5;
  options.stride = 2;
  options.validation = 0.2;
  options.test = 0.3;
  std::set<float> seen;
  int64_t samples = 0;
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    const Dataset data = load_dataset(options, split);
    std::set<float> here;
    for (int64_t i = 0; i < data.size(); ++i, ++samples) {
      const Floats x = numbers(data, i);
      ASSERT_EQ(x.size(), 5u);
      for (size_t k = 1; k < 5; ++k) EXPECT_EQ(x[k], x[k - 1] + 1);
      EXPECT_EQ(data.labels[static_cast<size_t>(i)], static_cast<int32_t>(x[4]) % 2);
      for (const float v : x) {
        EXPECT_EQ(seen.count(v), 0u) << "row " << v << " lies in two parts";
        here.insert(v);
      }
    }
    EXPECT_GT(data.size(), 5) << static_cast<int>(split);
    // Time: parts follow each other.
    if (!seen.empty()) {
      EXPECT_GT(*here.begin(), *seen.rbegin());
    }
    seen.insert(here.begin(), here.end());
  }
  EXPECT_GE(samples, 48 - 4);  // two at each border are lost at most
  options.split_by = SplitBy::random;
  expect_error(ErrorCode::invalid_argument, "would put the same rows into train and test",
               [&] { load_dataset(options, Split::train); });
}

TEST_F(Series, RowsAreCutAtRandomEachClassInProportionAndTheSameEachTime) {
  DataOptions options = csv(counting(100));
  options.test = 0.2;
  const Dataset test = load_dataset(options, Split::test);
  EXPECT_EQ(class_counts(test), (std::vector<int64_t>{10, 10}));
  EXPECT_EQ(load_dataset(options, Split::train).size(), 80);
  EXPECT_EQ(load_dataset(options, Split::test).inputs[0].bytes, test.inputs[0].bytes);
  options.validation_seed = 1;
  EXPECT_NE(load_dataset(options, Split::test).inputs[0].bytes, test.inputs[0].bytes);
  expect_error(ErrorCode::invalid_argument, "there is no validation split",
               [&] { load_dataset(options, Split::validation); });
  EXPECT_FALSE(has_split(options, Split::validation));
  EXPECT_TRUE(has_split(options, Split::test));
}

TEST_F(Series, GroupsAreSequencesOfTheirOwnLengthHoweverRowsAreMixed) {
  DataOptions options =
      csv("who,x,label\na,1,up\nb,10,down\na,2,up\na,3,up\nb,9,down\nc,5,up\nd,4,down\n");
  options.group_column = "who";
  const Dataset data = load_dataset(options, Split::train);
  EXPECT_EQ(data.size(), 4);
  EXPECT_EQ(numbers(data, 0), (Floats{1, 2, 3}));
  EXPECT_EQ(numbers(data, 1), (Floats{10, 9, 0}));
  EXPECT_EQ(lengths(data), (std::vector<int32_t>{3, 2, 1, 1}));
  EXPECT_NE(data.name(1).find("t.csv, b"), std::string::npos) << data.name(1);
  options.steps = 2;
  expect_error(ErrorCode::invalid_argument, "t.csv, a: 3 steps, the model takes at most 2",
               [&] { load_dataset(options, Split::train); });
  // Windows stay within a group, and whole groups go to a part.
  options.steps = 0;
  options.window = 2;
  EXPECT_EQ(load_dataset(options, Split::train).size(), 3);
  options.test = 0.3;
  const Dataset test = load_dataset(options, Split::test);
  const Dataset train = load_dataset(options, Split::train);
  EXPECT_EQ(test.size() + train.size(), 3);
  options.split_by = SplitBy::time;
  expect_error(ErrorCode::invalid_argument, "time is for one series",
               [&] { load_dataset(options, Split::train); });
  options.split_by = SplitBy::group;
  options.test = 0.9;
  options.validation = 0.09;
  expect_error(ErrorCode::invalid_argument, "4 groups in 'who' are too few",
               [&] { load_dataset(options, Split::train); });
}

TEST_F(Series, PartsMayBeFilesOrAColumn) {
  DataOptions options = csv("x,label\n1,a\n2,b\n3,a\n");
  options.test_file = write("test.csv", "label,x\nb,7\n");
  const Dataset test = load_dataset(options, Split::test);
  EXPECT_EQ(numbers(test, 0), (Floats{7}));
  EXPECT_EQ(test.labels, (std::vector<int32_t>{1}));
  EXPECT_NE(test.name(0).find("test.csv, line 2"), std::string::npos);
  write("test.csv", "label,x\nc,7\n");
  expect_error(ErrorCode::corrupt, "test.csv:2: the label 'c' is none of the classes",
               [&] { load_dataset(options, Split::test); });
  write("test.csv", "label,y\nb,7\n");
  expect_error(ErrorCode::invalid_argument, "there is no column 'x' in",
               [&] { load_dataset(options, Split::test); });

  options = csv("x,label,split\n1,a,train\n2,b,train\n3,a,val\n4,b,test\n");
  EXPECT_EQ(load_dataset(options, Split::train).size(), 2);
  EXPECT_EQ(numbers(load_dataset(options, Split::validation), 0), (Floats{3}));
  EXPECT_EQ(numbers(load_dataset(options, Split::test), 0), (Floats{4}));
  expect_error(ErrorCode::corrupt, "t.csv:2: column 'split': expected train, validation or test",
               [&] { load_dataset(csv("x,label,split\n1,a,tarin\n2,b,test\n"), Split::train); });
}

TEST_F(Series, WhatIsWrongInATableIsNamedByFileLineAndColumn) {
  const auto fails = [&](ErrorCode code, std::string_view what, const DataOptions& options) {
    expect_error(code, what, [&] { load_dataset(options, Split::train); });
  };
  const auto corrupt = ErrorCode::corrupt, invalid = ErrorCode::invalid_argument;
  fails(corrupt, "t.csv:3: column 'x': there is no value (''; data.missing",
        csv("x,label\n1,a\n,b\n"));
  fails(corrupt, "t.csv:3: column 'x': there is no value ('NA'", csv("x,label\n1,a\nNA,b\n"));
  fails(corrupt, "t.csv:2: column 'day': expected a finite number, got 'Monday'",
        csv("day,label\nMonday,a\nSunday,b\n"));
  fails(corrupt, "data.ignore = [\"day\"]", csv("day,label\nMonday,a\nSunday,b\n"));
  fails(corrupt, "t.csv:3: column 'x': expected a finite number, got 'inf'",
        csv("x,label\n1,a\ninf,b\n"));
  fails(corrupt, "got '1e39'", csv("x,label\n1e39,a\n1,b\n"));
  fails(corrupt, "t.csv:3: expected 2 fields", csv("x,label\n1,a\n2\n"));
  fails(corrupt, "t.csv:3: a row without a label", csv("x,label\n1,a\n2,\n"));
  fails(invalid, "expected data.label_column", csv("x,z\n1,a\n2,b\n"));
  fails(invalid, "the first line holds numbers", csv("1,2\n3,4\n"));
  fails(invalid, "two columns have the name 'x'", csv("x,x,label\n1,2,a\n"));
  fails(invalid, "at least two classes", csv("x,label\n1,a\n2,a\n"));
  fails(invalid, "no row below it", csv("x,label\n"));
  fails(invalid, "the file is empty", csv(""));
  fails(invalid, "no column is left for the model to see", csv("label\na\nb\n"));
  DataOptions options = csv(counting(3));
  options.window = 4;
  fails(invalid, "no 4 rows in turn make a window", options);
  options.window = -1;
  fails(invalid, "'window': expected 0 to", options);
  options = csv(counting(3));
  options.features = {"X1"};
  fails(invalid, "'features': there is no column 'X1'", options);
  options = csv(counting(3));
  options.ignore = {"y"};
  fails(invalid, "'ignore': there is no column 'y'", options);
  options = csv("g,x,label\nw,1,a\nw,2,b\n");
  options.group_column = "g";
  fails(corrupt, "t.csv:3: the sequence 'w' has two labels", options);
  options.file.clear();
  fails(invalid, "'file': expected the csv file", options);
  options = csv(counting(30));
  LoadContext context;
  context.memory_limit = 10;
  expect_error(invalid, "30 samples of 1 steps and 1 features take 120",
               [&] { load_dataset(options, Split::train, context); });
  expect_error(ErrorCode::unsupported, "the kind csv is tables",
               [&] { load_images(options, Split::train); });
}

TEST_F(Series, MissingValuesBecomeNaNOrTheirSamplesAreLeftOut) {
  DataOptions options = csv("x,y,label\n1,2,a\n?,4,b\n5,null,a\n7,8,b\n");
  options.missing = Missing::mean;
  const Dataset data = load_dataset(options, Split::train);
  EXPECT_TRUE(data.gaps);
  EXPECT_TRUE(std::isnan(numbers(data, 1)[0]));
  const SeriesStatistics s = series_statistics(data);
  EXPECT_EQ(s.missing, (std::vector<int64_t>{1, 1}));
  EXPECT_NEAR(s.mean[0], 13.0 / 3, 1e-12);
  EXPECT_EQ(s.least[1], 2);
  EXPECT_EQ(s.most[1], 8);
  EXPECT_NEAR(s.deviation[1], std::sqrt(56.0 / 9), 1e-12);
  options.missing = Missing::skip;
  EXPECT_EQ(load_dataset(options, Split::train).size(), 2);
}

TEST_F(Series, WhatIsSkippedIsNamedWithItsLineAndColumn) {
  const auto skipped = [](DataOptions options) {
    options.missing = Missing::skip;
    const Dataset data = load_dataset(options, Split::train);
    std::vector<std::string> names;  // without the folder
    for (const std::string& why : data.skipped) names.push_back(why.substr(why.rfind('/') + 1));
    return names;
  };
  using Names = std::vector<std::string>;
  const DataOptions rows = csv("x,y,label\n1,2,a\n3,,b\n?,6,a\n7,8,b\n");
  EXPECT_EQ(skipped(rows),
            (Names{"t.csv, line 3: no value in 'y'", "t.csv, line 4: no value in 'x'"}));
  DataOptions windows = csv("x,label\n1,a\n,b\n5,a\n7,b\n9,a\n", "w.csv");
  windows.window = 2;
  EXPECT_EQ(skipped(windows),
            (Names{"w.csv, line 3: no value in 'x'", "w.csv, line 4: no value in 'x' (line 3)"}));
  DataOptions groups = csv("g,x,label\na,1,u\na,2,u\nb,3,v\nb,NA,v\nc,5,v\n", "g.csv");
  groups.group_column = "g";
  EXPECT_EQ(skipped(groups), (Names{"g.csv, b: no value in 'x' (line 5)"}));

  DataOptions options = rows;
  options.missing = Missing::skip;
  const Dataset train = load_splits(options)[0];
  EXPECT_NE(
      skipped_text(options, train, Split::train).find("2 samples of the train split miss a value"),
      std::string::npos);
  const Dataset file = load_series_file(rows.file, options, {1, 2, false, false});
  EXPECT_EQ(file.size(), 2);
  EXPECT_EQ(file.skipped.size(), 2u);
}

TEST_F(Series, AllSplitsAtOnceAreThoseOneByOne) {
  DataOptions options = csv(counting(40));
  options.validation = 0.2;
  options.test_file = write("test.csv", counting(6));
  const auto all = load_splits(options);
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    const Dataset& one = all[static_cast<size_t>(split)];
    const Dataset other = load_dataset(options, split);
    EXPECT_EQ(one.places, other.places);
    EXPECT_EQ(one.labels, other.labels);
    EXPECT_EQ(one.inputs[0].bytes, other.inputs[0].bytes);
  }
  options.validation = 0;
  EXPECT_EQ(load_splits(options)[1].size(), 0);
}

TEST_F(Series, StatisticsDoNotCountPadding) {
  DataOptions options = csv("g,x,label\na,4,u\na,6,u\na,8,u\nb,2,v\n");
  options.group_column = "g";
  const SeriesStatistics s = series_statistics(load_dataset(options, Split::train));
  EXPECT_EQ(s.mean[0], 5);
  EXPECT_EQ(s.least[0], 2);
}

TEST_F(Series, ArraysOfSequencesMayEndInNaN) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  DataOptions options;
  options.kind = DataKind::npy;
  options.validation = options.test = 0;
  options.file =
      write("x.npy", npy_text<float>("(2, 3, 2)", {1, 2, 3, 4, 5, 6, 7, 8, nan, nan, nan, nan}));
  options.labels_file = write("y.npy", npy_text<int32_t>("(2,)", {5, 3}));
  const Dataset data = load_dataset(options, Split::train);
  EXPECT_EQ(data.class_names, (std::vector<std::string>{"3", "5"}));
  EXPECT_EQ(data.labels, (std::vector<int32_t>{1, 0}));
  EXPECT_EQ(lengths(data), (std::vector<int32_t>{3, 1}));
  EXPECT_EQ(numbers(data, 1), (Floats{7, 8, 0, 0, 0, 0}));
  EXPECT_NE(data.name(1).find("x.npy, sample 1"), std::string::npos);

  const auto fails = [&](ErrorCode code, std::string_view what) {
    expect_error(code, what, [&] { load_dataset(options, Split::train); });
  };
  write("x.npy", npy_text<float>("(2, 2, 2)", {1, 2, nan, 4, 5, 6, 7, 8}));
  fails(ErrorCode::corrupt, "sample 0, step 1, feature 0 is NaN (data.missing");
  write("x.npy", npy_text<float>("(2, 2, 2)", {1, 2, 3, 4, 5, 6, 7, INFINITY}));
  fails(ErrorCode::corrupt, "sample 1, step 1, feature 1 is infinite");
  write("x.npy", npy_text<float>("(2, 1, 1)", {1, 2}));
  EXPECT_EQ(load_dataset(options, Split::train).size(), 2);
  write("x.npy", npy_text<float>("(2,)", {1, 2}));
  fails(ErrorCode::corrupt, "got an array of 1 axis");
  write("x.npy", npy_text<float>("(3, 1)", {1, 2, 3}));
  fails(ErrorCode::corrupt, "a label for each of the 3 samples");
  write("x.npy", npy_text<float>("(2, 1)", {1, 2}));
  options.classes = {"walk", "sit"};
  fails(ErrorCode::corrupt, "sample 0 has the label 5, expected 0 to 1");
  write("y.npy", npy_text<int32_t>("(2,)", {1, 0}));
  EXPECT_EQ(load_dataset(options, Split::train).labels, (std::vector<int32_t>{1, 0}));
  options.features = {"a", "b"};
  fails(ErrorCode::invalid_argument, "expected 2 features (a, b), got 1");
  options.features = {};
  options.window = 3;
  fails(ErrorCode::invalid_argument, "'window' is for csv");
  options.window = 0;
  options.labels_file.clear();
  fails(ErrorCode::invalid_argument, "expected data.labels_file");
}

TEST_F(Series, AFileToPredictNeedsNoLabelsAndFitsTheModel) {
  DataOptions options = csv(counting(20));
  options.features = {"x"};
  const std::string file = write("new.csv", "y,x\nother,3\nwords,4\n");
  const Dataset rows = load_series_file(file, options, {.steps = 1, .features = 1});
  EXPECT_EQ(rows.labels, (std::vector<int32_t>{-1, -1}));
  EXPECT_EQ(numbers(rows, 1), (Floats{4}));
  options.window = 2;
  EXPECT_EQ(load_series_file(file, options, {.steps = 2, .features = 1}).size(), 1);
  // Without the column of groups, all rows are one sequence.
  options.window = 0;
  options.group_column = "who";
  const Dataset one = load_series_file(file, options, {.steps = 4, .features = 1, .ragged = true});
  EXPECT_EQ(lengths(one), (std::vector<int32_t>{2}));
  expect_error(ErrorCode::invalid_argument, "2 steps, the model takes at most 1", [&] {
    load_series_file(file, options, {.steps = 1, .features = 1, .ragged = true});
  });
  // One sequence as an array of two axes.
  const std::string array = write("one.npy", npy_text<float>("(2, 1)", {8, 9}));
  EXPECT_EQ(numbers(load_series_file(array, options, {.steps = 2, .features = 1}), 0),
            (Floats{8, 9}));
  expect_error(ErrorCode::invalid_argument, "expected 1 features (x), got 2", [&] {
    load_series_file(write("two.npy", npy_text<float>("(1, 2)", {8, 9})), options,
                     {.steps = 1, .features = 1});
  });
}

}  // namespace
}  // namespace fovea

#include "fovea/base/progress.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace fovea {
namespace {

// A stream in memory, and a clock that the test moves.
class ProgressTest : public testing::Test {
 protected:
  ProgressTest() : out_(std::tmpfile()) {}
  ~ProgressTest() override { std::fclose(out_); }

  Progress make(bool terminal) {
    return Progress(out_, terminal, [this] { return now_; });
  }
  // What was written since the last call.
  std::string written() {
    std::fflush(out_);
    std::fseek(out_, read_, SEEK_SET);
    std::string text;
    for (int c; (c = std::fgetc(out_)) != EOF;) text += static_cast<char>(c);
    read_ = std::ftell(out_);
    std::fseek(out_, 0, SEEK_END);
    return text;
  }
  static size_t count(const std::string& text, const std::string& part) {
    size_t n = 0;
    for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++n;
    return n;
  }

  FILE* out_;
  long read_ = 0;
  double now_ = 100;
};

TEST_F(ProgressTest, WithoutATerminalOnlyPlainLinesAreWritten) {
  Progress progress = make(false);
  for (int i = 0; i < 10; ++i) {
    now_ += 1;
    progress.update(i / 10.0, "loss 0.5");
  }
  progress.line("epoch 1: accuracy 0.9");
  progress.finish();
  EXPECT_EQ(written(), "epoch 1: accuracy 0.9\n");
}

TEST_F(ProgressTest, AFileIsNoTerminal) {
  Progress progress(out_);
  progress.update(0.5, "x");
  EXPECT_EQ(written(), "");
}

TEST_F(ProgressTest, ATerminalGetsABarWithTextAndTimeLeft) {
  Progress progress = make(true);
  progress.update(0, "loss 2.30");
  const std::string first = written();
  EXPECT_EQ(first, "\r\x1b[K  0% [...................] loss 2.30");
  now_ += 30;
  progress.update(0.25, "loss 1.10");
  EXPECT_EQ(written(), "\r\x1b[K 25% [====...............] loss 1.10  1:30 left");
  now_ += 90;
  progress.update(1, "loss 0.40");
  EXPECT_EQ(written(), "\r\x1b[K100% [===================] loss 0.40  0:00 left");
  progress.finish();
  EXPECT_EQ(written(), "\r\x1b[K");
}

TEST_F(ProgressTest, AResumedRunIsJudgedByItsOwnPace) {
  Progress progress = make(true);
  progress.update(0.8, "");
  now_ += 10;
  progress.update(0.9, "");
  EXPECT_NE(written().find("0:10 left"), std::string::npos);
}

TEST_F(ProgressTest, ItIsRedrawnAtMostTenTimesASecond) {
  Progress progress = make(true);
  for (int i = 0; i < 1000; ++i) {
    now_ = 100 + i / 1000.0;
    progress.update(i / 1000.0, "x");
  }
  const size_t times = count(written(), "\r");
  EXPECT_GE(times, 9u);
  EXPECT_LE(times, 10u);
}

TEST_F(ProgressTest, ALineStandsAboveTheBar) {
  Progress progress = make(true);
  progress.line("before");
  EXPECT_EQ(written(), "before\n");
  progress.update(0, "step 1");
  written();
  progress.line("epoch 1 is done");
  EXPECT_EQ(written(),
            "\r\x1b[Kepoch 1 is done\n\r\x1b[K  0% [...................] "
            "step 1");
}

TEST_F(ProgressTest, TheBarIsClearedWhenTheObjectGoes) {
  {
    Progress progress = make(true);
    progress.update(0.5, "x");
    written();
  }
  EXPECT_EQ(written(), "\r\x1b[K");
}

TEST_F(ProgressTest, TextThatIsTooLongIsCutBetweenCharactersAndMovesNoCursor) {
  Progress progress = make(true);
  std::string text;
  for (int i = 0; i < 100; ++i) text += "\xc3\xa9";
  progress.update(0, text);
  const std::string drawn = written();
  const size_t head = std::string("\r\x1b[K  0% [...................] ").size();
  EXPECT_EQ(drawn.size(), head + 2 * (79 - (head - 4)));
  EXPECT_EQ(drawn.substr(drawn.size() - 2), "\xc3\xa9");
  now_ += 0.5;
  progress.update(0, "a\nb\x1b[2J");
  EXPECT_NE(written().find("a b [2J"), std::string::npos);
}

TEST_F(ProgressTest, SharesOutOfRangeAreCut) {
  Progress progress = make(true);
  for (double share : {-1.0, 2.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    now_ += 1;
    progress.update(share, "");
    EXPECT_NE(written().find(share > 1 ? "100% [=" : "  0% [."), std::string::npos) << share;
  }
}

TEST(Format, DurationsAreReadAsAClock) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(7.4), "0:07");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(65), "1:05");
  EXPECT_EQ(format_duration(3599.5), "1:00:00");
  EXPECT_EQ(format_duration(7384), "2:03:04");
  EXPECT_EQ(format_duration(26 * 3600), "26:00:00");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::nan("")), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Format, CountsKeepThreeDigits) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(12.34), "12.3");
  EXPECT_EQ(format_count(999.7), "1.00 k");
  EXPECT_EQ(format_count(1000), "1.00 k");
  EXPECT_EQ(format_count(9994), "9.99 k");
  EXPECT_EQ(format_count(9996), "10.0 k");
  EXPECT_EQ(format_count(139274), "139 k");
  EXPECT_EQ(format_count(999600), "1.00 M");
  EXPECT_EQ(format_count(2.5e9), "2.50 G");
  EXPECT_EQ(format_count(4e15), "4000 T");
  EXPECT_EQ(format_count(-1500), "-1.50 k");
  EXPECT_EQ(format_count(std::nan("")), "?");
}

TEST(Format, BytesCountInThousands) {
  EXPECT_EQ(format_bytes(12), "12 B");
  EXPECT_EQ(format_bytes(557096), "557 kB");
  EXPECT_EQ(format_bytes(1.2e6), "1.20 MB");
}

}  // namespace
}  // namespace fovea

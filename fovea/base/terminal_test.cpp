#include "fovea/base/terminal.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace fovea {
namespace {

TEST(Terminal, AFileIsNoneAndTakesNoColours) {
  FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  EXPECT_FALSE(is_terminal(file));
  EXPECT_FALSE(takes_colours(file));
  EXPECT_EQ(terminal_columns(file), 80u);
  EXPECT_EQ(terminal_columns(file, 100), 100u);
  std::fclose(file);
}

TEST(Terminal, InkStandsOnlyWhereItIsWanted) {
  EXPECT_EQ(inked("word", Ink::bold, false), "word");
  EXPECT_EQ(inked("word", Ink::bold, true), "\x1b[1mword\x1b[0m");
  EXPECT_EQ(inked("word", Ink::red, true), "\x1b[31mword\x1b[0m");
  EXPECT_EQ(inked("", Ink::red, true), "");
}

TEST(Terminal, CharactersAreCountedAndNotBytes) {
  EXPECT_EQ(text_width(""), 0u);
  EXPECT_EQ(text_width("Mäuse"), 5u);
}

TEST(Terminal, WhatIsTooLongLosesItsMiddle) {
  EXPECT_EQ(shortened("vit.enc.0.attn", 14), "vit.enc.0.attn");
  EXPECT_EQ(shortened("vit.enc.0.attn", 10), "vit...attn");
  EXPECT_EQ(shortened("ääääääää", 6), "ää..ää");
  EXPECT_EQ(shortened("abcdef", 2), "ab");
}

TEST(Terminal, WordsAreWrapped) {
  EXPECT_EQ(wrapped("one two three", 7), "one two\nthree");
  EXPECT_EQ(wrapped("one two three", 9, 2), "one two\n  three");
  EXPECT_EQ(wrapped("one\ntwo", 80, 1), "one\n two");
  EXPECT_EQ(wrapped("incomprehensibility is", 5), "incomprehensibility\nis");
  EXPECT_EQ(wrapped("", 5), "");
}

}  // namespace
}  // namespace fovea

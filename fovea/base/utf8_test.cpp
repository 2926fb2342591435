#include "fovea/base/utf8.h"

#include <gtest/gtest.h>

namespace fovea {
namespace {

TEST(Utf8, TakesEveryLengthAndRefusesWhatIsNone) {
  for (const char* good :
       {"", "abc", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf"})
    EXPECT_TRUE(is_utf8(good)) << good;
  for (const char* bad : {"\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80",
                          "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xff", "a\xe2\x82", "\xe2(\xa1"})
    EXPECT_FALSE(is_utf8(bad));
}

}  // namespace
}  // namespace fovea

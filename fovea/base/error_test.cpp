#include "fovea/base/error.h"

#include <gtest/gtest.h>

namespace fovea {
namespace {

TEST(AssertDeathTest, ABrokenPromiseOfOursNamesItsPlaceInTheProject) {
  EXPECT_NO_FATAL_FAILURE(FOVEA_ASSERT(1 + 1 == 2));
  EXPECT_DEATH(
      FOVEA_ASSERT(1 + 1 == 3),
      "fovea: internal error: 1 \\+ 1 == 3 does not hold \\(fovea/base/error_test.cpp:11\\)");
}

}  // namespace
}  // namespace fovea

#include "fovea/base/memory.h"

#include <gtest/gtest.h>

#include <limits>

#include "fovea/base/aligned.h"
#include "fovea/base/error.h"

namespace fovea {
namespace {

constexpr uint64_t kUnknown = std::numeric_limits<uint64_t>::max();
constexpr std::string_view kInfo =
    "MemTotal:       16000 kB\nMemFree:  1 kB\nMemAvailable:   10 kB\nSwapFree: 5 kB\n";

TEST(AvailableMemory, IsWhatTheSystemSays) {
  EXPECT_EQ(available_memory(kInfo, "", ""), 15u * 1024);
  EXPECT_EQ(available_memory("", "", ""), kUnknown);
  EXPECT_EQ(available_memory("nonsense", "more", "of it"), kUnknown);
}

TEST(AvailableMemory, AControlGroupMayLeaveLess) {
  EXPECT_EQ(available_memory(kInfo, "max\n", "anon 3000\n"), 15u * 1024);
  EXPECT_EQ(available_memory(kInfo, "5000\n", "file 900\nanon 3000\n"), 2000u);
  EXPECT_EQ(available_memory(kInfo, "5000\n", "anon 6000\n"), 0u);
  EXPECT_EQ(available_memory(kInfo, "900000\n", "anon 6000\n"), 15u * 1024);
}

// The kernel would hand out addresses for it, and kill the process when they are written to.
TEST(AlignedBuffer, LargeOnesStartAHugePageAndAreTheirSizeToTheLastByte) {
  AlignedBuffer large((size_t{5} << 20) + 100, "rows");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large.data()) % (size_t{2} << 20), 0u);
  for (std::byte& b : large.bytes()) b = std::byte{7};
  EXPECT_EQ(large.data()[large.size() - 1], std::byte{7});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(AlignedBuffer(100, "row").data()) % 64, 0u);
}

TEST(AlignedBuffer, MoreThanTheMachineHasIsAnErrorThatSaysHowMuch) {
  const uint64_t available = available_memory();
  if (available == kUnknown) GTEST_SKIP() << "the system does not say how much memory it has";
  for (const size_t bytes : {2 * available, size_t{1} << 45, ~size_t{0}}) {
    try {
      AlignedBuffer(bytes, "arena");
      ADD_FAILURE() << bytes;
    } catch (const Error& error) {
      EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(ErrorCode::out_of_memory));
      const std::string_view what = error.what();
      EXPECT_TRUE(what.starts_with("[arena]")) << what;
      EXPECT_NE(what.find("smaller batch"), std::string_view::npos) << what;
    }
  }
}

}  // namespace
}  // namespace fovea

// For tests only: folders that remove themselves, bytes from text, the shared data where it exists,
// and the check that an Error has a code and says something.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fovea/base/temporary_folder.h"
#include "fovea/base/test_errors.h"

namespace fovea {

// A file of the data that developers share: $FOVEA_SHARED_DATA, or ../shared/data beside the
// sources. Empty where it is absent: the test then skips.
inline std::filesystem::path shared_data(std::string_view name) {
  const char* folder = std::getenv("FOVEA_SHARED_DATA");
  const std::filesystem::path path =
      (folder != nullptr ? std::filesystem::path(folder)
                         : std::filesystem::path(FOVEA_SOURCE_DIR) / "../shared/data") /
      name;
  return std::filesystem::exists(path) ? path : std::filesystem::path();
}

inline std::vector<std::byte> to_bytes(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  return {bytes.begin(), bytes.end()};
}

}  // namespace fovea

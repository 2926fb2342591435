// Runs one target over its corpus without a fuzzer: every file whole, and cut off at many places.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "fovea/formats/file.h"
#include "fuzz/property.h"

namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLargest = uint64_t{1} << 20;
constexpr size_t kCuts = 24;

// Each piece has memory of its own, so that a sanitizer sees a read behind its end.
void feed(const std::vector<std::byte>& file, size_t size) {
  const std::vector<std::byte> piece(file.begin(),
                                     file.begin() + static_cast<std::ptrdiff_t>(size));
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(piece.data()), piece.size());
}

class Corpus : public testing::Test {
 public:
  explicit Corpus(fs::path path) : path_(std::move(path)) {}
  void TestBody() override {
    const std::vector<std::byte> file = fovea::read_file(path_, kLargest);
    feed(file, file.size());
    for (size_t cut = 0; cut < kCuts; ++cut) feed(file, file.size() * cut / kCuts);
  }

 private:
  fs::path path_;
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(FOVEA_CORPUS)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  if (files.empty()) return 1;
  for (const fs::path& file : files)
    testing::RegisterTest("Corpus", file.filename().c_str(), nullptr, nullptr, __FILE__, __LINE__,
                          [=]() -> testing::Test* { return new Corpus(file); });
  return RUN_ALL_TESTS();
}

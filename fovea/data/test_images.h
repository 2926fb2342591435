// For tests only: a small data set of IDX files that a model can learn.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "fovea/base/philox.h"
#include "fovea/formats/file.h"

namespace fovea {

// Writes train and test files of 8x8 grey images in two classes: a bright upper half (0) or left
// half (1), with noise.
inline void write_small_images(const std::filesystem::path& folder, int train, int test,
                               uint64_t seed = 1) {
  std::filesystem::create_directories(folder);
  const auto big_endian = [](std::vector<std::byte>& to, uint32_t v) {
    for (int shift = 24; shift >= 0; shift -= 8) to.push_back(static_cast<std::byte>(v >> shift));
  };
  for (const bool first : {true, false}) {
    const int count = first ? train : test;
    const std::string prefix = first ? "train" : "t10k";
    PhiloxStream random(seed, stream_id(prefix));
    std::vector<std::byte> images, labels;
    for (uint32_t v : {0x803u, static_cast<uint32_t>(count), 8u, 8u}) big_endian(images, v);
    for (uint32_t v : {0x801u, static_cast<uint32_t>(count)}) big_endian(labels, v);
    for (int i = 0; i < count; ++i) {
      const bool left = random.below(2) == 1;
      labels.push_back(static_cast<std::byte>(left));
      for (int y = 0; y < 8; ++y)
        for (int x = 0; x < 8; ++x)
          images.push_back(
              static_cast<std::byte>(((left ? x : y) < 4 ? 130 : 0) + random.below(120)));
    }
    write_file_atomically(folder / (prefix + "-images-idx3-ubyte"), images);
    write_file_atomically(folder / (prefix + "-labels-idx1-ubyte"), labels);
  }
}

// A recipe that learns them in a second; `more` is added under [train].
inline std::string small_recipe(const std::filesystem::path& data, const std::string& more = "") {
  return "[data]\nkind = \"idx\"\ndir = \"" + data.string() +
         "\"\nclasses = [\"upper\", \"left\"]\nvalidation = 16\n"
         "[model]\nstem = [8]\npatch = 2\nlayers = 1\nwidth = 16\nheads = 2\nmlp = 16\ndropout = "
         "0.1\n"
         "[augment]\nshift = 1\n"
         "[train]\nepochs = 3\nbatch = 16\nlearning_rate = 5e-3\naverage = 0.9\n"
         "checkpoint_every = 3\n" +
         more;
}

}  // namespace fovea

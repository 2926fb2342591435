// Data for the examples, made in memory: grey pictures of 8 x 8 pixels whose bright half lies above
// or stands at the left, under noise.
#pragma once

#include <cstdint>
#include <random>

#include "fovea/fovea.h"

inline fovea::ImageDataset stripes(int64_t count, uint32_t seed) {
  fovea::ImageDataset data;
  data.source = "stripes";
  data.height = data.width = 8;
  data.channels = 1;
  data.class_names = {"upper", "left"};
  std::mt19937 random(seed);
  for (int64_t i = 0; i < count; ++i) {
    const bool left = random() % 2 == 1;
    data.labels.push_back(left);
    for (int y = 0; y < 8; ++y)
      for (int x = 0; x < 8; ++x)
        data.images.push_back(
            static_cast<uint8_t>(((left ? x : y) < 4 ? 100 : 0) + random() % 150));
  }
  return data;
}

// Numbers as colours: dark violet over red to light yellow. Lightness grows evenly along the scale,
// so it can be read without seeing hues, and in print.
#pragma once

#include <array>
#include <cstdint>

namespace fovea {

struct Colour {
  uint8_t red = 0, green = 0, blue = 0;
};

// The colour of a number in [0,1]; beyond, that of the nearer end.
Colour scale_colour(double share);

// Lightness L* of CIE 1976, 0 (black) to 100 (white).
double lightness(Colour colour);

}  // namespace fovea

#include "fovea/explain/colour_scale.h"

#include <algorithm>
#include <cmath>

namespace fovea {
namespace {

// At even distances. Each is about 12 lighter than the one before.
constexpr std::array<Colour, 8> kAnchors = {{{12, 14, 44},
                                             {50, 40, 112},
                                             {108, 44, 138},
                                             {168, 56, 128},
                                             {220, 84, 94},
                                             {244, 134, 66},
                                             {250, 192, 92},
                                             {254, 246, 190}}};

double linear(uint8_t byte) {
  const double v = byte / 255.0;
  return v <= 0.04045 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4);
}

}  // namespace

Colour scale_colour(double share) {
  const double at = std::clamp(share, 0.0, 1.0) * (kAnchors.size() - 1);
  const size_t low = std::min(static_cast<size_t>(at), kAnchors.size() - 2);
  const double part = at - static_cast<double>(low);
  const Colour &a = kAnchors[low], &b = kAnchors[low + 1];
  const auto mixed = [&](uint8_t x, uint8_t y) {
    return static_cast<uint8_t>(std::lround(x + part * (y - x)));
  };
  return {mixed(a.red, b.red), mixed(a.green, b.green), mixed(a.blue, b.blue)};
}

double lightness(Colour c) {
  const double y = 0.2126 * linear(c.red) + 0.7152 * linear(c.green) + 0.0722 * linear(c.blue);
  return y > 216.0 / 24389 ? 116 * std::cbrt(y) - 16 : 24389.0 / 27 * y;
}

}  // namespace fovea

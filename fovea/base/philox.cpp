#include "fovea/base/philox.h"

#include <cmath>
#include <numbers>

namespace fovea {

float PhiloxStream::normal() {
  const double u = (static_cast<double>(next()) + 1.0) * 0x1.0p-32;  // (0, 1]: the log stays finite
  const double v = static_cast<double>(next()) * 0x1.0p-32;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v));
}

}  // namespace fovea

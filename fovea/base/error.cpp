#include "fovea/base/error.h"

#include <cstdio>
#include <cstdlib>

namespace fovea {

void assertion_failed(const char* condition, const char* file, int line) noexcept {
  std::fprintf(stderr, "fovea: internal error: %s does not hold (%s:%d)\n", condition, file, line);
  std::abort();
}

}  // namespace fovea

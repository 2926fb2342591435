#include "fovea/base/error.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace fovea {

namespace {

// The name of a source from the project's folder on, as it stands in the repository: this file is
// known to be fovea/base/error.cpp, and compilers name all files alike.
const char* in_project(const char* file) {
  constexpr size_t kRoot = sizeof __FILE__ - sizeof "fovea/base/error.cpp";
  return std::strncmp(file, __FILE__, kRoot) == 0 ? file + kRoot : file;
}

}  // namespace

void assertion_failed(const char* condition, const char* file, int line) noexcept {
  std::fprintf(stderr, "fovea: internal error: %s does not hold (%s:%d)\n", condition,
               in_project(file), line);
  std::abort();
}

}  // namespace fovea

// Which libraries the kernels stand on, as they were found when the program ran.
#pragma once

#include <string>
#include <vector>

namespace fovea {

struct LibraryVersion {
  std::string name;     // "oneDNN"
  std::string version;  // "2.6.3"
  std::string detail;   // what it makes of this processor; may be empty
};

std::vector<LibraryVersion> kernel_libraries();

// Whether this processor computes products in bf16 faster than in f32, by kernels of our own.
bool has_fast_bf16();

}  // namespace fovea

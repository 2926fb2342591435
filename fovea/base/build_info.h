// What this program is and what it runs on, for reports and bundles.
#pragma once

#include <string>
#include <vector>

namespace fovea {

std::string version();         // "0.1.0"
std::string compiler();        // "GCC 12.2.0"
std::string processor_name();  // as the system calls it

// What kernels care for, under Linux's names: "avx2", "amx_bf16".
std::vector<std::string> processor_features();

}  // namespace fovea

// What this program is and what it runs on, for reports and bundles.
#pragma once

#include <string>

namespace fovea {

std::string version();         // "0.1.0"
std::string compiler();        // "GCC 12.2.0"
std::string processor_name();  // as the system calls it

}  // namespace fovea

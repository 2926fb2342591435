// How much memory the system has left.
#pragma once

#include <cstdint>
#include <string_view>

namespace fovea {

// Bytes that this process may still take: what is free or easily freed (MemAvailable and swap), or
// what its control group's limit leaves where that is less. All there are (2^64 - 1) where the
// system does not say.
uint64_t available_memory();

// Reads the two files' texts; apart, for the tests. `limit` and `used` are those of the control
// group, empty where there is none; "max" is no limit.
uint64_t available_memory(std::string_view meminfo, std::string_view limit, std::string_view used);

}  // namespace fovea

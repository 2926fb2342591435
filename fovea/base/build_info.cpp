#include "fovea/base/build_info.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string_view>

namespace fovea {

std::string version() { return FOVEA_VERSION; }

std::string compiler() {
#if defined(__clang__)
  return std::string("Clang ") + __clang_version__;
#else
  return std::string("GCC ") + __VERSION__;
#endif
}

namespace {
// The value of the first line of /proc/cpuinfo that begins with the key; empty where there is none.
std::string cpuinfo(std::string_view key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key))
      if (const size_t at = line.find(": "); at != std::string::npos) return line.substr(at + 2);
  return "";
}
}  // namespace

std::string processor_name() {
  const std::string name = cpuinfo("model name");
  return name.empty() ? "unknown" : name;
}

std::vector<std::string> processor_features() {
  constexpr std::string_view kFeatures[] = {"sse4_1",      "avx",      "f16c",        "fma",
                                            "avx2",        "avx_vnni", "avx512f",     "avx512bw",
                                            "avx512vl",    "avx512dq", "avx512_vnni", "avx512_bf16",
                                            "avx512_fp16", "amx_tile", "amx_int8",    "amx_bf16"};
  std::istringstream words(cpuinfo("flags"));
  std::vector<std::string> flags, found;
  for (std::string word; words >> word;) flags.push_back(word);
  for (const std::string_view feature : kFeatures)
    if (std::find(flags.begin(), flags.end(), feature) != flags.end()) found.emplace_back(feature);
  return found;
}

}  // namespace fovea

#include "fovea/base/memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>

namespace fovea {
namespace {

constexpr uint64_t kUnknown = std::numeric_limits<uint64_t>::max();

std::optional<uint64_t> number(std::string_view text) {
  uint64_t value = 0;
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

// The number behind "\nKEY" in lines of "KEY NUMBER", in bytes where the file counts in kB.
std::optional<uint64_t> line(std::string_view text, std::string_view key) {
  for (size_t at = text.find(key); at != std::string_view::npos; at = text.find(key, at + 1))
    if (at == 0 || text[at - 1] == '\n') return number(text.substr(at + key.size()));
  return std::nullopt;
}

std::string slurp(const char* path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

uint64_t available_memory(std::string_view meminfo, std::string_view limit, std::string_view used) {
  uint64_t available = kUnknown;
  if (const auto free = line(meminfo, "MemAvailable:"))
    available = 1024 * (*free + line(meminfo, "SwapFree:").value_or(0));
  const auto most = number(limit);
  // Anonymous memory: the page cache gives way.
  const uint64_t taken = line(used, "anon ").value_or(0);
  if (most) available = std::min(available, *most - std::min(taken, *most));
  return available;
}

uint64_t available_memory() {
  return available_memory(slurp("/proc/meminfo"), slurp("/sys/fs/cgroup/memory.max"),
                          slurp("/sys/fs/cgroup/memory.stat"));
}

}  // namespace fovea

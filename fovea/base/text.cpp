#include "fovea/base/text.h"

#include <algorithm>
#include <vector>

namespace fovea {
namespace {

// Nobody means a name of this length by accident, and the distance costs the square of it.
constexpr size_t kLongestName = 256;

template <class Name>
std::string_view nearest_of(std::string_view name, std::span<const Name> candidates) {
  std::string_view best;
  size_t best_distance = 0;
  if (name.size() > kLongestName) return best;
  for (std::string_view candidate : candidates) {
    if (candidate.empty() || candidate.size() > kLongestName) continue;
    const size_t allowed = (std::max(name.size(), candidate.size()) + 2) / 3;
    const size_t distance = edit_distance(name, candidate);
    if (distance <= allowed && (best.empty() || distance < best_distance)) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

template <class Name>
std::string hint(std::string_view name, std::span<const Name> candidates) {
  const std::string_view best = nearest_of(name, candidates);
  return best.empty() ? std::string() : "; did you mean '" + std::string(best) + "'?";
}

}  // namespace

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> two_ago(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], two_ago[j - 2] + 1);
      }
    }
    std::swap(two_ago, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

std::string nearest(std::string_view name, std::span<const std::string_view> candidates) {
  return std::string(nearest_of(name, candidates));
}
std::string nearest(std::string_view name, std::span<const std::string> candidates) {
  return std::string(nearest_of(name, candidates));
}
std::string did_you_mean(std::string_view name, std::span<const std::string_view> candidates) {
  return hint(name, candidates);
}
std::string did_you_mean(std::string_view name, std::span<const std::string> candidates) {
  return hint(name, candidates);
}

}  // namespace fovea

#include "fovea/explain/rollout.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "fovea/base/error.h"

namespace fovea {
namespace {

using Row = std::vector<double>;  // a weight for each token

// The number of tokens, the same in all layers.
int64_t token_count(const AttentionMaps& maps) {
  FOVEA_ASSERT(!maps.nodes.empty());
  const int64_t tokens = maps.nodes[0].keys;
  for (const AttentionMap& map : maps.nodes) {
    if (map.queries != tokens || map.keys != tokens)
      throw Error{ErrorCode::unsupported,
                  fmt::format("[explain] rollout follows self-attention over the same tokens in "
                              "all layers; {} has {} queries and {} keys, {} has {} keys",
                              map.name, map.queries, map.keys, maps.nodes[0].name, tokens)};
  }
  return tokens;
}

// An even weight on the tokens that are there, nothing behind them.
Row even(int64_t tokens, int64_t there) {
  FOVEA_ASSERT(there >= 0 && there <= tokens);
  Row row(static_cast<size_t>(there > 0 ? there : tokens),
          1.0 / static_cast<double>(there > 0 ? there : tokens));
  row.resize(static_cast<size_t>(tokens), 0.0);
  return row;
}

// Those of the tokens that are there, so that the mean is 1.
Row as_shares(Row row, int64_t there) {
  if (there > 0) row.resize(static_cast<size_t>(there));
  const double sum = std::accumulate(row.begin(), row.end(), 0.0);
  for (double& v : row) v = sum > 0 ? v / sum * static_cast<double>(row.size()) : 1.0;
  return row;
}

// row * A, where A [T,T] is the mean over the heads of link(index in [heads,T,T]).
template <class Link>
Row through(const Row& row, const AttentionMap& map, Link link) {
  Row result(row.size(), 0.0);
  const size_t tokens = row.size();
  const auto heads = static_cast<size_t>(map.heads);
  for (size_t h = 0; h < heads; ++h)
    for (size_t q = 0; q < tokens; ++q)
      for (size_t k = 0; k < tokens; ++k)
        result[k] += row[q] * link((h * tokens + q) * tokens + k) / static_cast<double>(heads);
  return result;
}

// Which tokens see at least one key, in any head.
std::vector<bool> seeing(std::span<const float> links, const AttentionMap& map) {
  std::vector<bool> sees(static_cast<size_t>(map.queries));
  for (size_t i = 0; i < links.size(); ++i)
    if (links[i] > 0) sees[i / static_cast<size_t>(map.keys) % sees.size()] = true;
  return sees;
}

}  // namespace

std::vector<double> attention_rollout(const AttentionMaps& maps, int64_t image, int64_t there) {
  Row row = even(token_count(maps), there);
  for (auto map = maps.nodes.rbegin(); map != maps.nodes.rend(); ++map) {
    const auto links = map->probabilities_of(image);
    const std::vector<bool> sees = seeing(links, *map);
    Row next = through(row, *map, [&](size_t i) { return 0.5 * static_cast<double>(links[i]); });
    for (size_t t = 0; t < row.size(); ++t) next[t] += (sees[t] ? 0.5 : 1.0) * row[t];
    row = std::move(next);
  }
  return as_shares(std::move(row), there);
}

std::vector<double> gradient_rollout(const AttentionMaps& maps, int64_t image, int64_t there) {
  const Row begin = even(token_count(maps), there);
  Row row = begin;
  for (auto map = maps.nodes.rbegin(); map != maps.nodes.rend(); ++map) {
    const auto links = map->probabilities_of(image), gradients = map->gradients_of(image);
    FOVEA_ASSERT(gradients.size() == links.size());
    const Row gained = through(row, *map, [&](size_t i) {
      return std::max(0.0, static_cast<double>(gradients[i]) * static_cast<double>(links[i]));
    });
    for (size_t t = 0; t < row.size(); ++t) row[t] += gained[t];
  }
  for (size_t t = 0; t < row.size(); ++t) row[t] -= begin[t];
  return as_shares(std::move(row), there);
}

std::vector<double> last_layer_attention(const AttentionMaps& maps, int64_t image, int64_t there) {
  const Row row = even(token_count(maps), there);
  const AttentionMap& last = maps.nodes.back();
  const auto links = last.probabilities_of(image);
  return as_shares(through(row, last, [&](size_t i) { return static_cast<double>(links[i]); }),
                   there);
}

std::vector<double> head_attention(const AttentionMap& map, int64_t image, int64_t head,
                                   int64_t there) {
  const auto keys = static_cast<size_t>(map.keys), queries = static_cast<size_t>(map.queries);
  FOVEA_ASSERT(head >= 0 && head < map.heads);
  const auto links = map.probabilities_of(image).subspan(static_cast<size_t>(head) * queries * keys,
                                                         queries * keys);
  Row row(keys, 0.0);
  const size_t looking = there > 0 ? static_cast<size_t>(there) : queries;
  FOVEA_ASSERT(looking <= queries);
  for (size_t i = 0; i < looking * keys; ++i) row[i % keys] += static_cast<double>(links[i]);
  return as_shares(std::move(row), there);
}

}  // namespace fovea

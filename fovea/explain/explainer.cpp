#include "fovea/explain/explainer.h"

#include <fmt/format.h>

#include <algorithm>

#include "fovea/base/error.h"
#include "fovea/explain/rollout.h"
#include "fovea/infer/evaluator.h"

namespace fovea {
namespace {

constexpr int64_t kMapNumbers = 16'000'000;  // of probabilities and gradients at a time
constexpr int64_t kMostImages = 64;

Explanation explanation_of(const AttentionMaps& maps, int64_t image) {
  Explanation e;
  const auto first = maps.probabilities.begin() + image * maps.classes;
  e.probabilities.assign(first, first + maps.classes);
  e.predicted = static_cast<int32_t>(
      std::max_element(e.probabilities.begin(), e.probabilities.end()) - e.probabilities.begin());
  e.explained = e.predicted;
  e.rollout = attention_rollout(maps, image);
  e.gradient_rollout = gradient_rollout(maps, image);
  e.last_layer = last_layer_attention(maps, image);
  for (const AttentionMap& map : maps.nodes) {
    Explanation::Layer layer{map.name, {}};
    for (int64_t h = 0; h < map.heads; ++h) layer.heads.push_back(head_attention(map, image, h));
    e.layers.push_back(std::move(layer));
  }
  return e;
}

}  // namespace

Explainer::Explainer(Graph exposed, const TokenGrid& grid, std::shared_ptr<ThreadPool> pool)
    : grid_(grid), reader_(std::move(exposed), std::make_shared<VariableStore>(), std::move(pool)) {
  const Shape& image = image_input_shape(graph(), "[explain] this graph");
  image_bytes_ = element_count({image[1], image[2], image[3]}).eval({});
  int64_t numbers = 0;
  for (const auto& [name, value] : graph().outputs()) {
    if (!name.starts_with(kAttentionPrefix)) continue;
    const Shape& s = graph().shape(value);
    for (const size_t axis : {size_t{2}, size_t{3}})
      if (!(s[axis] == Size(grid.tokens())))
        throw Error{
            ErrorCode::unsupported,
            fmt::format("[explain] expected {} to work on the {}x{} tokens of the image, "
                        "got {} tokens (the model must keep one token a patch in every layer)",
                        name.substr(kAttentionPrefix.size()), grid.rows, grid.columns,
                        s[axis].text())};
    numbers += 2 * s[1].constant() * grid.tokens() * grid.tokens();
  }
  batch_ = std::clamp<int64_t>(kMapNumbers / std::max<int64_t>(numbers, 1), 1, kMostImages);
}

// Of inputs that have a row for each image those rows; a size that does not divide goes on as it
// is, and the reader refuses it.
ModelInputs Explainer::part_of(const ModelInputs& more, size_t first, size_t count,
                               size_t all) const {
  ModelInputs part = more;
  for (auto& [name, bytes] : part) {
    const int id = graph().find(name);
    if (id < 0 || graph().shape({id, 0}).empty() || graph().shape({id, 0})[0].is_constant() ||
        bytes.size() % all != 0)
      continue;
    const size_t row = bytes.size() / all;
    bytes = bytes.subspan(first * row, count * row);
  }
  return part;
}

std::vector<Explanation> Explainer::explain(std::span<const uint8_t> images,
                                            std::span<const int32_t> classes,
                                            const ModelInputs& more) {
  std::vector<Explanation> all;
  const auto step = static_cast<size_t>(batch_);
  const auto bytes = static_cast<size_t>(image_bytes_);
  // What is no whole number of images goes on as one piece, which the reader refuses.
  const size_t count = images.size() % bytes == 0 ? images.size() / bytes : 0;
  if (count == 0 || (!classes.empty() && classes.size() != count))
    reader_.read(images, classes, more);
  for (size_t at = 0; at < count; at += step) {
    const size_t n = std::min(step, count - at);
    const auto chosen = classes.empty() ? classes : classes.subspan(at, n);
    const AttentionMaps maps =
        reader_.read(images.subspan(at * bytes, n * bytes), chosen, part_of(more, at, n, count));
    for (size_t i = 0; i < n; ++i) {
      all.push_back(explanation_of(maps, static_cast<int64_t>(i)));
      if (!chosen.empty() && chosen[i] >= 0) all.back().explained = chosen[i];
    }
  }
  return all;
}

}  // namespace fovea

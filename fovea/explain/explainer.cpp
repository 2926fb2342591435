#include "fovea/explain/explainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "fovea/base/error.h"
#include "fovea/explain/rollout.h"
#include "fovea/infer/evaluator.h"

namespace fovea {
namespace {

constexpr int64_t kMapNumbers = 16'000'000;  // of probabilities and gradients at a time
constexpr int64_t kMostImages = 64;

const InputBytes* input_named(std::span<const InputBytes> inputs, std::string_view name) {
  for (const InputBytes& input : inputs)
    if (input.name == name) return &input;
  return nullptr;
}

}  // namespace

int64_t tokens_there(const TokenGrid& grid, std::span<const InputBytes> inputs, int64_t i) {
  const InputBytes* lengths = input_named(inputs, kLengthInput);
  if (lengths == nullptr || grid.kind != TokenKind::steps) return grid.tokens();
  int32_t length = 0;
  const size_t at = static_cast<size_t>(i) * sizeof length;
  FOVEA_ASSERT(at + sizeof length <= lengths->bytes.size());
  std::memcpy(&length, lengths->bytes.data() + at, sizeof length);
  return std::clamp<int64_t>((length + grid.steps - 1) / grid.steps, 1, grid.tokens());
}

namespace {

Explanation explanation_of(const AttentionMaps& maps, int64_t at, int64_t there) {
  Explanation e;
  const auto first = maps.probabilities.begin() + at * maps.classes;
  e.probabilities.assign(first, first + maps.classes);
  e.predicted = static_cast<int32_t>(
      std::max_element(e.probabilities.begin(), e.probabilities.end()) - e.probabilities.begin());
  e.explained = e.predicted;
  e.rollout = attention_rollout(maps, at, there);
  e.gradient_rollout = gradient_rollout(maps, at, there);
  e.last_layer = last_layer_attention(maps, at, there);
  for (const AttentionMap& map : maps.nodes) {
    Explanation::Layer layer{map.name, {}, map.spans};
    for (int64_t h = 0; h < map.heads; ++h)
      layer.heads.push_back(head_attention(map, at, h, there));
    e.layers.push_back(std::move(layer));
  }
  return e;
}

}  // namespace

Explainer::Explainer(Graph exposed, const TokenGrid& grid, std::shared_ptr<ThreadPool> pool)
    : grid_(grid), reader_(std::move(exposed), std::make_shared<VariableStore>(), std::move(pool)) {
  if (graph().find(kSeriesInput) < 0) {
    const Shape& image = image_input_shape(graph(), "[explain] this graph");
    image_bytes_ = element_count({image[1], image[2], image[3]}).eval({});
  }
  int64_t numbers = 0;
  for (const auto& [name, value] : graph().outputs()) {
    if (!name.starts_with(kAttentionPrefix)) continue;
    const Shape& s = graph().shape(value);
    for (const size_t axis : {size_t{2}, size_t{3}})
      if (!(s[axis] == Size(grid.tokens())))
        throw Error{
            ErrorCode::unsupported,
            fmt::format("[explain] expected {} to work on the {}x{} tokens of the input, "
                        "got {} tokens (the model must keep one token a patch in every layer)",
                        name.substr(kAttentionPrefix.size()), grid.rows, grid.columns,
                        s[axis].text())};
    numbers += 2 * s[1].constant() * grid.tokens() * grid.tokens();
  }
  batch_ = std::clamp<int64_t>(kMapNumbers / std::max<int64_t>(numbers, 1), 1, kMostImages);
}

std::vector<Explanation> Explainer::explain(std::span<const uint8_t> images,
                                            std::span<const int32_t> classes) {
  const auto bytes = static_cast<size_t>(image_bytes_);
  // What is no whole number of images goes on as one piece, which the reader refuses.
  const size_t count = bytes > 0 && images.size() % bytes == 0 ? images.size() / bytes : 0;
  if (count == 0 || (!classes.empty() && classes.size() != count)) reader_.read(images, classes);
  const InputBytes image{kImageInput, images};
  return explain({&image, 1}, static_cast<int64_t>(count), classes);
}

std::vector<Explanation> Explainer::explain(const Dataset& examples,
                                            std::span<const int32_t> classes) {
  check_inputs(graph(), examples, "[explain] " + examples.source);
  return explain(input_bytes(examples, 0, examples.size()), examples.size(), classes);
}

std::vector<Explanation> Explainer::explain(std::span<const InputBytes> inputs, int64_t count,
                                            std::span<const int32_t> classes) {
  std::vector<Explanation> all;
  for (int64_t at = 0; at < count; at += batch_) {
    const auto first = static_cast<size_t>(at);
    const auto n = static_cast<size_t>(std::min(batch_, count - at));
    std::vector<InputBytes> part;
    for (const InputBytes& input : inputs) {
      const size_t size = input.bytes.size() / static_cast<size_t>(count);
      part.push_back({input.name, input.bytes.subspan(first * size, n * size)});
    }
    const auto chosen = classes.empty() ? classes : classes.subspan(first, n);
    const AttentionMaps maps = reader_.read(part, static_cast<int64_t>(n), chosen);
    for (size_t i = 0; i < n; ++i) {
      const auto at_i = static_cast<int64_t>(i);
      all.push_back(explanation_of(maps, at_i, tokens_there(grid_, part, at_i)));
      if (!chosen.empty() && chosen[i] >= 0) all.back().explained = chosen[i];
    }
  }
  return all;
}

}  // namespace fovea

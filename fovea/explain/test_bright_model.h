// For tests only: a model of which one knows where it looks. Each token's attention goes to bright
// patches, and the more light it finds, the surer it is of the class 1 ("light").
#pragma once

#include <cstring>
#include <vector>

#include "fovea/explain/explainer.h"
#include "fovea/graph/ops.h"
#include "fovea/runtime/compile.h"
#include "fovea/tasks/task.h"

namespace fovea {

// image u8 [B,4,6,1] -> 2 x 3 patches of 2 x 2 -> attention -> logits, probabilities [B,2].
inline Graph bright_model() {
  Graph g;
  const Size batch = Size::symbol("B");
  const Value image = ops::input(g, kImageInput, DType::u8, {batch, 4, 6, 1});
  const Value pixels = ops::scaled(g, ops::cast(g, image, DType::f32), 1.0 / 255);
  // The light of a patch, 0 to 4, and a 1, which every query asks for.
  const Value tokens = ops::patches(g, pixels, 2);
  const Value light = ops::reduce_sum(g, tokens, {2}, true);
  const Value ones = ops::add(g, ops::scaled(g, light, 0), ops::constant(g, 1));
  const Value seen = ops::attention(g, ones, light, light, {.heads = 1, .scale = 1}, "look");
  const Value found = ops::reduce_mean(g, seen, {1});
  const Value weight = ops::constant(g, std::vector<double>{-2, 2}, DType::f32, {2, 1});
  const Value bias = ops::constant(g, std::vector<double>{4, -4}, DType::f32, {2});
  const Value logits = ops::linear(g, found, weight, bias);
  g.set_output(kLogits, logits);
  g.set_output(kProbabilities, ops::softmax(g, logits));
  return g;
}

// An image whose patches have this light, 0 to 255 for each pixel.
inline std::vector<uint8_t> bright_image(const std::vector<uint8_t>& patches) {
  std::vector<uint8_t> image(24);
  for (size_t y = 0; y < 4; ++y)
    for (size_t x = 0; x < 6; ++x) image[y * 6 + x] = patches[y / 2 * 3 + x / 2];
  return image;
}

inline Explainer bright_explainer() {
  const Graph model = bright_model();
  return Explainer(compile(expose_attention(model, {.gradients = true})), token_grid(model),
                   std::make_shared<ThreadPool>(1));
}

inline Session bright_session() {
  return Session(compile(bright_model()), std::make_shared<VariableStore>(),
                 std::make_shared<ThreadPool>(1));
}

}  // namespace fovea

// What a model looked at to name the class of an image, a sequence or a row of numbers.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fovea/explain/token_grid.h"
#include "fovea/infer/attention_maps.h"

namespace fovea {

// One example. Shares are [tokens], in the order of the grid; their mean is 1. Of a sequence that
// is shorter than others, only the tokens that are there.
struct Explanation {
  struct Layer {
    std::string name;                        // of the node: "vit.enc.0.attn"
    std::vector<std::vector<double>> heads;  // the attention that tokens receive from each
    std::vector<float> spans = {};           // how far each has learned to see, or empty
  };
  std::vector<double> probabilities;  // of the classes
  int32_t predicted = 0;              // the most probable class, the first of equals
  int32_t explained = 0;              // the class that gradient_rollout is about
  std::vector<double> rollout, gradient_rollout, last_layer;
  std::vector<Layer> layers;
};

// How many tokens of sample i are there: all, or as many as its length covers.
int64_t tokens_there(const TokenGrid& grid, std::span<const InputBytes> inputs, int64_t i);

class Explainer {
 public:
  // exposed: what expose_attention made with gradients, compiled, its weights frozen. Throws Error
  // (unsupported) where the attention is not one over the tokens of the grid.
  Explainer(Graph exposed, const TokenGrid& grid, std::shared_ptr<ThreadPool> pool);

  // Examples with the inputs that the model takes; classes i32 [N], or none: those that the model
  // predicts. Throws what AttentionReader::read throws.
  std::vector<Explanation> explain(const Dataset& examples, std::span<const int32_t> classes = {});
  // The same for images u8 [N,H,W,C].
  std::vector<Explanation> explain(std::span<const uint8_t> images,
                                   std::span<const int32_t> classes = {});

  const TokenGrid& grid() const { return grid_; }
  const Graph& graph() const { return reader_.graph(); }

 private:
  std::vector<Explanation> explain(std::span<const InputBytes> inputs, int64_t count,
                                   std::span<const int32_t> classes);

  TokenGrid grid_;
  AttentionReader reader_;
  int64_t image_bytes_ = 0;  // 0: the model takes no images
  int64_t batch_ = 1;        // images at a time, so that their maps take no more than some memory
};

}  // namespace fovea

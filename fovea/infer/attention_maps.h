// Where a model looks: the attention probabilities of every attention node, values of the graph
// itself, and the gradient of a class's logit with respect to them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fovea/graph/level.h"
#include "fovea/infer/evaluator.h"
#include "fovea/runtime/session.h"

namespace fovea {

// The names of what expose_attention adds. Outputs are the prefix and the name of the attention
// node.
inline constexpr std::string_view kAttentionPrefix = "attention.";  // f32 [B,H,Tq,Tk]
inline constexpr std::string_view kAttentionGradientPrefix = "attention_gradient.";  // the same
inline constexpr std::string_view kAttentionSpanPrefix =
    "attention_span.";  // f32 [H], where learned
// An input i32 [B]: whose logit the gradient is of; negative: the class with the largest one.
inline constexpr std::string_view kAttentionClassInput = "attention.class";

struct AttentionMapOptions {
  const Level* level = nullptr;  // applied first: its overrides name nodes that are then replaced
  bool gradients = false;        // those of a logit as well
};

// The graph for inference (before the passes) with the probabilities of each attention node as
// outputs, in the order of the nodes; attention that is written out counts as the node that
// fuse_attention makes of it. Each node becomes its decomposition, so what is shown is what the
// model reads; kernels that never store the probabilities are no longer used. H counts the heads
// that the level keeps. A row of a query that sees no key is 0. Compile it without a level. Throws
// Error (unsupported) where the graph has no attention, or with gradients no output "logits" f32
// [B,classes]; and what apply_level throws.
Graph expose_attention(const Graph& inference, const AttentionMapOptions& options = {});

// The attention of one node for a batch of images.
struct AttentionMap {
  std::string name;  // of the node: "vit.enc.0.attn"
  int64_t heads = 0, queries = 0, keys = 0;
  std::vector<float> probabilities;  // [B,heads,queries,keys]
  std::vector<float> gradients;      // the same, or empty
  std::vector<float> spans = {};     // how far each head has learned to see, [heads], or empty

  // Of one image, [heads,queries,keys].
  std::span<const float> probabilities_of(int64_t image) const;
  std::span<const float> gradients_of(int64_t image) const;
};

struct AttentionMaps {
  int64_t images = 0;
  int64_t classes = 0;               // 0: the model has no probabilities
  std::vector<float> probabilities;  // of the classes, [images,classes]
  std::vector<AttentionMap> nodes;   // in the order of the graph
};

// Runs a graph that expose_attention made, compiled. One thread at a time.
class AttentionReader {
 public:
  // Throws Error (unsupported) when the graph exposes no attention.
  AttentionReader(Graph exposed, std::shared_ptr<VariableStore> variables,
                  std::shared_ptr<ThreadPool> pool);

  // All inputs of the model, of N samples (evaluator.h): images, masks, lengths, ...; classes i32
  // [N] where the graph gives gradients, or none: those that the model predicts. Throws Error:
  // invalid_argument when an input is missing, one too many or not that of N samples, N is 0, a
  // class is none of the model's, or classes are given to a graph without gradients; non_finite
  // when the model gives no numbers.
  AttentionMaps read(std::span<const InputBytes> inputs, int64_t count,
                     std::span<const int32_t> classes = {});
  // The same for images u8 [N,H,W,C]; unsupported where the model takes none.
  AttentionMaps read(std::span<const uint8_t> images, std::span<const int32_t> classes = {});

  const Graph& graph() const { return session_.graph(); }

 private:
  void check_names(std::span<const InputBytes> inputs) const;
  void feed_classes(Execution& execution, std::span<const int32_t> classes, int64_t images) const;

  Session session_;
};

}  // namespace fovea

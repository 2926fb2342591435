// Vision transformer for classification, with an optional convolutional stem.
#pragma once

#include <vector>

#include "fovea/models/blocks.h"

namespace fovea {

// The section [model] of a recipe whose task sees images.
struct VisionOptions {
  std::vector<int64_t> stem = {32, 64};  // channels of 3x3 convolutions with stride 2; may be empty
  int64_t patch = 1;                     // side of the patches after the stem
  int64_t layers = 4;
  int64_t width = 64;
  int64_t heads = 4;
  int64_t mlp = 128;
  double dropout = 0.0;
  AttentionOptions attention = {};  // [model.attention]

  template <class V>
  void visit(V& v) {
    v("stem", stem);
    v("patch", patch);
    v("layers", layers);
    v("width", width);
    v("heads", heads);
    v("mlp", mlp);
    v("dropout", dropout);
  }
};

// image u8 [B,H,W,C] -> logits f32 [B,classes]. Normalises to mean 0 and deviation about 1 (a fixed
// shift and scale, so that a model needs no other file), convolutional stem (Xiao et al. 2021),
// patches, learned positions, encoder, mean over tokens, linear head (Dosovitskiy et al. 2021).
// Throws Error when the image is not a multiple of the patch.
Value vision_classifier(Graph& g, Value image, int64_t classes, const VisionOptions& options,
                        const BuildContext& context);

}  // namespace fovea

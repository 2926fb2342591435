// One label for each image.
#pragma once

#include <functional>

#include "fovea/models/blocks.h"
#include "fovea/tasks/classification.h"

namespace fovea {

// Adds a model to the graph: image u8 [B,H,W,C] -> logits f32 [B,classes].
using ImageModel =
    std::function<Value(Graph& g, Value image, int64_t classes, const BuildContext& context)>;

// The task with a model built in code. The model is built twice, for inference and for training,
// and must give its variables the same names both times.
Task image_classification(const DataInfo& data, const ImageModel& model,
                          const ClassificationOptions& options = {});

// The task with the vision transformer that [model] describes.
extern const TaskKind kImageClassification;

}  // namespace fovea

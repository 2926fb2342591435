#include "fovea/tasks/image_classification.h"

#include "fovea/graph/ops.h"
#include "fovea/models/vision.h"

namespace fovea {

namespace {

Task make(RecipeTable& recipe, const DataInfo& data) {
  VisionOptions model;
  recipe.bind("model", model);
  recipe.bind("model.attention", model.attention);
  ClassificationOptions options;
  recipe.bind("task", options);
  if (data.height == 0)
    throw Error(ErrorCode::invalid_argument,
                "[task] kind: image_classification needs images, the data are tables or sequences "
                "of numbers (task.kind = \"sequence_classification\" is for those)");
  return image_classification(
      data,
      [&](Graph& g, Value image, int64_t classes, const BuildContext& context) {
        return vision_classifier(g, image, classes, model, context);
      },
      options);
}

}  // namespace

Task image_classification(const DataInfo& data, const ImageModel& model,
                          const ClassificationOptions& options) {
  const auto classes = static_cast<int64_t>(data.class_names.size());
  const Shape image = {Size::symbol("B"), data.height, data.width, data.channels};
  return classification(
      "image_classification", data,
      [&](Graph& g, const BuildContext& context) {
        const Value x = ops::input(g, kImageInput, DType::u8, image);
        return model(g, x, classes, context);
      },
      options);
}

const TaskKind kImageClassification = {"image_classification", make, classification_evaluation,
                                       classification_metrics};

}  // namespace fovea

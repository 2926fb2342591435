#include "fovea/tasks/image_classification.h"

#include "fovea/graph/ops.h"
#include "fovea/models/vision.h"

namespace fovea {

namespace {

// Adds loss and accuracy to a graph with logits. Outputs: loss.sum, loss.count, correct.sum.
void add_losses(Graph& g, Value logits, double smoothing) {
  const Value label = ops::input(g, kLabelInput, DType::i32, {g.shape(logits)[0]});
  const Graph::Scope scope(g, "loss");
  const Value counted = ops::cast(
      g, ops::binary(g, "greater_equal", label, ops::constant(g, 0, DType::i32)), DType::f32);
  g.set_output("loss.sum",
               ops::reduce_sum(g, ops::cross_entropy(g, logits, label, {smoothing}), {0}));
  g.set_output("loss.count", ops::reduce_sum(g, counted, {0}));
  const Value right =
      ops::cast(g, ops::binary(g, "equal", predicted_class(g, logits), label), DType::f32);
  g.set_output("correct.sum", ops::reduce_sum(g, right, {0}));
}

std::vector<Metric> metrics() {
  return {{"accuracy", "correct.sum", "loss.count", true},
          {"loss", "loss.sum", "loss.count", false}};
}

Task make(RecipeTable& recipe, const DataInfo& data) {
  VisionOptions model;
  recipe.bind("model", model);
  recipe.bind("model.attention", model.attention);
  ClassificationOptions options;
  recipe.bind("task", options);
  return image_classification(
      data,
      [&](Graph& g, Value image, int64_t classes, const BuildContext& context) {
        return vision_classifier(g, image, classes, model, context);
      },
      options);
}

Graph evaluation(const Graph& infer) {
  Graph g = infer;
  add_losses(g, g.output(kLogits), 0);
  return g;
}

}  // namespace

Task image_classification(const DataInfo& data, const ImageModel& model,
                          const ClassificationOptions& options) {
  const auto classes = static_cast<int64_t>(data.class_names.size());
  const Shape image = {Size::symbol("B"), data.height, data.width, data.channels};

  Task task;
  task.name = "image_classification";
  task.losses = {{"loss", 1}};
  task.metrics = metrics();
  {
    Graph& g = task.infer;
    const Value x = ops::input(g, kImageInput, DType::u8, image);
    const Value logits = model(g, x, classes, {});
    g.set_output(kLogits, logits);
    g.set_output(kProbabilities, ops::softmax(g, logits));
  }
  {
    Graph& g = task.train;
    const Value x = ops::input(g, kImageInput, DType::u8, image);
    const Value rng = ops::input(g, kRngInput, DType::i32, {3});
    add_losses(g, model(g, x, classes, {.training = true, .rng = rng}), options.label_smoothing);
  }
  return task;
}

const TaskKind kImageClassification = {"image_classification", make, evaluation, metrics};

}  // namespace fovea

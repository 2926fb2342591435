#include "fovea/tasks/image_classification.h"

#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "fovea/graph/ops.h"
#include "fovea/models/vision.h"

namespace fovea {

namespace {

// Logits as the training loss sees them: with balance * log(frequency) added (Menon et al. 2021,
// "Long-tail learning via logit adjustment", equation 10), so that the model need not learn which
// classes are frequent. Inference leaves it away.
Value adjusted(Graph& g, Value logits, const std::vector<int64_t>& counts, double balance) {
  if (!(balance >= 0 && balance <= 10))
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[task] balance: expected 0 to 10, got {}", balance));
  if (balance == 0 || counts.empty()) return logits;
  double all = 0;
  for (int64_t n : counts) all += static_cast<double>(n) + 1;
  std::vector<double> shifts;
  for (int64_t n : counts)  // one more each, so that a class without samples has a logarithm
    shifts.push_back(balance * std::log((static_cast<double>(n) + 1) / all));
  const Graph::Scope scope(g, "balance");
  return ops::add(g, logits,
                  ops::constant(g, shifts, DType::f32, {static_cast<int64_t>(shifts.size())}));
}

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
    const Value logits = model(g, x, classes, {.training = true, .rng = rng});
    add_losses(g, adjusted(g, logits, data.class_counts, options.balance), options.label_smoothing);
  }
  return task;
}

const TaskKind kImageClassification = {"image_classification", make, evaluation, metrics};

}  // namespace fovea

#include "fovea/tasks/classification.h"

#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "fovea/graph/ops.h"

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

// What the model asks to be added to the mean loss, as often as there are examples. Outputs:
// penalty.sum, penalty.count.
void add_penalty(Graph& g, const std::vector<Value>& penalties) {
  const Graph::Scope scope(g, "penalty");
  const Value count = g.output("loss.count");
  Value sum;
  for (const Value penalty : penalties) sum = sum ? ops::add(g, sum, penalty) : penalty;
  g.set_output("penalty.sum", ops::mul(g, sum, count));
  g.set_output("penalty.count", count);
}

}  // namespace

std::vector<Metric> classification_metrics() {
  return {{"accuracy", "correct.sum", "loss.count", true},
          {"loss", "loss.sum", "loss.count", false}};
}

Graph classification_evaluation(const Graph& infer) {
  Graph g = infer;
  add_losses(g, g.output(kLogits), 0);
  return g;
}

Task classification(std::string name, const DataInfo& data, const ClassifierModel& model,
                    const ClassificationOptions& options) {
  Task task;
  task.name = std::move(name);
  task.losses = {{"loss", 1}};
  task.metrics = classification_metrics();
  {
    Graph& g = task.infer;
    const Value logits = model(g, {});
    g.set_output(kLogits, logits);
    g.set_output(kProbabilities, ops::softmax(g, logits));
  }
  {
    Graph& g = task.train;
    const Value rng = ops::input(g, kRngInput, DType::i32, {3});
    std::vector<Value> penalties;
    const Value logits = model(g, {.training = true, .rng = rng, .penalties = &penalties});
    add_losses(g, adjusted(g, logits, data.class_counts, options.balance), options.label_smoothing);
    if (!penalties.empty()) {
      add_penalty(g, penalties);
      task.losses.push_back({"penalty", 1});
    }
  }
  return task;
}

}  // namespace fovea

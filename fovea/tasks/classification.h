// What all tasks with one label for each sample have in common: losses, metrics, options.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "fovea/models/blocks.h"
#include "fovea/tasks/task.h"

namespace fovea {

// The section [task] beyond its kind.
struct ClassificationOptions {
  double label_smoothing = 0.0;
  // How much training makes up for classes of different sizes: 0: not at all, so that answers lean
  // to frequent classes as the training data do; 1: as if all were equally frequent.
  double balance = 0.0;
  template <class V>
  void visit(V& v) {
    v("label_smoothing", label_smoothing);
    v("balance", balance);
  }
};

// Adds the inputs of the data and a model to the graph; gives logits f32 [B,classes].
using ClassifierModel = std::function<Value(Graph& g, const BuildContext& context)>;

// The model is built twice, for inference and for training, and must give its variables the same
// names both times.
Task classification(std::string name, const DataInfo& data, const ClassifierModel& model,
                    const ClassificationOptions& options);

// Adds the input "label" and the outputs of loss and accuracy to a graph with logits.
Graph classification_evaluation(const Graph& infer);
std::vector<Metric> classification_metrics();

}  // namespace fovea

// What makes a job of a model: declared and pure. A task gives graphs; the rooms above run them.
#pragma once

#include <string>
#include <vector>

#include "fovea/data/dataset.h"
#include "fovea/formats/recipe.h"
#include "fovea/graph/graph.h"

namespace fovea {

// A metric is a quotient of two scalar outputs, each summed over all batches.
struct Metric {
  std::string name;   // "accuracy"
  std::string sum;    // output, such as "correct.sum"
  std::string count;  // output, such as "loss.count"
  bool higher_is_better = true;
};

// A loss is a weighted sum of terms; each term is a pair of outputs NAME.sum and NAME.count.
struct LossTerm {
  std::string name;
  double weight = 1;
};

// Tables and sequences of numbers, as a model takes them.
struct SeriesInfo {
  int64_t steps = 0, features = 0;
  bool ragged = false;                            // there is the input "length"
  bool gaps = false;                              // NaN stands for a value that is not known
  std::vector<double> mean = {}, deviation = {};  // of the training part, by feature
};

// What a task must know of its data before any graph is built.
struct DataInfo {
  int64_t height = 0, width = 0, channels = 0;  // of images
  std::vector<std::string> class_names;
  std::vector<int64_t> class_counts = {};  // samples to train with; empty: not known
  SeriesInfo series = {};
};

// Of the training part.
DataInfo data_info(const Dataset& dataset);

// Names of the graphs' further inputs and outputs; the batch size is the symbol B.
inline constexpr std::string_view kLabelInput = "label";    // i32 [B]; negative: not counted
inline constexpr std::string_view kRngInput = "train.rng";  // i32 [3]: seed, step, first sample
inline constexpr std::string_view kProbabilities = "probabilities";  // f32 [B,classes]
inline constexpr std::string_view kLogits = "logits";                // f32 [B,classes]

// The class that logits [B,classes] choose, i32 [B]: the first of those with the largest one, so
// that a model whose logits are all equal is not right everywhere.
Value predicted_class(Graph& g, Value logits);

struct Task {
  std::string name;
  Graph infer;  // inputs of the data set -> logits, probabilities
  Graph train;  // these, label, train.rng -> the sums and counts of losses and metrics
  std::vector<LossTerm> losses;
  std::vector<Metric> metrics;  // the first chooses the best weights
};

// One row of the table of tasks.
struct TaskKind {
  std::string_view name;
  // Reads [model] and what else it needs of the recipe.
  Task (*make)(RecipeTable& recipe, const DataInfo& data);
  // Adds the input "label" and the outputs of losses and metrics to a graph for inference.
  Graph (*evaluation)(const Graph& infer);
  std::vector<Metric> (*metrics)();
};

// All tasks; tasks.cpp lists them.
std::span<const TaskKind> task_kinds();
// The one with this name. Throws Error with the nearest name when there is none.
const TaskKind& task_kind(std::string_view name);
// The task that the recipe names under [task] kind (default: image_classification). Throws Error
// with the nearest name when there is none.
const TaskKind& task_kind(RecipeTable& recipe);
// What that task makes of the recipe; Errors about keys say where they were written.
Task make_task(RecipeTable& recipe, const DataInfo& data);

}  // namespace fovea

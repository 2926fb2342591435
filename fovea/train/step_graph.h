// A training step as a graph: losses, gradients, clipping, the optimiser's updates, the moving
// average.
#pragma once

#include <string>
#include <vector>

#include "fovea/passes/pipeline.h"
#include "fovea/tasks/task.h"
#include "fovea/train/options.h"

namespace fovea {

// Scalar input: the learning rate of this step, f32.
inline constexpr std::string_view kRateInput = "train.learning_rate";
// Outputs of the step: the weighted sum of the losses and the examples it was summed over, and the
// norm of the mean gradient before clipping (apply and whole only).
inline constexpr std::string_view kObjectiveSum = "objective.sum";
inline constexpr std::string_view kObjectiveCount = "objective.count";
inline constexpr std::string_view kGradientNorm = "gradient.norm";
// The moving average of weight W is the variable "average.W".
inline constexpr std::string_view kAveragePrefix = "average.";
// What micro-batches add up until the last one: "accumulated.W" for the gradient of W.
inline constexpr std::string_view kAccumulatedPrefix = "accumulated.";

// Which part of a step: all of it, or with gradient accumulation the micro-batches that only add up
// their gradients and the last one, which adds its own and applies the sum.
enum class StepPart { whole, accumulate, apply };

// The task's graph for training with the outputs objective.sum and objective.count. The losses are
// added with their weights; all are divided by the count of the first.
Graph objective_graph(const Task& task);

// What to give the passes so that they make a step of an objective graph: differentiate
// objective.sum, then add the updates.
PassContext step_context(const TrainOptions& options, StepPart part = StepPart::whole);

// What else may be asked of a step.
struct StepOptions {
  StepPart part = StepPart::whole;
  const LevelOptions* level = nullptr;         // nullptr: the model as it stands
  std::span<const std::string> disabled = {};  // passes
  std::vector<PassReport>* reports = nullptr;
};

// Both: the step before and after the passes.
struct StepGraphs {
  Graph before;
  Graph after;
};
StepGraphs make_step(const Task& task, const TrainOptions& options, const StepOptions& step = {});

}  // namespace fovea

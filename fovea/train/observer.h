// What a training tells to those who watch it: event files, the record of runs. They read and never
// change it: a run gives the same weights with any of them, or none.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "fovea/base/thread_pool.h"
#include "fovea/tasks/task.h"
#include "fovea/train/options.h"

namespace fovea {

struct TrainResult;

// What holds for the whole run; references live as long as the training.
struct TrainStart {
  const std::filesystem::path& out;                    // the bundle's folder
  const std::string& recipe;                           // TOML, overrides applied
  const std::map<std::string, std::string>& settings;  // of the recipe, defaults included
  const TrainOptions& options;
  const Task& task;
  const Dataset& examples;  // of the validation split, or of training where there is none
  std::shared_ptr<ThreadPool> pool;
  int64_t parameters = 0;
  int64_t total_steps = 0;
  bool resumed = false;
  int64_t step = 0;       // made before, by the run that is resumed
  bool finished = false;  // it was finished already: no step will follow
};

struct TrainStep {
  int64_t step = 0;   // counted from 1, through all epochs
  int64_t epoch = 0;  // counted from 1
  int64_t examples = 0;
  double learning_rate = 0;
  double gradient_norm = 0;
  const std::map<std::string, double>& metrics;  // of this step alone, "loss" among them
};

struct TrainEpoch {
  int64_t epoch = 0;                                // counted from 1
  int64_t step = 0;                                 // made so far
  const std::map<std::string, double>& training;    // means over the epoch
  const std::map<std::string, double>& validation;  // empty without that split
  // What is validated: the moving average where there is one.
  const std::map<std::string, HostTensorPtr>& weights;
};

// Called by the thread that trains. One that throws is not called again, and the run goes on.
class TrainObserver {
 public:
  virtual ~TrainObserver() = default;

  // What it is, for the warning: "the event files".
  virtual std::string what() const = 0;
  virtual void started(const TrainStart&) {}
  virtual void stepped(const TrainStep&) {}
  virtual void epoch_ended(const TrainEpoch&) {}
  // Finished, or interrupted, which the result says.
  virtual void ended(const TrainResult&) {}
  virtual void failed(const std::string& /*error*/) {}
};

}  // namespace fovea

// The training loop: from a recipe, or from what code has made, to a bundle.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fovea/base/thread_pool.h"
#include "fovea/data/augment.h"
#include "fovea/data/dataset.h"
#include "fovea/formats/recipe.h"
#include "fovea/graph/level.h"
#include "fovea/tasks/task.h"
#include "fovea/train/observer.h"
#include "fovea/train/options.h"

namespace fovea {

// Where a run stands; sent after each step and each epoch.
struct TrainProgress {
  int64_t epoch = 0, epochs = 0;  // counted from 1
  int64_t step = 0, steps = 0;    // in this epoch, counted from 1
  int64_t total_step = 0, total_steps = 0;
  double loss = 0;      // mean since the epoch began
  double accuracy = 0;  // the first metric, likewise
  double examples_per_second = 0;
  double seconds_left = 0;
  bool epoch_done = false;
  std::map<std::string, double> validation;  // when epoch_done and there is a validation split
};

// What is trained, how, and on what: what a recipe describes, or code puts together.
struct TrainJob {
  Task task;  // its name is that of a task kind: image_classification()
  TrainOptions options = {};
  AugmentOptions augment = {};
  RecordOptions record = {};
  std::vector<LevelOptions> levels = {};  // besides the model as it stands
  Dataset train;                          // an ImageDataset, too
  Dataset validation = {};                // may be empty: the last weights are then the best
  Dataset test = {};                      // may be empty: nothing is measured at the end
  // TOML, for the bundle; empty: written from the above, with data.kind = "memory".
  std::string recipe = {};
  // Its keys with their values, defaults included; empty: those of the above.
  std::map<std::string, std::string> settings = {};
};

// Who reads data and who hears of it; all may be empty.
struct ReadOptions {
  std::shared_ptr<ThreadPool> pool = {};  // that decodes image files; empty: one of all processors
  // Files of a split that have been read, of all.
  std::function<void(Split split, int64_t done, int64_t all)> progress = {};
  std::function<void(const std::string&)> note = {};  // what a person should know
};

// Loads the data, builds the task. Throws Error for a bad recipe or data set.
TrainJob read_job(RecipeTable& recipe, const ReadOptions& how = {});

struct TrainRequest {                     // where a training goes, and who watches
  std::filesystem::path out;              // the bundle's folder
  bool resume = false;                    // go on from the checkpoint in it
  bool overwrite = false;                 // put a new run in the place of the one in it
  std::filesystem::path init = {};        // a bundle to take weights from; empty: none
  std::shared_ptr<ThreadPool> pool = {};  // empty: one of all processors
  std::function<void(const TrainProgress&)> progress = {};  // may be empty
  std::vector<TrainObserver*> observers = {};               // besides what job.record asks for
  std::function<void(const std::string&)> warn = {};        // may be empty
  const std::atomic<bool>* stop = nullptr;                  // set: finish the step, save, return
};

struct TrainResult {           // what came of it
  bool interrupted = false;    // by request.stop
  bool saved = true;           // false: interrupted before anything was; the folder is as it was
  int64_t epochs = 0;          // that ran
  int64_t best_epoch = 0;      // whose weights the bundle holds
  bool stopped_early = false;  // since validation no longer improved
  double seconds = 0;
  std::map<std::string, double> validation;  // metrics of the weights that are kept
  std::map<std::string, double> test;        // the same, at the end
  std::map<std::string, std::map<std::string, double>> levels;  // test metrics, by level
  int64_t parameters = 0;
  int64_t initialised = 0;  // weights taken from request.init
};

// Trains and writes the bundle to request.out, with its checkpoint beside it, which stays. With
// request.overwrite the checkpoint there is replaced when the new run saves for the first time, and
// the bundle there stays whole until the new one is. Throws
// Error for options or data that do not fit, for a folder that holds another run or in which
// another process trains, for a loss that is not finite (naming the step and the first node; the
// last good checkpoint stays), and what saving throws.
TrainResult train(TrainJob job, const TrainRequest& request);
// The same for read_job(recipe).
TrainResult train(RecipeTable& recipe, const TrainRequest& request);

}  // namespace fovea

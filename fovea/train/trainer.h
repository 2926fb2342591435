// The training loop: from a recipe to a bundle.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "fovea/base/thread_pool.h"
#include "fovea/formats/recipe.h"
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

struct TrainRequest {
  std::filesystem::path out;   // the bundle's folder
  bool resume = false;         // go on from the checkpoint in it
  bool overwrite = false;      // throw away what is in it
  std::filesystem::path init;  // a bundle to take weights from; empty: none
  std::shared_ptr<ThreadPool> pool;
  std::function<void(const TrainProgress&)> progress;  // may be empty
  const std::atomic<bool>* stop = nullptr;             // set: finish the step, save, return
};

struct TrainResult {
  bool interrupted = false;
  int64_t epochs = 0;      // that ran
  int64_t best_epoch = 0;  // whose weights the bundle holds
  bool stopped_early = false;
  double seconds = 0;
  std::map<std::string, double> validation;
  std::map<std::string, double> test;
  std::map<std::string, std::map<std::string, double>> levels;  // test metrics, by level
  int64_t parameters = 0;
  int64_t initialised = 0;  // weights taken from request.init
};

// Trains as the recipe says and writes the bundle to request.out, with its checkpoint beside it,
// which stays. Throws Error for a bad recipe or data set, for a folder that holds another run, for
// a loss that is not finite (naming the step and the first node; the last good checkpoint stays),
// and what saving throws.
TrainResult train(RecipeTable& recipe, const TrainRequest& request);

}  // namespace fovea

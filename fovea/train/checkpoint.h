// Everything that a run needs to go on as if it had never stopped, in one file.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "fovea/runtime/variables.h"

namespace fovea {

// Where a run stands, beside the numbers of its variables.
struct RunState {
  std::string recipe;                  // as TOML: a run goes on only with the recipe it began with
  int64_t epoch = 0;                   // counted from 0
  int64_t batch = 0;                   // next batch of the epoch
  int64_t step = 0;                    // steps made in all
  std::map<std::string, double> sums;  // of the outputs of the steps of this epoch
  int64_t best_epoch = -1;
  double best = 0;  // the first metric on the validation split
  int64_t epochs_without_gain = 0;
  bool finished = false;
  std::map<std::string, double> validation;  // of the best epoch
  std::map<std::string, HostTensorPtr> best_weights;
};

// Atomic: the previous checkpoint stays whole until the new one is on the disk.
void save_checkpoint(const std::filesystem::path& path, const VariableStore& variables,
                     const RunState& state);

// Fills the variables, which must exist, and returns the state. Throws Error when the file is not a
// checkpoint of these variables (corrupt, not_found) or of a newer format (unsupported); the
// variables are then as they were.
RunState load_checkpoint(const std::filesystem::path& path, VariableStore& variables);

// The recipe of a checkpoint, without the rest.
std::string checkpoint_recipe(const std::filesystem::path& path);

}  // namespace fovea

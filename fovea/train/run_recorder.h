// Writes a training into the record of runs, while it goes on.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "fovea/train/observer.h"
#include "fovea/train/run_store.h"

namespace fovea {

inline constexpr const char* kRunsFile = "runs.sqlite";

// Where the run of a bundle's folder is recorded: $FOVEA_RUNS, or beside the folder.
std::filesystem::path runs_file(const std::filesystem::path& out);

class RunRecorder : public TrainObserver {
 public:
  explicit RunRecorder(std::filesystem::path path) : path_(std::move(path)) {}

  std::string what() const override { return "the record of runs"; }
  // A run that is resumed goes on with its entry; where it has none, it gets one.
  void started(const TrainStart& start) override;
  // Of the curves by step, at most some hundred points are kept: each the mean since the one
  // before.
  void stepped(const TrainStep& step) override;
  void epoch_ended(const TrainEpoch& epoch) override;
  void ended(const TrainResult& result) override;
  void failed(const std::string& error) override;

  // What was measured after the training, beside its own results. Throws Error.
  void add_results(const std::map<std::string, double>& results);

 private:
  using Clock = std::chrono::steady_clock;
  void write();
  void store();

  std::filesystem::path path_;
  std::optional<RunStore> store_;
  RunRecord run_;
  std::map<std::string, std::vector<RunPoint>> points_;  // not written yet
  std::map<std::string, double> sums_;                   // since the last point
  int64_t summed_ = 0, stride_ = 1;
  double seconds_before_ = 0;  // in the processes before
  Clock::time_point started_, written_;
};

}  // namespace fovea

#include "fovea/train/run_recorder.h"

#include <algorithm>
#include <cstdlib>

#include "fovea/base/build_info.h"
#include "fovea/train/trainer.h"

namespace fovea {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kMostPoints = 400;  // of a curve by step
constexpr double kSecondsBetweenWrites = 5;

// Without a slash behind it, so that one folder has one name.
fs::path folder_of(const fs::path& out) {
  const fs::path path = fs::absolute(out).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

}  // namespace

fs::path runs_file(const fs::path& out) {
  if (const char* path = std::getenv("FOVEA_RUNS"); path && *path) return path;
  // A relative path stays one: errors then name what was typed.
  const fs::path folder = out.has_filename() ? out : out.parent_path();
  return folder.parent_path() / kRunsFile;
}

void RunRecorder::started(const TrainStart& start) {
  const fs::path folder = folder_of(start.out);
  RunStore store = RunStore::open(path_);
  run_.name = folder.filename();
  run_.folder = folder;
  run_.recipe = start.recipe;
  run_.settings = start.settings;
  run_.seed = start.options.seed;
  run_.threads = start.pool ? start.pool->threads() : 1;
  run_.precision = in_bf16(start.options.precision) ? "bf16" : "f32";
  run_.parameters = start.parameters;
  run_.step = start.step;
  run_.total_steps = start.total_steps;
  run_.version = version();
  run_.compiler = compiler();
  run_.processor = processor_name();
  std::optional<RunRecord> before;
  if (start.resumed)
    if (const auto id = store.find_in_folder(run_.folder)) before = store.load(*id);
  if (before && before->recipe == run_.recipe) {
    if (start.finished && before->state == RunStatus::finished) return;  // nothing to add
    run_.id = before->id;
    run_.epochs = before->epochs;
    run_.results = before->results;
    seconds_before_ = before->seconds;
    store.go_on(run_.id, start.step, run_);
  } else {
    run_.id = store.add(run_);
  }
  stride_ = std::max<int64_t>(1, (start.total_steps + kMostPoints - 1) / kMostPoints);
  started_ = written_ = Clock::now();
  store_.emplace(std::move(store));
}

void RunRecorder::stepped(const TrainStep& step) {
  if (!store_) return;
  run_.step = step.step;
  for (const auto& [name, value] : step.metrics) sums_["step." + name] += value;
  sums_["step.learning_rate"] += step.learning_rate;
  sums_["step.gradient_norm"] += step.gradient_norm;
  ++summed_;
  if (step.step % stride_ != 0) return;
  for (auto& [name, sum] : sums_) {
    points_[name].push_back({step.step, step.epoch, sum / static_cast<double>(summed_)});
    sum = 0;
  }
  summed_ = 0;
  if (std::chrono::duration<double>(Clock::now() - written_).count() > kSecondsBetweenWrites)
    write();
}

void RunRecorder::epoch_ended(const TrainEpoch& epoch) {
  if (!store_) return;
  run_.epochs = epoch.epoch;
  const auto add = [&](const std::string& name, double value) {
    points_["epoch." + name].push_back({epoch.step, epoch.epoch, value});
  };
  for (const auto& [name, value] : epoch.training) add("train_" + name, value);
  for (const auto& [name, value] : epoch.validation) add("validation_" + name, value);
  write();
}

void RunRecorder::ended(const TrainResult& result) {
  if (!store_) return;
  run_.state = result.interrupted ? RunStatus::interrupted : RunStatus::finished;
  if (!result.interrupted) {
    run_.epochs = result.epochs;
    run_.best_epoch = result.best_epoch;
  }
  for (const auto& [name, value] : result.validation) run_.results["validation_" + name] = value;
  for (const auto& [name, value] : result.test) run_.results["test_" + name] = value;
  for (const auto& [level, metrics] : result.levels)
    for (const auto& [name, value] : metrics)
      run_.results["level_" + level + "_test_" + name] = value;
  write();
}

void RunRecorder::failed(const std::string& error) {
  if (!store_) return;
  run_.state = RunStatus::failed;
  run_.error = error;
  write();
}

void RunRecorder::add_results(const std::map<std::string, double>& results) {
  if (!store_) return;
  for (const auto& [name, value] : results) run_.results[name] = value;
  store();
}

void RunRecorder::write() {
  written_ = Clock::now();
  run_.seconds = seconds_before_ + std::chrono::duration<double>(written_ - started_).count();
  store();
}

void RunRecorder::store() {
  try {
    store_->update(run_, points_);
  } catch (...) {
    store_.reset();  // one failure is told, not each that follows
    throw;
  }
  points_.clear();
}

}  // namespace fovea

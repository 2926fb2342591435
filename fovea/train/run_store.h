// The record of all runs in one SQLite file: what each was to do, where, its curves and its result.
// Several processes may write and read it at the same time.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fovea {

// Running and killed look alike in the file: a run is killed whose process is gone.
enum class RunStatus { running, finished, interrupted, failed, killed };
inline std::span<const std::string_view> enum_names(RunStatus) {
  static constexpr std::array<std::string_view, 5> kNames = {"running", "finished", "interrupted",
                                                             "failed", "killed"};
  return kNames;
}

struct RunPoint {
  int64_t step = 0, epoch = 0;  // counted from 1
  double value = 0;
  bool operator==(const RunPoint&) const = default;
};

struct RunRecord {
  int64_t id = 0;      // counted from 1, never used again
  std::string name;    // of the bundle's folder
  std::string folder;  // absolute
  RunStatus state = RunStatus::running;
  std::string error;              // of a run that failed
  double began = 0, changed = 0;  // seconds since 1970
  double seconds = 0;             // of training
  std::string recipe;             // TOML, overrides applied
  int64_t seed = 0, threads = 0, parameters = 0;
  int64_t step = 0, total_steps = 0, epochs = 0, best_epoch = 0;
  std::string precision, version, compiler, processor, host;
  std::map<std::string, double> results;  // "test_accuracy"; all that is known

  // Of load() only.
  std::map<std::string, std::string> settings;          // of the recipe, defaults included
  std::map<std::string, std::vector<RunPoint>> curves;  // "step.loss", "epoch.validation_loss"
};

// Throws Error everywhere: io (the file cannot be made, read or written, or another process holds
// it too long), corrupt (it is damaged or another program's), unsupported (it is of a newer
// format).
class RunStore {
 public:
  // For writing; makes the file, and its folder.
  static RunStore open(const std::filesystem::path& path);
  // For reading. not_found where there is none.
  static RunStore open_existing(const std::filesystem::path& path);
  RunStore(RunStore&&) noexcept;
  ~RunStore();

  // Adds a run of this process, with its settings, and returns its id.
  int64_t add(const RunRecord& run);
  // The latest run in the folder.
  std::optional<int64_t> find_in_folder(const std::string& folder);
  // This process goes on with a run at a step: what was noted of later ones is removed.
  void go_on(int64_t id, int64_t step, const RunRecord& run);
  // Adds points, and replaces what changes in the course of a run: state, error, seconds, step,
  // epochs, best_epoch, results.
  void update(const RunRecord& run, const std::map<std::string, std::vector<RunPoint>>& points);

  // All, the oldest first, without settings and curves.
  std::vector<RunRecord> list();
  std::optional<RunRecord> load(int64_t id);

 private:
  struct Impl;
  explicit RunStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fovea

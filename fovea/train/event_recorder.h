// Writes what a training does as TensorBoard's event files, into the folder "events" of its bundle.
#pragma once

#include <chrono>
#include <memory>
#include <optional>

#include "fovea/formats/tensorboard.h"
#include "fovea/train/observer.h"

namespace fovea {

inline constexpr const char* kEventsFolder = "events";

class AttentionWatch;

class EventRecorder : public TrainObserver {
 public:
  explicit EventRecorder(const RecordOptions& options);
  ~EventRecorder() override;

  std::string what() const override { return "the event files"; }
  // A run that is resumed goes on with its file, where steps that it will make again are removed.
  void started(const TrainStart& start) override;
  void stepped(const TrainStep& step) override;
  void epoch_ended(const TrainEpoch& epoch) override;
  void ended(const TrainResult& result) override;
  void failed(const std::string& error) override;

 private:
  using Clock = std::chrono::steady_clock;
  void write(int64_t step, const EventSummary& summary);
  void restart_clock();

  RecordOptions options_;
  std::optional<EventWriter> writer_;
  std::unique_ptr<AttentionWatch> attention_;  // null where the model has none
  int64_t step_ = 0;
  int64_t examples_ = 0;  // since the clock started
  Clock::time_point started_, flushed_;
};

}  // namespace fovea

#include "fovea/train/event_recorder.h"

#include <fmt/format.h>

#include <cstring>
#include <sstream>

#include "fovea/train/attention_watch.h"
#include "fovea/train/trainer.h"

namespace fovea {

namespace {

constexpr double kFlushSeconds = 2;

// As a block of code: markdown would fold the lines.
std::string code_block(const std::string& text) {
  std::istringstream lines(text);
  std::string block;
  for (std::string line; std::getline(lines, line);) block += "    " + line + "\n";
  return block;
}

}  // namespace

EventRecorder::EventRecorder(const RecordOptions& options) : options_(options) {}
EventRecorder::~EventRecorder() = default;

void EventRecorder::restart_clock() {
  examples_ = 0;
  started_ = Clock::now();
}

void EventRecorder::write(int64_t step, const EventSummary& summary) {
  if (!summary.empty()) writer_->write(step, summary);
}

void EventRecorder::started(const TrainStart& start) {
  if (start.finished) return;
  const std::filesystem::path folder = start.out / kEventsFolder;
  step_ = start.step;
  if (!start.resumed) remove_event_files(folder);
  // Before the first step nothing was told; a run that was resumed then begins anew.
  const bool goes_on = start.resumed && start.step > 0;
  writer_ = goes_on ? EventWriter::resume(folder, start.step) : EventWriter::begin(folder);
  if (!goes_on) {
    EventSummary summary;
    summary.text("recipe", code_block(start.recipe));
    write(0, summary);
    writer_->write_graph(start.task.infer);
  }
  attention_ = AttentionWatch::make(start, options_);
  writer_->flush();
  flushed_ = Clock::now();
  restart_clock();
}

void EventRecorder::stepped(const TrainStep& step) {
  if (!writer_) return;
  step_ = step.step;
  examples_ += step.examples;
  if (step.step % options_.every != 0) return;
  EventSummary summary;
  for (const auto& [name, value] : step.metrics) summary.scalar("train/" + name, value);
  summary.scalar("train/learning_rate", step.learning_rate);
  summary.scalar("train/gradient_norm", step.gradient_norm);
  const Clock::time_point now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - started_).count();
  if (seconds > 0)
    summary.scalar("train/examples_per_second", static_cast<double>(examples_) / seconds);
  write(step.step, summary);
  if (std::chrono::duration<double>(now - flushed_).count() > kFlushSeconds) {
    writer_->flush();
    flushed_ = now;
  }
  restart_clock();
}

void EventRecorder::epoch_ended(const TrainEpoch& epoch) {
  if (!writer_) return;
  EventSummary summary;
  for (const auto& [name, value] : epoch.training) summary.scalar("epoch/train_" + name, value);
  for (const auto& [name, value] : epoch.validation)
    summary.scalar("epoch/validation_" + name, value);
  if (options_.histograms_every > 0 && epoch.epoch % options_.histograms_every == 0) {
    for (const auto& [name, tensor] : epoch.weights) {
      if (tensor->dtype != DType::f32) continue;
      std::vector<float> values(tensor->bytes.size() / sizeof(float));
      std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
      summary.histogram("weights/" + name, values);
    }
    if (attention_) attention_->add(summary, epoch.weights);
  }
  write(epoch.step, summary);
  writer_->flush();
  restart_clock();
}

void EventRecorder::ended(const TrainResult& result) {
  if (!writer_) return;
  EventSummary summary;
  for (const auto& [name, value] : result.test) summary.scalar("test/" + name, value);
  write(step_, summary);
  writer_->flush();
}

void EventRecorder::failed(const std::string& error) {
  if (!writer_) return;
  EventSummary summary;
  summary.text("error", code_block(error));
  write(step_, summary);
  writer_->flush();
}

}  // namespace fovea

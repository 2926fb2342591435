// Ctrl-C and SIGTERM for verbs that finish what they are at before they end.
#pragma once

#include <signal.h>

#include <atomic>
#include <string_view>

namespace fovea::cli {

// While it lives, the first SIGINT or SIGTERM sets asked(), and the second ends the process at
// once. One at a time.
class StopOnSignal {
 public:
  // `said` tells what is finished, on a terminal: "finishing this step".
  explicit StopOnSignal(std::string_view said);
  ~StopOnSignal();
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

  static const std::atomic<bool>& asked();
  // As shells report a process that the signal ended: 130 for SIGINT, 143 for SIGTERM.
  static int exit_code();

 private:
  struct sigaction interrupt_, terminate_;
};

}  // namespace fovea::cli

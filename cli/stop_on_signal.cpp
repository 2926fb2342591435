#include "cli/stop_on_signal.h"

#include <unistd.h>

#include <string>

#include "fovea/formats/file.h"

namespace fovea::cli {

namespace {

std::atomic<bool> stop_requested{false};
std::atomic<int> stop_signal{SIGINT};
std::string said_then;  // written before the handler is there

void say(std::string_view text) {
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}

void on_signal(int signal) {
  static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);
  if (stop_requested.load()) {
    remove_temporaries();
    _exit(128 + signal);
  }
  stop_signal = signal;
  stop_requested = true;
  if (isatty(STDERR_FILENO) != 0) say(said_then);
}

}  // namespace

StopOnSignal::StopOnSignal(std::string_view said) {
  said_then = "\nfovea: " + std::string(said) + "; once more ends at once\n";
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (const auto& [number, before] : {std::pair{SIGINT, &interrupt_}, {SIGTERM, &terminate_}}) {
    sigaction(number, nullptr, before);
    // What the parent has chosen to ignore (nohup, a shell's background job) stays ignored.
    if (before->sa_handler != SIG_IGN) sigaction(number, &action, nullptr);
  }
}

StopOnSignal::~StopOnSignal() {
  sigaction(SIGINT, &interrupt_, nullptr);
  sigaction(SIGTERM, &terminate_, nullptr);
}

const std::atomic<bool>& StopOnSignal::asked() { return stop_requested; }
int StopOnSignal::exit_code() { return 128 + stop_signal.load(); }

}  // namespace fovea::cli

// The program `fovea`: how a verb is found, and how every one of them ends.
#include <errno.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "cli/help.h"
#include "cli/stop_on_signal.h"
#include "cli/verbs.h"
#include "fovea/base/build_info.h"
#include "fovea/base/error.h"
#include "fovea/base/terminal.h"
#include "fovea/formats/file.h"

namespace fovea::cli {

namespace {

constexpr int kErrorExit = 2;

int run(const std::string& program, const std::vector<std::string>& words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h") {
    fmt::print("{}", overview(layout_of_output()));
    return 0;
  }
  if (words[0] == "--version") {
    fmt::print("fovea {}\n", version());
    return 0;
  }
  const Verb& verb = verb_named(words[0]);
  Arguments arguments(verb.name);
  const Verb::Action action = verb.declare(arguments);
  if (!arguments.parse(std::span(words).subspan(1))) {
    fmt::print("{}", verb_help(verb, layout_of_output()));
    return 0;
  }
  return action({program});
}

int fail(std::string message) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  const std::string name = inked("fovea:", Ink::red, takes_colours(stderr));
  std::fprintf(stderr, "%s %s\n", name.c_str(), message.c_str());
  return kErrorExit;
}

// Standard output could not take everything. A reader that has seen enough (`| head`) is no error.
int fail_to_write(int error) {
  if (error == EPIPE) return 0;
  return fail(fmt::format("standard output cannot be written: {}", std::strerror(error)));
}

int guarded_run(const std::string& program, const std::vector<std::string>& words) {
  try {
    const int code = run(program, words);
    if (std::fflush(stdout) != 0) return fail_to_write(errno);
    return code;
  } catch (const std::bad_alloc&) {
    return fail(
        "out of memory (a smaller batch, smaller images or a smaller model need less; so may "
        "ending other programs)");
  } catch (const std::system_error& e) {
    // What fmt throws where it cannot write.
    if (std::ferror(stdout)) return fail_to_write(e.code().value());
    return fail(e.what());
  } catch (const Error& e) {
    fail(e.what());
    return e.code() == ErrorCode::interrupted ? StopOnSignal::exit_code() : kErrorExit;
  } catch (const std::exception& e) {
    return fail(e.what());
  }
}

// Ends as a shell reports it, 130 or 143, and leaves nothing half-written. `fovea train` has a
// handler of its own.
void end_at_once(int signal) {
  remove_temporaries();
  _exit(128 + signal);
}

}  // namespace

}  // namespace fovea::cli

int main(int argc, char** argv) {
  // A full quota or a closed pipe shall be an error of the write, which is reported, and not the
  // end of a training.
  signal(SIGXFSZ, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  // What the parent has chosen to ignore (nohup, a shell's background job) stays ignored.
  for (const int number : {SIGINT, SIGTERM})
    if (signal(number, fovea::cli::end_at_once) == SIG_IGN) signal(number, SIG_IGN);
  const std::string program = argc > 0 ? argv[0] : "fovea";
  return fovea::cli::guarded_run(program,
                                 std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
}

// A rival of `fovea bench`: a child process with an environment of its own, driven by lines through
// a pipe (bench/rival.h says which).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace fovea::cli {

// How a rival is started, and what to say where it is not installed.
struct RivalProgram {
  std::string name;                  // "libtorch"
  std::vector<std::string> command;  // absolute paths, or names to be found in PATH
  std::vector<std::filesystem::path> needs;
};

// Those that `make bench` puts into the folder.
std::vector<RivalProgram> rival_programs(const std::filesystem::path& folder);
// What is missing, and how to get it; nothing where the rival can be started.
std::optional<std::string> what_is_missing(const RivalProgram& program);

class RivalProcess {
 public:
  // Runs in `folder`. Throws Error (io, not_found) where it cannot be started.
  RivalProcess(const RivalProgram& program, const std::filesystem::path& folder, int threads);
  ~RivalProcess();
  RivalProcess(const RivalProcess&) = delete;
  RivalProcess& operator=(const RivalProcess&) = delete;

  // Sends a line and gives the answer's words KEY=VALUE. Throws Error (unsupported) for an answer
  // "error ...", (corrupt) for one that is none, (io) where the process has ended.
  std::map<std::string, std::string> ask(const std::string& line);
  // Milliseconds of each of so many runs.
  std::vector<double> run(int64_t runs);

 private:
  std::string answer(const std::string& line);

  std::string name_;
  pid_t process_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
};

}  // namespace fovea::cli

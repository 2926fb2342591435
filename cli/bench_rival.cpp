#include "cli/bench_rival.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <sstream>
#include <utility>

#include "fovea/base/error.h"

namespace fovea::cli {

namespace {

// A child's end closes itself when another program is started.
struct Pipe {
  int read = -1;
  int write = -1;
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
      throw Error(ErrorCode::io, fmt::format("[bench] no pipe to a rival can be made: {} (see "
                                             "`ulimit -n`; --without-rivals leaves them out)",
                                             std::strerror(errno)));
    read = ends[0];
    write = ends[1];
  }
  ~Pipe() {
    if (read >= 0) close(read);
    if (write >= 0) close(write);
  }
  FILE* reader() { return fdopen(std::exchange(read, -1), "r"); }
  FILE* writer() { return fdopen(std::exchange(write, -1), "w"); }
};

// Ours, with the threads set and their teams asleep between runs: a spinning team would slow down
// whoever is measured next.
std::vector<std::string> environment(int threads) {
  const std::map<std::string, std::string> changes = {
      {"OMP_WAIT_POLICY", "passive"},
      {"OMP_NUM_THREADS", std::to_string(threads)},
      {"OPENBLAS_NUM_THREADS", std::to_string(threads)}};
  std::vector<std::string> all;
  for (char** entry = environ; *entry; ++entry) {
    const std::string text = *entry;
    if (!changes.contains(text.substr(0, text.find('=')))) all.push_back(text);
  }
  for (const auto& [name, value] : changes) all.push_back(name + "=" + value);
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& text : texts) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

}  // namespace

std::vector<RivalProgram> rival_programs(const std::filesystem::path& folder) {
  const std::filesystem::path at = std::filesystem::absolute(folder);
  const std::filesystem::path torch = at / "rival_torch", onednn = at / "rival_onednn",
                              script = at / "rival_onnxruntime.js";
  return {{"libtorch", {torch.string()}, {torch}},
          {"onednn", {onednn.string()}, {onednn}},
          {"onnxruntime",
           {"node", script.string()},
           {script, at / "node_modules" / "onnxruntime-node"}}};
}

std::optional<std::string> what_is_missing(const RivalProgram& program) {
  for (const std::filesystem::path& path : program.needs)
    if (!std::filesystem::exists(path))
      return fmt::format("{} is not installed: no {} (make bench installs the rivals)",
                         program.name, path.string());
  return std::nullopt;
}

RivalProcess::RivalProcess(const RivalProgram& program, const std::filesystem::path& folder,
                           int threads)
    : name_(program.name) {
  Pipe questions, answers;
  std::vector<std::string> arguments = program.command, variables = environment(threads);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, questions.read, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, answers.write, STDOUT_FILENO);
  posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  const int error = posix_spawnp(&process_, arguments[0].c_str(), &actions, nullptr,
                                 pointers(arguments).data(), pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    process_ = -1;
    throw Error(error == ENOENT ? ErrorCode::not_found : ErrorCode::io,
                fmt::format("[bench] {} cannot be started: {}: {} (make bench installs the rivals, "
                            "--without-rivals leaves them out)",
                            name_, program.command[0], std::strerror(error)));
  }
  to_ = questions.writer();
  from_ = answers.reader();
}

RivalProcess::~RivalProcess() {
  // The end of its input is the end of the rival.
  if (to_) std::fclose(to_);
  if (from_) std::fclose(from_);
  if (process_ > 0) waitpid(process_, nullptr, 0);
}

std::string RivalProcess::answer(const std::string& line) {
  std::fprintf(to_, "%s\n", line.c_str());
  std::fflush(to_);
  std::string text;
  int c = 0;
  while ((c = std::getc(from_)) != EOF && c != '\n') text += static_cast<char>(c);
  if (c == EOF)
    throw Error(ErrorCode::io,
                fmt::format("[bench] {} ended at '{}' (--without-rivals leaves it out)", name_,
                            line.substr(0, line.find(' '))));
  if (text.starts_with("error"))
    throw Error(ErrorCode::unsupported,
                fmt::format("[bench] {}: {} (--without-rivals leaves it out)", name_, text));
  return text;
}

std::map<std::string, std::string> RivalProcess::ask(const std::string& line) {
  const std::string text = answer(line);
  std::istringstream words(text);
  std::string word;
  words >> word;
  if (word != "ok")
    throw Error(
        ErrorCode::corrupt,
        fmt::format("[bench] {}: expected 'ok ...', got '{}' (make bench builds the rivals again)",
                    name_, text));
  std::map<std::string, std::string> values;
  while (words >> word) {
    const size_t equals = word.find('=');
    if (equals != std::string::npos) values[word.substr(0, equals)] = word.substr(equals + 1);
  }
  return values;
}

std::vector<double> RivalProcess::run(int64_t runs) {
  const std::string text = answer(fmt::format("run {}", runs));
  std::istringstream words(text);
  std::string word;
  words >> word;
  std::vector<double> times;
  for (double time = 0; words >> time;) times.push_back(time);
  if (word != "times" || static_cast<int64_t>(times.size()) != runs)
    throw Error(
        ErrorCode::corrupt,
        fmt::format("[bench] {}: expected {} times, got '{}' (make bench builds the rivals again)",
                    name_, runs, text.substr(0, 80)));
  return times;
}

}  // namespace fovea::cli

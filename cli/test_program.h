// Runs the program as its users do: a child process in a folder of its own.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "fovea/base/temporary_folder.h"
#include "fovea/formats/file.h"

namespace fovea::cli {

struct Finished {
  int code = -1;  // the exit code; of a process that a signal ended, the signal with a minus
  std::string out, err;
};

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// A test with a folder in which the program runs.
class Cli : public testing::Test {
 protected:
  // Runs in the child before the program: sets variables, limits, descriptors.
  using Setting = std::function<void()>;

  static Setting environment(const char* name, const char* value) {
    return [=] { setenv(name, value, 1); };
  }

  pid_t start(const std::vector<std::string>& words, const Setting& setting = {}) {
    const std::string out = (folder_ / ".out").string(), err = (folder_ / ".err").string();
    std::vector<std::string> all = {FOVEA_PROGRAM};
    all.insert(all.end(), words.begin(), words.end());
    std::vector<char*> argv;
    for (std::string& word : all) argv.push_back(word.data());
    argv.push_back(nullptr);
    const pid_t pid = fork();
    if (pid != 0) return pid;
    const int o = open(out.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    const int e = open(err.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (chdir(folder_.c_str()) != 0 || dup2(o, 1) < 0 || dup2(e, 2) < 0) _exit(99);
    if (setting) setting();
    execv(argv[0], argv.data());
    _exit(99);
  }
  Finished wait(pid_t pid) {
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), slurp(folder_ / ".out"),
            slurp(folder_ / ".err")};
  }
  Finished run(const std::vector<std::string>& words, const Setting& setting = {}) {
    return wait(start(words, setting));
  }

  void write(const std::string& name, const std::string& text) {
    write_file_atomically(folder_ / name, text);
  }

  const TemporaryFolder temporary_;
  const std::filesystem::path folder_ = temporary_.path();
};

// Exit code 2, nothing on standard output, and one line on the other that holds all the words.
inline void expect_error(const Finished& f, const std::vector<std::string>& words) {
  EXPECT_EQ(f.code, 2) << f.err;
  EXPECT_EQ(f.out, "");
  EXPECT_TRUE(f.err.starts_with("fovea: ")) << f.err;
  EXPECT_EQ(std::count(f.err.begin(), f.err.end(), '\n'), 1) << f.err;
  for (const std::string& word : words)
    EXPECT_NE(f.err.find(word), std::string::npos) << "'" << word << "' is not in: " << f.err;
}

}  // namespace fovea::cli

// A run that meets a full disk keeps its checkpoint; a run that is killed at any moment and resumed
// ends with the bits of the run that was left alone.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <thread>

#include "fovea/data/test_images.h"
#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"
#include "fovea/train/trainer.h"

namespace fovea {
namespace {

using Clock = std::chrono::steady_clock;

// Trains in a process of its own, so that it can be killed as a whole.
// It may write files of at most `file_limit` bytes: past that, writing fails as on a full disk.
pid_t start_training(const std::filesystem::path& data, const std::filesystem::path& out,
                     bool resume, int threads, rlim_t file_limit = RLIM_INFINITY) {
  const pid_t child = fork();
  if (child != 0) return child;
  signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{file_limit, file_limit};
  setrlimit(RLIMIT_FSIZE, &limit);
  try {
    RecipeTable recipe = RecipeTable::parse(small_recipe(data, "accumulate = 2\n"), "small.toml");
    TrainRequest request;
    request.out = out;
    request.resume = resume;
    request.pool = std::make_shared<ThreadPool>(threads);
    train(recipe, request);
    _exit(0);
  } catch (const Error& e) {
    _exit(e.code() == ErrorCode::io ? 3 : 1);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    _exit(1);
  }
}

// The exit status: 0, or 9 when it was killed.
int wait_for(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

TEST(Kill, ARunThatWasKilledAtAnyMomentEndsWithTheSameBits) {
  const TemporaryFolder folder;
  write_small_images(folder / "data", 120, 20);
  const auto start = Clock::now();
  ASSERT_EQ(wait_for(start_training(folder / "data", folder / "alone", false, 2)), 0);
  const auto whole = Clock::now() - start;
  const auto expected = read_file(folder / "alone" / "model.safetensors", 1 << 24);

  int killed = 0;
  for (int i = 0; i < 8; ++i) {
    const auto out = folder / ("killed" + std::to_string(i));
    int status = -1;
    for (int attempt = 0; status != 0; ++attempt) {
      const pid_t child =
          start_training(folder / "data", out, std::filesystem::exists(out), 1 + (i + attempt) % 4);
      // Twice within the time of the whole run, then left alone.
      if (attempt < 2) {
        std::this_thread::sleep_for(whole * (2 * i + 1 + attempt) / 20);
        kill(child, SIGKILL);
      }
      status = wait_for(child);
      if (status == SIGKILL) ++killed;
      ASSERT_TRUE(status == 0 || status == SIGKILL) << status;
    }
    EXPECT_EQ(read_file(out / "model.safetensors", 1 << 24), expected) << "run " << i;
  }
  EXPECT_GT(killed, 4);  // else the test has shown nothing
}

TEST(FullDisk, TheCheckpointBeforeStaysWholeAndTheRunGoesOnFromIt) {
  const TemporaryFolder folder;
  write_small_images(folder / "data", 120, 20);
  ASSERT_EQ(wait_for(start_training(folder / "data", folder / "alone", false, 2)), 0);
  const pid_t child = start_training(folder / "data", folder / "out", false, 2);
  std::error_code ec;
  const auto deadline = Clock::now() + std::chrono::seconds(60);
  while ((std::filesystem::file_size(folder / "out" / "checkpoint.safetensors", ec) == 0 || ec) &&
         Clock::now() < deadline)
    std::this_thread::yield();
  kill(child, SIGKILL);
  wait_for(child);
  const auto size = std::filesystem::file_size(folder / "out" / "checkpoint.safetensors");
  const auto before = read_file(folder / "out" / "checkpoint.safetensors", 1 << 24);
  EXPECT_EQ(wait_for(start_training(folder / "data", folder / "out", true, 2, size / 2)), 3);
  EXPECT_EQ(read_file(folder / "out" / "checkpoint.safetensors", 1 << 24), before);
  EXPECT_EQ(wait_for(start_training(folder / "data", folder / "out", true, 1)), 0);
  EXPECT_EQ(read_file(folder / "out" / "model.safetensors", 1 << 24),
            read_file(folder / "alone" / "model.safetensors", 1 << 24));
}

}  // namespace
}  // namespace fovea

// A run that is killed at any moment and resumed ends with the bits of the run that was left alone.
#include <gtest/gtest.h>
#include <signal.h>
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
pid_t start_training(const std::filesystem::path& data, const std::filesystem::path& out, bool resume,
                     int threads) {
  const pid_t child = fork();
  if (child != 0) return child;
  try {
    RecipeTable recipe = RecipeTable::parse(small_recipe(data, "accumulate = 2\n"), "small.toml");
    TrainRequest request;
    request.out = out;
    request.resume = resume;
    request.pool = std::make_shared<ThreadPool>(threads);
    train(recipe, request);
    _exit(0);
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
      const pid_t child = start_training(folder / "data", out, attempt > 0, 1 + (i + attempt) % 4);
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

}  // namespace
}  // namespace fovea

// Ctrl-C and SIGTERM at any moment: nothing is lost, nothing hangs, nothing is left half-written.
#include <signal.h>

#include <chrono>
#include <random>
#include <thread>

#include "cli/test_program.h"
#include "fovea/data/test_images.h"
#include "fovea/formats/bundle.h"
#include "fovea/formats/image.h"
#include "fovea/train/checkpoint.h"

namespace fovea::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

class Signals : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    unsetenv("FOVEA_RUNS");
    write_small_images(folder_ / "data", 200, 400);
    write("tiny.toml", small_recipe("data"));
  }

  static std::vector<std::string> training(const std::vector<std::string>& more,
                                           const char* out = "model") {
    std::vector<std::string> words = {"train", "tiny.toml", "--out", out, "--threads", "2"};
    words.insert(words.end(), {"--quiet", "--set", "train.epochs=8"});
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  // Runs it undisturbed: how long it takes.
  Clock::duration length(const std::vector<std::string>& words) {
    const auto began = Clock::now();
    const Finished f = run(words);
    EXPECT_EQ(f.code, 0) << f.err;
    return Clock::now() - began;
  }

  // Sends the signal after a while. A process that has not ended a minute later hangs.
  Finished disturb(const std::vector<std::string>& words, Clock::duration after, int signal) {
    const pid_t pid = start(words);
    std::this_thread::sleep_for(after);
    kill(pid, signal);
    const auto deadline = Clock::now() + std::chrono::minutes(1);
    siginfo_t info{};
    while (Clock::now() < deadline) {
      info.si_pid = 0;
      if (waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
          info.si_pid == pid)
        return wait(pid);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    ADD_FAILURE() << words[0] << " hangs after a signal";
    kill(pid, SIGKILL);
    return wait(pid);
  }

  // 130 or 143, or 0 where it had finished; -2 or -15 before it could say otherwise, so at its very
  // start. Returns whether it was stopped.
  static bool was_stopped(const Finished& f, int signal, Clock::duration after) {
    if (f.code == 0) return false;
    if (f.code != -signal)
      EXPECT_EQ(f.code, 128 + signal) << f.err;
    else
      EXPECT_LT(after, std::chrono::milliseconds(300)) << "ended by the signal itself";
    return true;
  }

  // Temporary files anywhere below the folder, which should be none.
  std::vector<std::string> leftovers() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder_))
      if (const std::string name = entry.path().filename();
          name.starts_with(".fovea-") && name.ends_with(".tmp"))
        found.push_back(entry.path());
    return found;
  }

  std::mt19937 random_{20};
  // Between the start and a little after the end.
  Clock::duration moment(Clock::duration whole, int i, int of) {
    const double share = (i + std::uniform_real_distribution<>(0, 1)(random_)) / of;
    return std::chrono::duration_cast<Clock::duration>(whole * (1.1 * share));
  }
};

TEST_F(Signals, ATrainingThatIsStoppedAtAnyMomentIsReadableAndGoesOnToTheSameWeights) {
  const auto whole = length(training({}, "alone"));
  const std::string expected = slurp(folder_ / "alone/model.safetensors");
  constexpr int kTimes = 7;
  int stopped = 0;
  for (int i = 0; i < kTimes; ++i) {
    const int signal = i % 2 == 0 ? SIGINT : SIGTERM;
    fs::remove_all(folder_ / "model");
    const auto after = moment(whole, i, kTimes);
    const Finished f = disturb(training({}), after, signal);
    const bool was = was_stopped(f, signal, after);
    stopped += was;
    EXPECT_EQ(leftovers(), std::vector<std::string>());
    if (was && fs::exists(folder_ / "model" / kCheckpointFile)) {
      EXPECT_NO_THROW(checkpoint_recipe(folder_ / "model" / kCheckpointFile));
    }
    if (!was) {
      EXPECT_NO_THROW(load_bundle(folder_ / "model"));
    }
    // The lock is free, and the way on is open.
    std::vector<std::string> on = training({});
    if (fs::exists(folder_ / "model")) on.push_back("--resume");
    const Finished last = run(on);
    ASSERT_EQ(last.code, 0) << last.err;
    EXPECT_TRUE(slurp(folder_ / "model/model.safetensors") == expected) << "moment " << i;
  }
  EXPECT_GT(stopped, kTimes / 3);
}

TEST_F(Signals, AnOverwritingThatIsStoppedAtAnyMomentLeavesAModel) {
  const auto whole = length(training({}));
  constexpr int kTimes = 5;
  for (int i = 0; i < kTimes; ++i) {
    const int signal = i % 2 == 0 ? SIGTERM : SIGINT;
    const auto after = moment(whole, i, kTimes);
    was_stopped(disturb(training({"--overwrite"}), after, signal), signal, after);
    EXPECT_NO_THROW(load_bundle(folder_ / "model"));
    EXPECT_NO_THROW(checkpoint_recipe(folder_ / "model" / kCheckpointFile));
    EXPECT_EQ(leftovers(), std::vector<std::string>());
  }
}

TEST_F(Signals, TheSecondSignalEndsATrainingAtOnceAndItsCheckpointIsWhole) {
  length(training({}));
  const pid_t pid = start(training({"--overwrite", "--set", "train.epochs=100000"}));
  for (int i = 0; i < 1000 && slurp(folder_ / "model/.fovea.lock").empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  kill(pid, SIGINT);
  kill(pid, SIGTERM);
  const Finished f = wait(pid);
  EXPECT_TRUE(f.code == 130 || f.code == 143) << f.code << f.err;
  EXPECT_NO_THROW(checkpoint_recipe(folder_ / "model" / kCheckpointFile));
  EXPECT_NO_THROW(load_bundle(folder_ / "model"));
  EXPECT_EQ(leftovers(), std::vector<std::string>());
}

TEST_F(Signals, OtherVerbsEndAtOnceAndLeaveNothingHalfWritten) {
  length(training({}));
  Image image{8, 8, 1, std::vector<uint8_t>(64, 100)};
  write_file_atomically(folder_ / "x.png", encode_png(image));
  std::vector<std::string> predict = {"predict", "model"};
  for (int i = 0; i < 50; ++i) predict.push_back("x.png");
  const std::vector<std::vector<std::string>> calls = {
      predict,
      {"eval", "model", "--threads", "2"},
      {"explain", "model", "--samples", "8", "--out", "page"},
      {"export", "model", "--onnx", "m.onnx", "--overwrite"},
      {"data", "tiny.toml", "--export", "pictures"}};
  for (const auto& words : calls) {
    fs::remove_all(folder_ / "pictures");
    const auto whole = length(words);
    constexpr int kTimes = 3;
    for (int i = 0; i < kTimes; ++i) {
      const int signal = i % 2 == 0 ? SIGINT : SIGTERM;
      fs::remove_all(folder_ / "pictures");
      const auto after = moment(whole, i, kTimes);
      was_stopped(disturb(words, after, signal), signal, after);
      EXPECT_EQ(leftovers(), std::vector<std::string>()) << words[0];
      EXPECT_NO_THROW(load_bundle(folder_ / "model")) << words[0];
    }
  }
  // Every file that stands there is whole.
  for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
    if (entry.path().extension() != ".png") continue;
    EXPECT_NO_THROW(read_image(entry.path()));
  }
}

}  // namespace
}  // namespace fovea::cli

// What goes wrong round the program: full disks, folders that may not be written, files that
// vanish, too little memory, another training, newer formats. Signals have a file of their own.
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/test_program.h"
#include "fovea/data/test_images.h"
#include "fovea/formats/image.h"

namespace fovea::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class Failures : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    unsetenv("FOVEA_RUNS");
    write_small_images(folder_ / "data", 64, 32);
    write("tiny.toml", small_recipe("data"));
    fs::create_directory(folder_ / "disk");
  }

  Finished train(const std::vector<std::string>& more = {}, const Setting& setting = {},
                 const char* out = "model") {
    std::vector<std::string> words = {"train", "tiny.toml", "--out", out, "--threads", "1"};
    words.push_back("--quiet");
    words.insert(words.end(), more.begin(), more.end());
    return run(words, setting);
  }

  // A disk of its own for the program, at a folder below folder_, that goes with its process.
  static void mount_disk(const char* folder, const char* size) {
    const std::string user = std::to_string(geteuid());
    const bool root = geteuid() == 0;
    if (unshare(CLONE_NEWNS | (root ? 0 : CLONE_NEWUSER)) != 0) _exit(77);
    if (!root) {
      std::ofstream("/proc/self/setgroups") << "deny";
      std::ofstream("/proc/self/uid_map") << "0 " << user << " 1";
    }
    if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", folder, "tmpfs", 0, (std::string("size=") + size).c_str()) != 0)
      _exit(77);
  }
  static Setting disk(const char* folder, const char* size) {
    return [=] { mount_disk(folder, size); };
  }
};

#define SKIP_WITHOUT_A_DISK(finished) \
  if ((finished).code == 77) GTEST_SKIP() << "no small disk can be mounted here"

// --- Disks

TEST_F(Failures, AFullDiskUnderTheModelIsAnErrorThatSaysHowToGoOn) {
  const Finished f =
      train({"--set", "model.width=64", "--runs", "none"}, disk("disk", "128k"), "disk/model");
  SKIP_WITHOUT_A_DISK(f);
  expect_error(f, {"disk/model/checkpoint.safetensors", "the disk is full", "free some space"});
}

TEST_F(Failures, AFullDiskUnderTheEventFilesIsAWarningAndTheModelIsTheSame) {
  ASSERT_EQ(train().code, 0);
  const std::string weights = slurp(folder_ / "model/model.safetensors");
  fs::create_directories(folder_ / "watched/events");
  const Finished f = train({}, disk("watched/events", "16k"), "watched");
  SKIP_WITHOUT_A_DISK(f);
  EXPECT_EQ(f.code, 0) << f.err;
  for (const char* words : {"warning: the event files", "the training goes on without",
                            "No space left", "free some space"})
    EXPECT_NE(f.err.find(words), std::string::npos) << words << " is not in: " << f.err;
  EXPECT_EQ(std::count(f.err.begin(), f.err.end(), '\n'), 1) << f.err;  // told once
  EXPECT_TRUE(slurp(folder_ / "watched/model.safetensors") == weights);
}

TEST_F(Failures, AFullDiskUnderTheRecordOfRunsIsAWarningAndTheModelIsTheSame) {
  ASSERT_EQ(train().code, 0);
  const std::string weights = slurp(folder_ / "model/model.safetensors");
  for (const char* size : {"4k", "48k", "64k"}) {  // at its beginning, and later
    const Finished f = train({"--overwrite", "--runs", "disk/runs.sqlite"}, disk("disk", size));
    SKIP_WITHOUT_A_DISK(f);
    EXPECT_EQ(f.code, 0) << f.err;
    if (size == std::string("4k")) {
      for (const char* words : {"warning: the record of runs", "the disk is full", "--runs"})
        EXPECT_NE(f.err.find(words), std::string::npos) << words << " is not in: " << f.err;
    }
    EXPECT_LE(std::count(f.err.begin(), f.err.end(), '\n'), 1) << f.err;
    EXPECT_TRUE(slurp(folder_ / "model/model.safetensors") == weights);
  }
}

TEST_F(Failures, EventsThatStopInMidRecordAreMendedWhenTheRunGoesOn) {
  // Files may grow to the size of a checkpoint, and the events want more.
  ASSERT_EQ(train({"--set", "train.epochs=30"}).code, 0);
  const auto size = fs::file_size(folder_ / "model/checkpoint.safetensors");
  const rlimit limit = {size + 100, size + 100};
  const std::vector<std::string> words = {"--runs",          "none",  "--set",
                                          "train.epochs=30", "--set", "record.every=1"};
  const Finished f = train(
      words, [&] { setrlimit(RLIMIT_FSIZE, &limit); }, "cut");
  ASSERT_EQ(f.code, 0) << f.err;
  EXPECT_NE(f.err.find("the event files could not be written"), std::string::npos) << f.err;
  std::vector<std::string> again = words;
  again.push_back("--resume");
  EXPECT_EQ(train(again, {}, "cut").err, "");
}

TEST_F(Failures, AFullDiskUnderWhatOtherVerbsWriteIsAnErrorAndNothingIsLeft) {
  ASSERT_EQ(train().code, 0);
  const std::vector<std::vector<std::string>> calls = {
      {"explain", "model", "--out", "disk/page", "--samples", "2"},
      {"export", "model", "--onnx", "disk/m.onnx"},
      {"data", "tiny.toml", "--sheet", "disk/sheet.png"},
      {"profile", "model", "--runs", "1", "--trace", "disk/t.json"}};
  for (const auto& words : calls) {
    const Finished f = run(words, disk("disk", "4k"));
    SKIP_WITHOUT_A_DISK(f);
    EXPECT_EQ(f.code, 2) << words[0] << f.err;
    EXPECT_NE(f.err.find("disk is full"), std::string::npos) << words[0] << ": " << f.err;
    EXPECT_NE(f.err.find("disk/"), std::string::npos) << words[0] << ": " << f.err;
  }
}

// --- Permissions

TEST_F(Failures, AFolderThatMayNotBeWrittenIsAnErrorThatNamesIt) {
  ASSERT_EQ(train().code, 0);
  fs::create_directory(folder_ / "shut");
  fs::permissions(folder_ / "shut", fs::perms::owner_read | fs::perms::owner_exec |
                                        fs::perms::others_read | fs::perms::others_exec);
  // The others may look, too; root may write everywhere, so somebody else does it.
  fs::permissions(folder_, fs::perms::others_read | fs::perms::others_exec, fs::perm_options::add);
  ASSERT_EQ(run({"data", "tiny.toml", "--export", "pictures"}).code, 0);
  const Setting somebody = [] {
    constexpr uid_t kNobody = 65534;
    if (geteuid() != 0) return;
    if (setgroups(0, nullptr) != 0 || setgid(kNobody) != 0 || setuid(kNobody) != 0) _exit(77);
    if (access(FOVEA_PROGRAM, X_OK) != 0 || access("model/model.graph", R_OK) != 0) _exit(77);
  };
  const std::vector<std::vector<std::string>> calls = {
      {"train", "tiny.toml", "--out", "shut/model", "--quiet"},
      {"train", "tiny.toml", "--out", "shut", "--quiet"},
      {"explain", "model", "--out", "shut/page", "--samples", "2"},
      {"export", "model", "--onnx", "shut/m.onnx"},
      {"data", "tiny.toml", "--sheet", "shut/sheet.png"},
      {"data", "tiny.toml", "--export", "shut/pictures"},
      {"new", "image-classifier", "pictures", "--out", "shut/r.toml"},
      {"man", "--out", "shut/man"}};
  for (const auto& words : calls) {
    const Finished f = run(words, somebody);
    if (f.code == 77) GTEST_SKIP() << "the program cannot be run as somebody else";
    EXPECT_EQ(f.code, 2) << words[0] << f.err;
    for (const char* word : {"shut", "ermission denied", "choose"})
      EXPECT_NE(f.err.find(word), std::string::npos) << words[0] << ": " << word << ": " << f.err;
  }
  // What may not be read, too.
  fs::permissions(folder_ / "model/model.safetensors", fs::perms::owner_read);
  const Finished f = run({"eval", "model"}, somebody);
  expect_error(f, {"model/model.safetensors", "ermission denied", "make it readable"});
}

// --- Files that vanish

TEST_F(Failures, AnImageThatVanishesWhileItsFolderIsReadIsAnErrorThatNamesIt) {
  Image image{64, 64, 1, std::vector<uint8_t>(64 * 64)};
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(i * i);
  for (const char* kind : {"a", "b"}) {
    fs::create_directories(folder_ / "pictures" / kind);
    for (int i = 0; i < 400; ++i)
      write_file_atomically(folder_ / "pictures" / kind / (std::to_string(1000 + i) + ".png"),
                            encode_png(image));
  }
  write("p.toml", "[data]\nkind = \"image_folder\"\ndir = \"pictures\"\nheight = 64\nwidth = 64\n");
  int named = 0;
  const auto began = std::chrono::steady_clock::now();
  ASSERT_EQ(run({"data", "p.toml", "--threads", "1"}).code, 0) << slurp(folder_ / ".err");
  const auto whole = std::chrono::steady_clock::now() - began;
  for (int i = 1; i < 10; ++i) {
    const fs::path last = folder_ / "pictures/b" / (std::to_string(1400 - i) + ".png");
    const pid_t pid = start({"data", "p.toml", "--threads", "1"});
    std::this_thread::sleep_for(whole * i / 10);
    fs::remove(last);
    const Finished f = wait(pid);
    if (f.code == 0) continue;  // it was there, or gone, from beginning to end
    expect_error(f, {last.filename().string(), "no such file"});
    ++named;
  }
  RecordProperty("named", named);
}

TEST_F(Failures, DataThatAreCutOffAreErrorsThatNameTheFile) {
  const fs::path images = folder_ / "data/train-images-idx3-ubyte";
  const std::string whole = slurp(images);
  for (const size_t size : {size_t{0}, size_t{3}, size_t{15}, whole.size() / 2, whole.size() - 1}) {
    write("data/train-images-idx3-ubyte", whole.substr(0, size));
    expect_error(train(), {"train-images-idx3-ubyte"});
    EXPECT_FALSE(fs::exists(folder_ / "model")) << "nothing begins before the data are whole";
  }
}

// --- Memory

TEST_F(Failures, AModelTooLargeForTheMachineIsAnErrorWithItsSizeAndWhatWouldLowerIt) {
  const Finished f = train({"--set", "model.width=65536", "--set", "model.mlp=65536"});
  expect_error(f, {"MB of memory are not to be had", "train.batch", "train.accumulate",
                   "train.memory_mb", "[model]"});
  EXPECT_FALSE(fs::exists(folder_ / "model/checkpoint.safetensors"));
}

TEST_F(Failures, LessMemoryThanTheMachineHasIsAnErrorWithWhatWasAskedForToo) {
  const rlimit limit = {rlim_t{600} << 20, rlim_t{600} << 20};
  const Finished f = train({"--set", "model.width=4096", "--set", "model.mlp=64"},
                           [&] { setrlimit(RLIMIT_AS, &limit); });
  expect_error(f, {"[variables]", "MB of memory are not to be had", "train.batch"});
  EXPECT_FALSE(fs::exists(folder_ / "model/checkpoint.safetensors"));
}

// --- Two at once, and newer formats

TEST_F(Failures, ASecondTrainingInOneFolderIsRefusedAndTheFirstEndsAsIfAlone) {
  const std::vector<std::string> words = {"train",     "tiny.toml", "--out",          "model",
                                          "--threads", "1",         "--quiet",        "--runs",
                                          "none",      "--set",     "train.epochs=60"};
  const pid_t first = start(words);
  for (int i = 0; i < 1000 && !fs::exists(folder_ / "model/checkpoint.safetensors"); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  // The output files of the first are those of the second, too: its code is what counts.
  const pid_t second = start(words);
  int status = 0;
  ASSERT_EQ(waitpid(second, &status, 0), second);
  EXPECT_EQ(WEXITSTATUS(status), 2);
  const std::string said = slurp(folder_ / ".err");
  EXPECT_NE(said.find("another fovea (process " + std::to_string(first) + ")"), std::string::npos)
      << said;
  EXPECT_EQ(wait(first).code, 0);
  EXPECT_EQ(run({"eval", "model", "--json"}).code, 0);
}

TEST_F(Failures, ABundleOfANewerFormatAsksForAnUpdate) {
  ASSERT_EQ(train().code, 0);
  const std::string graph = slurp(folder_ / "model/model.graph");
  const size_t line = graph.find('\n');
  const size_t digit = graph.substr(0, line).find_last_of("0123456789");
  ASSERT_NE(digit, std::string::npos) << graph.substr(0, line);
  std::string newer = graph;
  newer.replace(digit, 1, "9999");
  write("model/model.graph", newer);
  for (const char* verb : {"eval", "profile", "graph", "explain"})
    expect_error(run({verb, "model"}), {"model/model.graph", "newer", "update"});
}

}  // namespace
}  // namespace fovea::cli

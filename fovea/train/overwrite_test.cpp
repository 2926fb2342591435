// --overwrite: what stood in the folder is lost only when its successor is whole.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <thread>

#include "fovea/data/test_images.h"
#include "fovea/formats/bundle.h"
#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"
#include "fovea/train/checkpoint.h"
#include "fovea/train/trainer.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

class Overwriting : public ::testing::Test {
 protected:
  Overwriting() {
    write_small_images(folder_ / "data", 120, 20);
    run("", [](TrainRequest&) {});
    before_ = files();
  }

  TrainResult run(const std::string& more, const std::function<void(TrainRequest&)>& change) {
    RecipeTable recipe = RecipeTable::parse(small_recipe(folder_ / "data", more), "small.toml");
    TrainRequest request;
    request.out = out();
    request.pool = std::make_shared<ThreadPool>(2);
    change(request);
    return train(recipe, request);
  }
  // Every file below the run's folder, with its bytes; the event files apart, which follow the run.
  std::map<std::string, std::string> files() const {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::recursive_directory_iterator(out()))
      if (entry.is_regular_file() && entry.path().parent_path().filename() != "events")
        all[fs::relative(entry.path(), out())] = read_text_file(entry.path(), 1 << 24);
    return all;
  }
  // Without the checkpoint, which is of the run that came last.
  static std::map<std::string, std::string> bundle_of(std::map<std::string, std::string> all) {
    all.erase(kCheckpointFile);
    return all;
  }
  fs::path out() const { return folder_ / "out"; }

  TemporaryFolder folder_;
  std::map<std::string, std::string> before_;
};

const char* const kOther = "beta1 = 0.8\n";

TEST_F(Overwriting, ARunStoppedBeforeItsFirstSaveLeavesEveryFileAsItWas) {
  std::atomic<bool> stop{true};
  const TrainResult result = run(kOther, [&](TrainRequest& r) {
    r.overwrite = true;
    r.stop = &stop;
  });
  EXPECT_TRUE(result.interrupted);
  EXPECT_FALSE(result.saved);
  EXPECT_TRUE(files() == before_);
}

TEST_F(Overwriting, ARunThatFailsBeforeItsFirstSaveLeavesEveryFileAsItWas) {
  // The checkpoint of the new run cannot be written.
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit less{1024, old.rlim_max};
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &less), 0);
  expect_error(ErrorCode::io, "checkpoint.safetensors",
               [&] { run(kOther, [](TrainRequest& r) { r.overwrite = true; }); });
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, handler);
  EXPECT_TRUE(files() == before_);
}

TEST_F(Overwriting, AStoppedRunLeavesTheOldBundleAndGoesOnToTheNew) {
  std::atomic<bool> stop{false};
  const TrainResult first = run(kOther, [&](TrainRequest& r) {
    r.overwrite = true;
    r.stop = &stop;
    r.progress = [&](const TrainProgress& p) { stop = p.total_step == 4; };
  });
  EXPECT_TRUE(first.interrupted);
  EXPECT_TRUE(first.saved);
  EXPECT_TRUE(bundle_of(files()) == bundle_of(before_));
  EXPECT_TRUE(files().at(kCheckpointFile) != before_.at(kCheckpointFile));

  run(kOther, [](TrainRequest& r) { r.resume = true; });
  const Bundle bundle = load_bundle(out());
  EXPECT_NE(bundle.recipe.find("beta1 = 0.8"), std::string::npos) << bundle.recipe;
  EXPECT_EQ(files().size(), before_.size());  // nothing is left beside them
  EXPECT_TRUE(files().at("model.safetensors") != before_.at("model.safetensors"));
}

TEST_F(Overwriting, ARunWhoseLossIsNotFiniteLeavesTheOldBundle) {
  Bundle broken = load_bundle(out());
  auto weight = std::make_shared<HostTensor>(*broken.weights.at("vit.head.weight"));
  const float infinity = std::numeric_limits<float>::infinity();
  std::memcpy(weight->bytes.data(), &infinity, sizeof infinity);
  broken.weights["vit.head.weight"] = weight;
  save_bundle(folder_ / "broken", broken);
  expect_error(ErrorCode::non_finite, "step 1", [&] {
    run(kOther, [&](TrainRequest& r) {
      r.overwrite = true;
      r.init = folder_ / "broken";
    });
  });
  EXPECT_TRUE(bundle_of(files()) == bundle_of(before_));
}

TEST_F(Overwriting, AKillAtAnyMomentLeavesAModelOrTheWayToIt) {
  int killed = 0, old_left = 0;
  for (int i = 0; i < 12; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      try {
        run(i % 2 == 0 ? kOther : "", [](TrainRequest& r) { r.overwrite = true; });
        _exit(0);
      } catch (const std::exception&) {
        _exit(1);
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(3 + 17 * i));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status))
      ++killed;
    else
      ASSERT_EQ(WEXITSTATUS(status), 0);
    EXPECT_NO_THROW(checkpoint_recipe(out() / kCheckpointFile)) << i;
    try {
      load_bundle(out());
      ++old_left;
    } catch (const Error& e) {
      // Between the removal of the old bundle's last file and the arrival of the new one's.
      EXPECT_NE(std::string(e.what()).find("--resume"), std::string::npos) << e.what();
    }
  }
  EXPECT_GT(killed, 0);
  EXPECT_GT(old_left, 8);
  // Whatever the last one left is cleared away, and nothing is in the way of the next.
  EXPECT_NO_THROW(run("", [](TrainRequest& r) { r.overwrite = true; }));
  EXPECT_EQ(files().size(), before_.size());
  EXPECT_TRUE(files().at("model.safetensors") == before_.at("model.safetensors"));
}

}  // namespace
}  // namespace fovea

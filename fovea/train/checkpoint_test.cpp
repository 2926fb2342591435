#include "fovea/train/checkpoint.h"

#include <gtest/gtest.h>

#include <cstring>

#include "fovea/formats/safetensors.h"
#include "fovea/formats/test_data.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"

namespace fovea {
namespace {

class Checkpoint : public ::testing::Test {
 protected:
  Checkpoint() {
    Graph g;
    VariableAttrs weight;
    weight.type = {DType::f32, {2}};
    weight.init = Init::uniform;
    weight.scale = 1;
    ops::variable(g, "w", weight);
    VariableAttrs state = weight;
    state.kind = VariableKind::state;
    ops::variable(g, "m", state);
    variables_.create(g, 1);
    state_.recipe = "[train]\n";
    state_.epoch = 2;
    state_.step = 5;
    state_.best_epoch = 1;
    state_.best = 0.1;
    auto best = std::make_shared<HostTensor>();
    best->dtype = DType::f32;
    best->shape = {2};
    best->bytes.assign(8, std::byte{1});
    state_.best_weights["w"] = best;
    save_checkpoint(path(), variables_, state_);
  }
  std::filesystem::path path() const { return folder_ / "c.safetensors"; }

  // Writes the checkpoint again with one value of its head, or without one tensor.
  void rewrite(const std::string& key, const std::string& value, const std::string& without = "") {
    const Safetensors file = Safetensors::read(path());
    TensorMetadata metadata = file.metadata();
    if (!key.empty()) metadata[key] = value;
    std::vector<TensorView> tensors;
    for (const TensorView& t : file.tensors())
      if (t.name != without) tensors.push_back(t);
    write_safetensors(path(), tensors, metadata);
  }
  void refuses(ErrorCode code, const std::string& what) {
    std::vector<std::byte> before(variables_.get("w").data.bytes().begin(),
                                  variables_.get("w").data.bytes().end());
    expect_error(code, what, [&] { load_checkpoint(path(), variables_); });
    EXPECT_EQ(std::memcmp(before.data(), variables_.get("w").data.data(), before.size()), 0);
    save_checkpoint(path(), variables_, state_);
  }

  TemporaryFolder folder_;
  VariableStore variables_;
  RunState state_;
};

TEST_F(Checkpoint, IsReadAsItWasWritten) {
  const RunState read = load_checkpoint(path(), variables_);
  EXPECT_EQ(read.epoch, 2);
  EXPECT_EQ(read.step, 5);
  EXPECT_EQ(read.best, 0.1);
  EXPECT_EQ(read.best_weights.at("w")->bytes, state_.best_weights.at("w")->bytes);
  EXPECT_EQ(checkpoint_recipe(path()), "[train]\n");
}

TEST_F(Checkpoint, NumbersThatNoRunHasAreErrorsThatNameThem) {
  for (const char* key : {"epoch", "batch", "step", "epochs_without_gain"}) {
    for (const char* value : {"-1", "9223372036854775807", "", "1x"}) {
      rewrite(key, value);
      refuses(ErrorCode::corrupt, "'" + std::string(key) + "' is missing or wrong");
    }
  }
  rewrite("finished", "yes");
  refuses(ErrorCode::corrupt, "'finished'");
  rewrite("best_epoch", "-1");
  refuses(ErrorCode::corrupt, "'best_epoch'");
}

TEST_F(Checkpoint, TensorsThatDoNotFitAreErrorsAndNoVariableIsChanged) {
  for (const char* name : {"w", "m", "best.w"}) {
    rewrite("", "", name);
    refuses(ErrorCode::corrupt, "'" + std::string(name) + "'");
  }
  // Another shape: a head of the same name in another model.
  std::vector<TensorView> tensors;
  const Safetensors file = Safetensors::read(path());
  for (const TensorView& t : file.tensors()) tensors.push_back(t);
  for (TensorView& t : tensors) t.shape = {2, 1};
  write_safetensors(path(), tensors, file.metadata());
  refuses(ErrorCode::corrupt, "--overwrite");
}

TEST_F(Checkpoint, ANewerFormatAsksForAnUpdate) {
  rewrite("format", "fovea.checkpoint 2");
  refuses(ErrorCode::unsupported, "update this one");
  rewrite("format", "fovea.checkpoint 0");
  refuses(ErrorCode::corrupt, "'format'");
}

}  // namespace
}  // namespace fovea

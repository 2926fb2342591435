#include "fovea/formats/bundle.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <functional>

#include "fovea/formats/file.h"
#include "fovea/formats/safetensors.h"
#include "fovea/formats/test_data.h"
#include "fovea/graph/graph_text.h"
#include "fovea/graph/ops.h"

namespace fovea {
namespace {

HostTensorPtr ramp(std::vector<int64_t> shape, float step) {
  auto tensor = std::make_shared<HostTensor>();
  tensor->shape = std::move(shape);
  size_t count = 1;
  for (int64_t n : tensor->shape) count *= static_cast<size_t>(n);
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = step * static_cast<float>(i);
  tensor->bytes.resize(count * sizeof(float));
  std::memcpy(tensor->bytes.data(), values.data(), tensor->bytes.size());
  return tensor;
}

// [B,10] -> linear -> + a stored constant [100] summed -> [B,3].
Bundle small_bundle() {
  Bundle bundle;
  Graph& g = bundle.graph;
  const Value x = ops::input(g, "x", DType::f32, {Size::symbol("B"), 10});
  const Value y = ops::linear(g, "head", x, 3);
  const Value table = ops::constant(g, ramp({100}, 0.5f), "table");
  const Value inline_one = ops::constant(g, ramp({3}, 1.0f), "small");
  const Value sum = ops::add(g, ops::add(g, y, ops::reduce_sum(g, table, {0})), inline_one);
  g.set_output("y", sum);
  bundle.weights = {{"head.weight", ramp({3, 10}, 0.25f)}, {"head.bias", ramp({3}, 2.0f)}};
  bundle.recipe = "[train]\nepochs = 3\n";
  bundle.labels = {"cat", "dog", "M\xc3\xa4use \xf0\x9f\x90\xad"};
  bundle.metrics_json = R"({"test":{"accuracy":0.5}})";
  return bundle;
}

std::string only_constant(const Graph& graph) { return graph.constants().begin()->first; }

class BundleTest : public testing::Test {
 protected:
  // Saves the small bundle and gives its folder.
  std::filesystem::path saved() {
    save_bundle(folder_ / "model", small_bundle());
    return folder_ / "model";
  }
  void expect_load_error(ErrorCode code, std::string_view text) {
    expect_error(code, text, [&] { load_bundle(folder_ / "model"); });
  }
  void expect_save_error(const Bundle& bundle, std::string_view text) {
    expect_error(ErrorCode::invalid_argument, text,
                 [&] { save_bundle(folder_ / "refused", bundle); });
    EXPECT_FALSE(std::filesystem::exists(folder_ / "refused"));
  }
  // Replaces model.safetensors by other tensors.
  void rewrite(const std::function<void(std::vector<TensorView>&)>& change) {
    const auto path = folder_ / "model" / "model.safetensors";
    const Safetensors file = Safetensors::read(path);
    std::vector<TensorView> tensors = file.tensors();
    change(tensors);
    write_safetensors(path, tensors);
  }
  void replace_in_graph(std::string_view from, std::string_view to) {
    const auto path = folder_ / "model" / "model.graph";
    std::string text = read_text_file(path, 1 << 20);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos);
    write_file_atomically(path, text.replace(at, from.size(), to));
  }

  TemporaryFolder folder_;
};

using Bundles = BundleTest;

TEST_F(Bundles, AreReadAsTheyWereWritten) {
  const Bundle before = small_bundle();
  save_bundle(folder_ / "deep" / "model", before);
  const Bundle after = load_bundle(folder_ / "deep" / "model");
  EXPECT_TRUE(before.graph == after.graph);
  ASSERT_EQ(after.graph.constants().size(), 1u);
  EXPECT_EQ(after.graph.constants().begin()->first, only_constant(before.graph));
  EXPECT_EQ(after.graph.constants().begin()->second->bytes,
            before.graph.constants().begin()->second->bytes);
  ASSERT_EQ(after.weights.size(), 2u);
  for (const auto& [name, tensor] : before.weights) {
    ASSERT_TRUE(after.weights.contains(name));
    EXPECT_EQ(after.weights.at(name)->dtype, tensor->dtype);
    EXPECT_EQ(after.weights.at(name)->shape, tensor->shape);
    EXPECT_EQ(after.weights.at(name)->bytes, tensor->bytes);
  }
  EXPECT_EQ(after.recipe, before.recipe);
  EXPECT_EQ(after.labels, before.labels);
  EXPECT_EQ(after.metrics_json, before.metrics_json);
}

TEST_F(Bundles, ConsistOfFiveFilesAndReplaceAnOlderOne) {
  Bundle bundle = small_bundle();
  save_bundle(folder_ / "model", bundle);
  bundle.labels.clear();
  save_bundle(folder_ / "model", bundle);
  EXPECT_TRUE(load_bundle(folder_ / "model").labels.empty());
  for (const char* name :
       {"model.graph", "model.safetensors", "recipe.toml", "labels.txt", "metrics.json"}) {
    EXPECT_TRUE(std::filesystem::exists(folder_ / "model" / name)) << name;
  }
  size_t entries = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator(folder_ / "model")) {
    ++entries;
  }
  EXPECT_EQ(entries, 5u);
}

TEST_F(Bundles, HoldTheVariablesAndTheLargeConstantsAndNothingElse) {
  Bundle bundle = small_bundle();
  bundle.weights["optimiser.state"] = ramp({7}, 1.0f);
  ops::variable(bundle.graph, "cache",
                {.type = {DType::f32, {4}}, .kind = VariableKind::cache, .source = {}});
  save_bundle(folder_ / "model", bundle);
  const Safetensors file = Safetensors::read(folder_ / "model" / "model.safetensors");
  EXPECT_EQ(file.tensors().size(), 3u);
  EXPECT_NE(file.find("head.weight"), nullptr);
  EXPECT_NE(file.find("head.bias"), nullptr);
  EXPECT_NE(file.find("constant." + only_constant(bundle.graph)), nullptr);
  EXPECT_EQ(load_bundle(folder_ / "model").weights.size(), 2u);
}

TEST_F(Bundles, AreKnownByTheirGraph) {
  EXPECT_TRUE(is_bundle(saved()));
  EXPECT_FALSE(is_bundle(folder_.path()));
  EXPECT_FALSE(is_bundle(folder_ / "nothing"));
}

TEST_F(Bundles, AMissingFolderIsAnError) {
  expect_load_error(ErrorCode::not_found, "no such folder");
}

TEST_F(Bundles, AFileInPlaceOfTheFolderIsAnError) {
  write_file_atomically(folder_ / "model", "x");
  expect_load_error(ErrorCode::not_found, "which is a folder, got a file");
  expect_error(ErrorCode::io, "cannot make the folder",
               [&] { save_bundle(folder_ / "model", small_bundle()); });
}

TEST_F(Bundles, AFolderWithoutAGraphIsNoBundle) {
  std::filesystem::create_directory(folder_ / "model");
  expect_load_error(ErrorCode::not_found, "is no bundle: it has no model.graph");
}

TEST_F(Bundles, APathThatMissesABundleByOneStepIsToldWhichItMayMean) {
  const std::string model = saved().string();
  const std::string hint = "; did you mean '" + model + "'?";
  const auto expect_hint = [&](const std::filesystem::path& path, const std::string& words) {
    expect_error(ErrorCode::not_found, words, [&] { load_bundle(path); });
  };
  expect_hint(folder_.path(), "it has no model.graph" + hint);
  expect_hint(folder_.path() / "", hint);
  expect_hint(folder_ / "model/model.safetensors", hint);
  expect_hint(folder_ / "model/recipe.toml", hint);
  expect_hint(folder_ / "modle", "no such folder" + hint);
  write_file_atomically(folder_ / "other.toml", "x");
  expect_hint(folder_ / "other.toml", "got a recipe, which has no weights (`fovea train ");
  save_bundle(folder_ / "model2", small_bundle());
  expect_hint(folder_.path(), "'" + model + "' or '" + model + "2'?");
}

TEST_F(Bundles, AnUnfinishedRunSaysHowToGoOn) {
  const auto model = saved();
  write_file_atomically(model / kCheckpointFile, "x");
  EXPECT_NO_THROW(load_bundle(model));
  for (const char* name : {"metrics.json", "model.safetensors", "model.graph"}) {
    std::filesystem::remove(model / name);
    expect_load_error(ErrorCode::not_found, "the training in this folder has not finished");
    expect_load_error(ErrorCode::not_found,
                      fmt::format("`fovea train RECIPE --out {} --resume`", model.string()));
  }
}

TEST_F(Bundles, EveryMissingFileIsNamed) {
  for (const char* name : {"model.safetensors", "recipe.toml", "labels.txt", "metrics.json"}) {
    const auto model = saved();
    std::filesystem::remove(model / name);
    expect_load_error(ErrorCode::not_found, fmt::format("it has no {}", name));
  }
}

TEST_F(Bundles, EveryCutOfTheGraphIsAnError) {
  const auto path = saved() / "model.graph";
  const std::string text = read_text_file(path, 1 << 20);
  for (size_t size = 0; size < text.size(); ++size) {
    SCOPED_TRACE(size);
    std::ofstream(path) << text.substr(0, size);  // not synced: there are many
    expect_load_error(ErrorCode::corrupt, "model.graph");
  }
}

TEST_F(Bundles, CutWeightsAreAnError) {
  const auto path = saved() / "model.safetensors";
  const std::string text = read_text_file(path, 1 << 20);
  for (size_t size = 0; size < text.size(); size += 37) {
    std::ofstream(path) << text.substr(0, size);
    expect_load_error(ErrorCode::corrupt, "truncated");
  }
}

TEST_F(Bundles, AMissingWeightIsNamed) {
  saved();
  rewrite([](std::vector<TensorView>& tensors) {
    std::erase_if(tensors, [](const TensorView& t) { return t.name == "head.bias"; });
  });
  expect_load_error(ErrorCode::corrupt,
                    "model.safetensors: the variable 'head.bias' of model.graph is missing");
}

TEST_F(Bundles, AWeightOfAnotherShapeOrTypeIsNamed) {
  saved();
  replace_in_graph("head.weight = variable(type=f32[3,10]", "head.weight = variable(type=f32[3,9]");
  replace_in_graph("type=f32[B,10]", "type=f32[B,9]");
  expect_load_error(ErrorCode::corrupt,
                    "the variable 'head.weight': expected f32[3,9], got f32[3,10]");
  saved();
  rewrite([](std::vector<TensorView>& tensors) {
    for (TensorView& t : tensors) {
      if (t.name == "head.bias") t.dtype = DType::i32;
    }
  });
  expect_load_error(ErrorCode::corrupt, "the variable 'head.bias': expected f32[3], got i32[3]");
}

TEST_F(Bundles, AWeightOfUnknownSizeIsAnError) {
  saved();
  replace_in_graph("head.bias = variable(type=f32[3]", "head.bias = variable(type=f32[N]");
  expect_load_error(ErrorCode::corrupt, "the variable 'head.bias' has the unknown size N");
}

TEST_F(Bundles, ConstantsAreCheckedAgainstTheirHash) {
  saved();
  rewrite([](std::vector<TensorView>& tensors) {
    std::erase_if(tensors, [](const TensorView& t) { return t.name.starts_with("constant."); });
  });
  expect_load_error(ErrorCode::corrupt, "the constant 'table' of model.graph is missing");
  saved();
  const HostTensorPtr other = ramp({100}, 0.75f);
  rewrite([&](std::vector<TensorView>& tensors) {
    for (TensorView& t : tensors) {
      if (t.name.starts_with("constant.")) t.bytes = other->bytes;
    }
  });
  expect_load_error(ErrorCode::corrupt, "the numbers of the constant 'table' are not those");
  saved();
  rewrite([&](std::vector<TensorView>& tensors) {
    for (TensorView& t : tensors) {
      if (t.name.starts_with("constant.")) t.shape = {10, 10};
    }
  });
  expect_load_error(ErrorCode::corrupt, "the constant 'table': expected f32[100], got f32[10,10]");
}

TEST_F(Bundles, HostileLabelsAreErrors) {
  const std::string long_name(1001, 'x');
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"cat\n\ndog\n", "line 2: expected the name of a class, got nothing"},
      {"cat\n\x1b[2J\n", "line 2: expected the name of a class as text, got a control character"},
      {std::string("a\0b\n", 4), "line 1"},
      {"a\rb\n", "a control character"},
      {"a\x7f\n", "a control character"},
      {"\xc2\x9b", "a control character"},
      {"\xff\n", "got no UTF-8"},
      {"caf\xc3", "got no UTF-8"},
      {"\xc0\xaf\n", "got no UTF-8"},
      {"\xe0\x80\x80\n", "got no UTF-8"},
      {"\xed\xa0\x80\n", "got no UTF-8"},
      {"\xf4\x90\x80\x80\n", "got no UTF-8"},
      {"\xe2\x28\xa1\n", "got no UTF-8"},
      {long_name + "\n", "at most 1000 bytes, got 1001"},
  };
  for (const auto& [text, message] : cases) {
    SCOPED_TRACE(message);
    write_file_atomically(saved() / "labels.txt", text);
    expect_load_error(ErrorCode::corrupt, "labels.txt: line ");
    expect_load_error(ErrorCode::corrupt, message);
  }
}

TEST_F(Bundles, LabelsMayEndLikeWindowsOrNotAtAll) {
  const auto path = saved() / "labels.txt";
  write_file_atomically(path, "cat\r\ndog");
  EXPECT_EQ(load_bundle(folder_ / "model").labels, (std::vector<std::string>{"cat", "dog"}));
}

TEST_F(Bundles, MetricsThatAreNoJsonAreAnError) {
  write_file_atomically(saved() / "metrics.json", std::string(1000, '['));
  expect_load_error(ErrorCode::corrupt, "metrics.json: expected JSON");
}

TEST_F(Bundles, WhatWouldNotLoadAgainIsNotWritten) {
  Bundle bundle = small_bundle();
  bundle.weights.erase("head.bias");
  expect_save_error(bundle, "the variable 'head.bias' has no weight");
  bundle = small_bundle();
  bundle.weights["head.bias"] = ramp({4}, 1.0f);
  expect_save_error(bundle, "the variable 'head.bias': expected f32[3], got f32[4]");
  bundle = small_bundle();
  bundle.graph = parse_graph(print_graph(bundle.graph));
  expect_save_error(bundle, "lacks the numbers of the constant 'table'");
  bundle = small_bundle();
  bundle.graph.store_constant(only_constant(bundle.graph), ramp({100}, 9.0f));
  expect_save_error(bundle, "the numbers of the constant 'table' are not those");
  bundle = small_bundle();
  ops::weight(bundle.graph, "constant.00", {1}, 0);
  bundle.weights["constant.00"] = ramp({1}, 1.0f);
  expect_save_error(bundle, "the variable 'constant.00' has a name of the kind");
  bundle = small_bundle();
  bundle.labels[1] = "two\nlines";
  expect_save_error(bundle, "labels.txt: line 2");
  bundle = small_bundle();
  bundle.metrics_json = "{";
  expect_save_error(bundle, "expected JSON");
  bundle = small_bundle();
  bundle.graph.remove_output("y");
  expect_save_error(bundle, "the graph has no output");
}

TEST_F(Bundles, AFullDiskLeavesTheOldBundleWhole) {
  const auto path = saved() / "model.safetensors";
  const std::string before = read_text_file(path, 1 << 20);
  // The largest of the files cannot be written any more, the smaller ones before it can.
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit less{before.size() - 1, old.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &less), 0);
  Bundle other = small_bundle();
  other.recipe += "# another\n";
  expect_error(ErrorCode::io, path.string(), [&] { save_bundle(folder_ / "model", other); });
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(read_text_file(path, 1 << 20), before);
  // Nor have the smaller files been replaced, which had room.
  EXPECT_EQ(load_bundle(folder_ / "model").recipe, small_bundle().recipe);
  const auto entries = std::filesystem::directory_iterator(folder_ / "model");
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 5);
}

TEST_F(Bundles, AFolderInPlaceOfAFileIsAnErrorAndTouchesNoOther) {
  save_bundle(folder_ / "model", small_bundle());
  std::filesystem::remove(folder_ / "model" / "labels.txt");
  std::filesystem::create_directory(folder_ / "model" / "labels.txt");
  Bundle other = small_bundle();
  other.recipe += "# another\n";
  expect_error(ErrorCode::io, "labels.txt: cannot write: expected a regular file",
               [&] { save_bundle(folder_ / "model", other); });
  EXPECT_EQ(read_text_file(folder_ / "model" / "recipe.toml", 1 << 20), small_bundle().recipe);
}

}  // namespace
}  // namespace fovea

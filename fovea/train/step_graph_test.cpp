#include "fovea/train/step_graph.h"

#include <gtest/gtest.h>

#include <cstring>

#include "fovea/data/test_images.h"
#include "fovea/formats/test_data.h"
#include "fovea/runtime/compile.h"
#include "fovea/runtime/session.h"
#include "fovea/train/schedule.h"

namespace fovea {
namespace {

// One transformer layer on 8x8 images in ten classes.
Task small_task(RecipeTable& recipe) {
  return task_kind(recipe).make(recipe, {8, 8, 1, std::vector<std::string>(10, "class")});
}

RecipeTable recipe_of(const std::string& text) { return RecipeTable::parse(text, "test.toml"); }

// Fills images and labels that depend on the sample alone, from sample `first` on.
void fill(Execution& e, int64_t batch, int64_t first, int32_t step, float rate) {
  auto* pixels = reinterpret_cast<uint8_t*>(e.input(kImageInput).data());
  auto* labels = reinterpret_cast<int32_t*>(e.input(kLabelInput).data());
  for (int64_t b = 0; b < batch; ++b) {
    PhiloxStream random(3, stream_id("image"), static_cast<uint64_t>(first + b));
    for (int i = 0; i < 64; ++i) pixels[b * 64 + i] = static_cast<uint8_t>(random.next());
    labels[b] = static_cast<int32_t>(first + b) % 10;
  }
  const int32_t rng[3] = {1, step, static_cast<int32_t>(first)};
  std::memcpy(e.input(kRngInput).data(), rng, sizeof rng);
  if (e.has_input(kRateInput)) std::memcpy(e.input(kRateInput).data(), &rate, sizeof rate);
}

const char* const kModel =
    "[model]\nstem = []\npatch = 2\nlayers = 1\nwidth = 32\nheads = 2\nmlp = 32\n";

TEST(Training, AOneLayerModelOverfitsEightImages) {
  RecipeTable recipe = recipe_of(kModel);
  const Task task = small_task(recipe);
  TrainOptions options;
  options.weight_decay = 0;
  Session session(make_step(task, options).after, std::make_shared<VariableStore>(),
                  std::make_shared<ThreadPool>(2), {.seed = 1});
  Execution& e = session.prepare({{"B", 8}});
  float loss = 0;
  for (int32_t step = 0; step < 150; ++step) {
    fill(e, 8, 0, step, 3e-3f);
    e.run();
    loss = e.output_f32(kObjectiveSum)[0] / 8;
    if (step == 0) {
      EXPECT_NEAR(loss, 2.3, 0.7);  // ten classes, nothing learned
    }
  }
  EXPECT_LT(loss, 0.05f);
  EXPECT_EQ(e.output_f32("correct.sum")[0], 8.0f);
}

// All variables as bytes after some steps.
std::map<std::string, std::vector<std::byte>> bytes_of(const VariableStore& store) {
  std::map<std::string, std::vector<std::byte>> all;
  for (auto& [name, v] : store.all())
    all[name].assign(v.data.bytes().begin(), v.data.bytes().end());
  return all;
}

TEST(Training, TheWeightsAreTheSameBitsForOneToFourThreads) {
  RecipeTable recipe = recipe_of(std::string(kModel) + "dropout = 0.2\n");
  const Task task = small_task(recipe);
  TrainOptions options;
  options.average = 0.9;
  std::map<std::string, std::vector<std::byte>> first;
  for (int threads : {1, 2, 3, 4}) {
    auto store = std::make_shared<VariableStore>();
    Session session(make_step(task, options).after, store, std::make_shared<ThreadPool>(threads),
                    {.seed = 1, .microseconds_worth_sharing = 0});
    Execution& e = session.prepare({{"B", 40}});
    for (int32_t step = 0; step < 4; ++step) {
      fill(e, 40, 0, step, 1e-3f);
      e.run();
    }
    if (threads == 1) first = bytes_of(*store);
    EXPECT_EQ(bytes_of(*store), first) << threads << " threads";
  }
}

TEST(Training, MicroBatchesGiveTheStepOfTheWholeBatch) {
  RecipeTable recipe = recipe_of(std::string(kModel) + "dropout = 0.2\n");
  const Task task = small_task(recipe);
  TrainOptions options;
  options.optimiser = OptimiserKind::sgd;  // linear in the gradient, unlike AdamW's first step
  options.clip = 0.5;
  auto whole_store = std::make_shared<VariableStore>();
  auto micro_store = std::make_shared<VariableStore>();
  auto pool = std::make_shared<ThreadPool>(2);
  Session whole(make_step(task, options).after, whole_store, pool, {.seed = 1});
  Session add(make_step(task, options, {.part = StepPart::accumulate}).after, micro_store, pool,
              {.seed = 1});
  Session apply(make_step(task, options, {.part = StepPart::apply}).after, micro_store, pool,
                {.seed = 1});
  for (int32_t step = 0; step < 3; ++step) {
    Execution& e = whole.prepare({{"B", 12}});
    fill(e, 12, 0, step, 0.1f);
    e.run();
    for (int64_t first : {0, 5, 10}) {
      const int64_t count = std::min<int64_t>(5, 12 - first);
      Execution& m = (first == 10 ? apply : add).prepare({{"B", count}});
      fill(m, count, first, step, 0.1f);
      m.run();
    }
  }
  for (auto& [name, v] : whole_store->all()) {
    if (v.dtype != DType::f32) continue;
    const auto* a = reinterpret_cast<const float*>(v.data.data());
    const auto* b = reinterpret_cast<const float*>(micro_store->get(name).data.data());
    for (size_t i = 0; i < v.data.size() / 4; ++i) ASSERT_NEAR(a[i], b[i], 2e-5f) << name;
  }
}

TEST(Training, ClippingBoundsTheNormAndDecaySparesBiases) {
  RecipeTable recipe = recipe_of(kModel);
  const Task task = small_task(recipe);
  const Graph step = make_step(task, TrainOptions{}).after;
  int decayed = 0, spared = 0;
  for (int id = 0; id < step.size(); ++id) {
    const Node& n = step.node(id);
    if (n.op->name != "adamw") continue;
    // One node for all weights with the same decay; each has three outputs.
    const double decay = n.attrs.get<AdamwAttrs>().weight_decay;
    for (size_t i = 0; i < n.types.size(); i += 3) {
      const bool matrix = n.types[i].rank() >= 2;
      EXPECT_EQ(decay, matrix ? 0.05 : 0.0) << n.name;
      ++(matrix ? decayed : spared);
    }
  }
  EXPECT_GT(decayed, 5);
  EXPECT_GT(spared, 5);
}

TEST(Evaluation, AModelThatSaysNothingIsRightOnlyWhereTheFirstClassIs) {
  RecipeTable recipe = recipe_of(kModel);
  const Task task = small_task(recipe);
  auto store = std::make_shared<VariableStore>();
  Session session(compile(task_kind(recipe).evaluation(task.infer)), store,
                  std::make_shared<ThreadPool>(1), {.seed = 1});
  for (const char* name : {"vit.head.weight", "vit.head.bias"})
    std::memset(store->get(name).data.data(), 0, store->get(name).data.size());
  Execution& e = session.prepare({{"B", 20}});
  auto* labels = reinterpret_cast<int32_t*>(e.input(kLabelInput).data());
  for (int i = 0; i < 20; ++i) labels[i] = i < 18 ? i % 10 : -1;
  e.run();
  EXPECT_EQ(e.output_f32("loss.count")[0], 18.0f);
  EXPECT_EQ(e.output_f32("correct.sum")[0], 2.0f);  // two of the 18 have label 0
}

TEST(Schedule, RisesThenFallsAsACosine) {
  TrainOptions o;
  o.learning_rate = 1;
  o.warmup = 0.1;
  EXPECT_NEAR(learning_rate(o, 0, 100), 1.0 / 11, 1e-12);
  EXPECT_NEAR(learning_rate(o, 9, 100), 10.0 / 11, 1e-12);
  EXPECT_NEAR(learning_rate(o, 10, 100), 1, 1e-12);
  EXPECT_NEAR(learning_rate(o, 55, 100), 0.5, 1e-12);
  EXPECT_LT(learning_rate(o, 99, 100), 0.001);
  o.schedule = ScheduleKind::constant;
  EXPECT_EQ(learning_rate(o, 99, 100), 1);
}

TEST(TrainOptions, AValueOutOfRangeNamesTheKey) {
  const auto with = [](auto change) {
    TrainOptions o;
    change(o);
    check_train_options(o);
  };
  EXPECT_NO_THROW(check_train_options(TrainOptions{}));
  const auto code = ErrorCode::invalid_argument;
  expect_error(code, "epochs", [&] { with([](auto& o) { o.epochs = 0; }); });
  expect_error(code, "accumulate", [&] { with([](auto& o) { o.accumulate = 3; }); });
  expect_error(code, "learning_rate", [&] { with([](auto& o) { o.learning_rate = -1; }); });
  expect_error(code, "average", [&] { with([](auto& o) { o.average = 1; }); });
  expect_error(code, "seed", [&] { with([](auto& o) { o.seed = -1; }); });
}

}  // namespace
}  // namespace fovea

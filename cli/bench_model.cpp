// The bench model: its training step and its inference.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "cli/bench_case.h"
#include "cli/bench_recipe.h"
#include "fovea/base/error.h"
#include "fovea/base/philox.h"
#include "fovea/formats/onnx.h"
#include "fovea/formats/safetensors.h"
#include "fovea/passes/memory_plan.h"
#include "fovea/runtime/compile.h"
#include "fovea/runtime/session.h"
#include "fovea/train/step_graph.h"

namespace fovea::cli {

namespace {

constexpr int64_t kHeads = 4;
constexpr int64_t kSide = 28;
constexpr int64_t kClasses = 10;
constexpr int64_t kLossesCompared = 3;
constexpr uint64_t kSeed = 1;

struct BenchModel {
  Task task;
  TrainOptions train;
};

BenchModel bench_model() {
  RecipeTable recipe = RecipeTable::parse(kBenchRecipe, "bench.toml");
  DataInfo info{.height = kSide, .width = kSide, .channels = 1, .class_names = {}};
  for (int64_t i = 0; i < kClasses; ++i) info.class_names.push_back(std::to_string(i));
  BenchModel model{.task = make_task(recipe, info), .train = {}};
  recipe.bind("train", model.train);
  // Rivals give logits.
  model.task.infer.remove_output(kProbabilities);
  return model;
}

// The same numbers in each call. Biases that are all 0 would hide who leaves them out.
std::shared_ptr<VariableStore> fresh_weights(const Graph& graph) {
  auto store = std::make_shared<VariableStore>();
  store->create(graph, kSeed);
  for (const auto& [name, variable] : store->all()) {
    if (variable.shape.size() != 1) continue;
    PhiloxStream random(kSeed, stream_id("bench." + name));
    auto* values = reinterpret_cast<float*>(store->get(name).data.data());
    for (int64_t i = 0; i < variable.shape[0]; ++i) values[i] += 0.1f * random.normal();
  }
  return store;
}

std::map<std::string, HostTensorPtr> host_tensors(const VariableStore& store) {
  std::map<std::string, HostTensorPtr> all;
  for (const auto& [name, variable] : store.all()) {
    const auto bytes = variable.data.bytes();
    all[name] = std::make_shared<HostTensor>(
        HostTensor{variable.dtype, variable.shape, {bytes.begin(), bytes.end()}});
  }
  return all;
}

std::vector<uint8_t> random_images(int64_t batch) {
  PhiloxStream random(kSeed, stream_id("bench.images"));
  std::vector<uint8_t> images(static_cast<size_t>(batch * kSide * kSide));
  for (uint8_t& pixel : images) pixel = static_cast<uint8_t>(random.below(256));
  return images;
}

std::vector<int32_t> random_labels(int64_t batch) {
  PhiloxStream random(kSeed, stream_id("bench.labels"));
  std::vector<int32_t> labels(static_cast<size_t>(batch));
  for (int32_t& label : labels) label = static_cast<int32_t>(random.below(kClasses));
  return labels;
}

// Those that did nine tenths of the work, most first.
std::string kernels_of(const std::vector<NodeReport>& nodes) {
  std::map<std::string, int64_t> flops;
  int64_t total = 0;
  for (const NodeReport& node : nodes) {
    flops[node.kernel] += node.flops;
    total += node.flops;
  }
  std::vector<std::pair<int64_t, std::string>> order;
  for (const auto& [kernel, count] : flops) order.emplace_back(count, kernel);
  std::sort(order.rbegin(), order.rend());
  std::string text;
  int64_t done = 0;
  for (const auto& [count, kernel] : order) {
    if (10 * done >= 9 * total) break;
    text += (text.empty() ? "" : "+") + kernel;
    done += count;
  }
  return text;
}

class OwnModel : public Competitor {
 public:
  struct Options {
    bool train = false;
    bool bf16 = false;
    int64_t batch = 1;
    double memory_share = 0;  // of the values that the step takes without recomputing; 0: all
  };

  OwnModel(const BenchModel& model, const Options& options, std::shared_ptr<ThreadPool> pool)
      : options_(options) {
    const Graph objective = objective_graph(model.task);
    const SizeBindings sizes = {{"B", options.batch}};
    const auto variables = fresh_weights(options.train ? objective : model.task.infer);
    PassContext context;
    if (options.train) {
      TrainOptions train = model.train;
      if (options.bf16) train.precision = Precision::bf16;
      context = step_context(train);
    } else {
      const auto weights = host_tensors(*variables);
      context.weights = [weights](const std::string& name) {
        const auto found = weights.find(name);
        return found == weights.end() ? nullptr : found->second;
      };
    }
    context.bf16 = options.bf16;
    context.sizes = sizes;
    const Graph& source = options.train ? objective : model.task.infer;
    if (options.memory_share > 0) {
      const MemoryPlan plan = plan_memory(specialise(compile(source, context), sizes));
      context.memory_bytes =
          static_cast<size_t>(options.memory_share * static_cast<double>(plan.arena_bytes));
    }
    session_ = std::make_unique<Session>(
        compile(source, context), options.train ? variables : std::make_shared<VariableStore>(),
        std::move(pool), SessionOptions{.seed = kSeed});
    execution_ = &session_->prepare(sizes);
    fill(kImageInput, random_images(options.batch));
    fill(kLabelInput, random_labels(options.batch));
    fill(kRngInput, std::vector<int32_t>(3));
    fill(kRateInput, std::vector{static_cast<float>(model.train.learning_rate)});

    const std::vector<NodeReport> nodes = execution_->reports();
    implementation = "fovea";
    kernel = kernels_of(nodes);
    for (const NodeReport& node : nodes) flops += node.flops;
  }

  // Logits, or the mean losses of the first steps.
  std::vector<float> output() override {
    std::vector<float> all;
    for (int64_t i = 0; i < (options_.train ? kLossesCompared : 1); ++i) {
      execution_->run();
      if (options_.train) {
        all.push_back(execution_->output_f32(kObjectiveSum)[0] /
                      execution_->output_f32(kObjectiveCount)[0]);
      } else {
        const auto logits = execution_->output_f32(kLogits);
        all.assign(logits.begin(), logits.end());
      }
    }
    return all;
  }

  std::vector<double> run(int64_t runs) override {
    return time_runs(runs, [this] { execution_->run(); });
  }

  BenchMemory memory() override {
    const auto arena = static_cast<int64_t>(execution_->arena_bytes());
    const auto plan = static_cast<int64_t>(execution_->total_bytes() + execution_->packed_bytes());
    int64_t variables = 0;
    for (const auto& [name, variable] : session_->variables().all())
      variables += static_cast<int64_t>(variable.data.size());
    return {.bytes = plan + variables,
            .parts = {{"arena", arena},
                      {"inputs and scratch", plan - arena},
                      {"variables and state", variables}}};
  }

 private:
  template <class T>
  void fill(std::string_view name, const std::vector<T>& values) {
    if (!execution_->has_input(name)) return;
    const std::span<std::byte> bytes = execution_->input(name);
    FOVEA_ASSERT(bytes.size() == values.size() * sizeof(T));
    std::memcpy(bytes.data(), values.data(), bytes.size());
  }

  Options options_;
  std::unique_ptr<Session> session_;
  Execution* execution_ = nullptr;
};

// Weights, images and labels, and the model as ONNX.
void write_model_files(const std::filesystem::path& folder, int64_t batch) {
  const BenchModel model = bench_model();
  const auto variables = fresh_weights(model.task.infer);
  const std::vector<uint8_t> images = random_images(batch);
  const std::vector<int32_t> labels = random_labels(batch);
  std::vector<TensorView> tensors = {{.name = std::string(kImageInput),
                                      .dtype = DType::u8,
                                      .shape = {batch, kSide, kSide, 1},
                                      .bytes = std::as_bytes(std::span(images))},
                                     {.name = std::string(kLabelInput),
                                      .dtype = DType::i32,
                                      .shape = {batch},
                                      .bytes = std::as_bytes(std::span(labels))}};
  for (const auto& [name, variable] : variables->all())
    tensors.push_back({.name = name,
                       .dtype = variable.dtype,
                       .shape = variable.shape,
                       .bytes = variable.data.bytes()});
  write_safetensors(folder / "tensors.safetensors", tensors);
  write_onnx(folder / "model.onnx", {.graph = model.task.infer,
                                     .weights = host_tensors(*variables),
                                     .recipe = kBenchRecipe,
                                     .labels = {},
                                     .metrics_json = "{}"});
}

using Competitors = std::vector<std::unique_ptr<Competitor>>;

Competitors own_models(const std::vector<OwnModel::Options>& all,
                       const std::vector<std::string>& names,
                       const std::shared_ptr<ThreadPool>& pool) {
  const BenchModel model = bench_model();
  Competitors own;
  for (size_t i = 0; i < all.size(); ++i) {
    own.push_back(std::make_unique<OwnModel>(model, all[i], pool));
    own.back()->implementation = names[i];
  }
  return own;
}

BenchCase model_case(const std::string& name, const OwnModel::Options& options) {
  BenchCase c;
  c.name = fmt::format("{} batch {} {}", name, options.batch, options.bf16 ? "bf16" : "f32");
  c.dtype = options.bf16 ? DType::bf16 : DType::f32;
  c.tolerance = options.bf16 ? 5e-2 : 1e-3;
  c.images = options.batch;
  c.wants_memory = options.train;
  c.own = [=](const std::shared_ptr<ThreadPool>& pool) {
    return own_models({options}, {"fovea"}, pool);
  };
  c.write_files = [=](const std::filesystem::path& folder) {
    write_model_files(folder, options.batch);
  };
  c.setup = [](std::string_view) { return std::string(); };
  return c;
}

}  // namespace

std::vector<BenchCase> train_cases() {
  const TrainOptions train = bench_model().train;
  std::vector<BenchCase> cases;
  for (const bool bf16 : {false, true}) {
    BenchCase c = model_case("train", {.train = true, .bf16 = bf16, .batch = train.batch});
    c.setup = [=](std::string_view rival) -> std::string {
      if (rival != "libtorch") return {};
      return fmt::format(
          "setup train dtype={} tensors=tensors.safetensors heads={} rate={} "
          "decay={}",
          bf16 ? "bf16" : "f32", kHeads, train.learning_rate, train.weight_decay);
    };
    cases.push_back(std::move(c));
  }
  const OwnModel::Options whole = {.train = true, .batch = train.batch};
  OwnModel::Options half = whole;
  half.memory_share = 0.5;
  BenchCase c = model_case("train in half the memory,", half);
  c.own = [=](const std::shared_ptr<ThreadPool>& pool) {
    return own_models({half, whole}, {"fovea", "fovea without recompute"}, pool);
  };
  cases.push_back(std::move(c));
  return cases;
}

std::vector<BenchCase> infer_cases() {
  std::vector<BenchCase> cases;
  for (const int64_t batch : {1, 64}) {
    BenchCase c = model_case("infer", {.batch = batch});
    c.setup = [](std::string_view rival) -> std::string {
      if (rival == "onednn") return {};  // which knows products, not models
      return fmt::format(
          "setup infer dtype=f32 tensors=tensors.safetensors {}",
          rival == "libtorch" ? fmt::format("heads={}", kHeads) : std::string("model=model.onnx"));
    };
    cases.push_back(std::move(c));
  }
  for (const int64_t batch : {1, 64}) {
    BenchCase c = model_case("infer", {.bf16 = true, .batch = batch});
    c.own = [=](const std::shared_ptr<ThreadPool>& pool) {
      return own_models({{.bf16 = true, .batch = batch}, {.batch = batch}}, {"fovea", "fovea f32"},
                        pool);
    };
    cases.push_back(std::move(c));
  }
  return cases;
}

}  // namespace fovea::cli

#include "cli/cli_support.h"

#include <fmt/format.h>

#include <filesystem>

#include "fovea/base/error.h"
#include "fovea/base/text.h"
#include "fovea/infer/predictor.h"
#include "fovea/runtime/compile.h"
#include "fovea/tasks/sequence_classification.h"

namespace fovea::cli {

Precision precision_named(const std::string& text) {
  const auto names = enum_names(Precision{});
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i] == text) return static_cast<Precision>(i);
  throw Error(ErrorCode::invalid_argument,
              fmt::format("[--precision] expected {}, got '{}'", fmt::join(names, ", "), text));
}

std::shared_ptr<ThreadPool> make_pool(int64_t threads) {
  return std::make_shared<ThreadPool>(static_cast<int>(threads));
}

Model Model::open(const std::string& path, const std::vector<std::string>& overrides) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    if (!overrides.empty())
      throw Error(
          ErrorCode::invalid_argument,
          fmt::format("[--set] {} is a bundle, whose graph stands as it is; give the recipe "
                      "instead",
                      path));
    return open_bundle(path);
  }
  Model model(path, RecipeTable::load(path));
  for (const std::string& assignment : overrides) model.recipe_.set(assignment);
  model.bind();
  return model;
}

Model Model::open_bundle(const std::string& path) {
  Bundle bundle = load_bundle(path);
  const std::string recipe_path = (std::filesystem::path(path) / "recipe.toml").string();
  Model model(path, RecipeTable::parse(bundle.recipe, recipe_path));
  model.bundle_ = std::move(bundle);
  model.bind();
  return model;
}

void Model::bind() {
  RecordOptions record;
  kind_ = &task_kind(recipe_);
  recipe_.bind("data", data_);
  recipe_.bind("train", train_);
  recipe_.bind("augment", augment_);
  recipe_.bind("record", record);
  levels_ = read_levels(recipe_);
}

DataInfo Model::info() const {
  if (!bundle_) {
    // Means and deviations are those of training; images have only sizes to look at.
    const Split small =
        !is_series(data_.kind) && has_split(data_, Split::test) ? Split::test : Split::train;
    return data_info(load_with_progress(data_, small, nullptr));
  }
  if (bundle_->graph.find(kSeriesInput) >= 0) {
    DataInfo info{.class_names = bundle_->labels, .series = series_info(bundle_->graph)};
    info.series.gaps = data_.missing == Missing::mean;
    return info;
  }
  const int image = bundle_->graph.find(kImageInput);
  const Shape shape = image < 0 ? Shape{} : bundle_->graph.shape({image, 0});
  if (shape.size() != 4 || !shape[1].is_constant() || !shape[2].is_constant() ||
      !shape[3].is_constant())
    throw Error(
        ErrorCode::corrupt,
        fmt::format("[{}] expected an input '{}' of [B,H,W,C], got {} (take a model of images)",
                    path_, kImageInput, image < 0 ? "none" : shape_text(shape)));
  return {shape[1].constant(), shape[2].constant(), shape[3].constant(), bundle_->labels};
}

const Graph& Model::inference() { return bundle_ ? bundle_->graph : task().infer; }

const Task& Model::task() {
  if (!task_) {
    task_ = make_task(recipe_, info());
    recipe_.check_all_read();
  }
  return *task_;
}

void Model::check_keys() {
  // A task reads its sections whatever its data are; whether they fit together is another matter.
  const DataInfo any{.height = 32,
                     .width = 32,
                     .channels = 1,
                     .class_names = {"a", "b"},
                     .series = {.steps = 1, .features = 1, .mean = {0}, .deviation = {1}}};
  try {
    make_task(recipe_, any);
  } catch (const Error&) {
  }
  recipe_.check_all_read();
}

const TrainOptions& Model::train_options() const {
  try {
    check_train_options(train_);
  } catch (const Error& e) {
    throw recipe_.located(e);
  }
  return train_;
}

std::shared_ptr<VariableStore> Model::variables() const {
  return bundle_ ? make_variables(*bundle_) : std::make_shared<VariableStore>();
}

void add_run_options(Arguments& arguments, RunOptions& options) {
  arguments.option("--level", options.level, "LEVEL", "A level that the recipe names, or full");
  arguments.option("--precision", options.precision, "What the products compute in");
}

std::vector<std::string> Model::labels() const {
  return bundle_ ? bundle_->labels : info().class_names;
}

const LevelOptions* Model::level(const std::string& name) const {
  return name == kFullLevel ? nullptr : &level_named(levels_, name);
}

Graph Model::compiled(const Graph& graph, const RunOptions& options,
                      std::span<const std::string> disabled,
                      std::vector<PassReport>* reports) const {
  PassContext context;
  Level level;
  if (const LevelOptions* named = this->level(options.level)) {
    level = make_level(*named, graph);
    context.level = &level;
  }
  context.bf16 = in_bf16(options.precision.value_or(Precision::f32));
  if (bundle_) context.weights = frozen_weights(*bundle_);
  return compile(graph, context, disabled, reports);
}

Evaluation Model::evaluate(Split split, int64_t batch, std::shared_ptr<ThreadPool> pool,
                           const RunOptions& options) {
  const Graph graph = kind_->evaluation(inference());
  const Dataset dataset = this->dataset(split, pool);
  check_inputs(graph, dataset, dataset.source);
  const auto classes = bundle_ ? bundle_->labels.size() : 0;
  if (classes > 0 && dataset.class_names.size() > classes)
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[eval] expected at most {} classes, as {} knows, got {} from {} (take "
                            "the data that it was trained for)",
                            classes, path_, dataset.class_names.size(), dataset.source));
  // Labels are indices: under other names they would mean something else.
  for (size_t i = 0; i < dataset.class_names.size() && i < classes; ++i) {
    if (dataset.class_names[i] == bundle_->labels[i]) continue;
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[eval] {} was trained with '{}' as class {}, in {} that is '{}' (name "
                            "the classes in the order of labels.txt in data.classes)",
                            path_, bundle_->labels[i], i, dataset.source, dataset.class_names[i]));
  }
  Evaluator evaluator(compiled(graph, options), kind_->metrics(), std::make_shared<VariableStore>(),
                      std::move(pool));
  return evaluator.run(dataset, batch);
}

void show_loading(Progress& progress, Split split, int64_t done, int64_t all) {
  if (done == all) return progress.finish();
  progress.update(static_cast<double>(done) / static_cast<double>(all),
                  fmt::format("reading {} images of {}: {}", all, enum_name(split), done));
}

Dataset Model::dataset(Split split, std::shared_ptr<ThreadPool> pool) const {
  return load_with_progress(data_, split, std::move(pool));
}

ImageDataset Model::images(Split split, std::shared_ptr<ThreadPool> pool,
                           const std::string& what) const {
  return as_images(dataset(split, std::move(pool)), what);
}

Dataset load_with_progress(const DataOptions& options, Split split,
                           std::shared_ptr<ThreadPool> pool) {
  Progress progress(stderr);
  LoadContext context;
  context.pool = std::move(pool);
  context.progress = [&](int64_t done, int64_t all) { show_loading(progress, split, done, all); };
  return load_dataset(options, split, context);
}

std::string with_article(const std::string& example_word) {
  return (example_word == "image" ? "an " : "a ") + example_word;
}

void print_json(const Json& json) { fmt::print("{}\n", json.text()); }

}  // namespace fovea::cli

// What several verbs share: the model that a path names, its data, and how results are written.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/arguments.h"
#include "cli/json.h"
#include "fovea/base/progress.h"
#include "fovea/base/thread_pool.h"
#include "fovea/data/augment.h"
#include "fovea/formats/bundle.h"
#include "fovea/formats/recipe.h"
#include "fovea/infer/evaluator.h"
#include "fovea/passes/pipeline.h"
#include "fovea/tasks/levels.h"
#include "fovea/tasks/task.h"
#include "fovea/train/options.h"

namespace fovea::cli {

// 0: as many as the process may use.
std::shared_ptr<ThreadPool> make_pool(int64_t threads);

// How a model is to run.
struct RunOptions {
  std::string level = "full";
  std::optional<Precision> precision =
      Precision::f32;  // nothing: f32, or what the recipe trains with
};
// Declares --level and --precision.
void add_run_options(Arguments& arguments, RunOptions& options);

// What BUNDLE or RECIPE on the command line stands for.
class Model {
 public:
  // Overrides are "key=value", as in --set. Throws Error: not_found where nothing is there, and
  // what the readers throw.
  static Model open(const std::string& path, const std::vector<std::string>& overrides = {});
  static Model open_bundle(const std::string& path);

  // What the recipe says: the file, or the bundle's own.
  const TaskKind& kind() const { return *kind_; }
  // Throws Error for a value out of its range, naming its place.
  const TrainOptions& train_options() const;

  // The graph for inference, before the passes: the bundle's, or what the recipe builds.
  const Graph& inference();
  // The task's graphs, made from the recipe; a recipe's data set is opened for its sizes, and every
  // key of it must be known.
  const Task& task();
  // Those of the bundle, or none yet.
  std::shared_ptr<VariableStore> variables() const;

  const DataOptions& data() const { return data_; }
  const AugmentOptions& augment() const { return augment_; }

  // Those of the recipe, without "full".
  const std::vector<LevelOptions>& levels() const { return levels_; }
  // The names of the classes; empty where they have none.
  std::vector<std::string> labels() const;
  // A split of the data set that the recipe names. Throws what load_dataset throws.
  Dataset dataset(Split split, std::shared_ptr<ThreadPool> pool) const;
  // The same where only images will do. Error (unsupported), beginning with `what`, else.
  ImageDataset images(Split split, std::shared_ptr<ThreadPool> pool, const std::string& what) const;

  // What one of the examples is called: "image", or "sample" where the data are numbers.
  std::string example_word() const { return is_series(data_.kind) ? "sample" : "image"; }

  // Throws Error for a key of the recipe that nobody knows; opens no data set.
  void check_keys();

  // The level that --level names, nullptr for "full". Throws Error with the nearest name.
  const LevelOptions* level(const std::string& name) const;

  // A graph for inference after the passes; a bundle's weights are frozen. Throws Error for a level
  // or a precision that does not exist.
  Graph compiled(const Graph& graph, const RunOptions& options,
                 std::span<const std::string> disabled = {},
                 std::vector<PassReport>* reports = nullptr) const;

  // Measures the bundle on a split of the data set that its recipe names.
  Evaluation evaluate(Split split, int64_t batch, std::shared_ptr<ThreadPool> pool,
                      const RunOptions& options = {});

 private:
  Model(std::string path, RecipeTable recipe)
      : path_(std::move(path)), recipe_(std::move(recipe)) {}
  void bind();
  DataInfo info() const;

  std::string path_;
  RecipeTable recipe_;
  std::optional<Bundle> bundle_;  // empty where the path is a recipe
  const TaskKind* kind_ = nullptr;
  DataOptions data_;
  AugmentOptions augment_;
  TrainOptions train_;
  std::vector<LevelOptions> levels_;
  std::optional<Task> task_;
};

// "f32", "bf16" or "auto"; throws Error for anything else.
Precision precision_named(const std::string& text);

// The bar while the files of a split are read; cleared after the last.
void show_loading(Progress& progress, Split split, int64_t done, int64_t all);
// The same as what load_dataset() asks for, on standard error.
Dataset load_with_progress(const DataOptions& options, Split split,
                           std::shared_ptr<ThreadPool> pool);

// "an image", "a sample".
std::string with_article(const std::string& example_word);

// With a line break behind, to standard output.
void print_json(const Json& json);

}  // namespace fovea::cli

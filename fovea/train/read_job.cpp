// From a recipe to what is to be trained.
#include <fmt/format.h>

#include "fovea/data/splits.h"
#include "fovea/tasks/levels.h"
#include "fovea/train/trainer.h"

namespace fovea {

namespace {

std::array<Dataset, 3> read_splits(const DataOptions& options, const ReadOptions& how) {
  std::array<Dataset, 3> splits = load_splits(options, [&](Split split) {
    LoadContext context;
    context.pool = how.pool;
    if (how.progress)
      context.progress = [&, split](int64_t done, int64_t all) { how.progress(split, done, all); };
    return context;
  });
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    const std::string text = skipped_text(options, splits[static_cast<size_t>(split)], split);
    if (!text.empty() && how.note) how.note(text);
  }
  return splits;
}

std::string list_text(const std::vector<std::string>& values) {
  DataOptions named;
  named.features = values;
  RecipeWriter writer;
  named.visit(static_cast<FieldVisitor&>(writer));
  const size_t begin = writer.lines.find("features = ") + std::string("features = ").size();
  return writer.lines.substr(begin, writer.lines.find('\n', begin) - begin);
}

// Columns, classes and steps that were found in the file stand in the bundle's recipe, so that
// another file means the same.
void keep_what_was_found(RecipeTable& recipe, const DataOptions& data, const Dataset& train) {
  if (data.features.empty()) recipe.set("data.features=" + list_text(train.columns));
  if (data.classes.empty()) recipe.set("data.classes=" + list_text(train.class_names));
  if (data.steps == 0)
    recipe.set(fmt::format("data.steps={}", train.input(kSeriesInput)->shape.at(0)));
}

}  // namespace

TrainJob read_job(RecipeTable& recipe, const ReadOptions& how) {
  TrainJob job;
  recipe.bind("train", job.options);
  DataOptions data;
  recipe.bind("data", data);
  recipe.bind("augment", job.augment);
  recipe.bind("record", job.record);
  try {
    task_kind(recipe);
    check_train_options(job.options);
    check_augment(job.augment);
    check_record_options(job.record);
  } catch (const Error& e) {
    throw recipe.located(e);
  }
  std::array<Dataset, 3> splits = read_splits(data, how);
  job.train = std::move(splits[0]);
  job.validation = std::move(splits[1]);
  job.test = std::move(splits[2]);
  job.task = make_task(recipe, data_info(job.train));
  job.levels = read_levels(recipe);
  recipe.check_all_read();
  if (is_series(data.kind)) keep_what_was_found(recipe, data, job.train);
  job.recipe = recipe.to_text();
  job.settings = recipe.resolved();
  return job;
}

}  // namespace fovea

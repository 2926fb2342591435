// From a recipe to what is to be trained.
#include <fmt/format.h>

#include "fovea/tasks/levels.h"
#include "fovea/train/trainer.h"

namespace fovea {

namespace {

ImageDataset read_split(const DataOptions& options, Split split, const ReadOptions& how) {
  LoadContext context;
  context.pool = how.pool;
  if (how.progress) {
    context.progress = [&](int64_t done, int64_t all) { how.progress(split, done, all); };
  }
  ImageDataset data = load_dataset(options, split, context);
  const size_t skipped = data.skipped.size();
  if (skipped > 0 && how.note) {
    how.note(fmt::format(
        "{}: {} image file{} of the {} split cannot be read and {} left out, the first: {}",
        data.source, skipped, skipped == 1 ? "" : "s", enum_name(split),
        skipped == 1 ? "is" : "are", data.skipped[0]));
  }
  return data;
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
  job.train = read_split(data, Split::train, how);
  if (has_split(data, Split::validation)) job.validation = read_split(data, Split::validation, how);
  if (has_split(data, Split::test)) job.test = read_split(data, Split::test, how);
  job.task = make_task(recipe, data_info(job.train));
  job.levels = read_levels(recipe);
  recipe.check_all_read();
  job.recipe = recipe.to_text();
  job.settings = recipe.resolved();
  return job;
}

}  // namespace fovea

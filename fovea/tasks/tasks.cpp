#include <fmt/format.h>

#include <vector>

#include "fovea/base/text.h"
#include "fovea/data/statistics.h"
#include "fovea/graph/ops.h"
#include "fovea/tasks/image_classification.h"
#include "fovea/tasks/sequence_classification.h"

namespace fovea {

std::span<const TaskKind> task_kinds() {
  static const std::vector<TaskKind> kinds = {kImageClassification, kSequenceClassification};
  return kinds;
}

DataInfo data_info(const Dataset& dataset) {
  DataInfo info;
  info.class_names = dataset.class_names;
  info.class_counts = class_counts(dataset);
  if (const DataInput* image = dataset.input(kImageInput)) {
    info.height = image->shape.at(0);
    info.width = image->shape.at(1);
    info.channels = image->shape.at(2);
  }
  if (const DataInput* series = dataset.input(kSeriesInput)) {
    SeriesStatistics statistics = series_statistics(dataset);
    info.series = {
        series->shape.at(0), series->shape.at(1),        dataset.input(kLengthInput) != nullptr,
        dataset.gaps,        std::move(statistics.mean), std::move(statistics.deviation)};
  }
  return info;
}

Value predicted_class(Graph& g, Value logits) {
  const Shape shape = g.shape(logits);
  const Value top = g.add("reduce_max", {logits}, ReduceAttrs{{-1}, true});
  const Value place = ops::iota(g, DType::i32, {1, shape[1]}, 1);
  const Value none = ops::constant(g, static_cast<double>(shape[1].constant()), DType::i32);
  const Value largest = ops::select(g, ops::binary(g, "equal", logits, top), place, none);
  return g.add("reduce_min", {largest}, ReduceAttrs{{-1}, false});
}

namespace {
struct KindName {
  std::string kind = "image_classification";
  template <class V>
  void visit(V& v) {
    v("kind", kind);
  }
};
}  // namespace

const TaskKind& task_kind(RecipeTable& recipe) {
  KindName name;
  recipe.bind("task", name);
  try {
    return task_kind(name.kind);
  } catch (const Error& e) {
    throw recipe.located(e);
  }
}

const TaskKind& task_kind(std::string_view name) {
  std::vector<std::string_view> names;
  for (const TaskKind& kind : task_kinds()) {
    if (kind.name == name) return kind;
    names.push_back(kind.name);
  }
  throw Error(ErrorCode::invalid_argument,
              fmt::format("[task] kind: there is no task '{}'{} (tasks: {})", name,
                          did_you_mean(name, names), fmt::join(names, ", ")));
}

Task make_task(RecipeTable& recipe, const DataInfo& data) {
  const TaskKind& kind = task_kind(recipe);
  try {
    return kind.make(recipe, data);
  } catch (const Error& e) {
    throw recipe.located(e);
  }
}

}  // namespace fovea

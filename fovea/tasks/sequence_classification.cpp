#include "fovea/tasks/sequence_classification.h"

#include <fmt/format.h>

#include <cstring>

#include "fovea/graph/op.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"
#include "fovea/models/series.h"

namespace fovea {

namespace {

Task make(RecipeTable& recipe, const DataInfo& data) {
  SeriesOptions model;
  recipe.bind("model", model);
  recipe.bind("model.attention", model.attention);
  ClassificationOptions options;
  recipe.bind("task", options);
  if (data.series.steps == 0)
    throw Error(ErrorCode::invalid_argument,
                "[task] kind: sequence_classification needs tables or sequences of numbers "
                "(data.kind = \"csv\" or \"npy\"), the data are images (task.kind = "
                "\"image_classification\" is for those)");
  const SeriesInfo& info = data.series;
  const auto classes = static_cast<int64_t>(data.class_names.size());
  return classification(
      "sequence_classification", data,
      [&](Graph& g, const BuildContext& context) {
        const Size batch = Size::symbol("B");
        const Value series =
            ops::input(g, kSeriesInput, DType::f32, {batch, info.steps, info.features});
        Value length;
        if (info.ragged) length = ops::input(g, kLengthInput, DType::i32, {batch});
        return series_classifier(g, {series, length, info.mean, info.deviation, info.gaps}, classes,
                                 model, context);
      },
      options);
}

std::vector<double> constant_numbers(const Graph& graph, std::string_view name, int64_t count) {
  const int id = graph.find(name);
  std::vector<double> values;
  if (id >= 0 && graph.node(id).op->name == "constant") {
    const auto& attrs = graph.node(id).attrs.get<ConstantAttrs>();
    values = attrs.values;
    if (const auto stored = graph.constants().find(attrs.hash); stored != graph.constants().end()) {
      const std::vector<std::byte>& bytes = stored->second->bytes;
      for (size_t at = 0; at + sizeof(float) <= bytes.size(); at += sizeof(float)) {
        float v = 0;
        std::memcpy(&v, bytes.data() + at, sizeof v);
        values.push_back(static_cast<double>(v));
      }
    }
    if (values.size() == 1) values.resize(static_cast<size_t>(count), values[0]);
  }
  if (static_cast<int64_t>(values.size()) != count)
    throw Error(ErrorCode::corrupt,
                fmt::format("[task] expected {} numbers in the constant '{}' of the model, got {}",
                            count, name, values.size()));
  return values;
}

}  // namespace

SeriesInfo series_info(const Graph& graph) {
  const int id = graph.find(kSeriesInput);
  const Shape shape = id < 0 ? Shape{} : graph.shape({id, 0});
  if (shape.size() != 3 || !shape[1].is_constant() || !shape[2].is_constant() ||
      graph.type({id, 0}).dtype != DType::f32 || graph.node(id).op->name != "input")
    throw Error(ErrorCode::corrupt,
                fmt::format("[task] expected an input '{}' of f32 [B,T,F], got {}", kSeriesInput,
                            id < 0 ? "none" : shape_text(shape)));
  SeriesInfo info;
  info.steps = shape[1].constant();
  info.features = shape[2].constant();
  info.ragged = graph.find(kLengthInput) >= 0;
  info.mean = constant_numbers(graph, kSeriesMean, info.features);
  info.deviation = constant_numbers(graph, kSeriesDeviation, info.features);
  return info;
}

const TaskKind kSequenceClassification = {"sequence_classification", make,
                                          classification_evaluation, classification_metrics};

}  // namespace fovea

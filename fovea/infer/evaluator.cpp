#include "fovea/infer/evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <set>

#include "fovea/base/error.h"

namespace fovea {
namespace {

std::string kind_of(const Size& channels) {
  if (channels == Size(1)) return "grey";
  if (channels == Size(3)) return "colour";
  return fmt::format("with {} channels", channels.text());
}

// As people write it: width first.
std::string image_text(const Size& height, const Size& width, const Size& channels) {
  return fmt::format("{}x{} {}", width.text(), height.text(), kind_of(channels));
}

// What is known to differ; a size that stands open takes any image.
bool differs(const Size& expected, int64_t got) {
  return expected.is_constant() && expected.constant() != got;
}

double scalar(const Execution& execution, const std::string& name) {
  const std::byte* data = execution.output(name).data();
  switch (execution.output_type(name).dtype) {
    case DType::f64: {
      double v = 0;
      std::memcpy(&v, data, sizeof v);
      return v;
    }
    case DType::i32: {
      int32_t v = 0;
      std::memcpy(&v, data, sizeof v);
      return v;
    }
    default: {
      float v = 0;
      std::memcpy(&v, data, sizeof v);
      return v;
    }
  }
}

// A label beyond the classes would only show as a loss that is no number.
void check_labels(const Graph& graph, const Dataset& dataset) {
  if (!graph.has_output(kLogits)) return;
  const Shape& shape = graph.shape(graph.output(kLogits));
  if (shape.empty() || !shape.back().is_constant()) return;
  const int64_t classes = shape.back().constant();
  for (size_t i = 0; i < dataset.labels.size(); ++i) {
    if (dataset.labels[i] >= classes) {
      throw Error{ErrorCode::invalid_argument,
                  fmt::format("[eval] {}: example {} has the label {}, the model knows the classes "
                              "0 to {} (take the data set that it was trained for)",
                              dataset.source, i, dataset.labels[i], classes - 1)};
    }
  }
}

}  // namespace

const Shape& image_input_shape(const Graph& graph, const std::string& what) {
  const int id = graph.find(kImageInput);
  if (id < 0 || graph.node(id).op->name != "input" || graph.type({id, 0}).rank() != 4 ||
      graph.type({id, 0}).dtype != DType::u8) {
    throw Error{ErrorCode::unsupported,
                fmt::format("{}: the model takes no images: it has no input '{}' of type u8 "
                            "[B,H,W,C] (take a model of images)",
                            what, kImageInput)};
  }
  return graph.shape({id, 0});
}

void check_image_input(const Graph& graph, int64_t height, int64_t width, int64_t channels,
                       const std::string& what) {
  const Shape& shape = image_input_shape(graph, what);
  const bool size = differs(shape[1], height) || differs(shape[2], width);
  if (!size && !differs(shape[3], channels)) return;
  throw Error{ErrorCode::invalid_argument,
              fmt::format("{}: the model takes images of {}, this one is {}; {} it first", what,
                          image_text(shape[1], shape[2], shape[3]),
                          image_text(height, width, channels), size ? "resize" : "convert")};
}

void check_inputs(const Graph& graph, const Dataset& dataset, const std::string& what) {
  for (const DataInput& input : dataset.inputs) {
    if (input.name == kImageInput) {
      check_image_input(graph, input.shape.at(0), input.shape.at(1), input.shape.at(2), what);
      continue;
    }
    const int id = graph.find(input.name);
    if (id < 0 || graph.node(id).op->name != "input")
      throw Error{ErrorCode::invalid_argument,
                  fmt::format("{}: the model has no input '{}' (take the data that it was trained "
                              "for)",
                              what, input.name)};
    const ValueType& type = graph.type({id, 0});
    bool same = type.dtype == input.dtype && type.shape.size() == input.shape.size() + 1;
    for (size_t k = 0; same && k < input.shape.size(); ++k)
      same = !differs(type.shape[k + 1], input.shape[k]);
    if (!same)
      throw Error{ErrorCode::invalid_argument,
                  fmt::format("{}: the model takes '{}' of {}, this one is {}[{}] (take the data "
                              "that it was trained for)",
                              what, input.name, to_text(type), dtype_name(input.dtype),
                              fmt::join(input.shape, ","))};
  }
  for (const std::string_view name : {kImageInput, kSeriesInput, kLengthInput}) {
    const int id = graph.find(name);
    if (id < 0 || graph.node(id).op->name != "input" || dataset.input(name) != nullptr) continue;
    throw Error{ErrorCode::invalid_argument,
                fmt::format("{}: the model takes '{}', which the data do not have (take the data "
                            "that it was trained for)",
                            what, name)};
  }
}

std::vector<InputBytes> input_bytes(const Dataset& dataset, int64_t first, int64_t count) {
  std::vector<InputBytes> rows;
  for (const DataInput& input : dataset.inputs) {
    const size_t size = input.sample_bytes();
    rows.push_back({input.name, std::span(input.bytes)
                                    .subspan(static_cast<size_t>(first) * size,
                                             static_cast<size_t>(count) * size)});
  }
  return rows;
}

void feed_batch(Execution& execution, std::span<const InputBytes> inputs,
                std::span<const int32_t> labels, int64_t batch) {
  FOVEA_ASSERT(batch > 0);
  const auto rows = static_cast<size_t>(batch);
  if (labels.size() > rows) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[batch] expected at most {} examples, got {}", batch, labels.size())};
  }
  for (const InputBytes& input : inputs) {
    const std::span<std::byte> target = execution.input(input.name);
    const size_t sample = target.size() / rows;
    if (input.bytes.size() != labels.size() * sample) {
      throw Error{ErrorCode::invalid_argument,
                  fmt::format("[batch] expected '{}' of {} examples, {} bytes each, got {} bytes",
                              input.name, labels.size(), sample, input.bytes.size())};
    }
    if (!input.bytes.empty()) std::memcpy(target.data(), input.bytes.data(), input.bytes.size());
    std::memset(target.data() + input.bytes.size(), 0, target.size() - input.bytes.size());
  }
  if (!execution.has_input(kLabelInput)) return;
  const std::span<std::byte> label = execution.input(kLabelInput);
  FOVEA_ASSERT(label.size() == rows * sizeof(int32_t));
  for (size_t i = 0; i < rows; ++i) {
    const int32_t value = i < labels.size() ? labels[i] : -1;
    std::memcpy(label.data() + i * sizeof value, &value, sizeof value);
  }
}

Evaluator::Evaluator(const Graph& evaluation, std::vector<Metric> metrics,
                     std::shared_ptr<VariableStore> variables, std::shared_ptr<ThreadPool> pool)
    : metrics_(std::move(metrics)), session_(evaluation, std::move(variables), std::move(pool)) {
  const Graph& graph = session_.graph();
  const auto takes = [&](std::string_view name) {
    const int id = graph.find(name);
    return id >= 0 && graph.node(id).op->name == "input";
  };
  const std::string_view data = takes(kSeriesInput) ? kSeriesInput : kImageInput;
  for (const std::string_view name : {data, kLabelInput}) {
    if (!takes(name)) {
      throw Error{ErrorCode::invalid_argument,
                  fmt::format("[eval] the graph has no input '{}'", name)};
    }
  }
  for (const Metric& metric : metrics_) {
    for (const std::string& name : {metric.sum, metric.count}) {
      if (!graph.has_output(name)) {
        throw Error{ErrorCode::invalid_argument,
                    fmt::format("[eval] the graph has no output '{}', which the metric '{}' needs",
                                name, metric.name)};
      }
      const ValueType& type = graph.type(graph.output(name));
      const bool number =
          type.dtype == DType::f32 || type.dtype == DType::f64 || type.dtype == DType::i32;
      if (!number || !(element_count(type.shape) == Size(1))) {
        throw Error{ErrorCode::invalid_argument,
                    fmt::format("[eval] expected one number of type f32, f64 or i32 as output "
                                "'{}', got {}",
                                name, to_text(type))};
      }
    }
  }
}

Evaluation Evaluator::run(const Dataset& dataset, int64_t batch, const std::atomic<bool>* stop) {
  const auto start = std::chrono::steady_clock::now();
  if (batch < 1) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[eval] expected a batch of at least 1, got {}", batch)};
  }
  const bool images = dataset.input(kImageInput) != nullptr;
  check_inputs(session_.graph(), dataset,
               fmt::format("[eval] {}{}", images ? "an image of " : "", dataset.source));
  if (dataset.size() == 0) {
    throw Error{
        ErrorCode::invalid_argument,
        fmt::format("[eval] {}: there are no examples (take another split)", dataset.source)};
  }
  for (const DataInput& input : dataset.inputs) {
    if (input.bytes.size() == dataset.labels.size() * input.sample_bytes()) continue;
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[eval] {}: expected '{}' of {} examples, {} bytes each, got {} bytes",
                            dataset.source, input.name, dataset.size(), input.sample_bytes(),
                            input.bytes.size())};
  }
  check_labels(session_.graph(), dataset);

  std::set<std::string> names;
  for (const Metric& metric : metrics_) names.insert({metric.sum, metric.count});
  std::map<std::string, double> sums;
  batch = std::min(batch, dataset.size());
  Execution& execution = session_.prepare({{"B", batch}});
  const std::span<const int32_t> labels(dataset.labels);
  for (int64_t first = 0; first < dataset.size(); first += batch) {
    if (stop && stop->load()) {
      throw Error{ErrorCode::interrupted,
                  fmt::format("[eval] {}: stopped after {} of {} examples (ask again for the rest)",
                              dataset.source, first, dataset.size())};
    }
    const int64_t rows = std::min(batch, dataset.size() - first);
    feed_batch(execution, input_bytes(dataset, first, rows),
               labels.subspan(static_cast<size_t>(first), static_cast<size_t>(rows)), batch);
    execution.run();
    for (const std::string& name : names) sums[name] += scalar(execution, name);
  }

  Evaluation result;
  result.examples = dataset.size();
  for (const Metric& metric : metrics_) {
    const double count = sums[metric.count];
    if (count == 0) {
      throw Error{ErrorCode::invalid_argument,
                  fmt::format("[eval] {}: no example counts for '{}': every label is negative "
                              "(labels are counted from 0)",
                              dataset.source, metric.name)};
    }
    const double value = sums[metric.sum] / count;
    if (!std::isfinite(value)) {
      throw Error{
          ErrorCode::non_finite,
          fmt::format("[eval] {}: '{}' is not a number: the weights of the model are broken (train "
                      "again with a lower learning_rate, or copy the bundle again)",
                      dataset.source, metric.name)};
    }
    result.metrics[metric.name] = value;
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  result.examples_per_second = static_cast<double>(result.examples) / seconds.count();
  return result;
}

}  // namespace fovea

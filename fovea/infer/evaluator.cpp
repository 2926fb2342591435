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
void check_labels(const Graph& graph, const ImageDataset& dataset) {
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

void feed_images(Execution& execution, std::span<const uint8_t> pixels,
                 std::span<const int32_t> labels, int64_t batch) {
  const std::span<std::byte> image = execution.input(kImageInput);
  const std::span<std::byte> label = execution.input(kLabelInput);
  FOVEA_ASSERT(batch > 0 && label.size() == static_cast<size_t>(batch) * sizeof(int32_t));
  const size_t image_bytes = image.size() / static_cast<size_t>(batch);
  if (labels.size() > static_cast<size_t>(batch)) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[batch] expected at most {} examples, got {}", batch, labels.size())};
  }
  if (pixels.size() != labels.size() * image_bytes) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[batch] expected {} images of {} bytes, got {} bytes", labels.size(),
                            image_bytes, pixels.size())};
  }
  if (!pixels.empty()) std::memcpy(image.data(), pixels.data(), pixels.size());
  std::memset(image.data() + pixels.size(), 0, image.size() - pixels.size());
  const auto rows = static_cast<size_t>(batch);
  for (size_t i = 0; i < rows; ++i) {
    const int32_t value = i < labels.size() ? labels[i] : -1;
    std::memcpy(label.data() + i * sizeof value, &value, sizeof value);
  }
}

Evaluator::Evaluator(const Graph& evaluation, std::vector<Metric> metrics,
                     std::shared_ptr<VariableStore> variables, std::shared_ptr<ThreadPool> pool)
    : metrics_(std::move(metrics)), session_(evaluation, std::move(variables), std::move(pool)) {
  const Graph& graph = session_.graph();
  for (std::string_view name : {kImageInput, kLabelInput}) {
    const int id = graph.find(name);
    if (id < 0 || graph.node(id).op->name != "input") {
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

Evaluation Evaluator::run(const ImageDataset& dataset, int64_t batch,
                          const std::atomic<bool>* stop) {
  const auto start = std::chrono::steady_clock::now();
  if (batch < 1) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[eval] expected a batch of at least 1, got {}", batch)};
  }
  check_image_input(session_.graph(), dataset.height, dataset.width, dataset.channels,
                    fmt::format("[eval] an image of {}", dataset.source));
  if (dataset.size() == 0) {
    throw Error{
        ErrorCode::invalid_argument,
        fmt::format("[eval] {}: there are no examples (take another split)", dataset.source)};
  }
  const auto image_size = static_cast<size_t>(dataset.image_size());
  if (dataset.images.size() != dataset.labels.size() * image_size) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[eval] {}: expected {} images of {} bytes, got {} bytes",
                            dataset.source, dataset.size(), image_size, dataset.images.size())};
  }
  check_labels(session_.graph(), dataset);

  std::set<std::string> names;
  for (const Metric& metric : metrics_) names.insert({metric.sum, metric.count});
  std::map<std::string, double> sums;
  batch = std::min(batch, dataset.size());
  Execution& execution = session_.prepare({{"B", batch}});
  const std::span<const uint8_t> pixels(dataset.images);
  const std::span<const int32_t> labels(dataset.labels);
  for (int64_t first = 0; first < dataset.size(); first += batch) {
    if (stop && stop->load()) {
      throw Error{ErrorCode::interrupted,
                  fmt::format("[eval] {}: stopped after {} of {} examples (ask again for the rest)",
                              dataset.source, first, dataset.size())};
    }
    const auto at = static_cast<size_t>(first);
    const auto rows = static_cast<size_t>(std::min(batch, dataset.size() - first));
    feed_images(execution, pixels.subspan(at * image_size, rows * image_size),
                labels.subspan(at, rows), batch);
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

#include "fovea/infer/predictor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fovea/base/error.h"
#include "fovea/data/prepare_image.h"
#include "fovea/formats/recipe.h"
#include "fovea/infer/evaluator.h"
#include "fovea/runtime/compile.h"
#include "fovea/tasks/task.h"

namespace fovea {
namespace {

constexpr int64_t kBatch = 256;

// How the bundle's recipe made its samples of image files.
ResizeMode resize_of(const Bundle& bundle) {
  DataOptions data;
  RecipeTable::parse(bundle.recipe, "recipe.toml").bind("data", data);
  return data.resize;
}

// A graph that predicts, or an Error that says why it does not.
Graph compiled_classifier(const Bundle& bundle) {
  const Graph& graph = bundle.graph;
  if (graph.find(kSeriesInput) < 0) image_input_shape(graph, "[predict] this bundle");
  if (!graph.has_output(kProbabilities) ||
      graph.type(graph.output(kProbabilities)).dtype != DType::f32 ||
      graph.shape(graph.output(kProbabilities)).size() != 2 ||
      !graph.shape(graph.output(kProbabilities))[1].is_constant()) {
    throw Error{ErrorCode::unsupported,
                fmt::format("[predict] the model is no classifier: it has no output '{}' of type "
                            "f32 [B,classes] (take a model that was trained to classify)",
                            kProbabilities)};
  }
  const int64_t classes = graph.shape(graph.output(kProbabilities))[1].constant();
  if (!bundle.labels.empty() && static_cast<int64_t>(bundle.labels.size()) != classes) {
    throw Error{ErrorCode::corrupt, fmt::format("[predict] the model has {} classes, but "
                                                "labels.txt names {} (copy the whole bundle again)",
                                                classes, bundle.labels.size())};
  }
  PassContext context;
  context.weights = frozen_weights(bundle);
  return compile(graph, context);
}

}  // namespace

std::shared_ptr<VariableStore> make_variables(const Bundle& bundle) {
  auto store = std::make_shared<VariableStore>();
  store->create(bundle.graph, 0);
  for (const auto& [name, variable] : store->all()) {
    if (variable.kind == VariableKind::cache) continue;
    const auto it = bundle.weights.find(name);
    if (it == bundle.weights.end()) {
      throw Error{ErrorCode::invalid_argument,
                  fmt::format("[bundle] the variable '{}' has no weight", name)};
    }
    store->set(name, it->second->dtype, it->second->shape, it->second->bytes);
  }
  return store;
}

std::function<HostTensorPtr(const std::string&)> frozen_weights(const Bundle& bundle) {
  return [weights = bundle.weights](const std::string& name) {
    const auto it = weights.find(name);
    return it == weights.end() ? nullptr : it->second;
  };
}

Predictor::Predictor(const Bundle& bundle, std::shared_ptr<ThreadPool> pool)
    : labels_(bundle.labels),
      resize_(resize_of(bundle)),
      variables_(make_variables(bundle)),
      session_(compiled_classifier(bundle), variables_,
               pool ? std::move(pool) : std::make_shared<ThreadPool>()) {}

Image prepare_for(const Graph& graph, ResizeMode resize, const Image& image,
                  const std::string& place) {
  const Shape& shape = image_input_shape(graph, place);
  // A model that leaves a size open takes the image as it is.
  const auto size = [](const Size& asked, int64_t own) {
    return asked.is_constant() ? asked.constant() : own;
  };
  const ImageShape wanted = {size(shape[1], image.height), size(shape[2], image.width),
                             size(shape[3], image.channels)};
  try {
    return prepare_image(image, wanted, resize);
  } catch (const Error& e) {
    throw Error{e.code(), fmt::format("{}: {}", place, e.what())};
  }
}

Image Predictor::prepare(const Image& image, const std::string& name) const {
  return prepare_for(session_.graph(), resize_, image, fmt::format("[predict] {}", name));
}

std::vector<ClassScore> Predictor::predict(const Image& image, const std::string& name) {
  Image sample = prepare(image, name);
  const Dataset one(ImageDataset{name,
                                 sample.height,
                                 sample.width,
                                 sample.channels,
                                 std::move(sample.pixels),
                                 {-1},
                                 {},
                                 {name}});
  const DataInput& given = one.inputs[0];
  if (given.bytes.size() != given.sample_bytes()) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[predict] {}: expected {} bytes of pixels, got {}", name,
                            given.sample_bytes(), given.bytes.size())};
  }
  return predict(one)[0];
}

std::vector<std::vector<ClassScore>> Predictor::predict(const Dataset& samples) {
  check_inputs(session_.graph(), samples, "[predict] " + samples.source);
  std::vector<std::vector<ClassScore>> answers;
  if (samples.size() == 0) return answers;
  const int64_t batch = std::min(samples.size(), kBatch);
  Execution& execution = session_.prepare({{"B", batch}});
  const std::span labels(samples.labels);
  for (int64_t first = 0; first < samples.size(); first += batch) {
    const int64_t count = std::min(batch, samples.size() - first);
    feed_batch(execution, input_bytes(samples, first, count),
               labels.subspan(static_cast<size_t>(first), static_cast<size_t>(count)), batch);
    execution.run();
    const auto all = execution.output_f32(kProbabilities);
    const size_t classes = all.size() / static_cast<size_t>(batch);
    for (int64_t i = 0; i < count; ++i)
      answers.push_back(scores_of(all.subspan(static_cast<size_t>(i) * classes, classes),
                                  fmt::format("[predict] {}", samples.name(first + i))));
  }
  return answers;
}

std::vector<ClassScore> Predictor::scores_of(std::span<const float> probabilities,
                                             const std::string& place) const {
  std::vector<ClassScore> scores;
  for (const float p : probabilities) {
    if (!std::isfinite(p)) {
      throw Error{
          ErrorCode::non_finite,
          fmt::format(
              "{}: the model gives a probability that is no number: its weights "
              "are broken (train again with a lower learning_rate, or copy the bundle again)",
              place)};
    }
    const size_t i = scores.size();
    scores.push_back({i < labels_.size() ? labels_[i] : std::to_string(i), p});
  }
  std::stable_sort(scores.begin(), scores.end(), [](const ClassScore& a, const ClassScore& b) {
    return a.probability > b.probability;
  });
  return scores;
}

}  // namespace fovea

// For tests only: a tiny classifier of images of 4 x 4, its evaluation graph and a data set.
#pragma once

#include <cstring>
#include <vector>

#include "fovea/base/philox.h"
#include "fovea/data/dataset.h"
#include "fovea/formats/bundle.h"
#include "fovea/graph/ops.h"
#include "fovea/tasks/task.h"

namespace fovea {

inline HostTensorPtr random_tensor(std::vector<int64_t> shape, uint64_t seed) {
  auto tensor = std::make_shared<HostTensor>();
  tensor->shape = std::move(shape);
  size_t count = 1;
  for (int64_t n : tensor->shape) count *= static_cast<size_t>(n);
  PhiloxStream random(seed, stream_id("test"));
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(random.normal() * 0.02);
  tensor->bytes.resize(count * sizeof(float));
  std::memcpy(tensor->bytes.data(), values.data(), tensor->bytes.size());
  return tensor;
}

// image u8 [B,4,4,channels] -> cast -> linear -> logits, probabilities [B,3].
inline Bundle tiny_bundle(int64_t channels = 1) {
  Bundle bundle;
  Graph& g = bundle.graph;
  const Size batch = Size::symbol("B");
  const Value image = ops::input(g, kImageInput, DType::u8, {batch, 4, 4, channels});
  const Value flat = ops::reshape(g, ops::cast(g, image, DType::f32), {batch, 16 * channels});
  const Value logits = ops::linear(g, "head", flat, 3);
  g.set_output(kLogits, logits);
  g.set_output(kProbabilities, ops::softmax(g, logits));
  bundle.weights = {{"head.weight", random_tensor({3, 16 * channels}, 1)},
                    {"head.bias", random_tensor({3}, 2)}};
  bundle.labels = {"cat", "dog", "mouse"};
  bundle.metrics_json = "{}";
  return bundle;
}

// Adds the input "label" and the outputs loss.sum, loss.count and correct.sum.
inline Graph tiny_evaluation(const Graph& infer) {
  Graph g = infer;
  const Value logits = g.output(kLogits);
  const Value label = ops::input(g, kLabelInput, DType::i32, {Size::symbol("B")});
  const Value counted = ops::binary(g, "greater_equal", label, ops::constant(g, 0, DType::i32));
  g.set_output("loss.sum", ops::reduce_sum(g, ops::cross_entropy(g, logits, label), {0}));
  g.set_output("loss.count", ops::reduce_sum(g, ops::cast(g, counted, DType::f32), {0}));
  const Value top = g.add("reduce_max", {logits}, ReduceAttrs{{-1}, true});
  const Value place = ops::iota(g, DType::i32, {1, 3}, 1);
  const Value here = ops::binary(g, "equal", place, ops::reshape(g, label, {Size::symbol("B"), 1}));
  const Value hit = ops::binary(g, "logical_and", here, ops::binary(g, "equal", logits, top));
  g.set_output("correct.sum", ops::reduce_sum(g, ops::cast(g, hit, DType::f32), {0, 1}));
  return g;
}

inline std::vector<Metric> tiny_metrics() {
  return {{"accuracy", "correct.sum", "loss.count", true},
          {"loss", "loss.sum", "loss.count", false}};
}

// Random pixels and labels.
inline ImageDataset tiny_dataset(int64_t count) {
  ImageDataset data{"tiny", 4, 4, 1, {}, {}, {"cat", "dog", "mouse"}};
  PhiloxStream random(7, stream_id("test"));
  for (int64_t i = 0; i < count; ++i) {
    for (int k = 0; k < 16; ++k) data.images.push_back(static_cast<uint8_t>(random.unit() * 256));
    data.labels.push_back(static_cast<int32_t>(random.unit() * 3));
  }
  return data;
}

}  // namespace fovea

#include "fovea/infer/evaluator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fovea/formats/test_data.h"
#include "fovea/infer/predictor.h"
#include "fovea/infer/test_model.h"
#include "fovea/runtime/compile.h"

namespace fovea {
namespace {

Evaluator make_evaluator(const Bundle& bundle, int threads = 1) {
  return Evaluator(compile(tiny_evaluation(bundle.graph)), tiny_metrics(), make_variables(bundle),
                   std::make_shared<ThreadPool>(threads));
}

struct Expected {
  double accuracy = 0, loss = 0;
};

// The same in double precision, by hand.
Expected by_hand(const Bundle& bundle, const ImageDataset& data) {
  std::vector<float> w(48), b(3);
  std::memcpy(w.data(), bundle.weights.at("head.weight")->bytes.data(), 48 * sizeof(float));
  std::memcpy(b.data(), bundle.weights.at("head.bias")->bytes.data(), 3 * sizeof(float));
  Expected e;
  for (int64_t i = 0; i < data.size(); ++i) {
    const std::span<const uint8_t> pixels = data.image(i);
    double logits[3], total = 0;
    for (size_t c = 0; c < 3; ++c) {
      logits[c] = b[c];
      for (size_t k = 0; k < 16; ++k) logits[c] += static_cast<double>(w[c * 16 + k]) * pixels[k];
      total += std::exp(logits[c]);
    }
    const auto label = static_cast<size_t>(data.labels[static_cast<size_t>(i)]);
    e.loss += std::log(total) - logits[label];
    e.accuracy += logits[label] == *std::max_element(logits, logits + 3);
  }
  const auto count = static_cast<double>(data.size());
  return {e.accuracy / count, e.loss / count};
}

TEST(Evaluator, TheSizeOfTheBatchDoesNotChangeTheResult) {
  const Bundle bundle = tiny_bundle();
  const ImageDataset data = tiny_dataset(10);
  const Expected expected = by_hand(bundle, data);
  Evaluator evaluator = make_evaluator(bundle);
  for (int64_t batch : {1, 3, 8, 10, 64}) {
    SCOPED_TRACE(batch);
    const Evaluation e = evaluator.run(data, batch);
    EXPECT_EQ(e.metrics.at("accuracy"), expected.accuracy);
    EXPECT_NEAR(e.metrics.at("loss"), expected.loss, 1e-6 * expected.loss);
    EXPECT_EQ(e.metrics.size(), 2u);
    EXPECT_EQ(e.examples, 10);
    EXPECT_GT(e.examples_per_second, 0);
  }
  EXPECT_GT(expected.accuracy, 0);
  EXPECT_LT(expected.accuracy, 1);
}

TEST(Evaluator, TheNumberOfThreadsDoesNotChangeABit) {
  const Bundle bundle = tiny_bundle();
  const ImageDataset data = tiny_dataset(3000);
  const Evaluation one = make_evaluator(bundle, 1).run(data, 1024);
  for (int threads : {2, 3, 4}) {
    const Evaluation many = make_evaluator(bundle, threads).run(data, 1024);
    EXPECT_EQ(one.metrics, many.metrics) << threads;
  }
}

TEST(Evaluator, NegativeLabelsAreNotCounted) {
  const Bundle bundle = tiny_bundle();
  const ImageDataset data = tiny_dataset(6);
  ImageDataset half = data;
  for (size_t i = 3; i < 6; ++i) half.labels[i] = -1;
  const std::vector<int64_t> first = {0, 1, 2};
  Evaluator evaluator = make_evaluator(bundle);
  const Evaluation a = evaluator.run(half, 4), b = evaluator.run(select(data, first), 4);
  EXPECT_EQ(a.metrics.at("accuracy"), b.metrics.at("accuracy"));
  EXPECT_NEAR(a.metrics.at("loss"), b.metrics.at("loss"), 1e-6);
  for (int32_t& label : half.labels) label = -1;
  expect_error(ErrorCode::invalid_argument, "[eval] tiny: no example counts for 'accuracy'",
               [&] { evaluator.run(half, 4); });
}

TEST(Evaluator, BatchesAreFedWithBlackRowsThatDoNotCount) {
  const Bundle bundle = tiny_bundle();
  Session session(compile(tiny_evaluation(bundle.graph)), make_variables(bundle),
                  std::make_shared<ThreadPool>(1));
  Execution& execution = session.prepare({{"B", 4}});
  const ImageDataset data = tiny_dataset(4);
  const auto feed = [&](std::span<const uint8_t> pixels, std::span<const int32_t> labels) {
    const InputBytes image{kImageInput, pixels};
    feed_batch(execution, {&image, 1}, labels, 4);
  };
  feed(data.images, data.labels);
  feed(std::span(data.images).first(32), std::span(data.labels).first(2));
  const auto image = execution.input(kImageInput);
  EXPECT_EQ(std::memcmp(image.data(), data.images.data(), 32), 0);
  for (size_t i = 32; i < 64; ++i) EXPECT_EQ(image[i], std::byte{0});
  int32_t labels[4];
  std::memcpy(labels, execution.input(kLabelInput).data(), sizeof labels);
  EXPECT_EQ(labels[0], data.labels[0]);
  EXPECT_EQ(labels[1], data.labels[1]);
  EXPECT_EQ(labels[2], -1);
  EXPECT_EQ(labels[3], -1);
  expect_error(ErrorCode::invalid_argument, "[batch] expected at most 4 examples, got 5", [&] {
    const ImageDataset more = tiny_dataset(5);
    feed(more.images, more.labels);
  });
  expect_error(ErrorCode::invalid_argument,
               "expected 'image' of 2 examples, 16 bytes each, got 48 bytes",
               [&] { feed(std::span(data.images).first(48), std::span(data.labels).first(2)); });
}

TEST(Evaluator, ImagesOfAnotherSizeAreAnError) {
  Evaluator evaluator = make_evaluator(tiny_bundle());
  ImageDataset data{"cifar", 2, 8, 3, std::vector<uint8_t>(48), {0}, {"cat"}};
  expect_error(ErrorCode::invalid_argument,
               "[eval] an image of cifar: the model takes images of 4x4 grey, this one is 8x2 "
               "colour; resize it first",
               [&] { evaluator.run(data, 1); });
  data.height = data.width = 4;
  expect_error(ErrorCode::invalid_argument,
               "takes images of 4x4 grey, this one is 4x4 colour; convert it first",
               [&] { evaluator.run(data, 1); });
}

TEST(Evaluator, ADataSetThatDoesNotFitIsAnError) {
  Evaluator evaluator = make_evaluator(tiny_bundle());
  ImageDataset data = tiny_dataset(4);
  expect_error(ErrorCode::invalid_argument, "a batch of at least 1, got 0",
               [&] { evaluator.run(data, 0); });
  expect_error(ErrorCode::invalid_argument, "[eval] tiny: there are no examples",
               [&] { evaluator.run(tiny_dataset(0), 1); });
  data.labels[2] = 3;
  expect_error(ErrorCode::invalid_argument,
               "[eval] tiny: example 2 has the label 3, the model knows the classes 0 to 2",
               [&] { evaluator.run(data, 2); });
  data = tiny_dataset(4);
  data.images.pop_back();
  expect_error(ErrorCode::invalid_argument,
               "expected 'image' of 4 examples, 16 bytes each, got 63 bytes",
               [&] { evaluator.run(data, 2); });
}

TEST(Evaluator, AGraphThatIsNoEvaluationIsAnError) {
  const Bundle bundle = tiny_bundle();
  const auto make = [&](const Graph& graph, std::vector<Metric> metrics) {
    Evaluator(graph, std::move(metrics), make_variables(bundle), std::make_shared<ThreadPool>(1));
  };
  expect_error(ErrorCode::invalid_argument, "[eval] the graph has no input 'label'",
               [&] { make(compile(bundle.graph), tiny_metrics()); });
  const Graph evaluation = compile(tiny_evaluation(bundle.graph));
  expect_error(ErrorCode::invalid_argument, "no output 'top5.sum', which the metric 'top5' needs",
               [&] {
                 make(evaluation, {{"top5", "top5.sum", "loss.count"}});
               });
  expect_error(ErrorCode::invalid_argument, "expected one number of type f32, f64 or i32", [&] {
    make(evaluation, {{"odd", "logits", "loss.count"}});
  });
}

TEST(Evaluator, WeightsThatAreNotNumbersAreAnError) {
  Bundle bundle = tiny_bundle();
  auto broken = std::make_shared<HostTensor>(*bundle.weights["head.bias"]);
  const float nan = std::nanf("");
  std::memcpy(broken->bytes.data(), &nan, sizeof nan);
  bundle.weights["head.bias"] = broken;
  Evaluator evaluator = make_evaluator(bundle);
  expect_error(ErrorCode::non_finite, "[eval] tiny: 'loss' is not a number",
               [&] { evaluator.run(tiny_dataset(4), 2); });
}

TEST(Evaluator, InputsOfAnotherKindOrSizeAreAnError) {
  Graph g;
  ops::input(g, kSeriesInput, DType::f32, {Size::symbol("B"), 4, 2});
  ops::input(g, kLengthInput, DType::i32, {Size::symbol("B")});
  Dataset data;
  data.inputs = {{std::string(kSeriesInput), DType::f32, {4, 3}, {}}};
  const auto refuses = [&](std::string_view what) {
    expect_error(ErrorCode::invalid_argument, what, [&] { check_inputs(g, data, "[eval] x"); });
  };
  refuses("[eval] x: the model takes 'series' of f32[B,4,2], this one is f32[4,3]");
  data.inputs[0].shape = {4, 2};
  refuses("the model takes 'length', which the data do not have");
  data.inputs.push_back({std::string(kLengthInput), DType::i32, {}, {}});
  check_inputs(g, data, "x");
  data.inputs.push_back({"other", DType::i32, {}, {}});
  refuses("the model has no input 'other'");
  expect_error(ErrorCode::unsupported, "the model takes no images",
               [&] { check_inputs(g, tiny_dataset(1), "x"); });
}

TEST(Evaluator, AModelWithoutImagesIsAnError) {
  Graph g;
  ops::input(g, kImageInput, DType::f32, {Size::symbol("B"), 4});
  expect_error(ErrorCode::unsupported, "[predict] x.png: the model takes no images",
               [&] { check_image_input(g, 4, 4, 1, "[predict] x.png"); });
}

}  // namespace
}  // namespace fovea

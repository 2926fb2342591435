// What is explained of numbers: rows, and sequences of different lengths.
#include <gtest/gtest.h>

#include <cstring>

#include "fovea/base/error.h"
#include "fovea/base/philox.h"
#include "fovea/explain/column_effects.h"
#include "fovea/explain/faithfulness.h"
#include "fovea/explain/page.h"
#include "fovea/graph/ops.h"
#include "fovea/infer/predictor.h"
#include "fovea/models/series.h"
#include "fovea/runtime/compile.h"
#include "fovea/tasks/task.h"

namespace fovea {
namespace {

constexpr int64_t kColumns = 3;
const std::vector<double> kMean = {1, -2, 5}, kDeviation = {1, 2, 0.5};

// Weights as a beginning has them, the head's larger, so that answers differ.
struct SeriesModel {
  explicit SeriesModel(int64_t steps, bool ragged = false, int64_t patch = 1) {
    Graph& g = bundle.graph;
    const Size batch = Size::symbol("B");
    const Value series = ops::input(g, kSeriesInput, DType::f32, {batch, steps, kColumns});
    Value length;
    if (ragged) length = ops::input(g, kLengthInput, DType::i32, {batch});
    const SeriesOptions options{
        .patch = patch, .layers = 2, .width = 16, .heads = 2, .mlp = 16, .dropout = 0};
    const Value logits =
        series_classifier(g, {series, length, kMean, kDeviation, false}, 2, options, {});
    g.set_output(kLogits, logits);
    g.set_output(kProbabilities, ops::softmax(g, logits));
    VariableStore store;
    store.create(g, 3);
    for (const auto& [name, variable] : store.all()) {
      auto tensor = std::make_shared<HostTensor>();
      tensor->shape = variable.shape;
      std::vector<float> values(variable.data.size() / sizeof(float));
      std::memcpy(values.data(), variable.data.data(), variable.data.size());
      for (float& v : values) v *= name == "seq.head.weight" ? 20.0f : 2.0f;
      const auto bytes = std::as_bytes(std::span(values));
      tensor->bytes.assign(bytes.begin(), bytes.end());
      bundle.weights[name] = tensor;
    }
  }
  PassContext frozen() const {
    PassContext context;
    context.weights = frozen_weights(bundle);
    return context;
  }
  Session session() const {
    return Session(compile(bundle.graph, frozen()), std::make_shared<VariableStore>(),
                   std::make_shared<ThreadPool>(1));
  }
  Explainer explainer() const {
    return Explainer(compile(expose_attention(bundle.graph, {.gradients = true}), frozen()),
                     token_grid(bundle.graph), std::make_shared<ThreadPool>(1));
  }

  Bundle bundle;
};

Dataset random_series(int64_t count, int64_t steps, const std::vector<int32_t>& lengths = {}) {
  Dataset data;
  data.source = "numbers";
  data.class_names = {"a", "b"};
  data.columns = {"x", "y", "z"};
  data.labels.assign(static_cast<size_t>(count), 0);
  PhiloxStream random(7, stream_id("numbers"));
  DataInput series{std::string(kSeriesInput), DType::f32, {steps, kColumns}, {}};
  const auto put = [](DataInput& to, auto value) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
    to.bytes.insert(to.bytes.end(), bytes, bytes + sizeof value);
  };
  for (int64_t i = 0; i < count; ++i)
    for (int64_t t = 0; t < steps; ++t)
      for (size_t f = 0; f < kColumns; ++f) {
        const bool there = lengths.empty() || t < lengths[static_cast<size_t>(i)];
        put(series,
            there ? static_cast<float>(kMean[f] + 2 * kDeviation[f] * random.normal()) : 0.0f);
      }
  data.inputs.push_back(std::move(series));
  if (!lengths.empty()) {
    DataInput length{std::string(kLengthInput), DType::i32, {}, {}};
    for (const int32_t n : lengths) put(length, n);
    data.inputs.push_back(std::move(length));
  }
  return data;
}

// The probability of a class for one sample with other numbers.
double probability(Session& model, const Dataset& data, int64_t i, std::span<const float> numbers,
                   int32_t of) {
  Execution& e = model.prepare({{"B", 1}});
  std::memcpy(e.input(kSeriesInput).data(), numbers.data(), numbers.size_bytes());
  if (const DataInput* length = data.input(kLengthInput))
    std::memcpy(e.input(kLengthInput).data(), length->sample(i).data(), sizeof(int32_t));
  e.run();
  return static_cast<double>(e.output_f32(kProbabilities)[static_cast<size_t>(of)]);
}

std::vector<float> numbers_of(const Dataset& data, int64_t i) {
  const auto bytes = data.inputs[0].sample(i);
  std::vector<float> numbers(bytes.size() / sizeof(float));
  std::memcpy(numbers.data(), bytes.data(), bytes.size());
  return numbers;
}

TEST(ColumnEffects, AreWhatTheProbabilityLosesWithoutAColumn) {
  for (const int64_t steps : {int64_t{1}, int64_t{4}}) {
    const SeriesModel model(steps);
    Session session = model.session();
    const Dataset data = random_series(3, steps);
    const std::vector<int32_t> classes = {0, 1, 0};
    const auto effects = column_effects(session, data, classes, kMean, 5);
    ASSERT_EQ(effects.size(), 3u);
    double largest = 0;
    for (size_t i = 0; i < 3; ++i) {
      ASSERT_EQ(effects[i].size(), 3u);
      const auto at = static_cast<int64_t>(i);
      const double whole = probability(session, data, at, numbers_of(data, at), classes[i]);
      for (size_t f = 0; f < 3; ++f) {
        std::vector<float> without = numbers_of(data, at);
        for (size_t k = f; k < without.size(); k += 3) without[k] = static_cast<float>(kMean[f]);
        const double lost = whole - probability(session, data, at, without, classes[i]);
        EXPECT_NEAR(effects[i][f], lost, 1e-6);
        largest = std::max(largest, std::abs(lost));
      }
    }
    EXPECT_GT(largest, 0.02);
  }
}

TEST(ColumnEffects, ClassesAndMeansThatAreMissingAreAnError) {
  const SeriesModel model(1);
  Session session = model.session();
  const Dataset data = random_series(2, 1);
  const std::vector<int32_t> one = {0}, two = {0, 1};
  const auto code = [&](std::span<const int32_t> classes, const std::vector<double>& mean) {
    try {
      column_effects(session, data, classes, mean);
    } catch (const Error& e) {
      return e.code();
    }
    return ErrorCode::interrupted;
  };
  EXPECT_EQ(code(one, kMean), ErrorCode::invalid_argument);
  EXPECT_EQ(code(two, {1, 2}), ErrorCode::invalid_argument);
  EXPECT_EQ(code(two, kMean), ErrorCode::interrupted);
}

TEST(SeriesExplain, SharesOfAShortSequenceAreThoseOfItsOwnTokens) {
  const SeriesModel model(7, true, 2);
  Explainer explainer = model.explainer();
  EXPECT_EQ(explainer.grid().columns, 4);
  const Dataset data = random_series(3, 7, {7, 3, 4});
  const auto all = explainer.explain(data);
  const size_t tokens[] = {4, 2, 2};
  for (size_t i = 0; i < 3; ++i) {
    for (const auto* shares : {&all[i].rollout, &all[i].gradient_rollout, &all[i].last_layer,
                               &all[i].layers[1].heads[1]}) {
      ASSERT_EQ(shares->size(), tokens[i]);
      double sum = 0;
      for (const double share : *shares) sum += share;
      EXPECT_NEAR(sum, static_cast<double>(tokens[i]), 1e-5);
    }
  }
  // What stands behind the end changes nothing.
  Dataset other = data;
  std::memset(other.inputs[0].bytes.data() + (7 + 4) * kColumns * 4, 0x40, 2 * kColumns * 4);
  const auto same = explainer.explain(other);
  for (size_t t = 0; t < 2; ++t)
    EXPECT_NEAR(same[1].gradient_rollout[t], all[1].gradient_rollout[t], 1e-5);
}

TEST(SeriesExplain, FaithfulnessTakesStepsAndColumnsAwayThatAreThere) {
  for (const bool row : {true, false}) {
    const int64_t steps = row ? 1 : 5;
    const SeriesModel model(steps, !row);
    Session session = model.session();
    Explainer explainer = model.explainer();
    const std::vector<int32_t> lengths = row ? std::vector<int32_t>{} : std::vector<int32_t>{3};
    const Dataset data = random_series(1, steps, lengths);
    const auto removed = mean_series(kMean, steps);
    const Faithfulness f = measure_faithfulness(session, explainer, data, removed, {.batch = 3});
    EXPECT_EQ(f.tokens, row ? 3 : 5);
    const Explanation e = explainer.explain(data)[0];
    const auto highest = std::max_element(e.rollout.begin(), e.rollout.end());
    const auto token = static_cast<size_t>(highest - e.rollout.begin());
    // With the first token gone, and with all of them.
    std::vector<float> one = numbers_of(data, 0), none = one;
    for (size_t k = 0; k < one.size(); ++k) {
      const size_t of = row ? k : k / kColumns;
      const auto mean = static_cast<float>(kMean[k % kColumns]);
      if (of == token) one[k] = mean;
      if (of < e.rollout.size()) none[k] = mean;
    }
    const auto& curve = f.rankings[0].highest_first.probability;
    const auto at = [&](const std::vector<float>& x) {
      return probability(session, data, 0, x, e.predicted);
    };
    EXPECT_NEAR(curve[0].mean, at(numbers_of(data, 0)), 1e-6);
    // Three tokens in three steps, or in five, of which the second takes the first token.
    EXPECT_NEAR(curve[row ? 1 : 2].mean, at(one), 1e-6);
    EXPECT_NEAR(curve.back().mean, at(none), 1e-6);
    EXPECT_NEAR(f.rankings[2].lowest_first.probability.back().mean, at(none), 1e-6);
  }
}

TEST(SeriesExplain, ThePageNamesColumnsWithWhatTheyAdd) {
  const SeriesModel model(1);
  Explainer explainer = model.explainer();
  Session session = model.session();
  const Dataset data = random_series(1, 1);
  ExplainReport report;
  report.model = "rows";
  report.labels = {"a", "b"};
  report.grid = explainer.grid();
  report.columns = {"x", "<y>", "z"};
  report.colours = {"#0072b2"};
  const Explanation e = explainer.explain(data)[0];
  const std::vector<int32_t> named = {e.predicted};
  report.images.push_back({"line 2",
                           "a",
                           {4, 6, 3, std::vector<uint8_t>(72, 255)},
                           e,
                           {1.5f, NAN, -3},
                           column_effects(session, data, named, kMean)[0]});
  const std::string page = explain_page(report);
  for (const char* text : {"1. x", "2. &lt;y&gt;", "no value", "1.5", "A token is a column",
                           "background:#0072b2", "in percentage points"})
    EXPECT_NE(page.find(text), std::string::npos) << text;
  EXPECT_EQ(page.find("<y>"), std::string::npos);
}

}  // namespace
}  // namespace fovea

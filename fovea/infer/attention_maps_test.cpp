#include "fovea/infer/attention_maps.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fovea/base/error.h"
#include "fovea/base/philox.h"
#include "fovea/base/test_errors.h"
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"
#include "fovea/infer/test_model.h"
#include "fovea/models/vision.h"
#include "fovea/passes/lower.h"
#include "fovea/runtime/compile.h"

namespace fovea {
namespace {

constexpr int64_t kHeight = 8, kWidth = 12, kClasses = 5;
constexpr int64_t kTokens = 6;  // 2 x 3 of patches of 4 x 4

// A vision transformer of two layers, before the passes.
Graph small_model(const AttentionOptions& attention = {}) {
  Graph g;
  const Value image =
      ops::input(g, kImageInput, DType::u8, {Size::symbol("B"), kHeight, kWidth, 1});
  const VisionOptions options{.stem = {},
                              .patch = 4,
                              .layers = 2,
                              .width = 16,
                              .heads = 4,
                              .mlp = 16,
                              .dropout = 0,
                              .attention = attention};
  const Value logits = vision_classifier(g, image, kClasses, options, {});
  g.set_output(kLogits, logits);
  g.set_output(kProbabilities, ops::softmax(g, logits));
  return g;
}

// Weights as a beginning has them, those of q and k larger, so that attention is not even.
std::shared_ptr<VariableStore> weights_of(const Graph& graph) {
  auto store = std::make_shared<VariableStore>();
  store->create(graph, 3);
  for (const auto& [name, variable] : store->all()) {
    if (!name.ends_with("q.weight") && !name.ends_with("k.weight")) continue;
    std::vector<float> values(variable.data.size() / sizeof(float));
    std::memcpy(values.data(), variable.data.data(), variable.data.size());
    for (float& v : values) v *= 3;
    store->set(name, variable.dtype, variable.shape, std::as_bytes(std::span(values)));
  }
  return store;
}

std::vector<uint8_t> random_images(int64_t count) {
  PhiloxStream random(5, stream_id("images"));
  std::vector<uint8_t> pixels(static_cast<size_t>(count * kHeight * kWidth));
  for (uint8_t& p : pixels) p = static_cast<uint8_t>(random.below(256));
  return pixels;
}

std::shared_ptr<ThreadPool> pool() { return std::make_shared<ThreadPool>(2); }

AttentionMaps maps_of(const Graph& model, int64_t images, const AttentionMapOptions& options = {},
                      std::span<const int32_t> classes = {}) {
  AttentionReader reader(compile(expose_attention(model, options)), weights_of(model), pool());
  return reader.read(random_images(images), classes);
}

// What the graph gives for the images, by its own kernels.
std::vector<float> run(const Graph& graph, const std::shared_ptr<VariableStore>& weights,
                       int64_t images, std::string_view output) {
  Session session(compile(graph), weights, pool());
  Execution& e = session.prepare({{"B", images}});
  const auto pixels = random_images(images);
  std::memcpy(e.input(kImageInput).data(), pixels.data(), pixels.size());
  e.run();
  const auto values = e.output_f32(output);
  return {values.begin(), values.end()};
}

bool has_op(const Graph& graph, std::string_view op) {
  for (int id = 0; id < graph.size(); ++id)
    if (graph.node(id).op->name == op) return true;
  return false;
}

const AttentionOptions kForms[] = {
    {},
    {.kv_heads = 2},
    {.causal = true},
    {.window_left = 1, .window_right = 2},
    {.normaliser = Normaliser::top_k, .top_k = 2},
    {.normaliser = Normaliser::sparsemax},
    {.kv_heads = 2, .causal = true, .normaliser = Normaliser::entmax15},
    {.normaliser = Normaliser::hard},
    {.kv_heads = 2, .score = AttentionScore::additive, .causal = true},
    {.score = AttentionScore::subtraction, .window_left = 1}};

TEST(AttentionMaps, TheModelAnswersAsItDoesWithTheFusedKernel) {
  for (const AttentionOptions& form : kForms) {
    const Graph model = small_model(form);
    const std::string_view op = form.score == AttentionScore::additive ? "additive_attention"
                                : form.score == AttentionScore::subtraction
                                    ? "subtraction_attention"
                                    : "attention";
    ASSERT_TRUE(has_op(compile(model), op));
    ASSERT_FALSE(has_op(expose_attention(model), op));
    const auto expected = run(model, weights_of(model), 7, kProbabilities);
    const AttentionMaps maps = maps_of(model, 7);
    EXPECT_EQ(maps.images, 7);
    EXPECT_EQ(maps.classes, kClasses);
    ASSERT_EQ(maps.probabilities.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(maps.probabilities[i], expected[i], 1e-5);
  }
}

TEST(AttentionMaps, ShowTheWeightsOfTheNormaliserAndNotThoseOfASoftmax) {
  const auto weights = [](const AttentionOptions& form) {
    return maps_of(small_model(form), 1).nodes[0].probabilities;
  };
  const auto positive = [](const std::vector<float>& p) {
    return std::count_if(p.begin(), p.end(), [](float x) { return x > 0; });
  };
  const int64_t rows = 4 * kTokens;
  EXPECT_EQ(positive(weights({})), rows * kTokens);
  EXPECT_EQ(positive(weights({.normaliser = Normaliser::top_k, .top_k = 2})), rows * 2);
  EXPECT_EQ(positive(weights({.normaliser = Normaliser::hard})), rows);
  for (float p : weights({.normaliser = Normaliser::hard})) EXPECT_TRUE(p == 0 || p == 1);
  EXPECT_LT(positive(weights({.normaliser = Normaliser::sparsemax})), rows * kTokens);
  // With a sink the two keys that are kept share what it leaves.
  const auto with_sink = weights({.sink = true, .normaliser = Normaliser::top_k, .top_k = 2});
  EXPECT_EQ(positive(with_sink), rows * 2);
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t j = 0; j < kTokens; ++j)
      sum += static_cast<double>(with_sink[static_cast<size_t>(r * kTokens + j)]);
    EXPECT_LT(sum, 0.99999);
  }
}

TEST(AttentionMaps, GivesEachNodeByItsNameWithRowsThatSumToOne) {
  for (const AttentionOptions& form : kForms) {
    const AttentionMaps maps = maps_of(small_model(form), 3);
    ASSERT_EQ(maps.nodes.size(), 2u);
    EXPECT_EQ(maps.nodes[0].name, "vit.enc.0.attn");
    EXPECT_EQ(maps.nodes[1].name, "vit.enc.1.attn");
    for (const AttentionMap& map : maps.nodes) {
      EXPECT_EQ(map.heads, 4);
      EXPECT_EQ(map.queries, kTokens);
      EXPECT_EQ(map.keys, kTokens);
      ASSERT_EQ(map.probabilities.size(), static_cast<size_t>(3 * 4 * kTokens * kTokens));
      EXPECT_TRUE(map.gradients.empty());
      for (size_t row = 0; row < map.probabilities.size(); row += kTokens) {
        float sum = 0;
        for (size_t k = 0; k < kTokens; ++k) {
          const float p = map.probabilities[row + k];
          const auto q = static_cast<int64_t>(row) / kTokens % kTokens;
          const auto ahead = static_cast<int64_t>(k) - q;
          const bool seen = !(form.causal && ahead > 0) &&
                            (form.window_left < 0 || -ahead <= form.window_left) &&
                            (form.window_right < 0 || ahead <= form.window_right);
          EXPECT_TRUE(seen || p == 0);
          // Other normalisers give some of what is seen nothing.
          EXPECT_TRUE(!seen || p > 0 || form.normaliser != Normaliser::softmax);
          sum += p;
        }
        EXPECT_NEAR(sum, 1, 1e-5);
      }
    }
  }
}

TEST(AttentionMaps, AreTheSoftmaxOfTheProductsOfQueriesAndKeys) {
  Graph model = small_model();
  model.set_output("q", {model.find("vit.enc.1.q"), 0});
  model.set_output("k", {model.find("vit.enc.1.k"), 0});
  const auto q = run(model, weights_of(model), 2, "q"), k = run(model, weights_of(model), 2, "k");
  const AttentionMaps maps = maps_of(model, 2);
  constexpr size_t kHead = 4;  // its size, and how many there are
  for (int64_t b = 0; b < 2; ++b) {
    const auto map = maps.nodes[1].probabilities_of(b);
    for (size_t h = 0; h < 4; ++h)
      for (size_t i = 0; i < kTokens; ++i) {
        double sum = 0;
        std::vector<double> e(kTokens);
        for (size_t j = 0; j < kTokens; ++j) {
          double product = 0;
          for (size_t d = 0; d < kHead; ++d)
            product += static_cast<double>(
                           q[(static_cast<size_t>(b) * kTokens + i) * 16 + h * kHead + d]) *
                       k[(static_cast<size_t>(b) * kTokens + j) * 16 + h * kHead + d];
          sum += e[j] = std::exp(product / 2);  // the square root of the head size
        }
        for (size_t j = 0; j < kTokens; ++j)
          EXPECT_NEAR(map[(h * kTokens + i) * kTokens + j], e[j] / sum, 1e-5);
      }
  }
}

// The exposed graph with a number added to one link of one node, for all images.
Graph with_a_nudge(const Graph& exposed, const std::string& node, int64_t link, double size) {
  Graph result;
  GraphRewriter rewriter(exposed, result);
  const int softmax = exposed.find(node + ".softmax");
  for (int id = 0; id < exposed.size(); ++id) {
    const Value now = rewriter.copy(id);
    if (id != softmax) continue;
    const Shape& s = exposed.shape({id, 0});  // [B,H,1,Tq,Tk]
    std::vector<double> nudge(static_cast<size_t>(4 * kTokens * kTokens));
    nudge[static_cast<size_t>(link)] = size;
    HostTensor tensor{DType::f32, {1, 4, 1, kTokens, kTokens}, {}};
    std::vector<float> values(nudge.begin(), nudge.end());
    tensor.bytes.resize(values.size() * sizeof(float));
    std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
    EXPECT_EQ(s.size(), 5u);
    rewriter.map(
        {id, 0},
        ops::add(result, now, ops::constant(result, std::make_shared<const HostTensor>(tensor))));
  }
  rewriter.finish();
  return result;
}

TEST(AttentionMaps, GradientsAreWhatTheLogitGainsFromALink) {
  const Graph model = small_model();
  const std::vector<int32_t> classes = {3, -1};
  const AttentionMaps maps = maps_of(model, 2, {.gradients = true}, classes);
  const auto& p = maps.probabilities;
  const size_t predicted =
      static_cast<size_t>(std::max_element(p.begin() + kClasses, p.end()) - p.begin() - kClasses);
  const Graph exposed = expose_attention(model);
  const double step = 1e-2;
  for (const std::string node : {"vit.enc.0.attn", "vit.enc.1.attn"}) {
    const AttentionMap& map = maps.nodes[node == "vit.enc.0.attn" ? 0 : 1];
    ASSERT_EQ(map.gradients.size(), map.probabilities.size());
    double largest = 0;
    for (const int64_t link : {0, 17, 60, 101, 143}) {
      const auto up = run(with_a_nudge(exposed, node, link, step), weights_of(model), 2, kLogits);
      const auto down =
          run(with_a_nudge(exposed, node, link, -step), weights_of(model), 2, kLogits);
      for (const int64_t image : {0, 1}) {
        const size_t at = static_cast<size_t>(image * kClasses) + (image == 0 ? 3 : predicted);
        const double slope = (static_cast<double>(up[at]) - down[at]) / (2 * step);
        EXPECT_NEAR(map.gradients_of(image)[static_cast<size_t>(link)], slope, 3e-4) << node;
        largest = std::max(largest, std::abs(slope));
      }
    }
    EXPECT_GT(largest, 3e-3);
  }
}

TEST(AttentionMaps, AGradientIsTheSameWhateverElseIsInTheBatch) {
  const Graph model = small_model();
  const AttentionMaps all = maps_of(model, 3, {.gradients = true});
  AttentionReader reader(compile(expose_attention(model, {.gradients = true})), weights_of(model),
                         pool());
  const auto images = random_images(3);
  const AttentionMaps last =
      reader.read(std::span(images).subspan(static_cast<size_t>(2 * kHeight * kWidth)));
  const auto a = all.nodes[0].gradients_of(2), b = last.nodes[0].gradients_of(0);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-6);
}

TEST(AttentionMaps, ALevelWithFewerHeadsShowsThoseThatItKeeps) {
  const Graph model = small_model();
  const Level level = make_level({"half", 0, {"vit.enc.*.attn.heads_kept=2"}}, model);
  const AttentionMaps maps = maps_of(model, 2, {.level = &level, .gradients = true});
  PassContext context;
  context.level = &level;
  const auto expected = run(compile(model, context), weights_of(model), 2, kProbabilities);
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(maps.probabilities[i], expected[i], 1e-5);
  for (const AttentionMap& map : maps.nodes) {
    EXPECT_EQ(map.heads, 2);
    EXPECT_EQ(map.probabilities.size(), static_cast<size_t>(2 * 2 * kTokens * kTokens));
    EXPECT_EQ(map.gradients.size(), map.probabilities.size());
  }
}

TEST(AttentionMaps, AttentionThatIsWrittenOutIsFoundAsWell) {
  const Graph model = small_model();
  PassContext context;
  context.has_kernel = [](const Op& op) { return op.name != "attention"; };
  const Graph written_out = lower(model, context);
  ASSERT_FALSE(has_op(written_out, "attention"));
  AttentionReader reader(compile(expose_attention(written_out)), weights_of(model), pool());
  const AttentionMaps found = reader.read(random_images(2)), expected = maps_of(model, 2);
  ASSERT_EQ(found.nodes.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const auto &a = found.nodes[i].probabilities, &b = expected.nodes[i].probabilities;
    ASSERT_EQ(a.size(), b.size());
    for (size_t k = 0; k < a.size(); ++k) EXPECT_NEAR(a[k], b[k], 1e-5);
  }
}

TEST(AttentionMaps, WhatCannotBeShownIsAnError) {
  const auto unsupported = ErrorCode::unsupported, invalid = ErrorCode::invalid_argument;
  expect_error(unsupported, "no attention", [] { expose_attention(tiny_bundle().graph); });
  Graph headless = small_model();
  headless.remove_output(kLogits);
  expect_error(unsupported, "[attention]",
               [&] { expose_attention(headless, {.gradients = true}); });
  const Graph model = small_model();
  expect_error(unsupported, "[attention]",
               [&] { AttentionReader(compile(model), weights_of(model), pool()); });

  AttentionReader plain(compile(expose_attention(model)), weights_of(model), pool());
  expect_error(invalid, "[attention]", [&] { plain.read({}); });
  expect_error(invalid, "[attention]", [&] { plain.read(std::vector<uint8_t>(100)); });
  const std::vector<int32_t> one = {1}, beyond = {kClasses};
  expect_error(invalid, "[attention]", [&] { plain.read(random_images(1), one); });
  AttentionReader deep(compile(expose_attention(model, {.gradients = true})), weights_of(model),
                       pool());
  expect_error(invalid, "[attention]", [&] { deep.read(random_images(2), one); });
  expect_error(invalid, "[attention]", [&] { deep.read(random_images(1), beyond); });
  auto broken = weights_of(model);
  std::vector<float> nan(16, NAN);
  broken->set("vit.enc.0.norm1.bias", DType::f32, {16}, std::as_bytes(std::span(nan)));
  AttentionReader sick(compile(expose_attention(model)), broken, pool());
  expect_error(ErrorCode::non_finite, "[attention]", [&] { sick.read(random_images(1)); });
}

}  // namespace
}  // namespace fovea

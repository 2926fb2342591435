// Models that read more than images: masks, documents, a sink of their attention.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "fovea/base/philox.h"
#include "fovea/base/test_errors.h"
#include "fovea/graph/ops.h"
#include "fovea/infer/attention_maps.h"
#include "fovea/runtime/compile.h"
#include "fovea/tasks/task.h"

namespace fovea {
namespace {

constexpr int64_t kTokens = 6, kWidth = 16, kHeads = 4, kHead = 4;
constexpr size_t kT = kTokens;

// Tokens that are the rows of an image; each sample has its own mask and its own documents.
Graph model() {
  Graph g;
  const Size batch = Size::symbol("B");
  const Value image = ops::input(g, kImageInput, DType::u8, {batch, kTokens, kWidth, 1});
  const Value mask = ops::input(g, "mask", DType::boolean, {batch, 1, kTokens, kTokens});
  const Value documents = ops::input(g, "documents", DType::i32, {batch, 3});
  const Value x = ops::reshape(g, ops::scaled(g, ops::cast(g, image, DType::f32), 1.0 / 255),
                               {batch, kTokens, kWidth});
  VariableAttrs sink;
  sink.type = {DType::f32, {kHeads}};
  sink.init = Init::uniform;
  sink.scale = 1;
  const Value q = ops::linear(g, "q", x, kWidth), k = ops::linear(g, "k", x, kWidth);
  g.set_output("q", q);
  g.set_output("k", k);
  AttentionAttrs attrs;
  attrs.heads = kHeads;
  attrs.scale = 0.5;
  const Value y = ops::attention(
      g, q, k, ops::linear(g, "v", x, kWidth), attrs,
      {.documents = documents, .mask = mask, .sink = ops::variable(g, "sink", sink)}, "attn");
  const Value logits =
      ops::linear(g, "head", ops::reshape(g, y, {batch, kTokens * kWidth}), Size(3));
  g.set_output(kLogits, logits);
  g.set_output(kProbabilities, ops::softmax(g, logits));
  return g;
}

std::shared_ptr<VariableStore> weights() {
  auto store = std::make_shared<VariableStore>();
  store->create(model(), 3);
  return store;
}

struct Batch {
  explicit Batch(size_t images)
      : pixels(images * kT * kWidth), mask(images * kT * kT), documents(images * 3) {
    PhiloxStream random(5, stream_id("inputs"));
    for (uint8_t& p : pixels) p = static_cast<uint8_t>(random.below(256));
    for (uint8_t& m : mask) m = random.below(4) != 0;
    for (size_t i = 0; i < images; ++i) {
      documents[3 * i + 1] = static_cast<int32_t>(1 + random.below(5));
      documents[3 * i + 2] = kTokens;
    }
  }
  std::vector<InputBytes> inputs() const {
    const auto* first = reinterpret_cast<const uint8_t*>(documents.data());
    return {{kImageInput, pixels}, {"mask", mask}, {"documents", {first, documents.size() * 4}}};
  }
  int64_t images() const { return static_cast<int64_t>(documents.size() / 3); }
  bool seen(size_t image, size_t i, size_t j) const {
    const auto cut = static_cast<size_t>(documents[3 * image + 1]);
    return mask[(image * kT + i) * kT + j] != 0 && (i < cut) == (j < cut);
  }
  std::vector<uint8_t> pixels, mask;
  std::vector<int32_t> documents;
};

// What the model gives by its own kernels.
std::vector<float> run(const Batch& batch, std::string_view output) {
  Session session(compile(model()), weights(), std::make_shared<ThreadPool>(2));
  Execution& e = session.prepare({{"B", batch.images()}});
  for (const auto& [name, bytes] : batch.inputs())
    std::memcpy(e.input(name).data(), bytes.data(), bytes.size());
  e.run();
  const auto values = e.output_f32(output);
  return {values.begin(), values.end()};
}

AttentionReader reader(const AttentionMapOptions& options = {}) {
  return {compile(expose_attention(model(), options)), weights(), std::make_shared<ThreadPool>(2)};
}

TEST(AttentionInputs, TheMapsAreThoseOfTheLinksThatTheInputsLeaveWithTheSinkApart) {
  const Batch batch(3);
  for (const bool gradients : {false, true}) {
    AttentionReader maps_of = reader({.gradients = gradients});
    const AttentionMaps maps = maps_of.read(batch.inputs(), 3);
    const auto expected = run(batch, kProbabilities);
    ASSERT_EQ(maps.probabilities.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(maps.probabilities[i], expected[i], 1e-5);

    // exp(q k / 2) over the links that there are, and exp(sink), which is no key.
    const auto q = run(batch, "q"), k = run(batch, "k");
    const auto store = weights();
    float sink[kHeads];
    std::memcpy(sink, store->get("sink").data.data(), sizeof sink);
    ASSERT_EQ(maps.nodes.size(), 1u);
    EXPECT_EQ(maps.nodes[0].keys, kTokens);
    for (size_t image = 0; image < 3; ++image) {
      const auto map = maps.nodes[0].probabilities_of(static_cast<int64_t>(image));
      ASSERT_EQ(map.size(), kHeads * kT * kT);
      for (size_t h = 0; h < kHeads; ++h)
        for (size_t i = 0; i < kT; ++i) {
          double sum = std::exp(static_cast<double>(sink[h]));
          std::vector<double> e(kT);
          for (size_t j = 0; j < kT; ++j) {
            if (!batch.seen(image, i, j)) continue;
            double product = 0;
            for (size_t d = 0; d < kHead; ++d)
              product += static_cast<double>(q[(image * kT + i) * kWidth + h * kHead + d]) *
                         static_cast<double>(k[(image * kT + j) * kWidth + h * kHead + d]);
            sum += e[j] = std::exp(product / 2);
          }
          for (size_t j = 0; j < kT; ++j) EXPECT_NEAR(map[(h * kT + i) * kT + j], e[j] / sum, 1e-5);
        }
      EXPECT_EQ(maps.nodes[0].gradients.empty(), !gradients);
    }
  }
}

TEST(AttentionInputs, WhatIsMissingTooManyOrOfAnotherSizeIsNamed) {
  const Batch batch(2);
  AttentionReader maps = reader();
  const auto refused = [&](const std::vector<InputBytes>& inputs, std::string_view what) {
    expect_error(ErrorCode::invalid_argument, what, [&] { maps.read(inputs, 2); });
  };
  refused({}, "input 'image': expected its bytes");
  expect_error(ErrorCode::invalid_argument, "input 'mask': expected its bytes",
               [&] { maps.read(batch.pixels); });
  std::vector<InputBytes> inputs = batch.inputs();
  inputs[2].bytes = inputs[2].bytes.subspan(4);
  refused(inputs, "expected 'documents' of 2 examples, 12 bytes each, got 20");
  inputs = batch.inputs();
  inputs.push_back({"lengths", {}});
  refused(inputs, "no input 'lengths' (it has");
  EXPECT_NO_THROW(maps.read(batch.inputs(), 2));
}

}  // namespace
}  // namespace fovea

#include "fovea/explain/explainer.h"

#include <gtest/gtest.h>

#include <numeric>

#include "fovea/base/error.h"
#include "fovea/explain/test_bright_model.h"

namespace fovea {
namespace {

double mean(const std::vector<double>& v) {
  return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
}

TEST(Explainer, SharesLieWhereTheModelLooks) {
  Explainer explainer = bright_explainer();
  const auto image = bright_image({10, 250, 20, 30, 0, 160});
  const auto all = explainer.explain(image);
  ASSERT_EQ(all.size(), 1u);
  const Explanation& e = all[0];
  EXPECT_EQ(e.predicted, 1);
  EXPECT_EQ(e.explained, 1);
  EXPECT_NEAR(mean(e.probabilities), 0.5, 1e-6);
  ASSERT_EQ(e.layers.size(), 1u);
  EXPECT_EQ(e.layers[0].name, "look");
  ASSERT_EQ(e.layers[0].heads.size(), 1u);
  for (const auto* shares :
       {&e.rollout, &e.gradient_rollout, &e.last_layer, &e.layers[0].heads[0]}) {
    ASSERT_EQ(shares->size(), 6u);
    EXPECT_NEAR(mean(*shares), 1, 1e-6);
    EXPECT_GT((*shares)[1], (*shares)[5]);
    for (const size_t dark : {0, 2, 3, 4}) EXPECT_GT((*shares)[5], (*shares)[dark]);
  }
  // For one layer and head, half of the rollout is the residual.
  EXPECT_NEAR(e.rollout[1], 0.5 + 0.5 * e.last_layer[1], 1e-6);
}

TEST(Explainer, AnotherClassHasOtherGradients) {
  Explainer explainer = bright_explainer();
  const std::vector<int32_t> dark = {0};
  const auto e = explainer.explain(bright_image({10, 250, 20, 30, 0, 160}), dark)[0];
  EXPECT_EQ(e.predicted, 1);
  EXPECT_EQ(e.explained, 0);
  // Every link to light speaks against it, so nothing is positive.
  for (const double share : e.gradient_rollout) EXPECT_EQ(share, 1);
}

TEST(Explainer, ManyImagesAreExplainedEachForItself) {
  Explainer explainer = bright_explainer();
  std::vector<uint8_t> images;
  for (int i = 0; i < 130; ++i) {
    std::vector<uint8_t> patches(6, 5);
    patches[static_cast<size_t>(i % 6)] = 255;
    const auto image = bright_image(patches);
    images.insert(images.end(), image.begin(), image.end());
  }
  const auto all = explainer.explain(images);
  ASSERT_EQ(all.size(), 130u);
  for (size_t i = 0; i < 130; ++i) {
    const auto& shares = all[i].gradient_rollout;
    EXPECT_EQ(std::max_element(shares.begin(), shares.end()) - shares.begin(),
              static_cast<std::ptrdiff_t>(i % 6));
  }
}

TEST(Explainer, WhatDoesNotFitIsAnError) {
  const Graph exposed = compile(expose_attention(bright_model(), {.gradients = true}));
  EXPECT_THROW(Explainer(exposed, {7, 7}, std::make_shared<ThreadPool>(1)), Error);
  Explainer explainer = bright_explainer();
  EXPECT_THROW(explainer.explain(std::span<const uint8_t>()), Error);
  EXPECT_THROW(explainer.explain(std::vector<uint8_t>(25)), Error);
  const std::vector<int32_t> two = {0, 1}, beyond = {2};
  EXPECT_THROW(explainer.explain(std::vector<uint8_t>(24), two), Error);
  EXPECT_THROW(explainer.explain(std::vector<uint8_t>(24), beyond), Error);
}

}  // namespace
}  // namespace fovea

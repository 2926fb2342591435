#include "fovea/explain/rollout.h"

#include <gtest/gtest.h>

#include <numeric>

#include "fovea/base/error.h"

namespace fovea {
namespace {

AttentionMap map_of(std::string name, int64_t heads, int64_t tokens,
                    std::vector<float> probabilities, std::vector<float> gradients = {}) {
  return {std::move(name), heads, tokens, tokens, std::move(probabilities), std::move(gradients)};
}

AttentionMaps maps_of(std::vector<AttentionMap> nodes, int64_t images = 1) {
  AttentionMaps maps;
  maps.images = images;
  maps.nodes = std::move(nodes);
  return maps;
}

void expect_shares(const std::vector<double>& got, const std::vector<double>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-6) << i;
}

// Two tokens. First layer, two heads: {{1,0},{0,1}} and {{0,1},{0,1}}, mean {{.5,.5},{0,1}}; with
// the residual {{.75,.25},{0,1}}. Second layer, one head: {{.2,.8},{.6,.4}}, with the residual
// {{.6,.4},{.3,.7}}. An even row through the second: {.45,.55}; through the first: {.3375,.6625}.
AttentionMaps two_layers() {
  return maps_of({map_of("first", 2, 2, {1, 0, 0, 1, 0, 1, 0, 1}),
                  map_of("second", 1, 2, {.2f, .8f, .6f, .4f})});
}

TEST(Rollout, FollowsAttentionAndResidualsBackThroughTheLayers) {
  expect_shares(attention_rollout(two_layers(), 0), {.675, 1.325});
}

// Three tokens of which two are there: what the third does, as padding, changes nothing.
TEST(Rollout, TokensBehindTheEndOfASequenceDoNotCount) {
  const auto maps = maps_of(
      {map_of("first", 1, 3, {.5f, .5f, 0, 0, 1, 0, .9f, .1f, 0}, {1, 0, 0, 2, 1, 0, 9, 9, 9})});
  expect_shares(attention_rollout(maps, 0, 2), {.75, 1.25});
  expect_shares(last_layer_attention(maps, 0, 2), {.5, 1.5});
  expect_shares(gradient_rollout(maps, 0, 2), {2 * .5 / 1.5, 2 * 1 / 1.5});
  expect_shares(head_attention(maps.nodes[0], 0, 0, 2), {.5, 1.5});
  // All count where nothing is said.
  EXPECT_EQ(attention_rollout(maps, 0).size(), 3u);
}

TEST(Rollout, AttentionOfEachTokenToItselfGivesEvenShares) {
  const auto maps = maps_of({map_of("a", 1, 3, {1, 0, 0, 0, 1, 0, 0, 0, 1})});
  expect_shares(attention_rollout(maps, 0), {1, 1, 1});
  expect_shares(last_layer_attention(maps, 0), {1, 1, 1});
}

TEST(Rollout, AQueryThatSeesNothingKeepsItsToken) {
  // The second query's row is 0, so with the residual {{.5,.5},{0,1}}: {.5,.5} becomes {.25,.75}.
  const auto maps = maps_of({map_of("a", 1, 2, {0, 1, 0, 0})});
  expect_shares(attention_rollout(maps, 0), {.5, 1.5});
}

TEST(Rollout, TheLastLayerAloneIsTheMeanOverHeadsAndQueries) {
  expect_shares(last_layer_attention(two_layers(), 0), {.8, 1.2});
  expect_shares(head_attention(two_layers().nodes[0], 0, 0), {1, 1});
  expect_shares(head_attention(two_layers().nodes[0], 0, 1), {0, 2});
}

// First layer: gradient * probability {{2,0},{0,-3}} and {{0,4},{0,1}}; the positive parts' mean is
// {{1,2},{0,.5}}. Second: {{.2,-.8},{.6,.8}}, positive {{.2,0},{.6,.8}}. R = (I + second)(I +
// first); an even row through I + second: {.5,.5} + {.4,.4} = {.9,.9}; through I + first: {.9,.9} +
// {.9, 1.8 + .45} = {1.8,3.15}; without the even row at the beginning: {1.3,2.65}.
TEST(Rollout, GradientsWeighLinksAndNegativeOnesDoNotCount) {
  const auto maps =
      maps_of({map_of("first", 2, 2, {1, 0, 0, 1, 0, 1, 0, 1}, {2, 5, 5, -3, 7, 4, 7, 1}),
               map_of("second", 1, 2, {.2f, .8f, .6f, .4f}, {1, -1, 1, 2})});
  expect_shares(gradient_rollout(maps, 0), {2.6 / 3.95, 5.3 / 3.95});
}

TEST(Rollout, WithoutAnythingPositiveTheSharesAreEven) {
  const auto maps = maps_of({map_of("a", 1, 2, {.5f, .5f, .5f, .5f}, {-1, -1, -1, 0})});
  expect_shares(gradient_rollout(maps, 0), {1, 1});
}

TEST(Rollout, EachImageOfABatchHasItsOwn) {
  const auto maps =
      maps_of({map_of("a", 1, 2, {1, 0, 1, 0, 0, 1, 0, 1}, {1, 1, 1, 1, 1, 1, 1, 1})}, 2);
  expect_shares(last_layer_attention(maps, 0), {2, 0});
  expect_shares(last_layer_attention(maps, 1), {0, 2});
  expect_shares(attention_rollout(maps, 1), {.5, 1.5});
  expect_shares(gradient_rollout(maps, 1), {0, 2});
}

TEST(Rollout, LayersOverOtherTokensAreAnError) {
  auto maps = two_layers();
  maps.nodes[1].keys = 3;
  for (auto rollout : {attention_rollout, gradient_rollout, last_layer_attention}) {
    try {
      rollout(maps, 0, 0);
      ADD_FAILURE();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::unsupported);
      EXPECT_NE(std::string(e.what()).find("second has 2 queries and 3 keys"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace fovea

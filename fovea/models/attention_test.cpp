#include "fovea/models/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fovea/base/test_errors.h"
#include "fovea/graph/graph_text.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"

namespace fovea {
namespace {

Graph model(const AttentionOptions& options, int64_t heads = 4, Size tokens = 10) {
  Graph g;
  const Value x = ops::input(g, "x", DType::f32, {Size::symbol("B"), tokens, 32});
  g.set_output("y", self_attention(g, x, heads, options));
  return g;
}

TEST(SelfAttention, GivesTheNodeWhatTheOptionsSay) {
  const Graph g = model({.kv_heads = 2,
                         .causal = true,
                         .window_left = 5,
                         .dilation = 2,
                         .global_tokens = 1,
                         .prefix = 3,
                         .soft_cap = 20,
                         .sink = true,
                         .distance_bias = DistanceBias::learned});
  const auto& a = g.node(g.find("attn")).attrs.get<AttentionAttrs>();
  EXPECT_EQ(a.heads, 4);
  EXPECT_EQ(a.kv_heads, 2);
  EXPECT_TRUE(a.causal);
  EXPECT_EQ(a.window_left, 5);
  EXPECT_EQ(a.dilation, 2);
  EXPECT_EQ(a.global_tokens, 1);
  EXPECT_EQ(a.prefix, 3);
  EXPECT_EQ(a.soft_cap, 20);
  EXPECT_TRUE(a.sink && a.distance_bias);
  EXPECT_EQ(to_text(g.type({g.find("attn.sink"), 0})), "f32[4]");
  EXPECT_EQ(to_text(g.type({g.find("attn.distance_bias"), 0})), "f32[4,19]");
}

TEST(SelfAttention, GivesTheNodePositionsAndWhatItLearnsOfScores) {
  const Graph g = model({.cosine = true,
                         .temperature = true,
                         .rotary = 6,
                         .rotary_base = 500,
                         .rotary_layout = RotaryLayout::halves});
  const auto& a = g.node(g.find("attn")).attrs.get<AttentionAttrs>();
  EXPECT_TRUE(a.cosine && a.temperature);
  EXPECT_EQ(a.rotary, 6);
  EXPECT_EQ(a.rotary_base, 500);
  EXPECT_EQ(a.rotary_layout, RotaryLayout::halves);
  EXPECT_EQ(g.node(g.find("attn.temperature")).attrs.get<VariableAttrs>().scale, 10);
  const Graph relative = model({.kv_heads = 2, .temperature = true, .relative_keys = true});
  const auto& r = relative.node(relative.find("attn")).attrs.get<AttentionAttrs>();
  EXPECT_TRUE(r.relative_keys && r.content_bias && r.position_bias);
  EXPECT_EQ(relative.node(relative.find("attn.temperature")).attrs.get<VariableAttrs>().scale, 1);
  EXPECT_EQ(to_text(relative.type({relative.find("attn.relative.weight"), 0})), "f32[16,32]");
  EXPECT_EQ(to_text(relative.type({relative.find("attn.content_bias"), 0})), "f32[4,8]");
}

TEST(SelfAttention, EveryScoreAndBiasGivesTheSameShape) {
  for (const AttentionScore score : {AttentionScore::dot, AttentionScore::additive,
                                     AttentionScore::subtraction, AttentionScore::linear}) {
    const Graph g = model({.kv_heads = 2, .score = score, .causal = true});
    EXPECT_EQ(to_text(g.type(g.output("y"))), "f32[B,10,32]");
    EXPECT_EQ(g.find("k.bias") >= 0, score == AttentionScore::linear);
  }
  for (const DistanceBias bias : {DistanceBias::alibi, DistanceBias::buckets})
    for (const Size& tokens : {Size(10), Size::symbol("T")}) {
      const Graph g = model({.distance_bias = bias}, 4, tokens);
      EXPECT_EQ(g.type(g.output("y")).shape[1], tokens);
      EXPECT_EQ(print_graph(parse_graph(print_graph(g))), print_graph(g));
    }
}

TEST(SelfAttention, BlocksAreChosenFromItsQueriesAndKeysUnderItsMasks) {
  const Graph g =
      model({.kv_heads = 2, .window_left = 40, .window_right = 8, .block_mass = 0.8, .block = 32},
            4, Size::symbol("T"));
  const auto& a = g.node(g.find("attn")).attrs.get<AttentionAttrs>();
  EXPECT_EQ(a.block, 32);
  EXPECT_EQ(g.node(g.find("attn")).inputs[3].node, g.find("attn.blocks"));
  const auto& b = g.node(g.find("attn.blocks")).attrs.get<AttentionBlocksAttrs>();
  EXPECT_EQ(b.mass, 0.8);
  EXPECT_EQ(b.window_left, 40);
  EXPECT_EQ(b.kv_heads, 2);
  EXPECT_EQ(to_text(g.type({g.find("attn.blocks"), 0})), "bool[B,4,ceildiv(T,32),ceildiv(T,32)]");
  EXPECT_EQ(print_graph(parse_graph(print_graph(g))), print_graph(g));
}

TEST(SelfAttention, SpansAreLearnedAndTheirMeanIsAskedForAsAPenaltyInTraining) {
  const AttentionOptions options{
      .span = true, .span_most = 6, .span_ramp = 3, .span_start = 0.25, .span_penalty = 0.5};
  Graph g;
  const Value x = ops::input(g, "x", DType::f32, {Size::symbol("B"), Size::symbol("T"), 32});
  std::vector<Value> penalties;
  self_attention(g, x, 4, options, {.penalties = &penalties});
  const auto& a = g.node(g.find("attn")).attrs.get<AttentionAttrs>();
  EXPECT_TRUE(a.span);
  EXPECT_EQ(a.span_ramp, 3);
  EXPECT_EQ(to_text(g.type({g.find("attn.span.weight"), 0})), "f32[4]");
  const double start = g.node(g.find("attn.span.weight")).attrs.get<VariableAttrs>().scale;
  EXPECT_NEAR(6 / (1 + std::exp(-4 * start)), 0.25 * 6, 1e-12);
  ASSERT_EQ(penalties.size(), 1u);
  EXPECT_EQ(to_text(g.type(penalties[0])), "f32[]");
  EXPECT_EQ(model(options).find("attn.span.penalty"), -1) << "predictions have no loss";
}

TEST(SelfAttention, NoiseIsDrawnInTrainingAlone) {
  const auto node = [](const AttentionOptions& options, bool training) {
    Graph g;
    const Value x = ops::input(g, "x", DType::f32, {Size::symbol("B"), 10, 32});
    const Value rng = ops::input(g, "rng", DType::i32, {3});
    self_attention(g, x, 4, options, {.rng = training ? rng : Value{}});
    return g.node(g.find("attn")).attrs.get<AttentionAttrs>();
  };
  const AttentionOptions samples{.normaliser = Normaliser::gumbel_hard, .softmax_temperature = 0.5};
  EXPECT_EQ(node(samples, true).normaliser, Normaliser::gumbel_hard);
  EXPECT_EQ(node(samples, true).softmax_temperature, 0.5);
  EXPECT_TRUE(node(samples, true).is_random());
  EXPECT_EQ(node(samples, false).normaliser, Normaliser::hard);
  EXPECT_FALSE(node(samples, false).is_random());
  const AttentionOptions soft{
      .soft_cap = 20, .normaliser = Normaliser::gumbel, .softmax_temperature = 0.5};
  EXPECT_EQ(node(soft, true).normaliser, Normaliser::gumbel);
  EXPECT_EQ(node(soft, true).soft_cap, 20);
  EXPECT_EQ(node(soft, false).normaliser, Normaliser::softmax);
  EXPECT_EQ(node(soft, false).soft_cap, 40);
  EXPECT_DOUBLE_EQ(node(soft, false).scale, 2 / std::sqrt(8.0));
}

TEST(SelfAttention, OptionsThatDoNotGoTogetherAreErrorsThatNameBoth) {
  const auto refused = [](const char* what, const AttentionOptions& o, Size tokens = 10) {
    expect_error(ErrorCode::invalid_argument, what, [&] { model(o, 4, tokens); });
  };
  refused("[model.attention] kv_heads: expected a divisor of heads=4", {.kv_heads = 3});
  refused("[model.attention] window_left: expected a number of tokens, or -1", {.window_left = -2});
  refused("[model.attention] expected a window (window_left or window_right) with dilation=2",
          {.dilation = 2});
  refused("expected causal or a window with prefix=2", {.prefix = 2});
  refused("expected a soft_cap=-1", {.soft_cap = -1});
  refused("[model.attention] expected rotary=10 to be even, and at most the head size 8",
          {.rotary = 10});
  refused("expected no rotary=4 with relative_keys", {.rotary = 4, .relative_keys = true});
  refused("expected no cosine with relative_keys", {.cosine = true, .relative_keys = true});
  refused("rotary: score=\"linear\" does not take it",
          {.score = AttentionScore::linear, .rotary = 4});
  refused("temperature: score=\"additive\" does not",
          {.score = AttentionScore::additive, .temperature = true});
  refused("sink: score=\"additive\" does not take it",
          {.score = AttentionScore::additive, .sink = true});
  refused("dropout: expected a share from 0 up to, not including, 1, got 1", {.dropout = 1});
  refused("dropout: score=\"linear\" does not take it",
          {.score = AttentionScore::linear, .dropout = 0.1});
  refused("distance_bias: score=\"subtraction\" does not",
          {.score = AttentionScore::subtraction, .distance_bias = DistanceBias::alibi});
  refused("window_left: score=\"linear\" does not",
          {.score = AttentionScore::linear, .window_left = 3});
  refused("normaliser: score=\"linear\" does not",
          {.score = AttentionScore::linear, .normaliser = Normaliser::sparsemax});
  refused("expected top_k between 1 and 2^31 - 1 with normaliser=top_k, got top_k=0",
          {.normaliser = Normaliser::top_k});
  refused("expected no top_k with normaliser=softmax, got top_k=8", {.top_k = 8});
  refused("expected no sink with normaliser=entmax15",
          {.sink = true, .normaliser = Normaliser::entmax15});
  refused("span: expected a normaliser that draws no noise beside it, got normaliser=\"gumbel\"",
          {.normaliser = Normaliser::gumbel, .span = true});
  refused("span: score=\"additive\" does not", {.score = AttentionScore::additive, .span = true});
  refused("span: expected span_most for sequences of no fixed length", {.span = true},
          Size::symbol("T"));
  refused("span_most: expected a number of tokens", {.span = true, .span_most = -1});
  refused("block_mass: expected a share above 0 and at most 1", {.block_mass = 1.5});
  refused("block: expected a multiple of 16", {.block_mass = 0.9, .block = 24});
  refused("rotary: block_mass=0.9 does not go with it", {.block_mass = 0.9, .rotary = 4});
  refused("span: block_mass=0.9 does not", {.block_mass = 0.9, .span = true});
  refused("distance_bias: block_mass=0.9 does not",
          {.block_mass = 0.9, .distance_bias = DistanceBias::alibi});
  refused("normaliser: block_mass=0.9 does not",
          {.block_mass = 0.9, .normaliser = Normaliser::sparsemax});
  refused("block_mass: score=\"linear\" does not take it",
          {.score = AttentionScore::linear, .block_mass = 0.9});
  refused("span_ramp: expected a number of tokens above 0", {.span = true, .span_ramp = 0});
  refused("span_start: expected a share of span_most", {.span = true, .span_start = 1});
  refused("span_penalty: expected a number of at least 0", {.span = true, .span_penalty = -1});
  refused("expected a softmax_temperature between",
          {.normaliser = Normaliser::gumbel, .softmax_temperature = 0});
  refused("buckets: expected a multiple of 4",
          {.distance_bias = DistanceBias::buckets, .buckets = 6});
  refused("bucket_distance: expected buckets=32 to",
          {.distance_bias = DistanceBias::buckets, .bucket_distance = 8});
  refused("\"learned\" needs sequences of one length", {.distance_bias = DistanceBias::learned},
          Size::symbol("T"));
}

}  // namespace
}  // namespace fovea

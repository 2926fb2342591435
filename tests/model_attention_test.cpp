// What [model.attention] makes of a model, run: fused and lowered alike, tables of distances
// against their formulas.
#include "fovea/models/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fovea/graph/gradient.h"
#include "fovea/graph/graph_text.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"
#include "fovea/passes/lower.h"
#include "fovea/runtime/compile.h"
#include "tests/equality.h"

namespace fovea {
namespace {

using equality::numbers;

// A layer with the gradients of its loss with respect to x and all weights; `plain` by the
// decomposition of its attention.
Graph with_gradients(const AttentionOptions& options, bool plain) {
  Graph g;
  g.set_output("y", self_attention(g, ops::input(g, "x", DType::f32, {3, 12, 16}), 4, options));
  if (plain) {
    PassContext context;
    context.has_kernel = [](const Op& op) {
      return !op.decompose || op.name.find("attention") == op.name.npos;
    };
    g = lower(g, context);
    EXPECT_EQ(print_graph(g).find("attention("), std::string::npos);
  }
  const Value x = {g.find("x"), 0}, y = g.output("y");
  const Value loss = ops::reduce_mean(g, ops::unary(g, "square", y), {0, 1, 2});
  const std::pair<Value, Value> seeds[] = {{loss, ops::constant(g, 1)}};
  std::vector<Value> wrt = {x};
  std::vector<std::string> names = {"x"};
  for (int id = 0; id < g.size(); ++id)
    if (g.node(id).op->name == "variable") {
      wrt.push_back({id, 0});
      names.push_back(g.node(id).name);
    }
  const std::vector<Value> gradients = backpropagate(g, seeds, wrt);
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_TRUE(gradients[i]) << names[i];
    if (gradients[i]) g.set_output("d." + names[i], gradients[i]);
  }
  return g;
}

TEST(ModelAttention, EveryOptionTrainsAlikeFusedAndDecomposed) {
  const AttentionOptions list[] = {
      {},
      {.kv_heads = 2, .causal = true, .sink = true},
      {.window_left = 3, .window_right = 2, .dilation = 2, .global_tokens = 2, .soft_cap = 5},
      {.causal = true, .prefix = 4, .distance_bias = DistanceBias::alibi},
      {.kv_heads = 1, .distance_bias = DistanceBias::buckets, .buckets = 8, .bucket_distance = 12},
      {.sink = true, .distance_bias = DistanceBias::learned},
      {.kv_heads = 2, .causal = true, .cosine = true, .temperature = true, .rotary = 4},
      {.rotary = 2, .rotary_base = 50, .rotary_layout = RotaryLayout::halves},
      {.kv_heads = 2, .window_left = 4, .temperature = true, .relative_keys = true},
      {.kv_heads = 2, .causal = true, .block_mass = 0.6, .block = 16},
      {.kv_heads = 2, .span = true, .span_most = 5, .span_ramp = 3},
      {.causal = true, .sink = true, .normaliser = Normaliser::top_k, .top_k = 3, .span = true},
      {.soft_cap = 5, .normaliser = Normaliser::gumbel, .softmax_temperature = 0.4},
      {.score = AttentionScore::additive, .causal = true},
      {.kv_heads = 2, .score = AttentionScore::subtraction, .window_left = 4},
      {.score = AttentionScore::linear, .causal = true},
  };
  for (const AttentionOptions& options : list) {
    SCOPED_TRACE(testing::Message() << "option " << (&options - list));
    const auto fused = equality::run(compile(with_gradients(options, false)));
    const auto plain = equality::run(compile(with_gradients(options, true)));
    EXPECT_EQ(fused.outputs.size(), plain.outputs.size());
    equality::expect_close(fused, plain, 2e-5);
  }
}

// What a model that learned with Gumbel noise predicts: softmax((cap(s) + bias) / temperature).
TEST(ModelAttention, WithoutNoiseGumbelDividesAllScoresByTheTemperature) {
  constexpr double kCap = 0.05, kTemperature = 0.25;
  const auto outputs = [&](bool written_out) {
    Graph g;
    const Value x = ops::input(g, "x", DType::f32, {3, 12, 16});
    if (!written_out) {
      g.set_output("y", self_attention(g, x, 4,
                                       {.soft_cap = kCap,
                                        .normaliser = Normaliser::gumbel,
                                        .softmax_temperature = kTemperature,
                                        .distance_bias = DistanceBias::alibi}));
      return numbers(equality::run(compile(g)).outputs.at("y"));
    }
    const auto heads = [&](Value v) {
      return ops::transpose(g, ops::reshape(g, v, {3, 12, 4, 4}), {0, 2, 1, 3});
    };
    const Value q = heads(ops::linear(g, "q", x, 16)), k = heads(ops::linear(g, "k", x, 16, false)),
                v = heads(ops::linear(g, "v", x, 16));
    Value s = ops::scaled(g, ops::matmul(g, q, ops::transpose(g, k, {0, 1, 3, 2})), 0.5 / kCap);
    s = ops::scaled(g, ops::unary(g, "tanh", s), kCap);
    const Value table = alibi_bias(g, 4, 12);  // [H,23]
    std::vector<Value> rows;
    for (int64_t i = 0; i < 12; ++i)
      rows.push_back(ops::reshape(g, ops::slice(g, table, 1, 11 - i, 12), {4, 1, 12}));
    s = ops::scaled(g, ops::add(g, s, ops::concat(g, rows, 1)), 1 / kTemperature);
    const Value a = ops::matmul(g, ops::softmax(g, s), v);
    g.set_output(
        "y", ops::linear(g, "out", ops::reshape(g, ops::transpose(g, a, {0, 2, 1, 3}), {3, 12, 16}),
                         16));
    return numbers(equality::run(compile(g)).outputs.at("y"));
  };
  const auto ours = outputs(false), expected = outputs(true);
  ASSERT_EQ(ours.size(), expected.size());
  for (size_t i = 0; i < ours.size(); ++i) EXPECT_NEAR(ours[i], expected[i], 1e-5) << i;
}

TEST(ModelAttention, AlibiFallsWithTheDistanceByASlopeOfEachHead) {
  Graph g;
  g.set_output("table", alibi_bias(g, 6, 5));
  const auto table = numbers(equality::run(compile(g)).outputs.at("table"));
  // Four heads by halves of 2^-2, then every other slope of eight heads.
  const double slopes[] = {0.25, 0.0625, 1.0 / 64, 1.0 / 256, 0.5, 0.125};
  ASSERT_EQ(table.size(), 6u * 9);
  for (int h = 0; h < 6; ++h)
    for (int n = 0; n < 9; ++n)
      EXPECT_FLOAT_EQ(table[static_cast<size_t>(h * 9 + n)], -slopes[h] * std::abs(n - 4));
}

TEST(ModelAttention, SinusoidsAreThoseOfTheDistancesBack) {
  Graph g;
  g.set_output("table", distance_sinusoids(g, 3, 4));
  const auto table = numbers(equality::run(compile(g)).outputs.at("table"));
  ASSERT_EQ(table.size(), 5u * 4);
  for (size_t n = 0; n < 5; ++n)
    for (size_t i = 0; i < 2; ++i) {
      const double angle = (2.0 - static_cast<double>(n)) * (i == 0 ? 1 : 0.01);
      EXPECT_NEAR(table[4 * n + i], std::sin(angle), 1e-6);
      EXPECT_NEAR(table[4 * n + 2 + i], std::cos(angle), 1e-6);
    }
}

TEST(ModelAttention, BucketsHoldOneDistanceEachAndThenPowers) {
  for (const bool causal : {false, true}) {
    Graph g;
    g.set_output("buckets", distance_buckets(g, 200, 32, 128, causal));
    const auto bucket = numbers(equality::run(compile(g)).outputs.at("buckets"));
    ASSERT_EQ(bucket.size(), 399u);
    const int side = causal ? 32 : 16, exact = side / 2;
    for (int d = -199; d < 200; ++d) {
      const int away = causal ? std::max(-d, 0) : std::abs(d);
      int expected = away;
      if (away >= exact) {
        const double grown =
            std::log(static_cast<double>(away) / exact) / std::log(128.0 / exact) * (side - exact);
        expected = std::min(side - 1, exact + static_cast<int>(std::floor(grown + 1e-9)));
      }
      if (!causal && d > 0) expected += 16;
      EXPECT_EQ(bucket[static_cast<size_t>(d + 199)], expected) << d;
    }
  }
}

}  // namespace
}  // namespace fovea

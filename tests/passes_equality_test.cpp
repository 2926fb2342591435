// Graphs before and after the passes give the same numbers: each pass alone, and all of them.
#include <gtest/gtest.h>

#include <cmath>

#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"
#include "fovea/passes/differentiate.h"
#include "fovea/runtime/compile.h"
#include "tests/equality.h"

namespace fovea {

namespace {

using equality::compile_with;
using equality::count_ops;
using equality::expect_close;
using equality::expect_same_bits;
using equality::Options;
using equality::run;

constexpr int64_t kHeads = 3, kHeadSize = 4, kWidth = kHeads * kHeadSize;

Value mean_square(Graph& g, Value x) {
  const Value square = ops::unary(g, "square", x);
  std::vector<int64_t> axes;
  for (size_t i = 0; i < g.shape(x).size(); ++i) axes.push_back(static_cast<int64_t>(i));
  return ops::reduce_mean(g, square, axes);
}

struct Projections {
  Value q, k, v;
};
Projections project(Graph& g, Value x) {
  return {ops::linear(g, "q", x, kWidth), ops::linear(g, "k", x, kWidth, false),
          ops::linear(g, "v", x, kWidth)};
}

// x [B,T,C] through attention written with simple ops, heads split by reshape and transpose.
Graph attention_by_hand(bool causal) {
  Graph g;
  const Size b = Size::symbol("B"), t = Size::symbol("T");
  const Value x = ops::input(g, "x", DType::f32, {b, t, kWidth});
  const auto split = [&](Value v) {
    return ops::transpose(g, ops::reshape(g, v, {b, t, kHeads, kHeadSize}), {0, 2, 1, 3});
  };
  const Projections p = project(g, x);
  Value s = ops::matmul(g, split(p.q), split(p.k), {.transpose_b = true});
  s = ops::scaled(g, s, 1 / std::sqrt(static_cast<double>(kHeadSize)));
  if (causal) {
    const Value query = ops::iota(g, DType::i32, {t, 1}, 0),
                key = ops::iota(g, DType::i32, {1, t}, 1);
    const Value visible = ops::binary(g, "less_equal", key, query);
    s = ops::select(g, visible, s, ops::constant(g, -INFINITY));
  }
  const Value o = ops::matmul(g, ops::softmax(g, s), split(p.v));
  const Value merged = ops::reshape(g, ops::transpose(g, o, {0, 2, 1, 3}), {b, t, kWidth});
  const Value y = ops::linear(g, "out", merged, 5);
  g.set_output("y", y);
  g.set_output("loss", mean_square(g, y));
  return g;
}

Graph attention_as_op(bool causal, int64_t heads_kept = -1) {
  Graph g;
  const Size b = Size::symbol("B"), t = Size::symbol("T");
  const Value x = ops::input(g, "x", DType::f32, {b, t, kWidth});
  const Projections p = project(g, x);
  const Value o = ops::attention(
      g, p.q, p.k, p.v, {.heads = kHeads, .heads_kept = heads_kept, .causal = causal}, "attn");
  const Value y = ops::linear(g, "out", o, 5);
  g.set_output("y", y);
  g.set_output("loss", mean_square(g, y));
  return g;
}

PassContext with_gradients() {
  PassContext context;
  context.differentiate_output = "loss";
  return context;
}

// A classifier of small images: patches, places, dropout, one block, a loss. It says a few things
// twice or for nothing, so that every pass has something to do.
Graph small_transformer() {
  Graph g;
  const Size b = Size::symbol("B");
  const Value image = ops::input(g, "image", DType::f32, {b, 8, 8, 1});
  const Value labels = ops::input(g, "labels", DType::i32, {b});
  const Value rng = ops::input(g, "rng", DType::i32, {3});
  Value x =
      ops::conv2d(g, "stem", image, 3, 3, {.stride_h = 1, .stride_w = 1, .pad_h = 1, .pad_w = 1});
  x = ops::unary(g, "relu", x);
  x = ops::linear(g, "embed", ops::patches(g, x, 2), kWidth);  // [B,16,C]
  const Value table = ops::weight(g, "places", {16, kWidth}, 0.1);
  x = ops::add(g, x, ops::gather(g, table, ops::iota(g, DType::i32, {16}, 0)));
  x = ops::dropout(g, x, rng, 0.2, "drop");
  {
    const Graph::Scope scope(g, "block");
    const Value n = ops::layer_norm(g, "norm1", x);
    const Projections p = project(g, n);
    const Value a = ops::attention(g, p.q, p.k, p.v, {.heads = kHeads}, "attn");
    x = ops::add(g, x, ops::linear(g, "proj", a, kWidth));
    const Value m = ops::layer_norm(g, "norm2", x);
    const Value hidden = ops::gelu(g, ops::linear(g, "up", m, 2 * kWidth));
    x = ops::add(g, x, ops::linear(g, "down", hidden, kWidth));
  }
  // Said twice, multiplied by one, read by nobody, and known beforehand.
  const Value twice = ops::add(g, ops::unary(g, "tanh", x), ops::unary(g, "tanh", x));
  x = ops::mul(g, x, ops::constant(g, 1));
  ops::unary(g, "exp", x);
  const Value ramp = ops::unary(g, "sin", ops::iota(g, DType::f32, {kWidth}, 0));
  // Alike but for the order, which matters.
  const Value apart = ops::mul(g, ops::sub(g, x, ramp), ops::sub(g, ramp, x));
  x = ops::add(g, ops::add(g, ops::add(g, x, ramp), twice), apart);
  const Value logits = ops::linear(g, "head", ops::reduce_mean(g, x, {1}), 4);
  const Value losses = ops::cross_entropy(g, logits, labels, {.smoothing = 0.1});
  g.set_output("logits", logits);
  g.set_output("loss", ops::reduce_mean(g, losses, {0}));
  return g;
}

TEST(PassesEquality, AttentionByHandIsFusedAndKeepsItsNumbers) {
  for (bool causal : {false, true}) {
    const Graph g = attention_by_hand(causal);
    const Graph plain = compile_with(g, {});
    const Graph fused = compile_with(g, {"fuse_attention"});
    EXPECT_EQ(count_ops(plain, "attention"), 0);
    EXPECT_EQ(count_ops(fused, "attention"), 1);
    EXPECT_EQ(count_ops(compile(g), "softmax"), 0);
    for (const SizeBindings& sizes :
         {SizeBindings{{"B", 2}, {"T", 9}}, SizeBindings{{"B", 1}, {"T", 70}}}) {
      const auto expected = run(plain, {.sizes = sizes});
      expect_close(run(fused, {.sizes = sizes}), expected, 1e-5);
      expect_close(run(compile(g), {.sizes = sizes}), expected, 1e-5);
    }
  }
}

TEST(PassesEquality, FusedAttentionHasTheGradientsOfTheOneByHand) {
  for (bool causal : {false, true}) {
    const Graph g = attention_by_hand(causal);
    const Graph plain = compile_with(g, {"differentiate"}, with_gradients());
    const Graph all = compile(g, with_gradients());
    EXPECT_EQ(count_ops(all, "attention"), 1);
    EXPECT_EQ(count_ops(all, "attention_grad"), 1);
    EXPECT_EQ(count_ops(plain, "attention_grad"), 0);
    const Options options{.sizes = {{"B", 2}, {"T", 13}}};
    const auto expected = run(plain, options);
    EXPECT_EQ(expected.outputs.size(), 2u + 7u);  // weights of four layers, biases of three
    expect_close(run(all, options), expected, 1e-5);
  }
}

TEST(PassesEquality, AttentionByHandIsTheOpAttention) {
  for (bool causal : {false, true}) {
    const Options options{.sizes = {{"B", 3}, {"T", 11}}};
    const auto by_hand = run(compile_with(attention_by_hand(causal), {}), options);
    expect_close(run(compile(attention_as_op(causal)), options), by_hand, 1e-5);
  }
}

TEST(PassesEquality, EachPassAloneKeepsTheNumbersOfATransformer) {
  const Graph g = small_transformer();
  const Options options{.sizes = {{"B", 5}}};
  const auto expected = run(compile_with(g, {}), options);
  for (const Pass& pass : pipeline()) {
    SCOPED_TRACE(pass.name);
    expect_close(run(compile_with(g, {std::string(pass.name)}), options), expected, 1e-5);
  }
}

TEST(PassesEquality, LeavingOutAndMergingChangeNoBit) {
  const Graph g = small_transformer();
  const Options options{.sizes = {{"B", 5}}};
  const auto context = with_gradients();
  const auto expected = run(compile_with(g, {"differentiate"}, context), options);
  for (const char* pass : {"dead_nodes", "common_subexpressions"}) {
    SCOPED_TRACE(pass);
    const Graph smaller = compile_with(g, {"differentiate", pass}, context);
    EXPECT_LT(smaller.size(), compile_with(g, {"differentiate"}, context).size());
    auto got = run(smaller, options);
    expect_same_bits(got, expected);
  }
}

TEST(PassesEquality, AllPassesTogetherKeepTheGradientsOfATransformer) {
  const Graph g = small_transformer();
  const Options options{.sizes = {{"B", 5}}};
  const auto context = with_gradients();
  const auto expected = run(compile_with(g, {"differentiate"}, context), options);
  std::vector<PassReport> reports;
  const Graph all = compile(g, context, {}, &reports);
  expect_close(run(all, options), expected, 1e-5);
  for (auto& report : reports) {
    const bool leaves_out = report.name == "common_subexpressions" || report.name == "dead_nodes";
    EXPECT_TRUE(!leaves_out || report.nodes_after < report.nodes_before) << report.name;
  }
  for (const Pass& without : pipeline()) {
    if (without.name == "lower" || without.name == "differentiate") continue;
    SCOPED_TRACE("without " + std::string(without.name));
    const std::string disabled[] = {std::string(without.name)};
    expect_close(run(compile(g, context, disabled), options), expected, 1e-5);
  }
}

TEST(PassesEquality, WritingAttentionOutKeepsItsNumbersAndGradients) {
  // `lower` for a machine without kernels for attention, norms and losses.
  const Graph g = attention_as_op(true, 2);
  PassContext context;
  context.has_kernel = [](const Op& op) { return !op.decompose; };
  const Options options{.sizes = {{"B", 2}, {"T", 10}}};
  const Graph differentiated = differentiate(g, with_gradients());
  for (auto& pass : pipeline()) {
    if (pass.name != "lower") continue;
    const Graph simple = pass.run(differentiated, context);
    EXPECT_EQ(count_ops(simple, "attention") + count_ops(simple, "linear"), 0);
    expect_close(run(simple, options), run(compile_with(differentiated, {}), options), 1e-5);
  }
}

TEST(PassesEquality, ALevelIsTheGraphThatWasBuiltThatWay) {
  Level level{"two heads", {{"attn", {{"heads_kept", "2"}}}}};
  PassContext context = with_gradients();
  context.level = &level;
  const Options options{.sizes = {{"B", 2}, {"T", 8}}};
  const auto lowered = run(compile(attention_as_op(true), context), options);
  const auto built = run(compile(attention_as_op(true, 2), with_gradients()), options);
  const auto full = run(compile(attention_as_op(true), with_gradients()), options);
  expect_same_bits(lowered, built);
  EXPECT_FALSE(lowered.outputs.at("y").bytes == full.outputs.at("y").bytes);
}

TEST(PassesEquality, HeadsThatALevelDropsGiveZeros) {
  Graph g = attention_as_op(false);
  g.set_output("heads", {g.find("attn"), 0});
  Level level{"one head", {{"attn", {{"heads_kept", "1"}}}}};
  PassContext context;
  context.level = &level;
  const Options options{.sizes = {{"B", 2}, {"T", 8}}};
  const auto few = equality::numbers(run(compile(g, context), options).outputs.at("heads"));
  const auto all = equality::numbers(run(compile(g), options).outputs.at("heads"));
  for (size_t i = 0; i < all.size(); ++i) {
    const bool kept = i % static_cast<size_t>(kWidth) < static_cast<size_t>(kHeadSize);
    EXPECT_EQ(few[i], kept ? all[i] : 0) << i;
  }
}

TEST(PassesEquality, ThreadsChangeNoBitOfATrainingStep) {
  const Graph g = compile(small_transformer(), with_gradients());
  const auto one = run(g, {.sizes = {{"B", 33}}});
  for (int threads : {2, 3, 4}) {
    SCOPED_TRACE(threads);
    expect_same_bits(run(g, {.sizes = {{"B", 33}}, .threads = threads}), one);
  }
}

}  // namespace

}  // namespace fovea

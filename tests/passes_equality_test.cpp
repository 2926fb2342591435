// Graphs before and after the passes give the same numbers: each pass alone, and all of them.
#include <gtest/gtest.h>

#include <cmath>

#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"
#include "fovea/passes/differentiate.h"
#include "fovea/passes/fuse_cross_entropy.h"
#include "fovea/passes/memory_plan.h"
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

// ---- The passes that fuse, cut, round and compute again, each against the graph without it.

Graph without(const Graph& g, const std::string& pass, const PassContext& context) {
  const std::string disabled[] = {pass};
  return compile(g, context, disabled);
}

int count_fused(const Graph& g, Activation activation) {
  int count = 0;
  for (int id = 0; id < g.size(); ++id) {
    const Attrs& attrs = g.node(id).attrs;
    if (attrs.holds<LinearAttrs>()) count += attrs.get<LinearAttrs>().activation == activation;
    if (attrs.holds<LinearGradInputAttrs>())
      count += attrs.get<LinearGradInputAttrs>().activation == activation;
  }
  return count;
}

TEST(PassesEquality, FusedProductsKeepNumbersAndGradients) {
  for (const std::string activation : {"relu", "silu", "gelu"}) {
    SCOPED_TRACE(activation);
    Graph g;
    const Value x = ops::input(g, "x", DType::f32, {Size::symbol("B"), 7, 10});
    const Value n = ops::layer_norm(g, "norm", x);
    const Value h = ops::unary(g, activation, ops::linear(g, "up", n, 13));
    const Value y = ops::add(g, x, ops::linear(g, "down", h, 10, false));
    g.set_output("y", y);
    g.set_output("loss", mean_square(g, ops::linear(g, "out", y, 3)));
    const auto context = with_gradients();
    const Graph plain = compile_with(g, {"differentiate"}, context);
    const Graph fused =
        compile_with(g, {"fuse_linear", "differentiate", "fuse_gradients"}, context);
    const auto kind = activation == "relu"   ? Activation::relu
                      : activation == "silu" ? Activation::silu
                                             : Activation::gelu;
    EXPECT_EQ(count_fused(plain, kind), 0);
    EXPECT_EQ(count_fused(fused, kind), 2);  // one forward, one backward
    EXPECT_EQ(count_ops(fused, activation) + count_ops(fused, activation + "_grad"), 0);
    EXPECT_LT(count_ops(fused, "add"), count_ops(plain, "add"));
    const Options options{.sizes = {{"B", 11}}};
    const auto expected = run(plain, options);
    expect_close(run(fused, options), expected, 1e-5);
    expect_close(run(compile(g, context), options), expected, 1e-5);
  }
}

TEST(PassesEquality, JoinedProjectionsKeepNumbersAndGradients) {
  for (bool causal : {false, true}) {
    const Graph g = attention_as_op(causal);
    const auto context = with_gradients();
    const Graph plain = compile_with(g, {"differentiate"}, context);
    const Graph joined = compile_with(g, {"join_projections", "differentiate"}, context);
    EXPECT_EQ(count_ops(plain, "linear"), 4);
    EXPECT_EQ(count_ops(joined, "linear"), 2);
    EXPECT_EQ(count_ops(joined, "linear_grad_weight"), 2);
    const Options options{.sizes = {{"B", 3}, {"T", 13}}};
    expect_close(run(joined, options), run(plain, options), 1e-5);
  }
}

TEST(PassesEquality, NarrowedHeadsKeepNumbersAndGradients) {
  for (int64_t kept : {1, 2}) {
    const Graph g = attention_as_op(true, kept);
    const auto context = with_gradients();
    const Graph plain = compile_with(g, {"differentiate"}, context);
    const Graph narrow = compile_with(g, {"narrow_heads", "differentiate"}, context);
    EXPECT_EQ(count_ops(plain, "slice"), 0);
    EXPECT_GT(count_ops(narrow, "slice"), 0);
    const Options options{.sizes = {{"B", 2}, {"T", 9}}};
    const auto expected = run(plain, options);
    expect_close(run(narrow, options), expected, 1e-5);
    expect_close(run(compile(g, context), options), expected, 1e-5);
    EXPECT_LT(graph_cost(specialise(narrow, options.sizes)).flops.constant(),
              graph_cost(specialise(plain, options.sizes)).flops.constant());
  }
}

// Dropout keeps the sums out of the products, so that the norms can have them.
Graph dropped_blocks(int blocks, bool rms) {
  Graph g;
  Value x = ops::input(g, "x", DType::f32, {Size::symbol("B"), 5, 12});
  const Value rng = ops::input(g, "rng", DType::i32, {3});
  for (int i = 0; i < blocks; ++i) {
    const Graph::Scope scope(g, "block" + std::to_string(i));
    const Value gain = ops::weight(g, "gain", {12}, 0.5);
    const Value n = rms ? ops::rms_norm(g, x, gain) : ops::layer_norm(g, "norm", x);
    const Value h = ops::gelu(g, ops::linear(g, "up", n, 24));
    x = ops::add(g, x, ops::dropout(g, ops::linear(g, "down", h, 12), rng, 0.2, "drop"));
  }
  g.set_output("y", x);
  g.set_output("loss", mean_square(g, ops::linear(g, "out", x, 3)));
  return g;
}

TEST(PassesEquality, NormsWithTheirSumsKeepNumbersAndGradients) {
  for (bool rms : {false, true}) {
    const Graph g = dropped_blocks(3, rms);
    const auto context = with_gradients();
    const Graph plain = without(g, "fuse_norm", context), fused = compile(g, context);
    EXPECT_EQ(count_ops(fused, "add"), count_ops(plain, "add") - 2);
    const Options options{.sizes = {{"B", 6}}};
    expect_close(run(fused, options), run(plain, options), 1e-5);
    expect_close(run(fused, options), run(compile_with(g, {"differentiate"}, context), options),
                 1e-5);
  }
}

TEST(PassesEquality, ChainsInOneNodeKeepNumbersAndGradients) {
  const Graph g = small_transformer();
  const auto context = with_gradients();
  const Graph plain = without(g, "fuse_elementwise", context), fused = compile(g, context);
  EXPECT_EQ(count_ops(plain, "elementwise"), 0);
  EXPECT_GE(count_ops(fused, "elementwise"), 2);
  EXPECT_LT(fused.size(), plain.size());
  const Options options{.sizes = {{"B", 5}}};
  expect_close(run(fused, options), run(plain, options), 1e-5);
}

// Labels from -1 to 2, so that some rows have none.
Graph loss_by_hand(bool selected, bool logarithm) {
  Graph g;
  const Size b = Size::symbol("B");
  const Value x = ops::input(g, "x", DType::f32, {b, 6});
  const Value logits = ops::linear(g, "head", x, 4);
  const Value labels =
      ops::sub(g, ops::input(g, "labels", DType::i32, {b}), ops::constant(g, 1, DType::i32));
  const Value log_p =
      logarithm ? ops::unary(g, "log", ops::softmax(g, logits)) : ops::log_softmax(g, logits);
  const Value hit =
      ops::binary(g, "equal", ops::iota(g, DType::i32, {4}, 0), ops::reshape(g, labels, {b, 1}));
  const Value chosen = selected ? ops::select(g, hit, log_p, ops::constant(g, 0))
                                : ops::mul(g, log_p, ops::cast(g, hit, DType::f32));
  const Value losses = ops::unary(g, "neg", ops::reduce_sum(g, chosen, {-1}));
  g.set_output("losses", losses);
  g.set_output("loss", ops::reduce_mean(g, losses, {0}));
  return g;
}

TEST(PassesEquality, ALossByHandIsFusedAndKeepsNumbersAndGradients) {
  for (bool selected : {false, true})
    for (bool logarithm : {false, true}) {
      const Graph g = loss_by_hand(selected, logarithm);
      Graph fused = fuse_cross_entropy(g, {});
      EXPECT_EQ(count_ops(fused, "cross_entropy"), 1);
      EXPECT_EQ(count_ops(fused, "log_softmax") + count_ops(fused, "softmax"), 0);
      const auto context = with_gradients();
      const Options options{.sizes = {{"B", 40}}};
      const auto expected = run(compile_with(g, {"differentiate"}, context), options);
      expect_close(run(compile_with(fused, {"differentiate"}, context), options), expected, 1e-5);
      expect_close(run(compile(g, context), options), expected, 1e-5);
    }
}

// The variables of a run as `freeze` wants them.
PassContext frozen(const Graph& g, const equality::Result& result) {
  std::map<std::string, HostTensorPtr> weights;
  for (auto& [name, bytes] : result.variables) {
    auto tensor = std::make_shared<HostTensor>();
    const ValueType& type = g.type({g.find(name), 0});
    tensor->dtype = type.dtype;
    for (const Size& n : type.shape) tensor->shape.push_back(n.constant());
    tensor->bytes = bytes;
    weights[name] = std::move(tensor);
  }
  PassContext context;
  context.weights = [weights](const std::string& name) -> HostTensorPtr {
    const auto it = weights.find(name);
    return it == weights.end() ? nullptr : it->second;
  };
  return context;
}

TEST(PassesEquality, FrozenWeightsKeepTheNumbers) {
  const Graph g = small_transformer();
  for (bool bf16 : {false, true}) {
    const Options options{.sizes = {{"B", 5}}};
    PassContext context;
    context.bf16 = bf16;
    auto expected = run(compile(g, context), options);
    PassContext cold = frozen(g, run(compile_with(g, {}), options));
    cold.bf16 = bf16;
    const Graph constant = compile(g, cold);
    EXPECT_EQ(count_ops(constant, "variable"), 0);
    // The weights are joined and rounded once, not at each run.
    EXPECT_EQ(count_ops(constant, "concat"), 0);
    expected.variables.clear();
    expect_close(run(constant, options), expected, 1e-5);
  }
}

// The distance of the outputs as a share of their norm.
double distance(const equality::Result& got, const equality::Result& expected,
                const std::string& name) {
  const auto g = equality::numbers(got.outputs.at(name)),
             e = equality::numbers(expected.outputs.at(name));
  double off = 0, norm = 0;
  for (size_t i = 0; i < e.size(); ++i) {
    EXPECT_TRUE(std::isfinite(g[i])) << name << " at " << i;
    off += (g[i] - e[i]) * (g[i] - e[i]);
    norm += e[i] * e[i];
  }
  return std::sqrt(off / std::max(norm, 1e-20));
}

TEST(PassesEquality, Bf16KeepsNumbersAndGradientsWithinAFewPercent) {
  const std::pair<Graph, Options> all[] = {
      {dropped_blocks(3, false), {.sizes = {{"B", 40}}}},
      {dropped_blocks(3, true), {.sizes = {{"B", 40}}}},
      {attention_as_op(true), {.sizes = {{"B", 9}, {"T", 17}}}},
      {small_transformer(), {.sizes = {{"B", 16}}}},
  };
  for (auto& [g, options] : all) {
    auto context = with_gradients();
    const auto expected = run(compile(g, context), options);
    context.bf16 = true;
    const Graph mixed = compile(g, context);
    EXPECT_GT(count_ops(mixed, "cast"), 0);
    const auto got = run(mixed, options);
    for (auto& [name, tensor] : expected.outputs)
      EXPECT_LT(distance(got, expected, name), 0.04) << name;
    // It is not f32 by another name.
    EXPECT_GT(distance(got, expected, "loss"), 0);
    expect_same_bits(run(mixed, {.sizes = options.sizes, .threads = 3}), got);
  }
}

TEST(PassesEquality, OneProductInBf16IsOneCastOfItsWeight) {
  Level level{"narrow", {{"up", {{"compute", "bf16"}}}}};
  Graph g;
  const Value x = ops::input(g, "x", DType::f32, {Size::symbol("B"), 16});
  g.set_output("y", ops::linear(g, "down", ops::gelu(g, ops::linear(g, "up", x, 32)), 8));
  const Options options{.sizes = {{"B", 30}}};
  const auto expected = run(compile(g), options);
  PassContext context;
  context.level = &level;
  const Graph mixed = compile(g, context);
  EXPECT_EQ(count_ops(mixed, "cast"), 1);
  const auto got = run(mixed, options);
  EXPECT_LT(distance(got, expected, "y"), 0.02);
  EXPECT_GT(distance(got, expected, "y"), 0);
}

size_t arena_of(const Graph& g, const SizeBindings& sizes) {
  return plan_memory(specialise(g, sizes)).arena_bytes;
}

TEST(PassesEquality, RecomputingChangesNoBit) {
  for (bool bf16 : {false, true})
    for (int which : {0, 1}) {
      const Graph g = which ? small_transformer() : dropped_blocks(4, false);
      const Options options{.sizes = {{"B", 200}}, .threads = 2};
      auto context = with_gradients();
      context.bf16 = bf16;
      context.sizes = options.sizes;
      const Graph plain = compile(g, context);
      const size_t all = arena_of(plain, options.sizes);
      context.memory_bytes = all * 75 / 100;
      const Graph lean = compile(g, context);
      EXPECT_GT(lean.size(), plain.size());
      EXPECT_LE(arena_of(lean, options.sizes), context.memory_bytes);
      expect_same_bits(run(lean, options), run(plain, options));
    }
}

TEST(PassesEquality, RecomputingChangesNoBitOfThreeStepsOfTraining) {
  const Graph g = dropped_blocks(4, true);
  const Options options{.sizes = {{"B", 200}}, .steps = 3};
  auto context = with_gradients();
  context.sizes = options.sizes;
  context.optimiser = [](const Graph& differentiated) {
    Graph step = differentiated;
    const Value rate = ops::constant(step, 0.1), factor = ops::constant(step, 1);
    for (auto& [name, gradient] : differentiated.outputs()) {
      if (!name.starts_with(kGradientPrefix)) continue;
      const Value weight{step.find(name.substr(kGradientPrefix.size())), 0};
      const Value momentum =
          ops::variable(step, "momentum." + step.node(weight).name,
                        {.type = step.type(weight), .kind = VariableKind::state, .source = {}});
      const Value now =
          step.add("sgd", {weight, gradient, momentum, rate, factor}, SgdAttrs{0.9, 0});
      step.update(weight, now);
      step.update(momentum, {now.node, 1});
      step.remove_output(name);
    }
    return step;
  };
  const Graph plain = compile(g, context);
  context.memory_bytes = arena_of(plain, options.sizes) * 65 / 100;
  const Graph lean = compile(g, context);
  EXPECT_GT(lean.size(), plain.size());
  const auto expected = run(plain, options);
  EXPECT_GE(expected.variables.size(), 2u * 4u * 5u);
  expect_same_bits(run(lean, options), expected);
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

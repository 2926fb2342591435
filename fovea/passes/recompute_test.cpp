#include "fovea/passes/recompute.h"

#include "fovea/graph/ops.h"
#include "fovea/passes/dead_nodes.h"
#include "fovea/passes/differentiate.h"
#include "fovea/passes/memory_plan.h"
#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

PassContext with(size_t memory_bytes, int64_t batch = 64) {
  PassContext context;
  context.differentiate_output = "loss";
  context.memory_bytes = memory_bytes;
  context.sizes = {{"B", batch}};
  return context;
}

size_t arena(const Graph& graph, int64_t batch = 64) {
  return plan_memory(specialise(graph, {{"B", batch}})).arena_bytes;
}

// f32[B,64] is 16 kB. exp is read by the tanh and, late, by the last product.
const std::string kStep = R"(x = input(type=f32[B,64])
a = exp(%x) : f32[B,64]
b = tanh(%a) : f32[B,64]
c = sin(%b) : f32[B,64]
d = cos(%c) : f32[B,64]
loss = reduce_mean(%d, axes=[0,1]) : f32[]
e = sub(%c, %d) : f32[B,64]
f = mul(%e, %b) : f32[B,64]
y = mul(%f, %a) : f32[B,64]
s = reduce_sum(%y, axes=[0]) : f32[64]
output loss = %loss
output s = %s
)";

TEST(Recompute, WhatIsReadLateIsComputedAgainWhereItIsRead) {
  const Graph before = graph_of(kStep);
  const Graph after = recompute(before, with(arena(before) - 1));
  verify(after);
  EXPECT_LT(arena(after), arena(before));
  expect_graph(after, R"(x = input(type=f32[B,64])
a = exp(%x) : f32[B,64]
b = tanh(%a) : f32[B,64]
c = sin(%b) : f32[B,64]
d = cos(%c) : f32[B,64]
loss = reduce_mean(%d, axes=[0,1]) : f32[]
e = sub(%c, %d) : f32[B,64]
f = mul(%e, %b) : f32[B,64]
a.again = exp(%x) : f32[B,64]
y = mul(%f, %a.again) : f32[B,64]
s = reduce_sum(%y, axes=[0]) : f32[64]
output loss = %loss
output s = %s
)");
}

TEST(Recompute, NothingIsDoneWithoutABudgetOrALossOrWhereAllFits) {
  const Graph graph = graph_of(kStep);
  expect_graph(recompute(graph, with(0)), kStep);
  expect_graph(recompute(graph, with(arena(graph))), kStep);
  PassContext inference = with(1);
  inference.differentiate_output.clear();
  expect_graph(recompute(graph, inference), kStep);
}

TEST(Recompute, ABudgetThatCannotBeMetIsAnErrorWithWhatCould) {
  const std::string message = error_of([] { recompute(graph_of(kStep), with(1000)); });
  EXPECT_NE(message.find("[recompute] a step needs at least 0.0"), std::string::npos) << message;
  EXPECT_NE(message.find("MB, the budget is 0.001 MB (a smaller train.batch"), std::string::npos)
      << message;
}

TEST(Recompute, ASizeThatIsNotGivenIsAnError) {
  PassContext context = with(1000);
  context.sizes.clear();
  EXPECT_NE(error_of([&] { recompute(graph_of(kStep), context); }).find("B"), std::string::npos);
}

// Layers with norms, dropout and a residual, and their gradients.
Graph training_step(int layers) {
  Graph g;
  const Size b = Size::symbol("B");
  Value x = ops::linear(g, "embed", ops::input(g, "x", DType::f32, {b, 64}), 64);
  const Value rng = ops::input(g, "rng", DType::i32, {3});
  for (int i = 0; i < layers; ++i) {
    const Graph::Scope scope(g, "layer" + std::to_string(i));
    Value h = ops::layer_norm(g, "norm", x);
    h = ops::gelu(g, ops::linear(g, "up", h, 128));
    h = ops::dropout(g, ops::linear(g, "down", h, 64), rng, 0.1, "drop");
    x = ops::add(g, x, h);
  }
  g.set_output("y", x);
  g.set_output("loss", ops::reduce_mean(g, ops::unary(g, "square", x), {0, 1}));
  return dead_nodes(differentiate(g, with(0)), {});
}

int clones(const Graph& graph) {
  int count = 0;
  for (int id = 0; id < graph.size(); ++id) count += graph.node(id).name.ends_with(".again");
  return count;
}

TEST(Recompute, ATrainingStepFitsIntoLess) {
  const Graph step = training_step(6);
  // So many rows that the gradients of the weights, which are outputs, weigh little.
  constexpr int64_t kRows = 2000;
  const size_t all = arena(step, kRows);
  int fewer = 0;
  for (const size_t percent : {90, 70, 50}) {
    const Graph lean = recompute(step, with(all * percent / 100, kRows));
    verify(lean);
    EXPECT_LE(arena(lean, kRows), all * percent / 100);
    EXPECT_GT(clones(lean), fewer);
    fewer = clones(lean);
    // The clones are all that is new.
    EXPECT_EQ(lean.size(), step.size() + clones(lean));
    EXPECT_EQ(lean.outputs().size(), step.outputs().size());
  }
}

TEST(Recompute, TheForwardPartReadsNoClone) {
  const Graph step = training_step(4);
  const Graph lean = recompute(step, with(arena(step, 2000) * 7 / 10, 2000));
  const int loss = lean.output("loss").node;
  ASSERT_GT(clones(lean), 0);
  for (int id = 0; id < lean.size(); ++id) {
    const Node& n = lean.node(id);
    EXPECT_TRUE(id > loss || !n.name.ends_with(".again")) << n.name;
    // Outputs of the graph are kept anyway.
    EXPECT_NE(n.name, lean.node(lean.output("y")).name + ".again");
  }
}

TEST(Recompute, ClonesDrawTheSameRandomNumbers) {
  for (const std::string own : {"", ", stream=\"own\""}) {
    std::string step = kStep;
    step.replace(step.find("exp(%x)"), 7, "dropout(%x, %rng" + own + ")");
    step.replace(step.find("tanh(%a)"), 8, "mul(%a, %x)");
    const Graph graph = graph_of("rng = input(type=i32[3])\n" + step);
    const Graph lean = recompute(graph, with(arena(graph) - 1));
    ASSERT_GE(lean.find("a.again"), 0);
    const Node& again = lean.node(lean.find("a.again"));
    EXPECT_EQ(again.attrs.get<DropoutAttrs>().stream, own.empty() ? "a" : "own");
    EXPECT_EQ(again.inputs, lean.node(lean.find("a")).inputs);
  }
}

TEST(Recompute, ViewsOfWhatIsNotKeptAreMadeAgain) {
  const std::string step = R"(x = input(type=f32[B,64])
a = exp(%x) : f32[B,64]
v = reshape(%a, shape=[64,B]) : f32[64,B]
b = tanh(%a) : f32[B,64]
c = sin(%b) : f32[B,64]
d = cos(%c) : f32[B,64]
loss = reduce_mean(%d, axes=[0,1]) : f32[]
e = sub(%c, %d) : f32[B,64]
f = mul(%e, %b) : f32[B,64]
w = reshape(%f, shape=[64,B]) : f32[64,B]
y = mul(%w, %v) : f32[64,B]
s = reduce_sum(%y, axes=[0]) : f32[B]
output loss = %loss
output s = %s
)";
  const Graph graph = graph_of(step);
  const Graph lean = recompute(graph, with(arena(graph) - 1));
  verify(lean);
  ASSERT_GE(lean.find("a.again"), 0);
  ASSERT_GE(lean.find("v.again"), 0);
  EXPECT_EQ(lean.node(lean.find("v.again")).inputs[0].node, lean.find("a.again"));
  EXPECT_EQ(lean.node(lean.find("y")).inputs[1].node, lean.find("v.again"));
}

TEST(Recompute, OutputsUpdatesAndSmallValuesAreKept) {
  const auto unmet = [](const std::string& lines) {
    const Graph graph = graph_of(lines);
    return error_of([&] { recompute(graph, with(arena(graph) - 1)); });
  };
  // a is an output, b and c are read where they are anyway.
  EXPECT_NE(unmet(R"(x = input(type=f32[B,64])
a = exp(%x) : f32[B,64]
loss = reduce_mean(%a, axes=[0,1]) : f32[]
y = mul(%a, %x) : f32[B,64]
output loss = %loss
output a = %a
output y = %y
)")
                .find("[recompute]"),
            std::string::npos);
  EXPECT_NE(unmet(R"(x = input(type=f32[B,8])
a = exp(%x) : f32[B,8]
b = tanh(%a) : f32[B,8]
c = sin(%b) : f32[B,8]
loss = reduce_mean(%c, axes=[0,1]) : f32[]
y = mul(%c, %b) : f32[B,8]
z = mul(%y, %a) : f32[B,8]
s = reduce_sum(%z, axes=[0]) : f32[8]
output loss = %loss
output s = %s
)")
                .find("[recompute]"),
            std::string::npos);
}

TEST(Recompute, NamesThatComeLaterStayTheirs) {
  std::string lines = kStep;
  lines.insert(lines.find("y = "), "a.again = neg(%f) : f32[B,64]\n");
  lines += "output more = %a.again\n";
  const Graph graph = graph_of(lines);
  const Graph lean = recompute(graph, with(arena(graph) - 1));
  EXPECT_EQ(lean.node(lean.find("a.again")).op->name, "neg");
  EXPECT_EQ(lean.node(lean.find("a.again_2")).op->name, "exp");
}

}  // namespace
}  // namespace fovea

#include "fovea/passes/pipeline.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

const char* const kGraph = R"(x = input(type=f32[4])
a = exp(%x) : f32[4]
b = exp(%x) : f32[4]
c = add(%a, %b) : f32[4]
unused = neg(%x) : f32[4]
output y = %c
)";

TEST(Pipeline, RunsAllPassesInOrderAndReportsThem) {
  std::vector<PassReport> reports;
  const Graph g = run_passes(graph_of(kGraph), {}, {}, &reports);
  expect_graph(g, R"(x = input(type=f32[4])
c = elementwise(%x, steps=["exp 0","add 1 1"]) : f32[4]
output y = %c
)");
  ASSERT_EQ(reports.size(), pipeline().size());
  for (size_t i = 0; i < reports.size(); ++i) EXPECT_EQ(reports[i].name, pipeline()[i].name);
  EXPECT_EQ(reports.front().name, "apply_level");
  EXPECT_EQ(reports.back().nodes_after, g.size());
}

TEST(Pipeline, APassCanBeSwitchedOffByName) {
  const std::string off[] = {"common_subexpressions", "fuse_elementwise"};
  std::vector<PassReport> reports;
  const Graph g = run_passes(graph_of(kGraph), {}, off, &reports);
  expect_graph(g, R"(x = input(type=f32[4])
a = exp(%x) : f32[4]
b = exp(%x) : f32[4]
c = add(%a, %b) : f32[4]
output y = %c
)");
  for (const PassReport& report : reports)
    EXPECT_EQ(report.disabled, std::find(off, off + 2, report.name) != off + 2) << report.name;
}

TEST(Pipeline, AnUnknownPassIsAnErrorWithTheNearestName) {
  const std::string off[] = {"dead_node"};
  EXPECT_NE(
      error_of([&] { run_passes(graph_of(kGraph), {}, off); }).find("did you mean 'dead_nodes'"),
      std::string::npos);
}

// Each pass does its part where the one before it has made room: a block of a model to train.
TEST(Pipeline, ABlockIsJoinedFusedAndRounded) {
  PassContext context;
  context.differentiate_output = "loss";
  context.bf16 = true;
  const Graph g = run_passes(graph_of(R"(x = input(type=f32[B,T,8])
ws = variable(type=f32[8,8])
s = linear(%x, %ws) : f32[B,T,8]
w1 = variable(type=f32[8])
n = rms_norm(%s, %w1) : f32[B,T,8]
wq = variable(type=f32[8,8])
q = linear(%n, %wq) : f32[B,T,8]
k = linear(%n, %wq) : f32[B,T,8]
v = linear(%n, %wq) : f32[B,T,8]
a = attention(%q, %k, %v, heads=2) : f32[B,T,8]
o = linear(%a, %wq) : f32[B,T,8]
r = add(%s, %o) : f32[B,T,8]
h = gelu(%r) : f32[B,T,8]
p = square(%h) : f32[B,T,8]
loss = reduce_mean(%p, axes=[0,1,2]) : f32[]
output loss = %loss
)"),
                             context);
  const auto count = [&](std::string_view op) {
    int n = 0;
    for (int id = 0; id < g.size(); ++id) n += g.node(id).op->name == op;
    return n;
  };
  EXPECT_EQ(count("linear"), 3) << print_graph(g);
  EXPECT_EQ(count("linear_grad_input"), 2);
  EXPECT_EQ(count("attention_grad"), 1);
  EXPECT_TRUE(g.node(g.find("r")).attrs.get<LinearAttrs>().residual);
  EXPECT_EQ(g.type({g.find("n"), 0}).dtype, DType::bf16);
}

}  // namespace
}  // namespace fovea

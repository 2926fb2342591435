#include "fovea/passes/differentiate.h"

#include <gtest/gtest.h>

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

PassContext of(std::string output) {
  PassContext c;
  c.differentiate_output = std::move(output);
  return c;
}

TEST(Differentiate, AddsOneOutputForEachWeight) {
  const Graph g = graph_of(R"(x = input(type=f32[4])
w = variable(type=f32[4])
m = mul(%x, %w) : f32[4]
loss = reduce_sum(%m, axes=[0]) : f32[]
output loss = %loss
)");
  expect_graph(differentiate(g, of("loss")), R"(x = input(type=f32[4])
w = variable(type=f32[4])
m = mul(%x, %w) : f32[4]
loss = reduce_sum(%m, axes=[0]) : f32[]
grad.constant = constant(type=f32[], values=[1])
grad.loss.reshape = reshape(%grad.constant, shape=[1]) : f32[1]
grad.loss.broadcast = broadcast(%grad.loss.reshape, shape=[4]) : f32[4]
grad.m.mul = mul(%grad.loss.broadcast, %w) : f32[4]
grad.m.mul_2 = mul(%grad.loss.broadcast, %x) : f32[4]
output loss = %loss
output grad.w = %grad.m.mul_2
)");
}

TEST(Differentiate, AsksForWhatTheGradientReads) {
  const Graph g = graph_of(R"(q = variable(type=f32[2,3,8])
a = attention(%q, %q, %q, heads=2) : f32[2,3,8]
loss = reduce_sum(%a, axes=[0,1,2]) : f32[]
output loss = %loss
)");
  const Graph d = differentiate(g, of("loss"));
  EXPECT_EQ(d.node(d.find("a")).types.size(), 2u);  // the log-sum-exp as well
  EXPECT_TRUE(d.has_output("grad.q"));
}

TEST(Differentiate, LeavesStatesAndOtherOutputsAlone) {
  const Graph g = graph_of(R"(s = variable(type=f32[], kind=state)
w = variable(type=f32[])
loss = mul(%s, %w) : f32[]
output loss = %loss
)");
  const Graph d = differentiate(g, of("loss"));
  EXPECT_TRUE(d.has_output("grad.w"));
  EXPECT_FALSE(d.has_output("grad.s"));
  EXPECT_TRUE(differentiate(g, of("")) == g);
}

TEST(Differentiate, WhatIsNoScalarIsAnError) {
  const Graph g = graph_of(R"(w = variable(type=f32[4])
y = exp(%w) : f32[4]
output y = %y
)");
  EXPECT_NE(error_of([&] { differentiate(g, of("y")); }).find("expected a scalar"),
            std::string::npos);
  EXPECT_NE(error_of([&] { differentiate(g, of("z")); }).find("no output 'z'"), std::string::npos);
}

}  // namespace
}  // namespace fovea

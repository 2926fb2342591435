#include "fovea/passes/fuse_elementwise.h"

#include "fovea/graph/ops.h"
#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

void expect_fused(const std::string& before, const std::string& after) {
  const Graph graph = graph_of(before);
  expect_graph(fuse_elementwise(graph, {}), after);
  expect_graph(graph, before);
}
void expect_unchanged(const std::string& lines) { expect_fused(lines, lines); }

TEST(FuseElementwise, AChainBecomesOneNode) {
  expect_fused(R"(x = input(type=f32[B,4])
c = input(type=f32[4])
a = exp(%x) : f32[B,4]
b = mul(%a, %c) : f32[B,4]
y = add(%b, %a) : f32[B,4]
output y = %y
)",
               R"(x = input(type=f32[B,4])
c = input(type=f32[4])
y = elementwise(%c, %x, steps=["exp 1","mul 2 0","add 3 2"]) : f32[B,4]
output y = %y
)");
}

TEST(FuseElementwise, BoolsStayInside) {
  expect_fused(R"(x = input(type=f32[B,4])
z = constant(type=f32[], values=[0])
m = greater(%x, %z) : bool[B,4]
n = is_finite(%x) : bool[B,4]
mn = logical_and(%m, %n) : bool[B,4]
y = select(%mn, %x, %z) : f32[B,4]
output y = %y
)",
               R"(x = input(type=f32[B,4])
z = constant(type=f32[], values=[0])
y = elementwise(%z, %x, steps=["greater 1 0","is_finite 1","logical_and 2 3","select 4 1 0"]) : f32[B,4]
output y = %y
)");
}

TEST(FuseElementwise, CastsAtBothEndsAndBroadcastsGoWithIt) {
  expect_fused(R"(x = input(type=u8[B,4])
c = input(type=bf16[4])
s = input(type=f32[])
f = cast(%x, dtype=f32) : f32[B,4]
g = cast(%c, dtype=f32) : f32[4]
t = broadcast(%s, shape=[B,4]) : f32[B,4]
a = sub(%f, %g) : f32[B,4]
b = mul(%a, %t) : f32[B,4]
y = cast(%b, dtype=bf16) : bf16[B,4]
output y = %y
)",
               R"(x = input(type=u8[B,4])
c = input(type=bf16[4])
s = input(type=f32[])
y = elementwise(%s, %c, %x, steps=["sub 2 1","mul 3 0"], out=bf16) : bf16[B,4]
output y = %y
)");
}

TEST(FuseElementwise, AStepWithACastIsEnough) {
  expect_fused(R"(x = input(type=i32[5])
s = constant(type=f32[], values=[2])
f = cast(%x, dtype=f32) : f32[5]
y = mul(%f, %s) : f32[5]
output y = %y
)",
               R"(x = input(type=i32[5])
s = constant(type=f32[], values=[2])
y = elementwise(%x, %s, steps=["mul 0 1"]) : f32[5]
output y = %y
)");
}

TEST(FuseElementwise, ScalarsAreChainsToo) {
  expect_fused(R"(x = input(type=f32[])
a = sqrt(%x) : f32[]
y = reciprocal(%a) : f32[]
output y = %y
)",
               R"(x = input(type=f32[])
y = elementwise(%x, steps=["sqrt 0","reciprocal 1"]) : f32[]
output y = %y
)");
}

TEST(FuseElementwise, WhatIsReadElsewhereIsComputedOnce) {
  expect_fused(R"(x = input(type=f32[4])
a = exp(%x) : f32[4]
b = tanh(%a) : f32[4]
c = neg(%b) : f32[4]
d = abs(%c) : f32[4]
e = sin(%b) : f32[4]
f = cos(%e) : f32[4]
output d = %d
output f = %f
)",
               R"(x = input(type=f32[4])
b = elementwise(%x, steps=["exp 0","tanh 1"]) : f32[4]
d = elementwise(%b, steps=["neg 0","abs 1"]) : f32[4]
f = elementwise(%b, steps=["sin 0","cos 1"]) : f32[4]
output d = %d
output f = %f
)");
  expect_unchanged(R"(x = input(type=f32[4])
a = exp(%x) : f32[4]
y = neg(%a) : f32[4]
output y = %y
output a = %a
)");
  expect_unchanged(R"(x = variable(type=f32[4], kind=state)
a = exp(%x) : f32[4]
y = neg(%a) : f32[4]
output y = %y
update %x = %a
)");
}

TEST(FuseElementwise, AReaderBetweenTwoOfTheChainEndsIt) {
  // The sum stands between a and y.
  expect_unchanged(R"(x = input(type=f32[4])
a = exp(%x) : f32[4]
s = reduce_sum(%a, axes=[0]) : f32[]
y = div(%a, %s) : f32[4]
output y = %y
)");
}

TEST(FuseElementwise, SmallerShapesAreComputedOnTheirOwn) {
  expect_fused(R"(x = input(type=f32[B,4])
c = input(type=f32[4])
d = exp(%c) : f32[4]
e = neg(%d) : f32[4]
a = mul(%x, %e) : f32[B,4]
y = tanh(%a) : f32[B,4]
output y = %y
)",
               R"(x = input(type=f32[B,4])
c = input(type=f32[4])
e = elementwise(%c, steps=["exp 0","neg 1"]) : f32[4]
y = elementwise(%e, %x, steps=["mul 1 0","tanh 2"]) : f32[B,4]
output y = %y
)");
}

TEST(FuseElementwise, ABroadcastIsLeftWhereNothingElseGivesTheShape) {
  expect_unchanged(R"(c = input(type=f32[4])
b = broadcast(%c, shape=[3,4]) : f32[3,4]
a = exp(%b) : f32[3,4]
y = neg(%a) : f32[3,4]
output y = %y
)");
}

TEST(FuseElementwise, ABroadcastToTheSameShapeIsOneInput) {
  expect_fused(R"(x = input(type=f32[4])
a = exp(%x) : f32[4]
b = broadcast(%a, shape=[4]) : f32[4]
y = mul(%b, %a) : f32[4]
output y = %y
)",
               R"(x = input(type=f32[4])
a = exp(%x) : f32[4]
y = elementwise(%a, steps=["mul 0 0"]) : f32[4]
output y = %y
)");
}

TEST(FuseElementwise, ABoolAsNumbersIsCastBefore) {
  expect_fused(R"(x = input(type=f32[4])
m = input(type=bool[4])
f = cast(%m, dtype=f32) : f32[4]
a = mul(%x, %f) : f32[4]
y = neg(%a) : f32[4]
output y = %y
)",
               R"(x = input(type=f32[4])
m = input(type=bool[4])
f = cast(%m, dtype=f32) : f32[4]
y = elementwise(%f, %x, steps=["mul 1 0","neg 2"]) : f32[4]
output y = %y
)");
}

TEST(FuseElementwise, LeavesOtherTypes) {
  for (const std::string type : {"f64", "bf16"})
    expect_unchanged("x = input(type=" + type + "[4])\na = exp(%x) : " + type +
                     "[4]\ny = neg(%a) : " + type + "[4]\noutput y = %y\n");
  expect_unchanged(R"(x = input(type=i32[4])
a = add(%x, %x) : i32[4]
b = mul(%a, %x) : i32[4]
y = cast(%b, dtype=f32) : f32[4]
output y = %y
)");
  // A comparison of whole numbers is no step, what selects with it is.
  expect_unchanged(R"(i = input(type=i32[4])
x = input(type=f32[4])
m = equal(%i, %i) : bool[4]
y = select(%m, %x, %x) : f32[4]
output y = %y
)");
  expect_unchanged(R"(x = input(type=f32[4])
m = is_finite(%x) : bool[4]
y = logical_not(%m) : bool[4]
output y = %y
)");
  expect_unchanged(R"(x = input(type=f64[4])
f = cast(%x, dtype=f32) : f32[4]
y = neg(%f) : f32[4]
output y = %y
)");
}

TEST(FuseElementwise, LeavesSingleStepsAndOtherOps) {
  expect_unchanged(R"(x = input(type=f32[4])
rng = input(type=i32[3])
a = exp(%x) : f32[4]
d = dropout(%a, %rng) : f32[4]
y = neg(%d) : f32[4]
output y = %y
)");
  expect_unchanged(R"(x = input(type=f32[4])
f = cast(%x, dtype=bf16) : bf16[4]
y = cast(%f, dtype=f32) : f32[4]
output y = %y
)");
  expect_unchanged(R"(x = input(type=f32[4,3])
a = exp(%x) : f32[4,3]
r = reshape(%a, shape=[12]) : f32[12]
y = neg(%r) : f32[12]
output y = %y
)");
}

TEST(FuseElementwise, LeavesSizesThatAreNotProvedEqual) {
  expect_unchanged(R"(x = input(type=f32[B,4])
y = input(type=f32[C,4])
a = add(%x, %y) : f32[C,4]
b = exp(%a) : f32[C,4]
output b = %b
)");
}

TEST(FuseElementwise, LongChainsArePartedWhereTheKernelsEnd) {
  Graph g;
  Value x = ops::input(g, "x", DType::f32, {4});
  for (int i = 0; i < 60; ++i) x = ops::unary(g, "sin", x);
  g.set_output("y", x);
  const Graph fused = fuse_elementwise(g, {});
  verify(fused);
  EXPECT_EQ(fused.size(), 1 + 3);
  size_t steps = 0;
  for (int id = 1; id < fused.size(); ++id)
    steps += fused.node(id).attrs.get<ElementwiseAttrs>().steps.size();
  EXPECT_EQ(steps, 60u);

  Graph wide;
  Value sum = ops::input(wide, "first", DType::f32, {4});
  for (int i = 0; i < 40; ++i) sum = ops::add(wide, sum, ops::input(wide, "in", DType::f32, {4}));
  wide.set_output("y", sum);
  const Graph parted = fuse_elementwise(wide, {});
  verify(parted);
  for (int id = 0; id < parted.size(); ++id) EXPECT_LE(parted.node(id).inputs.size(), 12u);
  EXPECT_LE(parted.size(), 41 + 5);
}

}  // namespace
}  // namespace fovea

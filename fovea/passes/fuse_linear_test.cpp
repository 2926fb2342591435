#include "fovea/passes/fuse_linear.h"

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

void expect_fused(const std::string& before, const std::string& after) {
  const Graph graph = graph_of(before);
  expect_graph(fuse_linear(graph, {}), after);
  expect_graph(graph, before);
}
void expect_unchanged(const std::string& lines) { expect_fused(lines, lines); }

void expect_gradients_fused(const std::string& before, const std::string& after) {
  expect_graph(fuse_gradients(graph_of(before), {}), after);
}
void expect_gradients_unchanged(const std::string& lines) { expect_gradients_fused(lines, lines); }

const std::string kOperands = R"(x = input(type=f32[B,3,8])
w = variable(type=f32[6,8])
b = variable(type=f32[6])
r = input(type=f32[B,3,6])
)";

TEST(FuseLinear, AnActivationAndASumBecomePartOfTheProduct) {
  for (const std::string activation : {"relu", "silu", "gelu"})
    expect_fused(kOperands + "h = linear(%x, %w, %b) : f32[B,3,6]\na = " + activation +
                     "(%h) : f32[B,3,6]\ny = add(%r, %a) : f32[B,3,6]\noutput y = %y\n",
                 kOperands + "y = linear(%x, %w, %b, %r, activation=" + activation +
                     ", residual=true) : f32[B,3,6]\noutput y = %y\n");
}

TEST(FuseLinear, AnActivationAloneAndASumAloneToo) {
  expect_fused(kOperands + R"(h = linear(%x, %w) : f32[B,3,6]
a = gelu(%h) : f32[B,3,6]
output a = %a
)",
               kOperands + R"(a = linear(%x, %w, activation=gelu) : f32[B,3,6]
output a = %a
)");
  expect_fused(kOperands + R"(h = linear(%x, %w) : f32[B,3,6]
y = add(%h, %r) : f32[B,3,6]
output y = %y
)",
               kOperands + R"(y = linear(%x, %w, %r, residual=true) : f32[B,3,6]
output y = %y
)");
}

TEST(FuseLinear, TheFusedNodeStandsWhereItsResidualIsThere) {
  expect_fused(kOperands + R"(h = linear(%x, %w) : f32[B,3,6]
late = tanh(%r) : f32[B,3,6]
y = add(%h, %late) : f32[B,3,6]
update %b = %b
output y = %y
)",
               kOperands + R"(late = tanh(%r) : f32[B,3,6]
y = linear(%x, %w, %late, residual=true) : f32[B,3,6]
update %b = %b
output y = %y
)");
}

TEST(FuseLinear, OfTwoProductsOneTakesTheSum) {
  expect_fused(kOperands + R"(g = linear(%x, %w) : f32[B,3,6]
h = linear(%x, %w, %b) : f32[B,3,6]
a = silu(%h) : f32[B,3,6]
y = add(%g, %a) : f32[B,3,6]
z = add(%y, %r) : f32[B,3,6]
output z = %z
)",
               kOperands + R"(a = linear(%x, %w, %b, activation=silu) : f32[B,3,6]
y = linear(%x, %w, %a, residual=true) : f32[B,3,6]
z = add(%y, %r) : f32[B,3,6]
output z = %z
)");
}

TEST(FuseLinear, WhatTheProductIsAskedForStays) {
  expect_fused(kOperands + R"(h = linear(%x, %w, compute=bf16) : f32[B,3,6]
a = relu(%h) : f32[B,3,6]
output a = %a
)",
               kOperands + R"(a = linear(%x, %w, activation=relu, compute=bf16) : f32[B,3,6]
output a = %a
)");
}

TEST(FuseLinear, LeavesWhatSomebodyElseReads) {
  expect_unchanged(kOperands + R"(h = linear(%x, %w) : f32[B,3,6]
a = gelu(%h) : f32[B,3,6]
t = tanh(%h) : f32[B,3,6]
output a = %a
output t = %t
)");
  expect_unchanged(kOperands + R"(h = linear(%x, %w) : f32[B,3,6]
a = gelu(%h) : f32[B,3,6]
output a = %a
output h = %h
)");
  expect_unchanged(kOperands + R"(h = linear(%x, %w) : f32[B,3,6]
y = add(%h, %h) : f32[B,3,6]
output y = %y
)");
  // The sum alone cannot be taken, the activation can.
  expect_fused(kOperands + R"(h = linear(%x, %w) : f32[B,3,6]
a = gelu(%h) : f32[B,3,6]
y = add(%a, %r) : f32[B,3,6]
output a = %a
output y = %y
)",
               kOperands + R"(a = linear(%x, %w, activation=gelu) : f32[B,3,6]
y = add(%a, %r) : f32[B,3,6]
output a = %a
output y = %y
)");
}

TEST(FuseLinear, LeavesOtherShapesOpsAndOrders) {
  // The residual is broadcast.
  expect_unchanged(kOperands + R"(h = linear(%x, %w) : f32[B,3,6]
y = add(%h, %b) : f32[B,3,6]
output y = %y
)");
  // The result is the smaller one.
  expect_unchanged(kOperands + R"(big = input(type=f32[7,B,3,6])
h = linear(%x, %w) : f32[B,3,6]
y = add(%h, %big) : f32[7,B,3,6]
output y = %y
)");
  // Sizes that are not proved equal.
  expect_unchanged(kOperands + R"(s = input(type=f32[C,3,6])
h = linear(%x, %w) : f32[B,3,6]
y = add(%s, %h) : f32[B,3,6]
output y = %y
)");
  for (const std::string op : {"tanh", "sigmoid", "square"})
    expect_unchanged(kOperands + "h = linear(%x, %w) : f32[B,3,6]\ny = " + op +
                     "(%h) : f32[B,3,6]\noutput y = %y\n");
  expect_unchanged(kOperands + R"(h = linear(%x, %w) : f32[B,3,6]
y = sub(%h, %r) : f32[B,3,6]
output y = %y
)");
  expect_unchanged(kOperands + R"(rng = input(type=i32[3])
h = linear(%x, %w) : f32[B,3,6]
d = dropout(%h, %rng) : f32[B,3,6]
y = add(%d, %r) : f32[B,3,6]
output y = %y
)");
  expect_unchanged(kOperands + R"(m = matmul(%x, %w, transpose_b=true) : f32[B,3,6]
y = relu(%m) : f32[B,3,6]
output y = %y
)");
  // Behind a residual there is no activation.
  expect_fused(kOperands + R"(h = linear(%x, %w) : f32[B,3,6]
s = add(%h, %r) : f32[B,3,6]
y = relu(%s) : f32[B,3,6]
output y = %y
)",
               kOperands + R"(s = linear(%x, %w, %r, residual=true) : f32[B,3,6]
y = relu(%s) : f32[B,3,6]
output y = %y
)");
}

TEST(FuseLinear, LeavesWhatIsFusedAlready) {
  expect_unchanged(kOperands + R"(h = linear(%x, %w, activation=gelu) : f32[B,3,6]
y = relu(%h) : f32[B,3,6]
output y = %y
)");
  expect_unchanged(kOperands + R"(h = linear(%x, %w, %r, residual=true) : f32[B,3,6]
y = add(%h, %r) : f32[B,3,6]
output y = %y
)");
  expect_unchanged(kOperands +
                   R"(h = linear(%x, %w, activation=gelu, pre=true) : f32[B,3,6], f32[B,3,6]
y = add(%h, %h:1) : f32[B,3,6]
output y = %y
)");
}

const std::string kGradients = R"(dy = input(type=f32[B,3,6])
w = variable(type=f32[6,8])
pre = input(type=f32[B,3,8])
r = input(type=f32[B,3,8])
)";

TEST(FuseGradients, TheSlopeAndASumBecomePartOfTheProduct) {
  for (const std::string activation : {"relu", "silu", "gelu"})
    expect_gradients_fused(
        kGradients + "d = linear_grad_input(%dy, %w) : f32[B,3,8]\ns = " + activation +
            "_grad(%pre, %d) : f32[B,3,8]\ny = add(%s, %r) : f32[B,3,8]\n"
            "output y = %y\n",
        kGradients + "y = linear_grad_input(%dy, %w, %pre, %r, activation=" + activation +
            ", residual=true) : f32[B,3,8]\noutput y = %y\n");
}

TEST(FuseGradients, ThreeGradientsOfOneValueAreSummedAsTheyCome) {
  expect_gradients_fused(kGradients + R"(a = linear_grad_input(%dy, %w) : f32[B,3,8]
b = linear_grad_input(%dy, %w) : f32[B,3,8]
ab = add(%a, %b) : f32[B,3,8]
c = linear_grad_input(%dy, %w) : f32[B,3,8]
abc = add(%ab, %c) : f32[B,3,8]
output abc = %abc
)",
                         kGradients + R"(b = linear_grad_input(%dy, %w) : f32[B,3,8]
ab = linear_grad_input(%dy, %w, %b, residual=true) : f32[B,3,8]
abc = linear_grad_input(%dy, %w, %ab, residual=true) : f32[B,3,8]
output abc = %abc
)");
}

TEST(FuseGradients, LeavesSlopesThatAreNotAppliedToTheProduct) {
  // The product stands where the slope's place is.
  expect_gradients_unchanged(kGradients + R"(d = linear_grad_input(%dy, %w) : f32[B,3,8]
y = gelu_grad(%d, %pre) : f32[B,3,8]
output y = %y
)");
  expect_gradients_unchanged(kGradients + R"(d = linear_grad_input(%dy, %w) : f32[B,3,8]
y = gelu_grad(%d, %d) : f32[B,3,8]
output y = %y
)");
  expect_gradients_unchanged(kGradients + R"(row = input(type=f32[8])
d = linear_grad_input(%dy, %w) : f32[B,3,8]
y = gelu_grad(%row, %d) : f32[B,3,8]
output y = %y
)");
  expect_gradients_unchanged(kGradients + R"(d = linear_grad_input(%dy, %w) : f32[B,3,8]
y = tanh_grad(%pre, %d) : f32[B,3,8]
output y = %y
)");
  expect_gradients_unchanged(kGradients + R"(d = linear_grad_input(%dy, %w) : f32[B,3,8]
y = gelu_grad(%pre, %d) : f32[B,3,8]
output y = %y
output d = %d
)");
}

TEST(FuseGradients, LeavesWhatIsFusedAlready) {
  expect_gradients_unchanged(kGradients +
                             R"(d = linear_grad_input(%dy, %w, %r, residual=true) : f32[B,3,8]
y = add(%d, %pre) : f32[B,3,8]
output y = %y
)");
  expect_gradients_unchanged(kGradients +
                             R"(d = linear_grad_input(%dy, %w, %pre, activation=gelu) : f32[B,3,8]
y = gelu_grad(%r, %d) : f32[B,3,8]
output y = %y
)");
}

const std::string kNorm = R"(x = input(type=f32[B,8])
w = variable(type=f32[8])
mean = input(type=f32[B])
rstd = input(type=f32[B])
dy = input(type=f32[B,8])
r = input(type=f32[B,8])
)";

TEST(FuseGradients, ANormTakesTheGradientThatGoesRoundIt) {
  expect_gradients_fused(
      kNorm + R"(d = layer_norm_grad(%x, %w, %mean, %rstd, %dy) : f32[B,8], f32[8], f32[8]
y = add(%r, %d) : f32[B,8]
output y = %y
output dw = %d:1
output db = %d:2
)",
      kNorm +
          R"(y = layer_norm_grad(%x, %w, %mean, %rstd, %dy, %r, add=true) : f32[B,8], f32[8], f32[8]
output y = %y
output dw = %y:1
output db = %y:2
)");
  expect_gradients_fused(
      kNorm + R"(d = rms_norm_grad(%x, %w, %rstd, %dy) : f32[B,8], f32[8]
y = add(%d, %r) : f32[B,8]
later = neg(%d:1) : f32[8]
output y = %y
output dw = %later
)",
      kNorm + R"(y = rms_norm_grad(%x, %w, %rstd, %dy, %r, add=true) : f32[B,8], f32[8]
later = neg(%y:1) : f32[8]
output y = %y
output dw = %later
)");
}

TEST(FuseGradients, LeavesANormWhoseOtherGradientsAreReadBefore) {
  expect_gradients_unchanged(kNorm + R"(d = rms_norm_grad(%x, %w, %rstd, %dy) : f32[B,8], f32[8]
early = neg(%d:1) : f32[8]
y = add(%d, %r) : f32[B,8]
output y = %y
output dw = %early
)");
}

TEST(FuseGradients, LeavesANormThatIsAddedToItselfOrHasASum) {
  expect_gradients_unchanged(kNorm + R"(d = rms_norm_grad(%x, %w, %rstd, %dy) : f32[B,8], f32[8]
y = add(%d, %d) : f32[B,8]
output y = %y
)");
  expect_gradients_unchanged(
      kNorm + R"(d = rms_norm_grad(%x, %w, %rstd, %dy, %r, add=true) : f32[B,8], f32[8]
y = add(%d, %r) : f32[B,8]
output y = %y
)");
  expect_gradients_unchanged(kNorm + R"(d = rms_norm_grad(%x, %w, %rstd, %dy) : f32[B,8], f32[8]
y = add(%d, %d:1) : f32[B,8]
output y = %y
)");
  // Of one row, where the gradient of the weight has the type of that of x.
  expect_gradients_unchanged(R"(x = input(type=f32[8])
w = variable(type=f32[8])
rstd = input(type=f32[])
d = rms_norm_grad(%x, %w, %rstd, %x) : f32[8], f32[8]
y = add(%d, %d:1) : f32[8]
output y = %y
)");
}

}  // namespace
}  // namespace fovea

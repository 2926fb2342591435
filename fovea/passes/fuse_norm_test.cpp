#include "fovea/passes/fuse_norm.h"

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

void expect_fused(const std::string& before, const std::string& after) {
  const Graph graph = graph_of(before);
  expect_graph(fuse_norm(graph, {}), after);
  expect_graph(graph, before);
}
void expect_unchanged(const std::string& lines) { expect_fused(lines, lines); }

const std::string kOperands = R"(x = input(type=f32[B,8])
r = input(type=f32[B,8])
w = variable(type=f32[8])
b = variable(type=f32[8])
)";

TEST(FuseNorm, TheSumBecomesASecondOutput) {
  expect_fused(
      kOperands + R"(s = add(%x, %r) : f32[B,8]
n = layer_norm(%s, %w, %b, eps=0.1) : f32[B,8]
y = add(%s, %n) : f32[B,8]
output y = %y
output s = %s
)",
      kOperands + R"(n = layer_norm(%x, %r, %w, %b, eps=0.1, residual=true) : f32[B,8], f32[B,8]
y = add(%n:1, %n) : f32[B,8]
output y = %y
output s = %n:1
)");
}

TEST(FuseNorm, StatisticsMoveBehindTheSum) {
  expect_fused(
      kOperands + R"(s = add(%x, %r) : f32[B,8]
n = layer_norm(%s, %w, %b, stats=true, out=bf16) : bf16[B,8], f32[B], f32[B]
output y = %n
output mean = %n:1
output rstd = %n:2
)",
      kOperands +
          R"(n = layer_norm(%x, %r, %w, %b, stats=true, residual=true, out=bf16) : bf16[B,8], f32[B,8], f32[B], f32[B]
output y = %n
output mean = %n:2
output rstd = %n:3
)");
  expect_fused(
      kOperands + R"(s = add(%x, %x) : f32[B,8]
n = rms_norm(%s, %w, stats=true) : f32[B,8], f32[B]
output y = %n
output rstd = %n:1
)",
      kOperands +
          R"(n = rms_norm(%x, %x, %w, stats=true, residual=true) : f32[B,8], f32[B,8], f32[B]
output y = %n
output rstd = %n:2
)");
}

TEST(FuseNorm, OfTwoNormsOfOneSumTheFirstTakesIt) {
  expect_fused(kOperands + R"(s = add(%x, %r) : f32[B,8]
n = rms_norm(%s, %w) : f32[B,8]
m = rms_norm(%s, %b) : f32[B,8]
output n = %n
output m = %m
)",
               kOperands + R"(n = rms_norm(%x, %r, %w, residual=true) : f32[B,8], f32[B,8]
m = rms_norm(%n:1, %b) : f32[B,8]
output n = %n
output m = %m
)");
}

TEST(FuseNorm, SumsInARowAreTakenOneByOne) {
  expect_fused(kOperands + R"(s = add(%x, %r) : f32[B,8]
n = rms_norm(%s, %w) : f32[B,8]
t = add(%s, %n) : f32[B,8]
m = rms_norm(%t, %b) : f32[B,8]
output m = %m
update %b = %b
)",
               kOperands + R"(n = rms_norm(%x, %r, %w, residual=true) : f32[B,8], f32[B,8]
m = rms_norm(%n:1, %n, %b, residual=true) : f32[B,8], f32[B,8]
output m = %m
update %b = %b
)");
}

TEST(FuseNorm, LeavesASumThatIsReadBeforeTheNorm) {
  expect_unchanged(kOperands + R"(s = add(%x, %r) : f32[B,8]
t = tanh(%s) : f32[B,8]
n = rms_norm(%s, %w) : f32[B,8]
output t = %t
output n = %n
)");
}

TEST(FuseNorm, LeavesBroadcastSumsAndOtherOps) {
  expect_unchanged(kOperands + R"(s = add(%x, %b) : f32[B,8]
n = rms_norm(%s, %w) : f32[B,8]
output n = %n
)");
  expect_unchanged(R"(x = input(type=f32[B,8])
r = input(type=f32[C,8])
w = variable(type=f32[8])
s = add(%x, %r) : f32[C,8]
n = rms_norm(%s, %w) : f32[C,8]
output n = %n
)");
  expect_unchanged(kOperands + R"(s = sub(%x, %r) : f32[B,8]
n = rms_norm(%s, %w) : f32[B,8]
output n = %n
)");
  expect_unchanged(kOperands + R"(rng = input(type=i32[3])
s = add(%x, %r) : f32[B,8]
d = dropout(%s, %rng) : f32[B,8]
n = rms_norm(%d, %w) : f32[B,8]
output n = %n
)");
  expect_unchanged(kOperands + R"(s = add(%x, %r) : f32[B,8]
n = softmax(%s) : f32[B,8]
output n = %n
)");
}

TEST(FuseNorm, LeavesANormThatHasAResidual) {
  expect_unchanged(kOperands + R"(s = add(%x, %r) : f32[B,8]
n = rms_norm(%s, %r, %w, residual=true) : f32[B,8], f32[B,8]
output n = %n
)");
}

TEST(FuseNorm, LeavesASumThatIsAWeight) {
  expect_unchanged(R"(x = input(type=f32[B,8])
w = variable(type=f32[8])
s = add(%w, %w) : f32[8]
n = rms_norm(%x, %s) : f32[B,8]
m = rms_norm(%s, %s) : f32[8]
output n = %n
output m = %m
)");
}

}  // namespace
}  // namespace fovea

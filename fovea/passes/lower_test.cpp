#include "fovea/passes/lower.h"

#include <set>

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

PassContext without_kernels(std::set<std::string_view> ops) {
  PassContext context;
  context.has_kernel = [ops](const Op& op) { return !ops.contains(op.name); };
  return context;
}

const std::string kLinear =
    "x = input(type=f32[B,8])\n"
    "y.weight = variable(type=f32[4,8])\n"
    "y.bias = variable(type=f32[4])\n"
    "y = linear(%x, %y.weight, %y.bias) : f32[B,4]\n"
    "output y = %y\n";

TEST(Lower, ReplacesWhatHasNoKernelBelowItsName) {
  const Graph graph = graph_of(kLinear);
  expect_graph(lower(graph, without_kernels({"linear", "reshape", "input"})),
               "x = input(type=f32[B,8])\n"
               "y.weight = variable(type=f32[4,8])\n"
               "y.bias = variable(type=f32[4])\n"
               "y.matmul = matmul(%x, %y.weight, transpose_b=true) : f32[B,4]\n"
               "y.add = add(%y.matmul, %y.bias) : f32[B,4]\n"
               "output y = %y.add\n");
  expect_graph(graph, kLinear);
}

TEST(Lower, LeavesWhatHasAKernel) {
  expect_graph(lower(graph_of(kLinear), without_kernels({"softmax"})), kLinear);
  expect_graph(lower(graph_of(kLinear), {}), kLinear);
}

TEST(Lower, LowersWithinDecompositions) {
  const Graph graph = graph_of(
      "q = input(type=f32[B,T,8])\n"
      "a = attention(%q, %q, %q, heads=2, kv_heads=2, causal=true, lse=true) : f32[B,T,8], "
      "f32[B,2,T]\n"
      "output y = %a\n"
      "output lse = %a:1\n");
  const Graph result = lower(graph, without_kernels({"attention", "softmax"}));
  EXPECT_NO_THROW(verify(result));
  EXPECT_GE(result.find("a.softmax.div"), 0);
  for (int id = 0; id < result.size(); ++id) {
    EXPECT_NE(result.node(id).op->name, "attention");
    EXPECT_NE(result.node(id).op->name, "softmax");
  }
  for (const char* name : {"y", "lse"})
    EXPECT_EQ(result.type(result.output(name)), graph.type(graph.output(name)));
}

TEST(Lower, LeavesTheirNamesToNodesThatComeLater) {
  expect_graph(lower(graph_of("x = input(type=f32[B,8])\n"
                              "w = variable(type=f32[4,8])\n"
                              "y = linear(%x, %w) : f32[B,4]\n"
                              "y.matmul = exp(%y) : f32[B,4]\n"
                              "output y = %y.matmul\n"),
                     without_kernels({"linear"})),
               "x = input(type=f32[B,8])\n"
               "w = variable(type=f32[4,8])\n"
               "y.matmul_2 = matmul(%x, %w, transpose_b=true) : f32[B,4]\n"
               "y.matmul = exp(%y.matmul_2) : f32[B,4]\n"
               "output y = %y.matmul\n");
}

TEST(Lower, KeepsTypesWhoseSizesAreNotProvedEqual) {
  const Graph graph = graph_of(
      "y = input(type=f32[A,8])\n"
      "dy = input(type=f32[B,8])\n"
      "dx = softmax_grad(%y, %dy) : f32[A,8]\n"
      "z = exp(%dx) : f32[A,8]\n"
      "output z = %z\n");
  const Graph result = lower(graph, without_kernels({"softmax_grad"}));
  EXPECT_NO_THROW(verify(result));
  EXPECT_EQ(to_text(result.type(result.output("z"))), "f32[A,8]");
  EXPECT_THROW(specialise(result, {{"A", 2}, {"B", 3}}), Error);
}

TEST(Lower, NeitherKernelNorDecompositionIsAnErrorThatNamesTheNode) {
  EXPECT_EQ(error_of([] {
              lower(graph_of(kLinear), without_kernels({"linear", "matmul"}));
            }),
            "[lower y.matmul] the op matmul has no kernel here and no decomposition");
}

}  // namespace
}  // namespace fovea

#include "fovea/passes/common_subexpressions.h"

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

TEST(CommonSubexpressions, TheFirstOfEqualNodesServesAll) {
  const Graph graph = graph_of(
      "x = input(type=f32[B,8])\n"
      "w = variable(type=f32[8])\n"
      "n1 = rms_norm(%x, %w, stats=true) : f32[B,8], f32[B]\n"
      "a = exp(%n1) : f32[B,8]\n"
      "n2 = rms_norm(%x, %w, stats=true) : f32[B,8], f32[B]\n"
      "b = exp(%n2) : f32[B,8]\n"
      "c = add(%a, %b) : f32[B,8]\n"
      "output y = %c\n"
      "output rstd = %n2:1\n");
  const std::string before = print_graph(graph);
  expect_graph(common_subexpressions(graph, {}),
               "x = input(type=f32[B,8])\n"
               "w = variable(type=f32[8])\n"
               "n1 = rms_norm(%x, %w, stats=true) : f32[B,8], f32[B]\n"
               "a = exp(%n1) : f32[B,8]\n"
               "c = add(%a, %a) : f32[B,8]\n"
               "output y = %c\n"
               "output rstd = %n1:1\n");
  EXPECT_EQ(print_graph(graph), before);
}

TEST(CommonSubexpressions, TheOrderOfInputsMattersOnlyWhereTheOpDoesNotCommute) {
  expect_graph(common_subexpressions(graph_of("x = input(type=f32[8])\n"
                                              "y = input(type=f32[8])\n"
                                              "a = mul(%x, %y) : f32[8]\n"
                                              "b = mul(%y, %x) : f32[8]\n"
                                              "c = sub(%x, %y) : f32[8]\n"
                                              "d = sub(%y, %x) : f32[8]\n"
                                              "output b = %b\n"
                                              "output c = %c\n"
                                              "output d = %d\n"),
                                     {}),
               "x = input(type=f32[8])\n"
               "y = input(type=f32[8])\n"
               "a = mul(%x, %y) : f32[8]\n"
               "c = sub(%x, %y) : f32[8]\n"
               "d = sub(%y, %x) : f32[8]\n"
               "output b = %a\n"
               "output c = %c\n"
               "output d = %d\n");
}

TEST(CommonSubexpressions, ConstantsMergeByContent) {
  expect_graph(
      common_subexpressions(
          graph_of("a = constant(type=f32[3], values=[1,1,1])\n"
                   "b = constant(type=f32[3], values=[1])\n"
                   "c = constant(type=f32[3], values=[1,1,2])\n"
                   "d = constant(type=f64[3], values=[1])\n"
                   "e = constant(type=f32[100], hash=\"00ff\")\n"
                   "f = constant(type=f32[100], hash=\"00ff\")\n"
                   "z = constant(type=f32[], values=[0])\n"
                   "negative_z = constant(type=f32[], values=[-0])\n"
                   "output a = %a\noutput b = %b\noutput c = %c\noutput d = %d\n"
                   "output e = %e\noutput f = %f\noutput z = %z\noutput nz = %negative_z\n"),
          {}),
      "a = constant(type=f32[3], values=[1,1,1])\n"
      "c = constant(type=f32[3], values=[1,1,2])\n"
      "d = constant(type=f64[3], values=[1])\n"
      "e = constant(type=f32[100], hash=\"00ff\")\n"
      "z = constant(type=f32[], values=[0])\n"
      "negative_z = constant(type=f32[], values=[-0])\n"
      "output a = %a\noutput b = %a\noutput c = %c\noutput d = %d\n"
      "output e = %e\noutput f = %e\noutput z = %z\noutput nz = %negative_z\n");
}

TEST(CommonSubexpressions, NeverMergesRandomOpsVariablesInputsOrOtherAttributes) {
  const std::string text =
      "x = input(type=f32[B,8])\n"
      "x2 = input(type=f32[B,8])\n"
      "rng = input(type=i32[3])\n"
      "v = variable(type=f32[8])\n"
      "v2 = variable(type=f32[8])\n"
      "a = dropout(%x, %rng, stream=s) : f32[B,8]\n"
      "b = dropout(%x, %rng, stream=s) : f32[B,8]\n"
      "c = reduce_sum(%x, axes=[0]) : f32[8]\n"
      "d = reduce_sum(%x, axes=[0], keep=true) : f32[1,8]\n"
      "output a = %a\n"
      "output b = %b\n";
  expect_graph(common_subexpressions(graph_of(text), {}), text);
}

}  // namespace
}  // namespace fovea

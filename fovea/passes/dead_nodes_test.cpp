#include "fovea/passes/dead_nodes.h"

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

TEST(DeadNodes, KeepsWhatOutputsAndUpdatesNeedAndAllInputs) {
  const Graph graph = graph_of(
      "x = input(type=f32[B,8])\n"
      "unused = input(type=f32[B])\n"
      "w = variable(type=f32[8])\n"
      "step = variable(type=i32[])\n"
      "idle = variable(type=f32[8])\n"
      "one = constant(type=i32[], values=[1])\n"
      "two = constant(type=i32[], values=[2])\n"
      "a = mul(%x, %w) : f32[B,8]\n"
      "dead = exp(%a) : f32[B,8]\n"
      "deader = neg(%dead) : f32[B,8]\n"
      "next = add(%step, %one) : i32[]\n"
      "output y = %a\n"
      "update %step = %next\n");
  const std::string before = print_graph(graph);
  expect_graph(dead_nodes(graph, {}),
               "x = input(type=f32[B,8])\n"
               "unused = input(type=f32[B])\n"
               "w = variable(type=f32[8])\n"
               "step = variable(type=i32[])\n"
               "one = constant(type=i32[], values=[1])\n"
               "a = mul(%x, %w) : f32[B,8]\n"
               "next = add(%step, %one) : i32[]\n"
               "output y = %a\n"
               "update %step = %next\n");
  EXPECT_EQ(print_graph(graph), before);
}

TEST(DeadNodes, OptionalOutputsThatNobodyReadsGo) {
  expect_graph(
      dead_nodes(graph_of("x = input(type=f32[B,8,8,4])\n"
                          "w = variable(type=f32[4])\n"
                          "p = max_pool(%x, indices=true) : f32[B,4,4,4], i32[B,4,4,4]\n"
                          "n = layer_norm(%p, %w, %w, stats=true) : f32[B,4,4,4], "
                          "f32[B,4,4], f32[B,4,4]\n"
                          "r = reshape(%n, shape=[B,16,4]) : f32[B,16,4]\n"
                          "a = attention(%r, %r, %r, lse=true) : f32[B,16,4], f32[B,1,16]\n"
                          "dead = exp(%a:1) : f32[B,1,16]\n"
                          "output y = %a\n"),
                 {}),
      "x = input(type=f32[B,8,8,4])\n"
      "w = variable(type=f32[4])\n"
      "p = max_pool(%x) : f32[B,4,4,4]\n"
      "n = layer_norm(%p, %w, %w) : f32[B,4,4,4]\n"
      "r = reshape(%n, shape=[B,16,4]) : f32[B,16,4]\n"
      "a = attention(%r, %r, %r) : f32[B,16,4]\n"
      "output y = %a\n");
}

TEST(DeadNodes, OptionalOutputsThatSomethingReadsStay) {
  const std::string text =
      "x = input(type=f32[B,8])\n"
      "w = variable(type=f32[8])\n"
      "n = layer_norm(%x, %w, %w, stats=true) : f32[B,8], f32[B], f32[B]\n"
      "output rstd = %n:2\n";
  expect_graph(dead_nodes(graph_of(text), {}), text);
}

TEST(DeadNodes, AVariableThatGivesInitialValuesStays) {
  const std::string text =
      "first = variable(type=f32[8], init=normal, scale=1)\n"
      "copy = variable(type=f32[8], init=copy, source=\"first\")\n"
      "average = variable(type=f32[8], init=copy, source=\"copy\")\n"
      "output y = %average\n";
  expect_graph(dead_nodes(graph_of(text), {}), text);
}

TEST(DeadNodes, StoredConstantsWithoutAReaderGo) {
  Graph graph = graph_of(
      "a = constant(type=f32[100], hash=\"aa\")\n"
      "b = constant(type=f32[100], hash=\"bb\")\n"
      "output y = %a\n");
  graph.store_constant("aa", std::make_shared<HostTensor>());
  graph.store_constant("bb", std::make_shared<HostTensor>());
  const Graph result = dead_nodes(graph, {});
  EXPECT_EQ(result.constants().count("aa"), 1u);
  EXPECT_EQ(result.constants().count("bb"), 0u);
  expect_graph(result, "a = constant(type=f32[100], hash=\"aa\")\noutput y = %a\n");
}

}  // namespace
}  // namespace fovea

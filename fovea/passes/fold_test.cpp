#include "fovea/passes/fold.h"

#include <cstring>

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

const std::string kSources =
    "x = input(type=f32[B,8])\n"
    "rng = input(type=i32[3])\n"
    "zero = constant(type=f32[], values=[0])\n"
    "one = constant(type=f32[1,8], values=[1])\n"
    "yes = constant(type=bool[], values=[1])\n"
    "no = constant(type=bool[], values=[0])\n";

// Folds one node on the sources; "x" or what the output became.
std::string folded(const std::string& node) {
  const Graph graph = graph_of(kSources + "y = " + node + "\noutput y = %y\n");
  const Graph result = fold(graph, {});
  EXPECT_NO_THROW(verify(result));
  EXPECT_EQ(result.type(result.output("y")), graph.type(graph.output("y"))) << node;
  return result.node(result.output("y")).name;
}

TEST(Fold, IdentitiesBecomeTheirInput) {
  for (const char* node : {
           "add(%x, %zero) : f32[B,8]",
           "add(%zero, %x) : f32[B,8]",
           "sub(%x, %zero) : f32[B,8]",
           "mul(%x, %one) : f32[B,8]",
           "mul(%one, %x) : f32[B,8]",
           "div(%x, %one) : f32[B,8]",
           "reshape(%x, shape=[B,8]) : f32[B,8]",
           "broadcast(%x, shape=[B,8]) : f32[B,8]",
           "transpose(%x, order=[0,1]) : f32[B,8]",
           "cast(%x, dtype=f32) : f32[B,8]",
           "slice(%x, axis=-1, start=0, length=8) : f32[B,8]",
           "slice(%x, axis=0, start=0, length=B) : f32[B,8]",
           "pad(%x, axis=0, before=0, after=0) : f32[B,8]",
           "select(%yes, %x, %zero) : f32[B,8]",
           "select(%no, %zero, %x) : f32[B,8]",
           "dropout(%x, %rng, rate=0) : f32[B,8]",
       })
    EXPECT_EQ(folded(node), "x") << node;
}

TEST(Fold, WhatOnlyLooksLikeAnIdentityStays) {
  for (const char* node : {
           "add(%x, %one) : f32[B,8]",
           "sub(%zero, %x) : f32[B,8]",
           "mul(%x, %zero) : f32[B,8]",
           "div(%one, %x) : f32[B,8]",
           "reshape(%x, shape=[8,B]) : f32[8,B]",
           "reshape(%x, shape=[4*B,2]) : f32[4*B,2]",
           "broadcast(%x, shape=[2,B,8]) : f32[2,B,8]",
           "transpose(%x, order=[1,0]) : f32[8,B]",
           "cast(%x, dtype=bf16) : bf16[B,8]",
           "slice(%x, axis=1, start=1, length=7) : f32[B,7]",
           "slice(%x, axis=0, start=S, length=B) : f32[B,8]",
           "pad(%x, axis=0, before=0, after=1) : f32[B+1,8]",
           "dropout(%x, %rng, rate=0.5) : f32[B,8]",
           "neg(%x) : f32[B,8]",
       })
    EXPECT_EQ(folded(node), "y") << node;
}

TEST(Fold, AnIdentityThatBroadcastsItsInputStays) {
  const std::string text =
      "x = input(type=f32[8])\n"
      "z = input(type=f32[A,8])\n"
      "one = constant(type=f32[4,1], values=[1])\n"
      "ones = constant(type=f32[B,8], values=[1])\n"
      "yes = constant(type=bool[4,8], values=[1])\n"
      "a = mul(%x, %one) : f32[4,8]\n"
      "b = select(%yes, %x, %x) : f32[4,8]\n"
      "c = mul(%ones, %z) : f32[A,8]\n"  // checks that A is B
      "output a = %a\n"
      "output b = %b\n"
      "output c = %c\n";
  expect_graph(fold(graph_of(text), {}), text);
}

TEST(Fold, ChainsOfReshapesAndTransposesMerge) {
  const Graph graph = graph_of(
      "x = input(type=f32[B,4,6])\n"
      "r1 = reshape(%x, shape=[B,24]) : f32[B,24]\n"
      "r2 = reshape(%r1, shape=[B,2,12]) : f32[B,2,12]\n"
      "r3 = reshape(%r2, shape=[B,4,6]) : f32[B,4,6]\n"
      "t1 = transpose(%r3, order=[1,2,0]) : f32[4,6,B]\n"
      "t2 = transpose(%t1, order=[1,0,2]) : f32[6,4,B]\n"
      "t3 = transpose(%t2, order=[2,1,0]) : f32[B,4,6]\n"
      "n1 = neg(%t3) : f32[B,4,6]\n"
      "n2 = neg(%n1) : f32[B,4,6]\n"
      "output r2 = %r2\n"
      "output t2 = %t2\n"
      "output y = %n2\n");
  const std::string before = print_graph(graph);
  expect_graph(fold(graph, {}),
               "x = input(type=f32[B,4,6])\n"
               "r1 = reshape(%x, shape=[B,24]) : f32[B,24]\n"
               "r2 = reshape(%x, shape=[B,2,12]) : f32[B,2,12]\n"
               "t1 = transpose(%x, order=[1,2,0]) : f32[4,6,B]\n"
               "t2 = transpose(%x, order=[2,1,0]) : f32[6,4,B]\n"
               "n1 = neg(%x) : f32[B,4,6]\n"
               "output r2 = %r2\n"
               "output t2 = %t2\n"
               "output y = %x\n");
  EXPECT_EQ(print_graph(graph), before);
}

TEST(Fold, AReshapeThatChecksASizeStays) {
  const std::string text =
      "x = input(type=f32[A])\n"
      "r = reshape(%x, shape=[B,2]) : f32[B,2]\n"
      "s = reshape(%r, shape=[A]) : f32[A]\n"
      "output y = %s\n";
  expect_graph(fold(graph_of(text), {}), text);
}

// Adds the inputs of the node "value" without broadcasting, or counts for iota.
HostTensorPtr add_or_count(const Graph& graph) {
  const Node& n = graph.node(graph.output("value"));
  auto t = std::make_shared<HostTensor>();
  t->dtype = n.types[0].dtype;
  for (const Size& s : n.types[0].shape) t->shape.push_back(s.constant());
  const auto count = static_cast<size_t>(element_count(n.types[0].shape).constant());
  t->bytes.resize(count * 4);
  for (size_t i = 0; i < count; ++i) {
    float sum = n.inputs.empty() ? static_cast<float>(i) : 0;
    for (Value v : n.inputs) {
      const auto& a = graph.node(v).attrs.get<ConstantAttrs>();
      float f = 0;
      if (a.values.empty())
        std::memcpy(&f, graph.constants().at(a.hash)->bytes.data() + 4 * i, 4);
      else
        f = static_cast<float>(a.values.size() == 1 ? a.values[0] : a.values[i]);
      sum += f;
    }
    std::memcpy(t->bytes.data() + 4 * i, &sum, 4);
  }
  return t;
}

PassContext with_evaluation(int* calls = nullptr) {
  PassContext context;
  context.evaluate = [calls](const Graph& graph) {
    EXPECT_NO_THROW(verify(graph));
    if (calls) ++*calls;
    return add_or_count(graph);
  };
  return context;
}

TEST(Fold, NodesThatReadOnlyConstantsBecomeConstantsOfTheirName) {
  const Graph graph = graph_of(
      "x = input(type=f32[3])\n"
      "a = constant(type=f32[3], values=[1,2,3])\n"
      "i = iota(type=f32[3]) : f32[3]\n"
      "b = add(%a, %i) : f32[3]\n"
      "c = add(%b, %b) : f32[3]\n"
      "y = mul(%x, %c) : f32[3]\n"
      "output y = %y\n");
  int calls = 0;
  expect_graph(fold(graph, with_evaluation(&calls)),
               "x = input(type=f32[3])\n"
               "a = constant(type=f32[3], values=[1,2,3])\n"
               "i = constant(type=f32[3], values=[0,1,2])\n"
               "b = constant(type=f32[3], values=[1,3,5])\n"
               "c = constant(type=f32[3], values=[2,6,10])\n"
               "y = mul(%x, %c) : f32[3]\n"
               "output y = %y\n");
  EXPECT_EQ(calls, 3);
  expect_graph(fold(graph, {}), print_graph(graph).substr(print_graph(graph).find("x = ")));
}

TEST(Fold, StoredConstantsAreReadAndMade) {
  const Graph result = fold(graph_of("i = iota(type=f32[100]) : f32[100]\n"
                                     "y = add(%i, %i) : f32[100]\n"
                                     "output y = %y\n"),
                            with_evaluation());
  const auto& a = result.node(result.output("y")).attrs.get<ConstantAttrs>();
  float last = 0;
  std::memcpy(&last, result.constants().at(a.hash)->bytes.data() + 4 * 99, 4);
  EXPECT_EQ(last, 198);
}

TEST(Fold, WhatCannotBeEvaluatedOrWouldBeTooLargeStays) {
  const std::string text =
      "rng = constant(type=i32[3], values=[0])\n"
      "a = constant(type=f32[4], values=[1,2,3,4])\n"
      "lost = constant(type=f32[100], hash=\"aa\")\n"
      "b = dropout(%a, %rng) : f32[4]\n"                                 // random
      "c = slice(%a, start=S, length=2) : f32[2]\n"                      // a size not known
      "d = iota(type=f32[B]) : f32[B]\n"                                 // likewise
      "e = broadcast(%a, shape=[16385,4]) : f32[16385,4]\n"              // too large
      "f = add(%lost, %lost) : f32[100]\n"                               // not in the store
      "g = layer_norm(%a, %a, %a, stats=true) : f32[4], f32[], f32[]\n"  // several results
      "output g = %g\n";
  expect_graph(fold(graph_of(text), with_evaluation()), text);
}

TEST(Fold, WhatTheEvaluationRefusesStays) {
  const std::string text = "i = iota(type=f32[4]) : f32[4]\noutput y = %i\n";
  PassContext context;
  context.evaluate = [](const Graph&) { return HostTensorPtr(); };
  expect_graph(fold(graph_of(text), context), text);
}

}  // namespace
}  // namespace fovea

#include "fovea/graph/graph.h"

#include <gtest/gtest.h>

#include "fovea/graph/gradient.h"
#include "fovea/graph/graph_text.h"
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {
namespace {

const Size kBatch = Size::symbol("B");

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

Graph small_model() {
  Graph g;
  const Value x = ops::input(g, "x", DType::f32, {kBatch, 7, 8});
  const Graph::Scope scope(g, "enc.0");
  const Value q = ops::linear(g, "q", x, 8);
  const Value k = ops::linear(g, "k", x, 8, false);
  const Value h = ops::attention(g, q, k, k, {.heads = 2, .causal = true}, "attn");
  const Value y = ops::layer_norm(g, "norm", ops::add(g, x, h));
  g.set_output("y", y);
  return g;
}

TEST(Size, EqualExpressionsCompareEqualInAnyOrder) {
  const Size a = Size::symbol("A"), b = Size::symbol("B");
  EXPECT_EQ((a + b) * (a + b), a * a + Size(2) * b * a + b * b);
  EXPECT_EQ(a * Size(6) - a * Size(6), Size(0));
  EXPECT_EQ(ceildiv(a * Size(4), 2), a * Size(2));
  EXPECT_FALSE(a == b);
}

TEST(Size, TextRoundTripsAndEvaluates) {
  for (const char* text : {"B", "2*B+1", "ceildiv(B,8)", "B*T-3", "max(B,T)", "min(8,B*T)", "0"}) {
    const Size s = Size::parse(text);
    EXPECT_EQ(Size::parse(s.text()), s) << text;
  }
  EXPECT_EQ(Size::parse("ceildiv(B+1,8)*8").eval({{"B", 8}}), 16);
  EXPECT_EQ(Size::parse("max(B,T)-min(B,T)").eval({{"B", 3}, {"T", 10}}), 7);
}

TEST(Size, BadTextAndUnboundSymbolsAndOverflowAreErrors) {
  for (const char* text : {"", "B+", "ceildiv(B", "2B", "ceildiv(B,0)",
                           "ceildiv(0-9223372036854775807-1,-1)", "99999999999999999999"})
    EXPECT_THROW(Size::parse(text), Error) << text;
  EXPECT_THROW(Size::symbol("T").eval({{"B", 1}}), Error);
  EXPECT_THROW(Size::parse("B*B").eval({{"B", int64_t{1} << 40}}), Error);
}

TEST(Size, AnExpressionThatWouldMultiplyOutForeverIsAnError) {
  std::string sum = "A0";
  for (int i = 1; i < 120; ++i) sum += "+A" + std::to_string(i);
  const Size s = Size::parse(sum);
  EXPECT_THROW(s * s, Error);
}

TEST(Graph, ATypeMismatchNamesOpNodeAndTypes) {
  Graph g;
  const Value a = ops::input(g, "a", DType::f32, {4, 8});
  const Value b = ops::input(g, "b", DType::f32, {7, 3});
  EXPECT_EQ(error_of([&] { ops::matmul(g, a, b); }),
            "[matmul matmul] expected the inner sizes to agree, got 8 and 7 (inputs: f32[4,8], "
            "f32[7,3])");
}

TEST(Graph, NamesAreMadeUnique) {
  Graph g;
  const Value a = ops::input(g, "a", DType::f32, {4});
  EXPECT_EQ(g.node(ops::gelu(g, a)).name, "gelu");
  EXPECT_EQ(g.node(ops::gelu(g, a)).name, "gelu_2");
  EXPECT_THROW(ops::input(g, "bad name", DType::f32, {}), Error);
}

TEST(Graph, AnUpdateOfWhatIsNoVariableIsAnError) {
  Graph g;
  const Value a = ops::input(g, "a", DType::f32, {4});
  EXPECT_THROW(g.update(a, a), Error);
  const Value v = ops::weight(g, "v", {4}, 0);
  g.update(v, ops::add(g, v, a));
  EXPECT_THROW(g.update(v, a), Error);
}

TEST(Graph, SpecialiseChecksWhatCouldNotBeProved) {
  Graph g;
  const Value a = ops::input(g, "a", DType::f32, {Size::symbol("A"), 8});
  const Value b = ops::input(g, "b", DType::f32, {Size::symbol("B"), 8});
  g.set_output("y", ops::add(g, a, b));
  EXPECT_EQ(to_text(specialise(g, {{"A", 3}, {"B", 3}}).type({2, 0})), "f32[3,8]");
  EXPECT_THROW(specialise(g, {{"A", 3}, {"B", 4}}), Error);
  EXPECT_THROW(specialise(g, {{"A", 3}}), Error);
}

TEST(GraphText, RoundTrips) {
  Graph g = small_model();
  const Value d[] = {g.output("y")};
  const std::pair<Value, Value> seeds[] = {{d[0], d[0]}};
  backpropagate(g, seeds, std::vector<Value>{{g.find("enc.0.q.weight"), 0}});
  const std::string text = print_graph(g);
  EXPECT_EQ(print_graph(parse_graph(text)), text);
  verify(parse_graph(text));
}

TEST(GraphText, ReadsAsOneWrites) {
  Graph g;
  const Value x = ops::input(g, "x", DType::f32, {kBatch, 8});
  g.set_output("y", ops::linear(g, "head", x, 2));
  EXPECT_EQ(print_graph(g),
            "fovea.graph 1\n"
            "ops input=1 linear=1 variable=1\n"
            "x = input(type=f32[B,8])\n"
            "head.weight = variable(type=f32[2,8], init=uniform, scale=0.35355339059327373)\n"
            "head.bias = variable(type=f32[2])\n"
            "head = linear(%x, %head.weight, %head.bias) : f32[B,2]\n"
            "output y = %head\n");
}

TEST(GraphText, HostileTextIsAnErrorThatNamesTheLine) {
  const std::string good = print_graph(small_model());
  const auto broken = [&](const std::string& from, const std::string& to) {
    std::string s = good;
    const size_t at = s.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    s.replace(at, from.size(), to);
    return error_of([&] { parse_graph(s, "model.graph"); });
  };
  EXPECT_EQ(broken("fovea.graph 1", "fovea.graph 2").substr(0, 22), "[graph] model.graph:1:");
  EXPECT_NE(broken("fovea.graph 1", "fovea.graph 2").find("newer"), std::string::npos);
  EXPECT_NE(broken("attention=1", "attention=9").find("newer"), std::string::npos);
  EXPECT_NE(broken("= attention(", "= atention(").find("did you mean 'attention'"),
            std::string::npos);
  EXPECT_NE(broken("heads=2", "head=2").find("did you mean 'heads'"), std::string::npos);
  EXPECT_NE(broken("heads=2", "heads=two").find("expected an integer"), std::string::npos);
  EXPECT_NE(broken("heads=2", "heads=3").find("multiple of"), std::string::npos);
  EXPECT_NE(broken("(%x, %enc.0.q.weight", "(%z, %enc.0.q.weight").find("before it is defined"),
            std::string::npos);
  EXPECT_NE(broken(" : f32[B,7,8]", " : f32[B,7,9]").find("the text says"), std::string::npos);
  EXPECT_NE(broken("f32[B,7,8]", "f32[B,7,99999999999999999999]").find("[graph]"),
            std::string::npos);
  // Cut off anywhere: an error or, at the end of a line, a shorter graph; never a crash.
  for (size_t n = 0; n < good.size(); ++n) {
    const std::string message = error_of([&] { parse_graph(good.substr(0, n)); });
    EXPECT_TRUE(message != "no error" || (n > 0 && good[n - 1] == '\n')) << n;
  }
}

TEST(Gradient, AnOpWithoutAGradientIsNamed) {
  // Every row of the table has a way back, so the op is a stranger.
  static const Op kStranger = {.name = "stranger", .infer = [](const InferContext& c) {
                                 return std::vector<ValueType>{c.inputs[0]};
                               }};
  Graph g;
  const Value x = ops::input(g, "x", DType::f32, {4});
  const Value y = g.add_named(kStranger, {x}, NoAttrs{}, "y");
  const std::pair<Value, Value> seeds[] = {{y, x}};
  const Value wrt[] = {x};
  EXPECT_EQ(error_of([&] { backpropagate(g, seeds, wrt); }),
            "[gradient y] the op stranger has no gradient");
}

TEST(Gradient, EndsAtAnOpThatIsFlat) {
  Graph g;
  const Value x = ops::input(g, "x", DType::f32, {4});
  const Value y = ops::unary(g, "sign", x);
  const std::pair<Value, Value> seeds[] = {{y, x}};
  const Value wrt[] = {x};
  EXPECT_FALSE(backpropagate(g, seeds, wrt)[0]);  // it ends there
}

TEST(OpTable, EachRowHasAShapeRuleAndAWayToRun) {
  EXPECT_GE(all_ops().size(), 70u);
  for (const Op* op : all_ops()) {
    EXPECT_NE(op->infer, nullptr) << op->name;
    EXPECT_EQ(find_op(op->name), op);
    EXPECT_TRUE(op->gradient || op->decompose || op->no_gradient || op->source) << op->name;
  }
}

}  // namespace
}  // namespace fovea

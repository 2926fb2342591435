#include "fovea/graph/attention_statistics.h"

#include <gtest/gtest.h>

#include "fovea/base/test_errors.h"
#include "fovea/graph/gradient.h"
#include "fovea/graph/graph_text.h"
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {
namespace {

// Attention of [2,6,8] with four heads.
Value attend(Graph& g, const AttentionAttrs& attrs, const ops::AttentionLinkValues& links = {}) {
  const Value x = ops::input(g, "x", DType::f32, {2, 6, 8});
  return ops::attention(g, x, x, x, attrs, links, "attn");
}

TEST(AttentionStatisticsOp, ResultsStandInOneOrder) {
  Graph g;
  const Value out =
      attend(g, {.heads = 4, .lse = true, .entropy = true, .mass = true, .top_links = 3});
  const AttentionAttrs a = g.node(out).attrs.get<AttentionAttrs>();
  const auto type = [&](int32_t output) { return to_text(g.type({out.node, output})); };
  EXPECT_EQ(g.node(out).types.size(), 6u);
  EXPECT_EQ(type(a.lse_output()), "f32[2,4,6]");
  EXPECT_EQ(type(a.entropy_output()), "f32[2,4,6]");
  EXPECT_EQ(type(a.mass_output()), "f32[2,4,6]");
  EXPECT_EQ(type(a.top_keys_output()), "i32[2,4,6,3]");
  EXPECT_EQ(type(a.top_probabilities_output()), "f32[2,4,6,3]");
  const std::string text = print_graph(g);
  EXPECT_EQ(print_graph(parse_graph(text)), text);
}

TEST(AttentionStatisticsOp, ResultsThatNobodyReadsGoFromTheBack) {
  const Op& op = get_op("attention");
  const AttentionAttrs all{.heads = 4, .lse = true, .entropy = true, .mass = true, .top_links = 3};
  const auto left = [&](std::vector<bool> used) {
    return op.without_unused(all, used).get<AttentionAttrs>();
  };
  const AttentionAttrs none = left({true, false, false, false, false, false});
  EXPECT_TRUE(!none.lse && !none.entropy && !none.mass && none.top_links == 0);
  const AttentionAttrs entropy = left({true, false, true, false, false, false});
  EXPECT_TRUE(entropy.lse && entropy.entropy && !entropy.mass && entropy.top_links == 0);
  const AttentionAttrs keys = left({true, false, false, false, true, false});
  EXPECT_TRUE(keys.lse && keys.entropy && keys.mass && keys.top_links == 3);
}

TEST(AttentionStatisticsOp, TheStrongestLinksHaveNoGradient) {
  Graph g;
  const Value out = attend(g, {.heads = 4, .top_links = 3});
  const Value sum = ops::reduce_sum(g, {out.node, 2}, {0, 1, 2, 3});
  const std::pair<Value, Value> seeds[] = {{sum, ops::constant(g, 1, DType::f32)}};
  const Value wrt[] = {g.node(out).inputs[0]};
  expect_error(ErrorCode::unsupported, "[attention attn] the strongest links (top_links=3)",
               [&] { backpropagate(g, seeds, wrt); });
}

TEST(AttentionStatisticsOp, TheGradientOfTheResultAsksForNoStatistics) {
  Graph g;
  const Value out = attend(g, {.heads = 4, .entropy = true, .mass = true});
  const Value sum = ops::reduce_sum(g, out, {0, 1, 2});
  const std::pair<Value, Value> seeds[] = {{sum, ops::constant(g, 1, DType::f32)}};
  const Value wrt[] = {g.node(out).inputs[0]};
  const int before = g.size();
  backpropagate(g, seeds, wrt);
  for (int id = before; id < g.size(); ++id)
    if (g.node(id).attrs.holds<AttentionAttrs>()) {
      EXPECT_FALSE(g.node(id).attrs.get<AttentionAttrs>().entropy) << g.node(id).name;
    }
}

TEST(AttentionStatisticsOp, DropoutTakesItsStreamFromTheNode) {
  Graph g;
  const Value rng = ops::input(g, "rng", DType::i32, {3});
  const Graph::Scope scope(g, "enc.0");
  const auto stream = [&](Value v) { return g.node(v).attrs.get<AttentionAttrs>().stream; };
  EXPECT_EQ(stream(attend(g, {.heads = 4, .dropout = 0.1}, {.rng = rng})), "enc.0.attn");
  EXPECT_EQ(stream(attend(g, {.heads = 4, .dropout = 0.1}, {.rng = rng})), "enc.0.attn_2");
  EXPECT_EQ(stream(attend(g, {.heads = 4, .dropout = 0.1, .stream = "own"}, {.rng = rng})), "own");
}

TEST(AttentionStatisticsOp, WrongCombinationsNameBothOptions) {
  Graph g;
  const Value rng = ops::input(g, "rng", DType::i32, {3});
  const auto expect = [&](std::string_view text, auto&& call) {
    expect_error(ErrorCode::invalid_argument, text, call);
  };
  expect(
      "the input rng together with dropout or a random normaliser, got dropout=0.1, "
      "normaliser=softmax and no input",
      [&] { attend(g, {.dropout = 0.1}); });
  expect("dropout=0, normaliser=softmax and the input", [&] { attend(g, {}, {.rng = rng}); });
  expect("expected dropout=1 from 0 up to", [&] { attend(g, {.dropout = 1}, {.rng = rng}); });
  expect("dropout=0, normaliser=softmax and stream='own'", [&] { attend(g, {.stream = "own"}); });
  expect("expected top_links=2000 between 0 and 1024", [&] { attend(g, {.top_links = 2000}); });
  const Value span = ops::input(g, "span", DType::f32, {4});
  expect("got span=true and span_ramp=0", [&] { attend(g, {.heads = 4}, {.span = span}); });
  expect("got span=false and span_ramp=2", [&] { attend(g, {.heads = 4, .span_ramp = 2}); });
  expect("expected span to be f32[2], got f32[4]",
         [&] { attend(g, {.heads = 2, .span_ramp = 2}, {.span = span}); });
  expect("expected rng to be i32[3], got f32[2,6,8]", [&] {
    const Value x = ops::input(g, "y", DType::f32, {2, 6, 8});
    attend(g, {.dropout = 0.1}, {.rng = x});
  });
}

}  // namespace
}  // namespace fovea

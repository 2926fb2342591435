#include "fovea/passes/narrow_heads.h"

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

void expect_narrowed(const std::string& before, const std::string& after) {
  const Graph graph = graph_of(before);
  expect_graph(narrow_heads(graph, {}), after);
  expect_graph(graph, before);
}
void expect_unchanged(const std::string& lines) { expect_narrowed(lines, lines); }

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

const std::string kWeights = R"(x = input(type=f32[B,T,8])
w = variable(type=f32[12,8])
b = variable(type=f32[12])
wv = variable(type=f32[8,8])
wo = variable(type=f32[5,8])
bo = variable(type=f32[5])
)";

// Four heads of size 3, values of size 2.
const std::string kPlain = kWeights + R"(q = linear(%x, %w, %b) : f32[B,T,12]
k = linear(%x, %w) : f32[B,T,12]
v = linear(%x, %wv) : f32[B,T,8]
a = attention(%q, %k, %v, heads=4, heads_kept=3, causal=true) : f32[B,T,8]
o = linear(%a, %wo, %bo) : f32[B,T,5]
output y = %o
)";

TEST(NarrowHeads, TheProjectionsShrinkWithTheHeads) {
  expect_narrowed(kPlain, kWeights + R"(q.kept = slice(%w, length=9) : f32[9,8]
q.kept_bias = slice(%b, length=9) : f32[9]
q = linear(%x, %q.kept, %q.kept_bias) : f32[B,T,9]
k.kept = slice(%w, length=9) : f32[9,8]
k = linear(%x, %k.kept) : f32[B,T,9]
v.kept = slice(%wv, length=6) : f32[6,8]
v = linear(%x, %v.kept) : f32[B,T,6]
a = attention(%q, %k, %v, heads=3, causal=true) : f32[B,T,6]
o.kept = slice(%wo, axis=1, length=6) : f32[5,6]
o = linear(%a, %o.kept, %bo) : f32[B,T,5]
output y = %o
)");
}

TEST(NarrowHeads, WhatAttentionMakesOfRowsStays) {
  const Graph narrowed =
      narrow_heads(graph_of(replaced(kPlain, "causal=true", "cosine=true, rotary=2")), {});
  const auto& a = narrowed.node(narrowed.find("a")).attrs.get<AttentionAttrs>();
  EXPECT_TRUE(a.heads == 3 && a.cosine && a.rotary == 2);
}

// The temperatures of all heads are one input, which is not cut.
TEST(NarrowHeads, HeadsWithTemperaturesStay) {
  expect_unchanged("t = variable(type=f32[4])\n" +
                   replaced(replaced(kPlain, "%v, heads=4", "%v, %t, heads=4"), "causal=true",
                            "causal=true, temperature=true"));
}

// Two key heads for four heads of size 3.
const std::string kGrouped = R"(x = input(type=f32[B,T,8])
wq = variable(type=f32[12,8])
wk = variable(type=f32[6,8])
wo = variable(type=f32[5,12])
q = linear(%x, %wq) : f32[B,T,12]
k = linear(%x, %wk) : f32[B,T,6]
v = linear(%x, %wk) : f32[B,T,6]
a = attention(%q, %k, %v, heads=4, kv_heads=2, heads_kept=2) : f32[B,T,12]
o = linear(%a, %wo, activation=gelu, pre=true) : f32[B,T,5], f32[B,T,5]
output y = %o
output pre = %o:1
)";

TEST(NarrowHeads, WholeGroupsAreCut) {
  expect_narrowed(kGrouped, R"(x = input(type=f32[B,T,8])
wq = variable(type=f32[12,8])
wk = variable(type=f32[6,8])
wo = variable(type=f32[5,12])
q.kept = slice(%wq, length=6) : f32[6,8]
q = linear(%x, %q.kept) : f32[B,T,6]
k.kept = slice(%wk, length=3) : f32[3,8]
k = linear(%x, %k.kept) : f32[B,T,3]
v.kept = slice(%wk, length=3) : f32[3,8]
v = linear(%x, %v.kept) : f32[B,T,3]
a = attention(%q, %k, %v, heads=2, kv_heads=1) : f32[B,T,6]
o.kept = slice(%wo, axis=1, length=6) : f32[5,6]
o = linear(%a, %o.kept, activation=gelu, pre=true) : f32[B,T,5], f32[B,T,5]
output y = %o
output pre = %o:1
)");
  expect_unchanged(replaced(kGrouped, "heads_kept=2", "heads_kept=3"));
  expect_unchanged(replaced(kGrouped, "heads_kept=2", "heads_kept=1"));
}

TEST(NarrowHeads, AProductBetweenTwoAttentionsLosesRowsAndColumns) {
  const std::string before = R"(x = input(type=f32[B,T,8])
w = variable(type=f32[8,8])
b = variable(type=f32[8])
q = linear(%x, %w) : f32[B,T,8]
k = linear(%x, %w) : f32[B,T,8]
v = linear(%x, %w) : f32[B,T,8]
a = attention(%q, %k, %v, heads=4, heads_kept=1) : f32[B,T,8]
q2 = linear(%a, %w, %b) : f32[B,T,8]
k2 = linear(%x, %w) : f32[B,T,8]
v2 = linear(%x, %w) : f32[B,T,8]
a2 = attention(%q2, %k2, %v2, heads=2, heads_kept=1) : f32[B,T,8]
o = linear(%a2, %w) : f32[B,T,8]
output y = %o
)";
  const Graph after = narrow_heads(graph_of(before), {});
  verify(after);
  const Node& between = after.node(after.find("q2"));
  EXPECT_EQ(to_text(after.type(between.inputs[1])), "f32[4,2]");
  EXPECT_EQ(to_text(after.type(between.inputs[2])), "f32[4]");
  EXPECT_EQ(to_text(between.types[0]), "f32[B,T,4]");
  EXPECT_EQ(to_text(after.type({after.find("o"), 0})), "f32[B,T,8]");
}

TEST(NarrowHeads, NamesThatComeLaterStayTheirs) {
  const Graph after =
      narrow_heads(graph_of(kPlain + "q.kept = variable(type=f32[2])\noutput own = %q.kept\n"), {});
  EXPECT_EQ(after.node(after.find("q.kept")).op->name, "variable");
  EXPECT_EQ(after.node(after.find("q.kept_2")).op->name, "slice");
}

TEST(NarrowHeads, LeavesAttentionOfAllHeadsOrOfNone) {
  expect_unchanged(replaced(kPlain, "heads_kept=3, ", ""));
  expect_unchanged(replaced(kPlain, "heads_kept=3", "heads_kept=4"));
  expect_unchanged(replaced(kPlain, "heads_kept=3", "heads_kept=0"));
}

TEST(NarrowHeads, LeavesWhatSomebodyElseReads) {
  expect_unchanged(kPlain + "output q = %q\n");
  expect_unchanged(kPlain + "output heads = %a\n");
  expect_unchanged(kPlain + "t = tanh(%k) : f32[B,T,12]\noutput t = %t\n");
  expect_unchanged(replaced(kPlain, "%k, %v, heads=4", "%q, %v, heads=4"));
  expect_unchanged(replaced(replaced(kPlain, "causal=true) : f32[B,T,8]",
                                     "causal=true, lse=true) : f32[B,T,8], "
                                     "f32[B,4,T]"),
                            "output y", "output lse = %a:1\noutput y"));
}

TEST(NarrowHeads, LeavesWhatDoesNotComeFromOrGoIntoProducts) {
  expect_unchanged(
      replaced(kPlain, "v = linear(%x, %wv) : f32[B,T,8]", "v = tanh(%x) : f32[B,T,8]"));
  expect_unchanged(
      replaced(kPlain, "o = linear(%a, %wo, %bo) : f32[B,T,5]", "o = tanh(%a) : f32[B,T,8]"));
  expect_unchanged(replaced(
      replaced(kPlain, "q = linear(%x, %w, %b)", "q = linear(%x, %w, %b, %r, residual=true)"),
      "wo =", "r = input(type=f32[B,T,12])\nwo ="));
  // Dropout in between.
  expect_unchanged(replaced(
      replaced(kPlain, "o = linear(%a,", "d = dropout(%a, %rng) : f32[B,T,8]\no = linear(%d,"),
      "wo =", "rng = input(type=i32[3])\nwo ="));
  expect_unchanged(R"(x = input(type=f32[B,T,8])
w = variable(type=f32[12,8])
wo = variable(type=f32[5,4])
q = linear(%x, %w) : f32[B,T,12]
a = attention(%q, heads=2, heads_kept=1, packed=true) : f32[B,T,4]
o = linear(%a, %wo) : f32[B,T,5]
output y = %o
)");
}

}  // namespace
}  // namespace fovea

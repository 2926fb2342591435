#include "fovea/passes/join_projections.h"

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

void expect_joined(const std::string& before, const std::string& after) {
  const Graph graph = graph_of(before);
  expect_graph(join_projections(graph, {}), after);
  expect_graph(graph, before);
}
void expect_unchanged(const std::string& lines) { expect_joined(lines, lines); }

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

const std::string kWeights = R"(x = input(type=f32[B,T,8])
wq = variable(type=f32[12,8])
bq = variable(type=f32[12])
wk = variable(type=f32[12,8])
wv = variable(type=f32[12,8])
bv = variable(type=f32[12])
)";

const std::string kPlain = kWeights + R"(q = linear(%x, %wq) : f32[B,T,12]
k = linear(%x, %wk) : f32[B,T,12]
v = linear(%x, %wv) : f32[B,T,12]
a = attention(%q, %k, %v, heads=3) : f32[B,T,12]
output y = %a
)";

TEST(JoinProjections, ThreeProductsBecomeOne) {
  expect_joined(kPlain, kWeights + R"(a.weights = concat(%wq, %wk, %wv) : f32[36,8]
a.qkv = linear(%x, %a.weights) : f32[B,T,36]
a = attention(%a.qkv, heads=3, packed=true) : f32[B,T,12]
output y = %a
)");
}

TEST(JoinProjections, WhatAttentionMakesOfRowsAndScoresStays) {
  const std::string temperature = "t = variable(type=f32[3])\n";
  const std::string options =
      "heads=3, cosine=true, rotary=4, rotary_base=500, "
      "rotary_layout=halves, temperature=true";
  expect_joined(temperature + replaced(kPlain, "attention(%q, %k, %v, heads=3)",
                                       "attention(%q, %k, %v, %t, " + options + ")"),
                temperature + kWeights + R"(a.weights = concat(%wq, %wk, %wv) : f32[36,8]
a.qkv = linear(%x, %a.weights) : f32[B,T,36]
a = attention(%a.qkv, %t, )" +
                    options +
                    R"(, packed=true) : f32[B,T,12]
output y = %a
)");
}

TEST(JoinProjections, AMissingBiasIsZero) {
  expect_joined(kWeights + R"(q = linear(%x, %wq, %bq) : f32[B,T,12]
k = linear(%x, %wk) : f32[B,T,12]
v = linear(%x, %wv, %bv) : f32[B,T,12]
a = attention(%q, %k, %v, heads=3, causal=true, lse=true) : f32[B,T,12], f32[B,3,T]
output y = %a
output lse = %a:1
)",
                kWeights + R"(a.no_bias = constant(type=f32[12], values=[0])
a.weights = concat(%wq, %wk, %wv) : f32[36,8]
a.biases = concat(%bq, %a.no_bias, %bv) : f32[36]
a.qkv = linear(%x, %a.weights, %a.biases) : f32[B,T,36]
a = attention(%a.qkv, heads=3, causal=true, lse=true, packed=true) : f32[B,T,12], f32[B,3,T]
output y = %a
output lse = %a:1
)");
  expect_joined(kWeights + R"(q = linear(%x, %wq) : f32[B,T,12]
k = linear(%x, %wk) : f32[B,T,12]
v = linear(%x, %wv, %bv) : f32[B,T,12]
a = attention(%q, %k, %v) : f32[B,T,12]
output y = %a
)",
                kWeights + R"(a.no_bias = constant(type=f32[12], values=[0])
a.no_bias_2 = constant(type=f32[12], values=[0])
a.weights = concat(%wq, %wk, %wv) : f32[36,8]
a.biases = concat(%a.no_bias, %a.no_bias_2, %bv) : f32[36]
a.qkv = linear(%x, %a.weights, %a.biases) : f32[B,T,36]
a = attention(%a.qkv, packed=true) : f32[B,T,12]
output y = %a
)");
}

TEST(JoinProjections, GroupedHeadsStayGrouped) {
  expect_joined(R"(x = input(type=f32[B,T,8])
wq = variable(type=f32[16,8])
wk = variable(type=f32[8,8])
q = linear(%x, %wq, compute=bf16) : f32[B,T,16]
k = linear(%x, %wk, compute=bf16) : f32[B,T,8]
v = linear(%x, %wk, compute=bf16) : f32[B,T,8]
a = attention(%q, %k, %v, heads=4, kv_heads=2, heads_kept=3) : f32[B,T,16]
output y = %a
)",
                R"(x = input(type=f32[B,T,8])
wq = variable(type=f32[16,8])
wk = variable(type=f32[8,8])
a.weights = concat(%wq, %wk, %wk) : f32[32,8]
a.qkv = linear(%x, %a.weights, compute=bf16) : f32[B,T,32]
a = attention(%a.qkv, heads=4, kv_heads=2, heads_kept=3, packed=true) : f32[B,T,16]
output y = %a
)");
}

TEST(JoinProjections, BiasesOfBf16WeightsAreF32) {
  expect_joined(R"(x = input(type=f32[B,T,8])
w = variable(type=bf16[8,8])
b = variable(type=f32[8])
q = linear(%x, %w, %b) : f32[B,T,8]
k = linear(%x, %w) : f32[B,T,8]
v = linear(%x, %w) : f32[B,T,8]
a = attention(%q, %k, %v) : f32[B,T,8]
output y = %a
)",
                R"(x = input(type=f32[B,T,8])
w = variable(type=bf16[8,8])
b = variable(type=f32[8])
a.no_bias = constant(type=f32[8], values=[0])
a.no_bias_2 = constant(type=f32[8], values=[0])
a.weights = concat(%w, %w, %w) : bf16[24,8]
a.biases = concat(%b, %a.no_bias, %a.no_bias_2) : f32[24]
a.qkv = linear(%x, %a.weights, %a.biases) : f32[B,T,24]
a = attention(%a.qkv, packed=true) : f32[B,T,8]
output y = %a
)");
}

TEST(JoinProjections, NamesThatComeLaterStayTheirs) {
  expect_joined(kPlain + R"(a.qkv = variable(type=f32[2])
output own = %a.qkv
)",
                kWeights + R"(a.weights = concat(%wq, %wk, %wv) : f32[36,8]
a.qkv_2 = linear(%x, %a.weights) : f32[B,T,36]
a = attention(%a.qkv_2, heads=3, packed=true) : f32[B,T,12]
a.qkv = variable(type=f32[2])
output y = %a
output own = %a.qkv
)");
}

TEST(JoinProjections, LeavesProjectionsThatSomebodyElseReads) {
  expect_unchanged(kPlain + "output k = %k\n");
  expect_unchanged(kPlain + "t = tanh(%q) : f32[B,T,12]\noutput t = %t\n");
  expect_unchanged(replaced(kPlain, "attention(%q, %k, %v,", "attention(%q, %q, %v,"));
  // Two attentions on the same three.
  expect_unchanged(kPlain + "b = attention(%q, %k, %v, heads=3) : f32[B,T,12]\noutput b = %b\n");
}

TEST(JoinProjections, LeavesOtherThingsThanPlainProjectionsOfOneValue) {
  expect_unchanged(replaced(replaced(kPlain, "q = linear(%x,", "q = linear(%z,"),
                            "wq =", "z = input(type=f32[B,T,8])\nwq ="));
  expect_unchanged(replaced(kPlain, "v = linear(%x, %wv)", "v = linear(%x, %wv, activation=relu)"));
  expect_unchanged(replaced(kPlain, "v = linear(%x, %wv)", "v = linear(%x, %wv, compute=bf16)"));
  expect_unchanged(
      replaced(kPlain, "v = linear(%x, %wv)", "v = matmul(%x, %wv, transpose_b=true)"));
  expect_unchanged(
      replaced(kPlain, "q = linear(%x, %wq)", "q = matmul(%x, %wq, transpose_b=true)"));
  expect_unchanged(kWeights + R"(r = input(type=f32[B,T,12])
q = linear(%x, %wq, %r, residual=true) : f32[B,T,12]
k = linear(%x, %wk, %r, residual=true) : f32[B,T,12]
v = linear(%x, %wv, %r, residual=true) : f32[B,T,12]
a = attention(%q, %k, %v) : f32[B,T,12]
output y = %a
)");
  expect_unchanged(kWeights + R"(q = input(type=f32[B,T,12])
k = input(type=f32[B,T,12])
v = input(type=f32[B,T,12])
a = attention(%q, %k, %v) : f32[B,T,12]
output y = %a
)");
}

TEST(JoinProjections, LeavesOtherHeadSizesOfValuesAndOtherTypesOfWeights) {
  expect_unchanged(R"(x = input(type=f32[B,T,8])
w = variable(type=f32[12,8])
wv = variable(type=f32[6,8])
q = linear(%x, %w) : f32[B,T,12]
k = linear(%x, %w) : f32[B,T,12]
v = linear(%x, %wv) : f32[B,T,6]
a = attention(%q, %k, %v, heads=3) : f32[B,T,6]
output y = %a
)");
  expect_unchanged(R"(x = input(type=f32[B,T,8])
w = variable(type=f32[12,8])
wv = variable(type=bf16[12,8])
q = linear(%x, %w) : f32[B,T,12]
k = linear(%x, %w) : f32[B,T,12]
v = linear(%x, %wv) : f32[B,T,12]
a = attention(%q, %k, %v, heads=3) : f32[B,T,12]
output y = %a
)");
}

TEST(JoinProjections, LeavesWhatIsPackedAlready) {
  expect_unchanged(kWeights + R"(q = linear(%x, %wq) : f32[B,T,12]
a = attention(%q, packed=true) : f32[B,T,4]
output y = %a
)");
}

}  // namespace
}  // namespace fovea

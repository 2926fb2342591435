#include "fovea/passes/fuse_attention.h"

#include "fovea/graph/ops.h"
#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

std::string everywhere(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

int count(const Graph& graph, std::string_view op) {
  int n = 0;
  for (int id = 0; id < graph.size(); ++id) n += graph.node(id).op->name == op;
  return n;
}

Graph fused(const Graph& graph) {
  const std::string before = print_graph(graph);
  Graph result = fuse_attention(graph, {});
  EXPECT_NO_THROW(verify(result));
  EXPECT_EQ(print_graph(graph), before);
  return result;
}
Graph fused(const std::string& lines) { return fused(graph_of(lines)); }

void expect_unchanged(const std::string& lines) { expect_graph(fused(lines), lines); }

// The attention as one node, written out by its own decomposition, and found again.
void expect_found_again(const AttentionAttrs& attrs, int64_t kv_width, const Size& tq,
                        const Size& tk, AttentionAttrs expected) {
  Graph graph;
  const Size b = Size::symbol("B");
  const Value q = ops::input(graph, "q", DType::f32, {b, tq, 48});
  const Value k = ops::input(graph, "k", DType::f32, {b, tk, kv_width});
  const Value v = ops::input(graph, "v", DType::f32, {b, tk, kv_width});
  const std::vector<Value> in = {q, k, v};
  const auto out = get_op("attention").decompose(graph, in, attrs);
  graph.set_output("y", ops::gelu(graph, out[0]));
  const Graph result = fused(graph);
  ASSERT_EQ(count(result, "attention"), 1) << print_graph(graph);
  EXPECT_EQ(result.size(), 5) << print_graph(result);
  const Node& a = result.node(3);
  EXPECT_EQ(a.attrs.text(a.op->defaults), Attrs(expected).text(a.op->defaults));
  EXPECT_EQ(a.inputs, (std::vector<Value>{{0, 0}, {1, 0}, {2, 0}}));
}
void expect_found_again(const AttentionAttrs& attrs, int64_t kv_width = 48) {
  for (const Size& tk : {Size::symbol("T"), Size::symbol("U")})
    expect_found_again(attrs, kv_width, Size::symbol("T"), tk, attrs);
  expect_found_again(attrs, kv_width, 5, 9, attrs);
}

TEST(FuseAttention, FindsItsOwnDecomposition) {
  expect_found_again({.heads = 4});
  expect_found_again({.heads = 1});
  expect_found_again({.heads = 4, .kv_heads = 2}, 24);
  expect_found_again({.heads = 4, .kv_heads = 1}, 12);
  expect_found_again({.heads = 4, .scale = 0.5});
  expect_found_again({.heads = 4, .causal = true});
  expect_found_again({.heads = 4, .window_left = 3});
  expect_found_again({.heads = 4, .window_right = 2});
  expect_found_again({.heads = 4, .window_left = 3, .window_right = 2});
  expect_found_again({.heads = 4, .kv_heads = 2, .causal = true, .window_left = 7}, 24);
  expect_found_again({.heads = 4, .heads_kept = 3, .causal = true});
  expect_found_again({.heads = 4, .heads_kept = 0});
  // Said in another way, it comes back in the plain one.
  expect_found_again({.heads = 4, .kv_heads = 4, .window_right = 0}, 48, 7, 7,
                     {.heads = 4, .causal = true});
}

const std::string kInputs =
    "x = input(type=f32[B,T,32])\n"
    "k = input(type=f32[B,T,32])\n"
    "v = input(type=f32[B,T,48])\n";
const std::string kScale = "c = constant(type=f32[], values=[0.35355339059327373])\n";
const std::string kSplit =
    "q4 = reshape(%x, shape=[B,T,4,8]) : f32[B,T,4,8]\n"
    "qt = transpose(%q4, order=[0,2,1,3]) : f32[B,4,T,8]\n"
    "k4 = reshape(%k, shape=[B,T,4,8]) : f32[B,T,4,8]\n"
    "kt = transpose(%k4, order=[0,2,1,3]) : f32[B,4,T,8]\n"
    "v4 = reshape(%v, shape=[B,T,4,12]) : f32[B,T,4,12]\n"
    "vt = transpose(%v4, order=[0,2,1,3]) : f32[B,4,T,12]\n";
const std::string kProduct = "s = matmul(%qt, %kt, transpose_b=true) : f32[B,4,T,T]\n";
const std::string kScores = "m = mul(%s, %c) : f32[B,4,T,T]\n";
const std::string kRest =
    "p = softmax(%m) : f32[B,4,T,T]\n"
    "o = matmul(%p, %vt) : f32[B,4,T,12]\n"
    "ot = transpose(%o, order=[0,2,1,3]) : f32[B,T,4,12]\n"
    "enc.attn = reshape(%ot, shape=[B,T,48]) : f32[B,T,48]\n"
    "z = exp(%enc.attn) : f32[B,T,48]\n"
    "output y = %z\n";
const std::string kWritten = kInputs + kScale + kSplit + kProduct + kScores + kRest;

std::string expected(const std::string& attrs) {
  return kInputs + "enc.attn = attention(%x, %k, %v, heads=4" + attrs +
         ") : f32[B,T,48]\nz = exp(%enc.attn) : f32[B,T,48]\noutput y = %z\n";
}

TEST(FuseAttention, FindsWhatUsersWriteAndKeepsTheName) {
  expect_graph(fused(kWritten), expected(""));
}

TEST(FuseAttention, FindsKeysThatAreTransposedAtOnce) {
  std::string text = replaced(kWritten, "kt = transpose(%k4, order=[0,2,1,3]) : f32[B,4,T,8]",
                              "kt = transpose(%k4, order=[0,2,3,1]) : f32[B,4,8,T]");
  expect_graph(fused(replaced(text, ", transpose_b=true", "")), expected(""));
  // And in two steps.
  text = replaced(kWritten, kProduct,
                  "ktt = transpose(%kt, order=[0,1,3,2]) : f32[B,4,8,T]\n"
                  "s = matmul(%qt, %ktt) : f32[B,4,T,T]\n");
  expect_graph(fused(text), expected(""));
}

TEST(FuseAttention, FindsTheScaleWhereverItStands) {
  const std::string divided =
      replaced(kWritten, "values=[0.35355339059327373]", "values=[2.8284271247461903]");
  expect_graph(fused(replaced(divided, "mul(%s", "div(%s")), expected(""));
  expect_graph(fused(replaced(kWritten, "mul(%s, %c)", "mul(%c, %s)")), expected(""));
  expect_graph(fused(replaced(kWritten, "values=[0.35355339059327373]", "values=[0.25]")),
               expected(", scale=0.25"));
  const std::string none = replaced(replaced(kWritten, kScores, ""), "softmax(%m)", "softmax(%s)");
  expect_graph(fused(replaced(none, kScale, "")), expected(", scale=1"));
  // At q, packed or split, and at k.
  expect_graph(
      fused(replaced(none, "q4 = reshape(%x", "qs = mul(%x, %c) : f32[B,T,32]\nq4 = reshape(%qs")),
      expected(""));
  expect_graph(fused(replaced(none, kProduct,
                              "qs = mul(%qt, %c) : f32[B,4,T,8]\n"
                              "s = matmul(%qs, %kt, transpose_b=true) : f32[B,4,T,T]\n")),
               expected(""));
  expect_graph(fused(replaced(none, "kt = transpose(%k4",
                              "ks = mul(%k4, %c) : f32[B,T,4,8]\nkt = transpose(%ks")),
               expected(""));
}

// `lines` make %masked from %m.
std::string masked(const std::string& lines) {
  std::string mask =
      "inf = constant(type=f32[], values=[-inf])\n"
      "row = iota(type=i32[T,1]) : i32[T,1]\n"
      "column = iota(type=i32[1,T], axis=1) : i32[1,T]\n";
  if (lines.find("%zero") != std::string::npos) mask += "zero = constant(type=f32[], values=[0])\n";
  if (lines.find("%one") != std::string::npos) mask += "one = constant(type=i32[], values=[1])\n";
  return replaced(replaced(kWritten, kScores, kScores + mask + lines), "softmax(%m)",
                  "softmax(%masked)");
}

TEST(FuseAttention, FindsCausalMasks) {
  for (const std::string lines : {
           "see = greater_equal(%row, %column) : bool[T,T]\n"
           "masked = select(%see, %m, %inf) : f32[B,4,T,T]\n",
           "see = less_equal(%column, %row) : bool[T,T]\n"
           "bias = select(%see, %zero, %inf) : f32[T,T]\n"
           "masked = add(%m, %bias) : f32[B,4,T,T]\n",
           "hide = greater(%column, %row) : bool[T,T]\n"
           "masked = select(%hide, %inf, %m) : f32[B,4,T,T]\n",
           "hide = less(%row, %column) : bool[T,T]\n"
           "bias = select(%hide, %inf, %zero) : f32[T,T]\n"
           "wide = broadcast(%bias, shape=[B,4,T,T]) : f32[B,4,T,T]\n"
           "masked = add(%wide, %m) : f32[B,4,T,T]\n",
           "next = add(%row, %one) : i32[T,1]\n"
           "hide = greater_equal(%column, %next) : bool[T,T]\n"
           "see = logical_not(%hide) : bool[T,T]\n"
           "masked = select(%see, %m, %inf) : f32[B,4,T,T]\n",
       })
    expect_graph(fused(masked(lines)), expected(", causal=true"));
}

TEST(FuseAttention, FindsWindowsInEitherSense) {
  expect_graph(fused(masked("ahead = sub(%column, %row) : i32[T,T]\n"
                            "back = constant(type=i32[], values=[-4])\n"
                            "far = less(%ahead, %back) : bool[T,T]\n"
                            "right = greater(%ahead, %one) : bool[T,T]\n"
                            "hide = logical_or(%far, %right) : bool[T,T]\n"
                            "masked = select(%hide, %inf, %m) : f32[B,4,T,T]\n")),
               expected(", window_left=4, window_right=1"));
}

TEST(FuseAttention, OtherMasksStay) {
  for (const std::string lines : {
           // The future instead of the past.
           "see = less(%row, %column) : bool[T,T]\n"
           "masked = select(%see, %m, %inf) : f32[B,4,T,T]\n",
           // Hides by a large number, so that a row of hidden links is not empty.
           "big = constant(type=f32[], values=[-1e9])\n"
           "see = greater_equal(%row, %column) : bool[T,T]\n"
           "masked = select(%see, %m, %big) : f32[B,4,T,T]\n",
           // Both senses at once: a union of windows is none.
           "a = greater_equal(%row, %column) : bool[T,T]\n"
           "b = less_equal(%row, %column) : bool[T,T]\n"
           "see = logical_or(%a, %b) : bool[T,T]\n"
           "masked = select(%see, %m, %inf) : f32[B,4,T,T]\n",
           // Given from outside.
           "see = input(type=bool[T,T])\n"
           "masked = select(%see, %m, %inf) : f32[B,4,T,T]\n",
           "bias = input(type=f32[T,T])\n"
           "masked = add(%m, %bias) : f32[B,4,T,T]\n",
           // One's own place only.
           "see = equal(%row, %column) : bool[T,T]\n"
           "masked = select(%see, %m, %inf) : f32[B,4,T,T]\n",
           // Every other one.
           "twice = add(%column, %column) : i32[1,T]\n"
           "see = greater_equal(%row, %twice) : bool[T,T]\n"
           "masked = select(%see, %m, %inf) : f32[B,4,T,T]\n",
       })
    expect_unchanged(masked(lines));
}

TEST(FuseAttention, ACausalMaskAtTheUpperLeftIsNotTheOneAtTheLowerRight) {
  std::string text = masked(
      "see = greater_equal(%row, %column) : bool[T,U]\n"
      "masked = select(%see, %m, %inf) : f32[B,4,T,U]\n");
  text = replaced(text, "k = input(type=f32[B,T", "k = input(type=f32[B,U");
  text = replaced(text, "v = input(type=f32[B,T", "v = input(type=f32[B,U");
  text = everywhere(everywhere(text, "[B,4,T,T]", "[B,4,T,U]"), "[1,T]", "[1,U]");
  for (const char* part : {"k4 = reshape(%k, shape=[B,T,4,8]) : f32[B,T,4,8]",
                           "kt = transpose(%k4, order=[0,2,1,3]) : f32[B,4,T,8]",
                           "v4 = reshape(%v, shape=[B,T,4,12]) : f32[B,T,4,12]",
                           "vt = transpose(%v4, order=[0,2,1,3]) : f32[B,4,T,12]"})
    text = replaced(text, part, everywhere(part, ",T,", ",U,"));
  expect_unchanged(text);
}

TEST(FuseAttention, NothingThatOthersReadIsLost) {
  for (const char* value : {"s", "m", "p", "o", "ot"}) {
    expect_unchanged(kWritten + "output more = %" + value + "\n");
    expect_unchanged(replaced(kWritten, "z = exp(",
                              std::string("more = exp(%") + value + ") : " +
                                  (std::string(value) == "ot"  ? "f32[B,T,4,12]"
                                   : std::string(value) == "o" ? "f32[B,4,T,12]"
                                                               : "f32[B,4,T,T]") +
                                  "\nz = exp("));
  }
}

TEST(FuseAttention, SplitHeadsAndMasksThatOthersReadStayForThem) {
  expect_graph(
      fused(kWritten + "output keys = %kt\noutput scale = %c\n"),
      replaced(kInputs + kScale +
                   "k4 = reshape(%k, shape=[B,T,4,8]) : f32[B,T,4,8]\n"
                   "kt = transpose(%k4, order=[0,2,1,3]) : f32[B,4,T,8]\n" +
                   expected("").substr(kInputs.size()),
               "output y = %z\n", "output y = %z\noutput keys = %kt\noutput scale = %c\n"));
}

TEST(FuseAttention, ThingsInAnotherOrderStay) {
  // The heads are joined the wrong way round.
  expect_unchanged(replaced(
      kWritten,
      "ot = transpose(%o, order=[0,2,1,3]) : f32[B,T,4,12]\n"
      "enc.attn = reshape(%ot, shape",
      "ot = transpose(%o, order=[0,2,3,1]) : f32[B,T,12,4]\nenc.attn = reshape(%ot, shape"));
  // Head and channel change places.
  expect_unchanged(replaced(kWritten,
                            "q4 = reshape(%x, shape=[B,T,4,8]) : f32[B,T,4,8]\n"
                            "qt = transpose(%q4, order=[0,2,1,3])",
                            "q4 = reshape(%x, shape=[B,T,8,4]) : f32[B,T,8,4]\n"
                            "qt = transpose(%q4, order=[0,3,1,2])"));
  // Not packed: the heads stand before the places.
  expect_unchanged(replaced(kWritten,
                            "q4 = reshape(%x, shape=[B,T,4,8]) : f32[B,T,4,8]\n"
                            "qt = transpose(%q4, order=[0,2,1,3])",
                            "qt = reshape(%x, shape=[B,4,T,8])"));
  // The sum is weighted by the scores, not by their softmax.
  expect_unchanged(replaced(kWritten, "matmul(%p, %vt)", "matmul(%m, %vt)"));
}

TEST(FuseAttention, ScalesThatAreNoConstantStay) {
  expect_unchanged(replaced(kWritten, kScale, "c = input(type=f32[])\n"));
  expect_unchanged(replaced(kWritten, kScale, "c = constant(type=f32[4,1,1], values=[1,2,3,4])\n"));
  expect_unchanged(replaced(kWritten, kScale, "c = constant(type=f32[], values=[-1])\n"));
  expect_unchanged(replaced(kWritten, kScale, "c = constant(type=f32[], values=[0])\n"));
  expect_unchanged(replaced(kWritten, "mul(%s, %c)", "div(%c, %s)"));
}

// Places, heads and channels are equally many, so only the order tells what is meant.
std::string cube() {
  std::string text = replaced(kWritten, "values=[0.35355339059327373]", "values=[0.5]");
  const std::pair<const char*, const char*> sizes[] = {{",T,", ",8,"}, {",T]", ",8]"},
                                                       {",4,", ",8,"}, {",12]", ",8]"},
                                                       {"32]", "64]"}, {"48]", "64]"}};
  for (auto& [from, to] : sizes) text = everywhere(text, from, to);
  return text;
}

TEST(FuseAttention, ProductsWithTheWrongOperandStay) {
  EXPECT_EQ(count(fused(cube()), "attention"), 1);
  expect_unchanged(replaced(cube(), ", transpose_b=true", ""));
  expect_unchanged(replaced(cube(), "transpose_b=true", "transpose_a=true, transpose_b=true"));
  expect_unchanged(replaced(cube(), "matmul(%p, %vt)", "matmul(%p, %vt, transpose_a=true)"));
  expect_unchanged(replaced(cube(), "matmul(%p, %vt)", "matmul(%p, %vt, transpose_b=true)"));
  expect_unchanged(replaced(cube(), "matmul(%p, %vt)", "matmul(%vt, %p)"));
}

TEST(FuseAttention, HeadsThatAreSplitInAnotherOrderStay) {
  for (const std::string value : {"q", "k", "v"})
    for (const char* order : {"[0,1,2,3]", "[0,3,1,2]", "[0,1,3,2]"})
      expect_unchanged(replaced(cube(), value + "t = transpose(%" + value + "4, order=[0,2,1,3])",
                                value + "t = transpose(%" + value + "4, order=" + order + ")"));
  expect_unchanged(
      replaced(cube(), "transpose(%o, order=[0,2,1,3])", "transpose(%o, order=[0,1,2,3])"));
  expect_unchanged(replaced(
      replaced(cube(), "transpose(%k4, order=[0,2,1,3])", "transpose(%k4, order=[0,3,2,1])"),
      ", transpose_b=true", ""));
}

TEST(FuseAttention, BatchesThatAreNotProvedEqualStay) {
  std::string text = kWritten;
  for (const char* part : {"k = input(type=f32[B", "k4 = reshape(%k, shape=[B"})
    text = replaced(text, part, replaced(part, "[B", "[1"));
  text = replaced(text, "shape=[1,T,4,8]) : f32[B", "shape=[1,T,4,8]) : f32[1");
  text = replaced(text, "kt = transpose(%k4, order=[0,2,1,3]) : f32[B",
                  "kt = transpose(%k4, order=[0,2,1,3]) : f32[1");
  expect_unchanged(text);
}

}  // namespace
}  // namespace fovea

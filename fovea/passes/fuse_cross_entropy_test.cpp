#include "fovea/passes/fuse_cross_entropy.h"

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

void expect_fused(const std::string& before, const std::string& after) {
  const Graph graph = graph_of(before);
  expect_graph(fuse_cross_entropy(graph, {}), after);
  expect_graph(graph, before);
}
void expect_unchanged(const std::string& lines) { expect_fused(lines, lines); }

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

const std::string kInputs = R"(logits = input(type=f32[B,10])
labels = input(type=i32[B])
)";

const std::string kSelected = kInputs + R"(logp = log_softmax(%logits) : f32[B,10]
classes = iota(type=i32[10]) : i32[10]
column = reshape(%labels, shape=[B,1]) : i32[B,1]
hit = equal(%classes, %column) : bool[B,10]
zero = constant(type=f32[], values=[0])
chosen = select(%hit, %logp, %zero) : f32[B,10]
sum = reduce_sum(%chosen, axes=[-1]) : f32[B]
loss = neg(%sum) : f32[B]
output loss = %loss
)";

const std::string kFused = kInputs + R"(loss = cross_entropy(%logits, %labels) : f32[B]
output loss = %loss
)";

TEST(FuseCrossEntropy, ASelectionOfTheLogProbabilityIsFound) {
  expect_fused(kSelected, kFused);
  expect_fused(replaced(kSelected, "equal(%classes, %column)", "equal(%column, %classes)"), kFused);
  expect_fused(replaced(kSelected, "axes=[-1]", "axes=[1]"), kFused);
}

TEST(FuseCrossEntropy, TheLogarithmOfASoftmaxToo) {
  expect_fused(replaced(kSelected, "logp = log_softmax(%logits)",
                        "p = softmax(%logits) : f32[B,10]\nlogp = log(%p)"),
               kFused);
}

const std::string kMultiplied = replaced(kSelected, R"(zero = constant(type=f32[], values=[0])
chosen = select(%hit, %logp, %zero))",
                                         R"(number = cast(%hit, dtype=f32) : f32[B,10]
chosen = mul(%logp, %number))");

TEST(FuseCrossEntropy, AProductWithTheComparisonAsNumbersToo) {
  expect_fused(kMultiplied, kFused);
  expect_fused(replaced(kMultiplied, "mul(%logp, %number)", "mul(%number, %logp)"), kFused);
}

TEST(FuseCrossEntropy, ClassesAndLabelsMayBeBroadcast) {
  expect_fused(R"(logits = input(type=f64[B,T,7])
labels = input(type=i32[B,T])
p = softmax(%logits) : f64[B,T,7]
logp = log(%p) : f64[B,T,7]
row = iota(type=i32[7]) : i32[7]
rows = reshape(%row, shape=[1,1,7]) : i32[1,1,7]
classes = broadcast(%rows, shape=[B,T,7]) : i32[B,T,7]
column = reshape(%labels, shape=[B,T,1]) : i32[B,T,1]
all = broadcast(%column, shape=[B,T,7]) : i32[B,T,7]
hit = equal(%classes, %all) : bool[B,T,7]
number = cast(%hit, dtype=f64) : f64[B,T,7]
chosen = mul(%number, %logp) : f64[B,T,7]
sum = reduce_sum(%chosen, axes=[2]) : f64[B,T]
loss = neg(%sum) : f64[B,T]
output loss = %loss
)",
               R"(logits = input(type=f64[B,T,7])
labels = input(type=i32[B,T])
loss = cross_entropy(%logits, %labels) : f64[B,T]
output loss = %loss
)");
  // The iota itself has all axes.
  expect_fused(replaced(kSelected, "iota(type=i32[10]) : i32[10]",
                        "iota(type=i32[B,10], axis=1) : i32[B,10]"),
               kFused);
}

TEST(FuseCrossEntropy, LabelsThatComeAsAColumnAreReshaped) {
  expect_fused(R"(logits = input(type=f32[B,10])
column = input(type=i32[B,1])
logp = log_softmax(%logits) : f32[B,10]
classes = iota(type=i32[10]) : i32[10]
hit = equal(%classes, %column) : bool[B,10]
zero = constant(type=f32[], values=[0])
chosen = select(%hit, %logp, %zero) : f32[B,10]
sum = reduce_sum(%chosen, axes=[-1]) : f32[B]
loss = neg(%sum) : f32[B]
loss.labels = variable(type=f32[2])
output loss = %loss
output own = %loss.labels
)",
               R"(logits = input(type=f32[B,10])
column = input(type=i32[B,1])
loss.labels_2 = reshape(%column, shape=[B]) : i32[B]
loss = cross_entropy(%logits, %loss.labels_2) : f32[B]
loss.labels = variable(type=f32[2])
output loss = %loss
output own = %loss.labels
)");
}

TEST(FuseCrossEntropy, TheComparisonStaysForOthers) {
  expect_fused(kSelected + "output hit = %hit\n",
               kInputs + R"(classes = iota(type=i32[10]) : i32[10]
column = reshape(%labels, shape=[B,1]) : i32[B,1]
hit = equal(%classes, %column) : bool[B,10]
loss = cross_entropy(%logits, %labels) : f32[B]
output loss = %loss
output hit = %hit
)");
}

TEST(FuseCrossEntropy, TwoLossesOfOneComparisonAreFoundBoth) {
  expect_fused(R"(logits = input(type=f32[B,10])
labels = input(type=i32[B])
others = input(type=f32[B,10])
classes = iota(type=i32[10]) : i32[10]
column = reshape(%labels, shape=[B,1]) : i32[B,1]
hit = equal(%classes, %column) : bool[B,10]
zero = constant(type=f32[], values=[0])
a1 = log_softmax(%logits) : f32[B,10]
a2 = select(%hit, %a1, %zero) : f32[B,10]
a3 = reduce_sum(%a2, axes=[-1]) : f32[B]
a = neg(%a3) : f32[B]
b1 = log_softmax(%others) : f32[B,10]
b2 = select(%hit, %b1, %zero) : f32[B,10]
b3 = reduce_sum(%b2, axes=[-1]) : f32[B]
b = neg(%b3) : f32[B]
output a = %a
output b = %b
)",
               R"(logits = input(type=f32[B,10])
labels = input(type=i32[B])
others = input(type=f32[B,10])
a = cross_entropy(%logits, %labels) : f32[B]
b = cross_entropy(%others, %labels) : f32[B]
output a = %a
output b = %b
)");
}

TEST(FuseCrossEntropy, LeavesWhatSomebodyElseReads) {
  for (const std::string name : {"logp", "chosen", "sum"})
    expect_unchanged(kSelected + "output other = %" + name + "\n");
  const std::string p = replaced(kSelected, "logp = log_softmax(%logits)",
                                 "p = softmax(%logits) : f32[B,10]\nlogp = log(%p)");
  expect_unchanged(p + "output p = %p\n");
  expect_unchanged(kSelected + "more = exp(%logp) : f32[B,10]\noutput more = %more\n");
}

TEST(FuseCrossEntropy, LeavesOtherChoices) {
  // The others are summed, not the hit.
  expect_unchanged(replaced(kSelected, "select(%hit, %logp, %zero)", "select(%hit, %zero, %logp)"));
  expect_unchanged(replaced(kSelected, "values=[0]", "values=[1]"));
  expect_unchanged(replaced(kSelected, "hit = equal(", "hit = not_equal("));
  expect_unchanged(replaced(kSelected, "classes = iota(type=i32[10]) : i32[10]",
                            "classes = input(type=i32[10])"));
  expect_unchanged(replaced(kSelected, "log_softmax(%logits)", "softmax(%logits)"));
  expect_unchanged(replaced(kMultiplied, "mul(%logp, %number)", "mul(%logp, %logp)"));
  expect_unchanged(replaced(kMultiplied, "cast(%hit, dtype=f32)", "cast(%weights, dtype=f32)")
                       .insert(0, "weights = input(type=u8[B,10])\n"));
  expect_unchanged(replaced(kMultiplied, "chosen = mul(", "chosen = add("));
}

TEST(FuseCrossEntropy, LeavesOtherAxesAndReductions) {
  expect_unchanged(replaced(replaced(kSelected, "sum = reduce_sum(%chosen, axes=[-1]) : f32[B]",
                                     "sum = reduce_sum(%chosen, axes=[0]) : f32[10]"),
                            "neg(%sum) : f32[B]", "neg(%sum) : f32[10]"));
  expect_unchanged(replaced(replaced(kSelected, "axes=[-1]) : f32[B]", "axes=[0,1]) : f32[]"),
                            "neg(%sum) : f32[B]", "neg(%sum) : f32[]"));
  expect_unchanged(
      replaced(replaced(kSelected, "axes=[-1]) : f32[B]", "axes=[-1], keep=true) : f32[B,1]"),
               "neg(%sum) : f32[B]", "neg(%sum) : f32[B,1]"));
  expect_unchanged(replaced(kSelected, "reduce_sum", "reduce_mean"));
  expect_unchanged(replaced(kSelected, "loss = neg(", "loss = abs("));
  // Counted along the rows, not the classes.
  expect_unchanged(replaced(kSelected, "iota(type=i32[10]) : i32[10]",
                            "iota(type=i32[B,10], axis=0) : i32[B,10]"));
}

TEST(FuseCrossEntropy, LeavesLabelsThatAreNotOneForEachRow) {
  const std::string narrow = replaced(kSelected, "bool[B,10]", "bool[1,10]");
  // One label for all rows.
  expect_unchanged(
      replaced(replaced(narrow, "labels = input(type=i32[B])", "labels = input(type=i32[1])"),
               "shape=[B,1]) : i32[B,1]", "shape=[1,1]) : i32[1,1]"));
  // One for each class.
  expect_unchanged(
      replaced(replaced(narrow, "labels = input(type=i32[B])", "labels = input(type=i32[10])"),
               "shape=[B,1]) : i32[B,1]", "shape=[1,10]) : i32[1,10]"));
  // Sizes that are not proved equal.
  expect_unchanged(R"(logits = input(type=f32[B,10])
column = input(type=i32[C,1])
logp = log_softmax(%logits) : f32[B,10]
classes = iota(type=i32[10]) : i32[10]
hit = equal(%classes, %column) : bool[C,10]
zero = constant(type=f32[], values=[0])
chosen = select(%hit, %logp, %zero) : f32[B,10]
sum = reduce_sum(%chosen, axes=[-1]) : f32[B]
loss = neg(%sum) : f32[B]
output loss = %loss
)");
  // Whole numbers only.
  expect_unchanged(R"(logits = input(type=f32[B,10])
column = input(type=f32[B,1])
logp = log_softmax(%logits) : f32[B,10]
classes = iota(type=f32[10]) : f32[10]
hit = equal(%classes, %column) : bool[B,10]
zero = constant(type=f32[], values=[0])
chosen = select(%hit, %logp, %zero) : f32[B,10]
sum = reduce_sum(%chosen, axes=[-1]) : f32[B]
loss = neg(%sum) : f32[B]
output loss = %loss
)");
}

}  // namespace
}  // namespace fovea

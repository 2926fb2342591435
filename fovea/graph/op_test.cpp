#include "fovea/graph/register_op.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "fovea/base/test_errors.h"
#include "fovea/graph/graph_text.h"
#include "fovea/graph/ops.h"

namespace fovea {
namespace {

Op doubled(std::string_view name) {
  Op op;
  op.name = name;
  op.infer = [](const InferContext& c) { return std::vector<ValueType>{c.inputs[0]}; };
  op.decompose = [](Graph& g, std::span<const Value> inputs, const Attrs&) {
    return std::vector<Value>{ops::add(g, inputs[0], inputs[0])};
  };
  return op;
}

TEST(RegisterOp, AnOpFromOutsideIsBuiltPrintedAndReadLikeAnyOther) {
  {
    std::string name = "test_doubled";  // the table keeps a name of its own
    register_op(doubled(name));
    name.assign(name.size(), 'x');
  }
  ASSERT_NE(find_op("test_doubled"), nullptr);
  EXPECT_TRUE(std::is_sorted(all_ops().begin(), all_ops().end(),
                             [](auto* a, auto* b) { return a->name < b->name; }));
  Graph g;
  const Value x = ops::input(g, "x", DType::f32, {4});
  g.set_output("y", ops::reduce_sum(g, g.add("test_doubled", {x}), {0}));
  EXPECT_EQ(print_graph(parse_graph(print_graph(g))), print_graph(g));
  // Rows that stood there before are where they were.
  EXPECT_EQ(g.node(x).op, find_op("input"));
}

TEST(RegisterOp, RefusesWhatIsNotCompleteOrThereAlready) {
  const auto refused = [](const char* what, Op op) {
    expect_error(ErrorCode::invalid_argument, what, [&] { register_op(op); });
  };
  refused("expected a name", doubled(""));
  refused("expected a name", doubled("Two Words"));
  refused("already", doubled("linear"));
  Op no_rule = doubled("test_no_rule");
  no_rule.infer = nullptr;
  refused("shape rule", no_rule);
  EXPECT_EQ(find_op("test_no_rule"), nullptr);
}

}  // namespace
}  // namespace fovea

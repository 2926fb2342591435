#include "fovea/passes/memory_plan.h"

#include <gtest/gtest.h>

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

const Slot& slot(const Graph& g, const MemoryPlan& plan, std::string_view name) {
  return plan.slot({g.find(name), 0});
}

TEST(MemoryPlan, ValuesThatDoNotLiveTogetherShareMemory) {
  const Graph g = graph_of(R"(x = input(type=f32[1024])
a = reduce_sum(%x, axes=[0]) : f32[]
b = broadcast(%a, shape=[1024]) : f32[1024]
c = reduce_sum(%b, axes=[0]) : f32[]
d = broadcast(%c, shape=[1024]) : f32[1024]
output y = %d
)");
  const MemoryPlan plan = plan_memory(g);
  EXPECT_EQ(slot(g, plan, "b").offset, slot(g, plan, "d").offset);
  EXPECT_LT(plan.arena_bytes, plan.values_bytes);
}

TEST(MemoryPlan, AnElementwiseOpWritesOverAnInputThatNobodyReadsAgain) {
  const Graph g = graph_of(R"(x = input(type=f32[64])
a = exp(%x) : f32[64]
b = neg(%a) : f32[64]
c = add(%b, %x) : f32[64]
output y = %c
)");
  const MemoryPlan plan = plan_memory(g);
  EXPECT_EQ(plan.arena_bytes, 256u);
  EXPECT_EQ(slot(g, plan, "x").place, Place::input);
}

TEST(MemoryPlan, AValueThatIsReadAgainIsNotWrittenOver) {
  const Graph g = graph_of(R"(x = input(type=f32[64])
a = exp(%x) : f32[64]
b = neg(%a) : f32[64]
c = mul(%a, %b) : f32[64]
output y = %c
)");
  const MemoryPlan plan = plan_memory(g);
  EXPECT_NE(slot(g, plan, "a").offset, slot(g, plan, "b").offset);
}

TEST(MemoryPlan, AViewSharesItsBytesAndKeepsThemAlive) {
  const Graph g = graph_of(R"(x = input(type=f32[8,8])
a = exp(%x) : f32[8,8]
v = reshape(%a, shape=[64]) : f32[64]
b = exp(%x) : f32[8,8]
c = reshape(%b, shape=[64]) : f32[64]
d = add(%v, %c) : f32[64]
output y = %d
)");
  const MemoryPlan plan = plan_memory(g);
  EXPECT_EQ(slot(g, plan, "v").offset, slot(g, plan, "a").offset);
  EXPECT_NE(slot(g, plan, "a").offset, slot(g, plan, "b").offset);
}

TEST(MemoryPlan, AnUpdateIsWrittenInPlaceWhereEveryReaderHasRead) {
  const Graph g = graph_of(R"(w = variable(type=f32[64])
x = input(type=f32[64])
s = mul(%w, %x) : f32[64]
n = add(%w, %s) : f32[64]
update %w = %n
)");
  const MemoryPlan plan = plan_memory(g);
  EXPECT_EQ(slot(g, plan, "n").place, Place::variable);
  EXPECT_TRUE(plan.commits.empty());
}

TEST(MemoryPlan, AnUpdateBeforeALaterReaderIsCopiedAtTheEnd) {
  const Graph g = graph_of(R"(w = variable(type=f32[64])
x = input(type=f32[64])
n = add(%w, %x) : f32[64]
late = mul(%w, %x) : f32[64]
output y = %late
update %w = %n
)");
  const MemoryPlan plan = plan_memory(g);
  EXPECT_EQ(slot(g, plan, "n").place, Place::arena);
  ASSERT_EQ(plan.commits.size(), 1u);
  EXPECT_FALSE(plan.commits[0].staged);
}

TEST(MemoryPlan, TwoVariablesThatChangePlacesAreCopiedAside) {
  const Graph g = graph_of(R"(a = variable(type=f32[64])
b = variable(type=f32[64])
update %a = %b
update %b = %a
)");
  const MemoryPlan plan = plan_memory(g);
  ASSERT_EQ(plan.commits.size(), 2u);
  EXPECT_TRUE(plan.commits[0].staged && plan.commits[1].staged);
  EXPECT_NE(plan.commits[0].staging_offset, plan.commits[1].staging_offset);
}

TEST(MemoryPlan, ACacheThatCannotBeUpdatedInPlaceIsAnError) {
  const Graph g = graph_of(R"(c = variable(type=f32[64], kind=cache)
x = input(type=f32[64])
n = add(%c, %x) : f32[64]
late = mul(%c, %x) : f32[64]
output y = %late
update %c = %n
)");
  EXPECT_NE(error_of([&] { plan_memory(g); }).find("in place"), std::string::npos);
}

TEST(MemoryPlan, AnOptimisersOutputsGoWhereTheirOwnInputsStand) {
  const std::string body = R"(w = variable(type=f32[64])
m = variable(type=f32[64], kind=state)
g = input(type=f32[64])
rate = input(type=f32[])
u = sgd(%w, %g, %m, %rate, %rate) : f32[64], f32[64]
)";
  const Graph own = graph_of(body + "update %w = %u\nupdate %m = %u:1\n");
  EXPECT_TRUE(plan_memory(own).commits.empty());
  // The momentum's output must not be written over the weight, which is read after it.
  const Graph crossed = graph_of(body + "update %w = %u:1\nupdate %m = %u\n");
  EXPECT_EQ(plan_memory(crossed).commits.size(), 2u);
}

}  // namespace
}  // namespace fovea

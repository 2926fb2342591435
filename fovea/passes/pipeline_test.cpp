#include "fovea/passes/pipeline.h"

#include <gtest/gtest.h>

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

const char* const kGraph = R"(x = input(type=f32[4])
a = exp(%x) : f32[4]
b = exp(%x) : f32[4]
c = add(%a, %b) : f32[4]
unused = neg(%x) : f32[4]
output y = %c
)";

TEST(Pipeline, RunsAllPassesInOrderAndReportsThem) {
  std::vector<PassReport> reports;
  const Graph g = run_passes(graph_of(kGraph), {}, {}, &reports);
  expect_graph(g, R"(x = input(type=f32[4])
a = exp(%x) : f32[4]
c = add(%a, %a) : f32[4]
output y = %c
)");
  ASSERT_EQ(reports.size(), pipeline().size());
  EXPECT_EQ(reports.front().name, "apply_level");
  EXPECT_EQ(reports.back().nodes_after, g.size());
}

TEST(Pipeline, APassCanBeSwitchedOffByName) {
  std::vector<PassReport> reports;
  const std::string off[] = {"common_subexpressions"};
  const Graph g = run_passes(graph_of(kGraph), {}, off, &reports);
  EXPECT_GE(g.find("b"), 0);
  EXPECT_LT(g.find("unused"), 0);
}

TEST(Pipeline, AnUnknownPassIsAnErrorWithTheNearestName) {
  const std::string off[] = {"dead_node"};
  EXPECT_NE(
      error_of([&] { run_passes(graph_of(kGraph), {}, off); }).find("did you mean 'dead_nodes'"),
      std::string::npos);
}

}  // namespace
}  // namespace fovea

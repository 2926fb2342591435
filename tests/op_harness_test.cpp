// Every op of the table, by its rows. `op_harness_test --support` prints which kernel supports
// which row, `op_harness_test --speed` how fast each is; neither is a test.
#include "tests/op_harness.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cctype>
#include <set>

#include "fovea/runtime/binding.h"

namespace fovea::harness {

namespace {

class OpHarness : public testing::TestWithParam<size_t> {
 protected:
  const OpRow& row() const { return all_rows()[GetParam()]; }
};

TEST_P(OpHarness, EveryKernelGivesTheNumbersOfDoublePrecision) { expect_right(row()); }

TEST_P(OpHarness, TheBitsAreEqualForOneToFourThreads) { expect_equal_bits_for_any_threads(row()); }

std::string name_of(const testing::TestParamInfo<size_t>& row) {
  std::string name = all_rows()[row.param].op + "_" + all_rows()[row.param].label;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
}
INSTANTIATE_TEST_SUITE_P(Rows, OpHarness, testing::Range(size_t{0}, all_rows().size()), name_of);

// The rows that have something to differentiate.
std::vector<size_t> differentiable_rows() {
  std::vector<size_t> rows;
  for (size_t i = 0; i < all_rows().size(); ++i)
    if (!all_rows()[i].differentiable.empty()) rows.push_back(i);
  return rows;
}
class OpGradient : public OpHarness {};
TEST_P(OpGradient, TheGradientIsThatOfFiniteDifferences) { expect_gradient(row()); }
INSTANTIATE_TEST_SUITE_P(Rows, OpGradient, testing::ValuesIn(differentiable_rows()), name_of);

TEST(OpTable, EveryOpThatRunsHasARow) {
  std::set<std::string_view> tested;
  for (auto& row : all_rows()) {
    EXPECT_NE(find_op(row.op), nullptr) << row.op;
    tested.insert(row.op);
  }
  for (const Op* op : all_ops())
    EXPECT_TRUE(op->source || tested.contains(op->name)) << op->name << " has no row";
}

TEST(OpTable, EveryOpWithAGradientHasARowThatComparesIt) {
  std::set<std::string_view> tested;
  for (auto& row : all_rows())
    if (!row.differentiable.empty()) tested.insert(row.op);
  for (const Op* op : all_ops())
    EXPECT_TRUE(op->source || op->no_gradient || tested.contains(op->name))
        << "no row compares the gradient of " << op->name;
}

TEST(OpTable, EveryRowContainsItsOp) {
  for (auto& row : all_rows()) {
    Graph graph;
    row.build(graph, DType::f32);
    bool found = false;
    for (int id = 0; id < graph.size(); ++id) found = found || graph.node(id).op->name == row.op;
    EXPECT_TRUE(found) << row.op << "/" << row.label;
  }
}

TEST(OpTable, EveryOpHasAKernelOrADecomposition) {
  for (const Op* op : all_ops())
    EXPECT_TRUE(op->source || find_binding(op->name) || op->decompose) << op->name << " cannot run";
}

// The best of a list too: a kernel that takes no row is not tested by any.
TEST(OpTable, EveryKernelSupportsARow) {
  std::set<std::string> supported;
  for (auto& row : all_rows())
    for (auto& s : support_of(row))
      if (s.supported) supported.insert(s.kernel);
  for (auto& family : kernel_families()) {
    if (family.name == "fill") continue;  // a helper of pad, not a choice of its own
    for (auto& kernel : family.kernels) {
      if (kernel == "tiled_avx512vnni") continue;  // of caches in i8, which no op has yet
      EXPECT_TRUE(supported.contains(fmt::format("{}:{}", family.name, kernel)))
          << family.name << ":" << kernel << " supports no row";
    }
  }
}

// The reference is what the others are measured against, so it takes everything.
TEST(OpTable, TheReferenceSupportsEveryRow) {
  for (auto& row : all_rows())
    for (auto& s : support_of(row))
      EXPECT_TRUE(s.supported || !s.kernel.ends_with(":ref"))
          << s.kernel << " for " << row.op << "/" << row.label;
}

}  // namespace

}  // namespace fovea::harness

int main(int argc, char** argv) {
  using namespace fovea::harness;
  testing::InitGoogleTest(&argc, argv);
  const std::string_view wish = argc > 1 ? argv[1] : "";
  for (auto& row : all_rows()) {
    if (wish == "--speed") print_speed(row);
    if (wish != "--support") continue;
    for (auto& s : support_of(row))
      fmt::print("{:<44} {:<28} {}\n", row.op + "/" + row.label, s.kernel,
                 s.supported ? "yes" : "no");
  }
  return wish.empty() ? RUN_ALL_TESTS() : 0;
}

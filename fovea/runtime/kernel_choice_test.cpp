#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"
#include "fovea/runtime/session.h"

namespace fovea {

namespace {

std::string message(std::string_view choice, ErrorCode code) {
  try {
    KernelChoice::parse(choice);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "no error";
}
bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// The variable for as long as it lives.
class Environment {
 public:
  explicit Environment(const char* choice) { setenv("FOVEA_FORCE_KERNEL", choice, 1); }
  ~Environment() { unsetenv("FOVEA_FORCE_KERNEL"); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
};

Graph product_of(DType dtype) {
  Graph g;
  const Value a = ops::input(g, "a", dtype, {8, 8});
  g.set_output("y", g.add("matmul", {a, a}, MatmulAttrs{}, "product"));
  return g;
}
Session session_of(Graph g) {
  return Session(std::move(g), std::make_shared<VariableStore>(), std::make_shared<ThreadPool>(1));
}
std::string kernel_used(Session& s) { return s.prepare({}).reports().at(0).kernel; }

TEST(KernelChoice, ReadsPairsOfFamilyAndKernel) {
  const KernelChoice choice = KernelChoice::parse("matmul=ref,softmax=ref");
  EXPECT_EQ(choice.forced("matmul"), "ref");
  EXPECT_EQ(choice.forced("softmax"), "ref");
  EXPECT_EQ(choice.forced("conv2d"), "");
  EXPECT_EQ(KernelChoice::parse("").forced("matmul"), "");
}

TEST(KernelChoice, AnUnknownFamilyIsAnErrorWithTheNearestName) {
  const std::string e = message("matmull=ref", ErrorCode::not_found);
  EXPECT_TRUE(contains(e, "'matmull'") && contains(e, "did you mean 'matmul'?")) << e;
}

TEST(KernelChoice, AnUnknownKernelIsAnErrorThatListsWhatThereIs) {
  const std::string e = message("matmul=cuda", ErrorCode::not_found);
  EXPECT_TRUE(contains(e, "'cuda'") && contains(e, "dnnl, ref")) << e;
  EXPECT_TRUE(contains(message("matmul=", ErrorCode::not_found), "''"));
}

TEST(KernelChoice, APairWithoutItsSignIsAnError) {
  const std::string e = message("matmul=ref,softmax", ErrorCode::invalid_argument);
  EXPECT_TRUE(contains(e, "'softmax'")) << e;
  EXPECT_TRUE(contains(message(",matmul=ref", ErrorCode::invalid_argument), "''"));
}

TEST(KernelChoice, TheBestKernelIsTakenWhereNoneIsForced) {
  Session s = session_of(product_of(DType::f32));
  EXPECT_EQ(kernel_used(s), "matmul:dnnl");
}

TEST(KernelChoice, AForcedKernelIsUsed) {
  const Environment environment("matmul=ref");
  Session s = session_of(product_of(DType::f32));
  EXPECT_EQ(kernel_used(s), "matmul:ref");
}

TEST(KernelChoice, TheNextKernelIsTakenWhereTheBestDoesNotSupportTheCase) {
  Session s = session_of(product_of(DType::f64));
  EXPECT_EQ(kernel_used(s), "matmul:ref");
}

TEST(KernelChoice, AForcedKernelThatDoesNotSupportTheCaseIsAnError) {
  const Environment environment("matmul=dnnl");
  Session s = session_of(product_of(DType::f64));
  try {
    s.prepare({});
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::unsupported);
    const std::string what = e.what();
    EXPECT_TRUE(contains(what, "matmul=dnnl") && contains(what, "product") && contains(what, "f64"))
        << what;
  }
}

TEST(KernelChoice, AWrongNameInTheEnvironmentStopsTheSession) {
  const Environment environment("nonsense=ref");
  EXPECT_THROW(session_of(product_of(DType::f32)), Error);
}

TEST(KernelChoice, TheEnvironmentIsReadWhenTheSessionIsMade) {
  Session s = session_of(product_of(DType::f32));
  const Environment environment("matmul=ref");
  EXPECT_EQ(kernel_used(s), "matmul:dnnl");
}

TEST(Bindings, AreSortedAndEachBelongsToAnOpOfTheTable) {
  const auto all = bindings();
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end(), [](auto& a, auto& b) { return a.op < b.op; }));
  for (auto& b : all) {
    EXPECT_NE(find_op(b.op), nullptr) << b.op;
    EXPECT_EQ(find_binding(b.op), &b);
  }
  EXPECT_EQ(find_binding("patches"), nullptr);
}

TEST(Bindings, EveryFamilyIsNamedOnceAndEndsWithItsReference) {
  std::string_view before;
  for (auto& family : kernel_families()) {
    EXPECT_LT(before, family.name);
    before = family.name;
    ASSERT_FALSE(family.kernels.empty()) << family.name;
    EXPECT_EQ(family.kernels.back(), "ref") << family.name;
  }
}

TEST(Strides, OfABroadcastOperandAreZeroAlongWhatIsRepeated) {
  using Dims = std::vector<int64_t>;
  EXPECT_EQ(dense_strides({2, 3, 4}), (Dims{12, 4, 1}));
  EXPECT_EQ(dense_strides({}), Dims{});
  EXPECT_EQ(broadcast_strides({3, 1}, {2, 3, 4}), (Dims{0, 1, 0}));
  EXPECT_EQ(broadcast_strides({}, {2, 3}), (Dims{0, 0}));
  EXPECT_EQ(broadcast_strides({2, 3}, {2, 3}), (Dims{3, 1}));
  EXPECT_EQ(product({2, 3, 4}), 24);
  EXPECT_EQ(product({2, 3, 4}, 1), 12);
  EXPECT_EQ(product({2, 3, 4}, 0, 2), 6);
  EXPECT_EQ(product({}), 1);
}

}  // namespace

}  // namespace fovea

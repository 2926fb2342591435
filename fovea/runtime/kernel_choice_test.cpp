#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "fovea/base/test_errors.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"
#include "fovea/graph/register_op.h"
#include "fovea/runtime/compile.h"
#include "fovea/runtime/register_bindings.h"
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

// An op of a test and its kernel, as a program outside the library would add them.
Op halved(std::string_view name) {
  Op op;
  op.name = name;
  op.infer = [](const InferContext& c) { return std::vector<ValueType>{c.inputs[0]}; };
  op.decompose = [](Graph& g, std::span<const Value> inputs, const Attrs&) {
    return std::vector<Value>{ops::scaled(g, inputs[0], 0.5)};
  };
  return op;
}

std::unique_ptr<NodePlan> bind_halved(const NodeProblem& node, const KernelChoice&) {
  class Plan final : public NodePlan {
   public:
    explicit Plan(int64_t count) : count_(count) { kernel = "halved:test"; }
    void run(const void* const* inputs, void* const* outputs,
             const KernelContext&) const noexcept override {
      for (int64_t i = 0; i < count_; ++i)
        static_cast<float*>(outputs[0])[i] = static_cast<const float*>(inputs[0])[i] / 2;
    }

   private:
    int64_t count_;
  };
  return std::make_unique<Plan>(product(node.output_dims()));
}

float half_of_three(std::string_view op, std::string& kernel) {
  Graph g;
  g.set_output("y", g.add(op, {ops::input(g, "x", DType::f32, {1})}));
  Session session = session_of(compile(g));
  Execution& e = session.prepare({});
  const float three = 3;
  std::memcpy(e.input("x").data(), &three, sizeof three);
  e.run();
  kernel = e.reports().at(0).kernel;
  return e.output_f32("y")[0];
}

TEST(RegisterBindings, AnOpFromOutsideRunsByItsKernelAndWithoutOneByItsDecomposition) {
  register_op(halved("test_halved"));
  register_op(halved("test_halved_plain"));
  register_bindings({{{"test_halved", bind_halved}}, {{"test_halved", {"test"}}}});
  std::string kernel;
  EXPECT_EQ(half_of_three("test_halved", kernel), 1.5f);
  EXPECT_EQ(kernel, "halved:test");
  EXPECT_EQ(half_of_three("test_halved_plain", kernel), 1.5f);
  EXPECT_NE(kernel, "halved:test");
  EXPECT_EQ(KernelChoice::parse("test_halved=test").forced("test_halved"), "test");
}

TEST(RegisterBindings, RefusesWhatDoesNotExistOrIsThereAlready) {
  const auto refused = [](const char* what, const BindingGroup& group) {
    expect_error(ErrorCode::invalid_argument, what, [&] { register_bindings(group); });
  };
  refused("no such op", {{{"test_nowhere", bind_halved}}, {}});
  refused("has a binding already", {{{"linear", bind_halved}}, {}});
  refused("family of this name", {{}, {{"softmax", {"mine"}}}});
}

}  // namespace

}  // namespace fovea

#include "fovea/passes/freeze.h"

#include <cstring>

#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

HostTensorPtr tensor(DType dtype, std::vector<int64_t> shape, const std::vector<float>& values) {
  auto t = std::make_shared<HostTensor>();
  t->dtype = dtype;
  t->shape = std::move(shape);
  t->bytes.resize(values.size() * sizeof(float));
  std::memcpy(t->bytes.data(), values.data(), t->bytes.size());
  return t;
}

PassContext with(std::map<std::string, HostTensorPtr> weights) {
  PassContext context;
  context.weights = [weights = std::move(weights)](const std::string& name) -> HostTensorPtr {
    const auto it = weights.find(name);
    return it == weights.end() ? nullptr : it->second;
  };
  return context;
}

const char* const kGraph = R"(x = input(type=f32[B,2])
w = variable(type=f32[2])
big = variable(type=f32[65])
count = variable(type=i32[], kind=state)
y = mul(%x, %w) : f32[B,2]
output y = %y
output big = %big
output count = %count
)";

TEST(Freeze, VariablesWithNumbersBecomeConstants) {
  const std::vector<float> many(65, 0.5f);
  const auto big = tensor(DType::f32, {65}, many);
  const Graph g =
      freeze(graph_of(kGraph), with({{"w", tensor(DType::f32, {2}, {1.5f, -2})}, {"big", big}}));
  verify(g);
  const std::string hash = g.node(g.find("big")).attrs.get<ConstantAttrs>().hash;
  EXPECT_EQ(g.constants().at(hash), big);
  expect_graph(g, R"(x = input(type=f32[B,2])
w = constant(type=f32[2], values=[1.5,-2])
big = constant(type=f32[65], hash=)" +
                      hash +
                      R"()
count = variable(type=i32[], kind=state)
y = mul(%x, %w) : f32[B,2]
output y = %y
output big = %big
output count = %count
)");
}

TEST(Freeze, NothingIsFrozenWithoutNumbers) {
  expect_graph(freeze(graph_of(kGraph), {}), kGraph);
  expect_graph(freeze(graph_of(kGraph), with({{"x", tensor(DType::f32, {2}, {1, 2})}})), kGraph);
}

TEST(Freeze, AnUpdatedVariableIsAnError) {
  const std::string lines = std::string(kGraph) + "update %w = %w\n";
  const auto context = with({{"w", tensor(DType::f32, {2}, {1, 2})}});
  EXPECT_EQ(error_of([&] { freeze(graph_of(lines), context); }),
            "[freeze w] expected a graph that does not update it (freeze the graph for inference, "
            "or leave its numbers out)");
  // Others may be updated.
  EXPECT_NO_THROW(freeze(graph_of(std::string(kGraph) + "update %count = %count\n"), context));
}

TEST(Freeze, NumbersOfAnotherTypeAreAnError) {
  const auto message = [&](HostTensorPtr numbers) {
    return error_of([&] { freeze(graph_of(kGraph), with({{"w", numbers}})); });
  };
  EXPECT_EQ(message(tensor(DType::f32, {3}, {1, 2, 3})),
            "[freeze w] expected f32[2], got f32[3] (the weights are those of another model)");
  EXPECT_EQ(message(tensor(DType::i32, {2}, {1, 2})),
            "[freeze w] expected f32[2], got i32[2] (the weights are those of another model)");
}

}  // namespace
}  // namespace fovea

// Updates of variables commit together after all reads, wherever the planner lets them be written:
// steps of small graphs against the same numbers computed here.
#include <gtest/gtest.h>

#include <cmath>

#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"
#include "fovea/runtime/session.h"

namespace fovea {

namespace {

using Floats = std::vector<float>;

// A graph with variables of type f32 [n], set to given numbers before the first step.
class Steps {
 public:
  Graph graph;

  Value variable(const std::string& name, Floats initial) {
    const auto n = static_cast<int64_t>(initial.size());
    initial_[name] = std::move(initial);
    return ops::variable(graph, name,
                         {.type = {DType::f32, {n}}, .kind = VariableKind::state, .source = {}});
  }
  Value counter(const std::string& name) {
    return ops::variable(graph, name,
                         {.type = {DType::i32, {}}, .kind = VariableKind::state, .source = {}});
  }

  void run(int steps) {
    if (!session_) {
      session_ = std::make_unique<Session>(graph, std::make_shared<VariableStore>(),
                                           std::make_shared<ThreadPool>(2));
      for (auto& [name, numbers] : initial_)
        session_->variables().set(name, DType::f32, {static_cast<int64_t>(numbers.size())},
                                  std::as_bytes(std::span(numbers)));
    }
    for (int i = 0; i < steps; ++i) session_->prepare({}).run();
  }
  Floats get(const std::string& name) {
    const auto bytes = session_->variables().get(name).data.bytes();
    const auto* p = reinterpret_cast<const float*>(bytes.data());
    return Floats(p, p + bytes.size() / sizeof(float));
  }
  int32_t count(const std::string& name) {
    return *reinterpret_cast<const int32_t*>(session_->variables().get(name).data.data());
  }
  Floats output(const std::string& name) {
    const auto y = session_->prepare({}).output_f32(name);
    return Floats(y.begin(), y.end());
  }
  int32_t output_count(const std::string& name) {
    return *reinterpret_cast<const int32_t*>(session_->prepare({}).output(name).data());
  }

 private:
  std::unique_ptr<Session> session_;
  std::map<std::string, Floats> initial_;
};

TEST(Updates, TwoVariablesSwap) {
  Steps s;
  const Value a = s.variable("a", {1, 2}), b = s.variable("b", {3, 4});
  s.graph.update(a, b);
  s.graph.update(b, a);
  s.run(1);
  EXPECT_EQ(s.get("a"), (Floats{3, 4}));
  EXPECT_EQ(s.get("b"), (Floats{1, 2}));
  s.run(2);
  EXPECT_EQ(s.get("a"), (Floats{3, 4}));
}

TEST(Updates, ThreeVariablesGoRoundThroughViews) {
  Steps s;
  const Value a = s.variable("a", {1, 2}), b = s.variable("b", {3, 4}), c = s.variable("c", {5, 6});
  s.graph.update(a, ops::reshape(s.graph, ops::reshape(s.graph, b, {2, 1}), {2}));
  s.graph.update(b, c);
  s.graph.update(c, ops::reshape(s.graph, a, {2}));
  s.run(1);
  EXPECT_EQ(s.get("a"), (Floats{3, 4}));
  EXPECT_EQ(s.get("b"), (Floats{5, 6}));
  EXPECT_EQ(s.get("c"), (Floats{1, 2}));
  s.run(2);
  EXPECT_EQ(s.get("a"), (Floats{1, 2}));
}

TEST(Updates, FibonacciReadsBothNumbersOfTheStepBefore) {
  Steps s;
  const Value a = s.variable("a", {0}), b = s.variable("b", {1});
  s.graph.update(a, b);
  s.graph.update(b, ops::add(s.graph, a, b));
  s.run(10);
  EXPECT_EQ(s.get("a"), (Floats{55}));
  EXPECT_EQ(s.get("b"), (Floats{89}));
}

TEST(Updates, ReadersAfterTheUpdateInTheGraphStillSeeTheStepBefore) {
  Steps s;
  Graph& g = s.graph;
  const Value counter = s.counter("counter");
  const Value next = ops::add(g, counter, ops::constant(g, 1, DType::i32));
  g.update(counter, next);
  // These nodes stand behind the one that makes the new value.
  g.set_output("doubled", ops::add(g, counter, counter));
  g.set_output("next", next);
  g.set_output("after_next", ops::add(g, next, ops::constant(g, 1, DType::i32)));
  s.run(3);
  EXPECT_EQ(s.count("counter"), 3);
  EXPECT_EQ(s.output_count("doubled"), 4);
  EXPECT_EQ(s.output_count("next"), 3);
  EXPECT_EQ(s.output_count("after_next"), 4);
}

TEST(Updates, AViewReadLaterStillSeesTheStepBefore) {
  Steps s;
  Graph& g = s.graph;
  const Value v = s.variable("v", {1, 2, 3, 4});
  const Value view = ops::reshape(g, v, {2, 2});
  g.update(v, ops::scaled(g, v, 10));
  g.set_output("sum", ops::reduce_sum(g, view, {1}));
  s.run(2);
  EXPECT_EQ(s.output("sum"), (Floats{30, 70}));
  EXPECT_EQ(s.get("v"), (Floats{100, 200, 300, 400}));
}

TEST(Updates, AnOutputThatIsTheVariableShowsTheStepBefore) {
  Steps s;
  Graph& g = s.graph;
  const Value v = s.variable("v", {1, 2});
  g.update(v, ops::scaled(g, v, 2));
  g.set_output("v", v);
  g.set_output("view", ops::reshape(g, v, {2, 1}));
  s.run(1);
  EXPECT_EQ(s.output("v"), (Floats{1, 2}));
  EXPECT_EQ(s.output("view"), (Floats{1, 2}));
  s.run(1);
  EXPECT_EQ(s.output("v"), (Floats{2, 4}));
  EXPECT_EQ(s.get("v"), (Floats{4, 8}));
}

TEST(Updates, OneValueMayGoIntoTwoVariables) {
  Steps s;
  Graph& g = s.graph;
  const Value a = s.variable("a", {1, 2}), b = s.variable("b", {10, 20});
  const Value sum = ops::add(g, a, b);
  g.update(a, sum);
  g.update(b, sum);
  s.run(3);
  EXPECT_EQ(s.get("a"), (Floats{44, 88}));
  EXPECT_EQ(s.get("b"), (Floats{44, 88}));
}

TEST(Updates, AnUpdateMayReadItsVariableInAnotherOrder) {
  Steps s;
  Graph& g = s.graph;
  const Value v = s.variable("v", {1, 2, 3, 4});
  const Value matrix = ops::reshape(g, v, {2, 2});
  g.update(v, ops::reshape(g, ops::matmul(g, matrix, matrix), {4}));
  const Value w = s.variable("w", {1, 2, 3, 4, 5, 6});
  g.update(w, ops::concat(g, {ops::slice(g, w, 0, 3, 3), ops::slice(g, w, 0, 0, 3)}, 0));
  const Value u = s.variable("u", {1, 2, 3});
  g.update(u, ops::softmax(g, u));
  const Value x = s.variable("x", {1, 2, 3});
  g.update(x, ops::sub(g, x, g.add("reduce_max", {x}, ReduceAttrs{{0}, true})));
  s.run(1);
  EXPECT_EQ(s.get("v"), (Floats{7, 10, 15, 22}));
  EXPECT_EQ(s.get("w"), (Floats{4, 5, 6, 1, 2, 3}));
  EXPECT_NEAR(s.get("u")[2], std::exp(2.0) / (1 + std::exp(1.0) + std::exp(2.0)), 1e-6);
  EXPECT_EQ(s.get("x"), (Floats{-2, -1, 0}));
}

TEST(Updates, AMovingAverageReadsTheNewWeight) {
  Steps s;
  Graph& g = s.graph;
  const Value w = s.variable("w", {8}), average = s.variable("average", {0});
  const Value next = ops::scaled(g, w, 0.5);
  g.update(w, next);
  g.update(average, ops::add(g, ops::scaled(g, average, 0.75), ops::scaled(g, next, 0.25)));
  s.run(3);
  EXPECT_EQ(s.get("w"), (Floats{1}));
  EXPECT_EQ(s.get("average"), (Floats{0.75f * (0.75f * 1.0f + 0.5f) + 0.25f}));
}

TEST(Updates, AConstantAndAnotherVariableCanBeTaken) {
  Steps s;
  Graph& g = s.graph;
  const Value a = s.variable("a", {1, 2}), b = s.variable("b", {3, 4});
  g.update(a, ops::constant(g, 7, DType::f32, {2}));
  g.update(b, a);
  s.run(1);
  EXPECT_EQ(s.get("a"), (Floats{7, 7}));
  EXPECT_EQ(s.get("b"), (Floats{1, 2}));
  s.run(1);
  EXPECT_EQ(s.get("b"), (Floats{7, 7}));
}

TEST(Updates, ThreeStepsOfSgdAreThoseOfTheFormula) {
  Steps s;
  Graph& g = s.graph;
  const Value w = s.variable("w", {1, -2, 0.5f}), m = s.variable("m", {0, 0, 0});
  const Value gradient = ops::sub(g, w, ops::constant(g, {3, 1, -1}, DType::f32, {3}));
  const Value lr = ops::constant(g, 0.1), factor = ops::constant(g, 0.5);
  const Value step = g.add("sgd", {w, gradient, m, lr, factor}, SgdAttrs{0.9, 0.01});
  g.update(w, step);
  g.update(m, {step.node, 1});
  s.run(3);
  const double target[] = {3, 1, -1};
  double weight[] = {1, -2, 0.5}, momentum[] = {0, 0, 0};
  for (int t = 0; t < 3; ++t)
    for (int i = 0; i < 3; ++i) {
      momentum[i] = 0.9 * momentum[i] + 0.5 * (weight[i] - target[i]);
      weight[i] -= 0.1 * (momentum[i] + 0.01 * weight[i]);
    }
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(s.get("w")[i], weight[i], 1e-6);
    EXPECT_NEAR(s.get("m")[i], momentum[i], 1e-6);
  }
}

TEST(Updates, ThreeStepsOfAdamwAreThoseOfTheFormula) {
  Steps s;
  Graph& g = s.graph;
  const Value w = s.variable("w", {1, -2}), m = s.variable("m", {0, 0}),
              v = s.variable("v", {0, 0});
  const Value counter = s.counter("step");
  const Value now = ops::add(g, counter, ops::constant(g, 1, DType::i32));
  const Value gradient = ops::unary(g, "square", w);
  const Value step =
      g.add("adamw", {w, gradient, m, v, ops::constant(g, 0.05), now, ops::constant(g, 1)},
            AdamwAttrs{.weight_decay = 0.1});
  g.update(w, step);
  g.update(m, {step.node, 1});
  g.update(v, {step.node, 2});
  g.update(counter, now);
  s.run(3);
  EXPECT_EQ(s.count("step"), 3);
  double weight[] = {1, -2}, first[] = {0, 0}, second[] = {0, 0};
  for (int t = 1; t <= 3; ++t)
    for (int i = 0; i < 2; ++i) {
      const double d = weight[i] * weight[i];
      first[i] = 0.9 * first[i] + 0.1 * d;
      second[i] = 0.999 * second[i] + 0.001 * d * d;
      const double up = first[i] / (1 - std::pow(0.9, t));
      const double down = std::sqrt(second[i] / (1 - std::pow(0.999, t))) + 1e-8;
      weight[i] -= 0.05 * (up / down + 0.1 * weight[i]);
    }
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_NEAR(s.get("w")[i], weight[i], 1e-6);
    EXPECT_NEAR(s.get("m")[i], first[i], 1e-6);
    EXPECT_NEAR(s.get("v")[i], second[i], 1e-6);
  }
}

TEST(Updates, AdamwOfSeveralWeightsIsAdamwOfEach) {
  Steps together, apart;
  for (Steps* s : {&together, &apart}) {
    Graph& g = s->graph;
    std::vector<Value> inputs, variables;
    const Floats initial[] = {{1, -2, 3}, {0.5f}, {4, 5, -6, 7, 8}};
    const Value rate = ops::constant(g, 0.05), now = ops::constant(g, 2, DType::i32),
                factor = ops::constant(g, 0.5);
    const auto step = [&](const std::vector<Value>& of) {
      std::vector<Value> in = of;
      in.insert(in.end(), {rate, now, factor});
      return g.add("adamw", in, AdamwAttrs{.weight_decay = 0.1});
    };
    for (size_t i = 0; i < 3; ++i) {
      const std::string n = std::to_string(i);
      const Value w = s->variable("w" + n, initial[i]),
                  m = s->variable("m" + n, Floats(initial[i].size(), 0.25f)),
                  v = s->variable("v" + n, Floats(initial[i].size(), 0.125f));
      const std::vector<Value> in = {w, ops::unary(g, "square", w), m, v};
      inputs.insert(inputs.end(), in.begin(), in.end());
      variables.insert(variables.end(), {w, m, v});
      if (s == &together) continue;
      const Value u = step(in);
      for (int part = 0; part < 3; ++part)
        g.update(variables[3 * i + static_cast<size_t>(part)], {u.node, part});
    }
    if (s == &together) {
      const Value u = step(inputs);
      for (size_t i = 0; i < variables.size(); ++i)
        g.update(variables[i], {u.node, static_cast<int32_t>(i)});
    }
    s->run(3);
  }
  for (const std::string part : {"w", "m", "v"})
    for (const std::string n : {"0", "1", "2"})
      EXPECT_EQ(together.get(part + n), apart.get(part + n)) << part << n;
  EXPECT_NE(together.get("w1"), (Floats{0.5f}));
}

TEST(Updates, AStepWhoseFactorIsNotFiniteLeavesWeightAndMoments) {
  Steps s;
  Graph& g = s.graph;
  const Value w = s.variable("w", {1, -2}), m = s.variable("m", {3, 4}),
              v = s.variable("v", {5, 6});
  const Value step = g.add("adamw",
                           {w, ops::scaled(g, w, NAN), m, v, ops::constant(g, 0.05),
                            ops::constant(g, 1, DType::i32), ops::constant(g, INFINITY)},
                           AdamwAttrs{.weight_decay = 0.1});
  g.update(w, step);
  g.update(m, {step.node, 1});
  g.update(v, {step.node, 2});
  s.run(2);
  EXPECT_EQ(s.get("w"), (Floats{1, -2}));
  EXPECT_EQ(s.get("m"), (Floats{3, 4}));
  EXPECT_EQ(s.get("v"), (Floats{5, 6}));
}

}  // namespace

}  // namespace fovea

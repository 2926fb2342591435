// One step of each optimiser.
#include <cmath>

#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

struct Inputs {
  Value w, g, m, v, lr, step, factor;
};

// factor: of the gradient; NaN takes it from an input.
Inputs inputs(Graph& g, DType t, const Shape& shape, double factor) {
  Inputs in;
  in.w = ops::input(g, "w", t, shape);
  in.g = ops::input(g, "g", t, shape);
  in.m = ops::input(g, "m", t, shape);
  in.v = ops::input(g, "v", t, shape);
  in.lr = ops::input(g, "lr", DType::f32, {});
  in.step = ops::input(g, "step", DType::i32, {});
  in.factor = std::isnan(factor) ? ops::input(g, "factor", DType::f32, {})
                                 : ops::constant(g, factor, DType::f32);
  return in;
}

std::map<std::string, Range> ranges() {
  return {{"v", {0.01, 1}}, {"lr", {0.001, 0.1}}, {"step", {1, 9, 1}}, {"factor", {0.1, 1}}};
}

OpRow adamw_row(std::string label, Shape shape, AdamwAttrs attrs, double factor = NAN) {
  OpRow row{
      .op = "adamw",
      .label = std::move(label),
      .build = [=](Graph& g, DType t) -> std::vector<Value> {
        const Inputs in = inputs(g, t, shape, factor);
        const Value y = g.add("adamw", {in.w, in.g, in.m, in.v, in.lr, in.step, in.factor}, attrs);
        return {y, {y.node, 1}, {y.node, 2}};
      },
      .ranges = ranges()};
  if (std::isinf(factor))
    row.expected = [](const NumbersByName& in) {
      return std::vector<Numbers>{in.at("w"), in.at("m"), in.at("v")};
    };
  else
    // Loshchilov and Hutter 2019, algorithm 2.
    row.expected = [=](const NumbersByName& in) -> std::vector<Numbers> {
      Numbers w = in.at("w"), m = in.at("m"), v = in.at("v");
      const double lr = in.at("lr")[0], t = in.at("step")[0];
      const double scale = in.contains("factor") ? in.at("factor")[0] : factor;
      for (size_t i = 0; i < w.size(); ++i) {
        const double g = scale * in.at("g")[i];
        m[i] = attrs.beta1 * m[i] + (1 - attrs.beta1) * g;
        v[i] = attrs.beta2 * v[i] + (1 - attrs.beta2) * g * g;
        const double first = m[i] / (1 - std::pow(attrs.beta1, t));
        const double second = v[i] / (1 - std::pow(attrs.beta2, t));
        w[i] -= lr * (first / (std::sqrt(second) + attrs.eps) + attrs.weight_decay * w[i]);
      }
      return {w, m, v};
    };
  return row;
}

OpRow sgd_row(std::string label, Shape shape, SgdAttrs attrs, double factor = NAN) {
  const bool moving = attrs.momentum != 0;
  OpRow row{.op = "sgd",
            .label = std::move(label),
            .build = [=](Graph& g, DType t) -> std::vector<Value> {
              const Inputs in = inputs(g, t, shape, factor);
              const Value y = g.add("sgd", {in.w, in.g, in.m, in.lr, in.factor}, attrs);
              if (!moving) return {y};
              return {y, {y.node, 1}};
            },
            .ranges = ranges()};
  if (std::isinf(factor))
    row.expected = [moving](const NumbersByName& in) {
      std::vector<Numbers> kept = {in.at("w")};
      if (moving) kept.push_back(in.at("m"));
      return kept;
    };
  else
    row.expected = [=](const NumbersByName& in) -> std::vector<Numbers> {
      Numbers w = in.at("w"), m = in.at("m");
      const double scale = in.contains("factor") ? in.at("factor")[0] : factor;
      for (size_t i = 0; i < w.size(); ++i) {
        m[i] = (moving ? attrs.momentum * m[i] : 0) + scale * in.at("g")[i];
        w[i] -= in.at("lr")[0] * (m[i] + attrs.weight_decay * w[i]);
      }
      if (!moving) return {w};
      return {w, m};
    };
  return row;
}

// One node for weights of several shapes gives each what a node of its own gives it.
OpRow adamw_of_many_row(std::string label, std::vector<Shape> shapes, double factor) {
  const AdamwAttrs attrs{.weight_decay = 0.02};
  OpRow row{.op = "adamw",
            .label = std::move(label),
            .build = [=](Graph& g, DType t) -> std::vector<Value> {
              std::vector<Value> in;
              for (size_t i = 0; i < shapes.size(); ++i)
                for (const char* part : {"w", "g", "m", "v"})
                  in.push_back(ops::input(g, part + std::to_string(i), t, shapes[i]));
              in.push_back(ops::input(g, "lr", DType::f32, {}));
              in.push_back(ops::input(g, "step", DType::i32, {}));
              in.push_back(ops::constant(g, factor, DType::f32));
              const Value y = g.add("adamw", in, attrs);
              std::vector<Value> outputs;
              for (size_t i = 0; i < 3 * shapes.size(); ++i)
                outputs.push_back({y.node, static_cast<int32_t>(i)});
              return outputs;
            },
            .ranges = ranges()};
  for (size_t i = 0; i < shapes.size(); ++i) row.ranges["v" + std::to_string(i)] = {0.01, 1};
  row.expected = [=](const NumbersByName& in) {
    std::vector<Numbers> all;
    for (size_t n = 0; n < shapes.size(); ++n) {
      const auto part = [&](const char* name) { return in.at(name + std::to_string(n)); };
      Numbers w = part("w"), m = part("m"), v = part("v");
      const double lr = in.at("lr")[0], t = in.at("step")[0];
      for (size_t i = 0; i < w.size() && std::isfinite(factor); ++i) {
        const double g = factor * part("g")[i];
        m[i] = attrs.beta1 * m[i] + (1 - attrs.beta1) * g;
        v[i] = attrs.beta2 * v[i] + (1 - attrs.beta2) * g * g;
        const double first = m[i] / (1 - std::pow(attrs.beta1, t));
        const double second = v[i] / (1 - std::pow(attrs.beta2, t));
        w[i] -= lr * (first / (std::sqrt(second) + attrs.eps) + attrs.weight_decay * w[i]);
      }
      all.insert(all.end(), {w, m, v});
    }
    return all;
  };
  return row;
}

// The sum of the squares of all elements of all inputs.
OpRow sum_squares_row(std::string label, std::vector<Shape> shapes, bool gradient) {
  OpRow row{.op = "sum_squares",
            .label = std::move(label),
            .build = [=](Graph& g, DType t) -> std::vector<Value> {
              std::vector<Value> in;
              for (size_t i = 0; i < shapes.size(); ++i)
                in.push_back(ops::input(g, "x" + std::to_string(i), t, shapes[i]));
              return {g.add("sum_squares", in)};
            },
            .expected =
                [](const NumbersByName& in) {
                  double sum = 0;
                  for (auto& [name, numbers] : in)
                    for (const double x : numbers) sum += x * x;
                  return std::vector<Numbers>{{sum}};
                }};
  for (size_t i = 0; i < shapes.size() && gradient; ++i)
    row.differentiable.push_back("x" + std::to_string(i));
  return row;
}

}  // namespace

std::vector<OpRow> optimiser_rows() {
  return {
      adamw_row("plain", {3, 7}, {}),
      adamw_row("decay", {41}, {.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.05}),
      adamw_row("large", {300, 401}, {.weight_decay = 0.01}, 1),
      adamw_row("factor_that_is_not_finite", {2, 9}, {.weight_decay = 0.05}, INFINITY),
      adamw_of_many_row("several", {{3, 7}, {41}, {}, {2, 3, 5}}, 0.5),
      adamw_of_many_row("several_large", {{300, 401}, {64}, {1}, {129, 127}}, 0.25),
      adamw_of_many_row("several_with_a_factor_that_is_not_finite", {{5}, {3, 3}}, NAN),
      sum_squares_row("one", {{7}}, true),
      sum_squares_row("several", {{3, 5}, {}, {2, 3, 4}}, true),
      sum_squares_row("large", {{300, 401}, {64}, {129, 127}}, false),
      sgd_row("plain", {3, 7}, {}),
      sgd_row("momentum", {41}, {.momentum = 0.9}),
      sgd_row("decay", {41}, {.momentum = 0.9, .weight_decay = 0.05}),
      sgd_row("large", {300, 401}, {.momentum = 0.9}, 1),
      sgd_row("factor_that_is_not_finite", {2, 9}, {.weight_decay = 0.05}, INFINITY),
      sgd_row("momentum_with_a_factor_that_is_not_finite", {2, 9}, {.momentum = 0.9}, -INFINITY),
  };
}

}  // namespace fovea::harness

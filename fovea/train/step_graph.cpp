#include "fovea/train/step_graph.h"

#include <fmt/format.h>

#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"
#include "fovea/passes/differentiate.h"
#include "fovea/runtime/compile.h"

namespace fovea {

namespace {

VariableAttrs state(const ValueType& type, Init init = Init::constant, std::string source = {}) {
  return {.type = type, .kind = VariableKind::state, .init = init, .source = std::move(source)};
}

// The optimiser as a pass: reads the outputs grad.*, adds updates, removes those outputs.
class StepBuilder {
 public:
  StepBuilder(const Graph& graph, const TrainOptions& options, StepPart part)
      : g_(graph), o_(options), part_(part) {}

  Graph build() {
    std::vector<std::pair<Value, Value>> gradients;  // weight, gradient
    for (auto& [name, value] : graph_outputs()) {
      if (!name.starts_with(kGradientPrefix)) continue;
      gradients.emplace_back(Value{g_.find(name.substr(kGradientPrefix.size())), 0}, value);
      g_.remove_output(name);
    }
    if (gradients.empty())
      throw Error(ErrorCode::invalid_argument, "[train] the loss does not depend on any weight");
    Value count = g_.output(kObjectiveCount);
    if (part_ != StepPart::whole) {
      const Graph::Scope scope(g_, kAccumulatedPrefix.substr(0, kAccumulatedPrefix.size() - 1));
      count = accumulate("count", count);
      for (auto& [weight, gradient] : gradients)
        gradient = accumulate(g_.node(weight).name, gradient);
    }
    if (part_ != StepPart::accumulate) apply(gradients, count);
    return std::move(g_);
  }

 private:
  std::vector<std::pair<std::string, Value>> graph_outputs() const { return g_.outputs(); }

  // The sum with the micro-batches before; kept for the next one, or cleared.
  Value accumulate(const std::string& name, Value value) {
    const Value sum_before = ops::variable(g_, name, state(g_.type(value)));
    const Value sum = ops::add(g_, sum_before, value);
    const bool last = part_ == StepPart::apply;
    g_.update(sum_before, last ? ops::constant(g_, 0, g_.type(value).dtype, g_.shape(value)) : sum);
    return sum;
  }

  void apply(const std::vector<std::pair<Value, Value>>& gradients, Value count) {
    const Value rate = ops::input(g_, kRateInput, DType::f32, {});
    const Graph::Scope scope(g_, "optimiser");
    const Value one = ops::constant(g_, 1);
    const Value share = ops::unary(g_, "reciprocal", ops::binary(g_, "max", count, one));
    const Value norm = ops::mul(g_, gradient_norm(gradients), share);
    g_.set_output(kGradientNorm, norm);
    Value factor = share;
    if (o_.clip > 0) {
      const Value room =
          ops::div(g_, ops::constant(g_, o_.clip), ops::add(g_, norm, ops::constant(g_, 1e-6)));
      factor = ops::mul(g_, factor, ops::binary(g_, "min", room, one));
    }
    // 0 times what is not finite is NaN: such a step leaves the weights as they are.
    const Value sound = ops::scaled(g_, ops::add(g_, norm, g_.output(kObjectiveSum)), 0);
    factor = ops::add(g_, factor, sound);

    const Value step = ops::variable(g_, "step", state({DType::i32, {}}));
    const Value now = ops::add(g_, step, ops::constant(g_, 1, DType::i32));
    for (auto& [weight, gradient] : gradients) {
      const Value updated = update(weight, gradient, rate, now, factor);
      if (o_.average > 0) average(weight, updated, now);
    }
    g_.update(step, now);
  }

  Value gradient_norm(const std::vector<std::pair<Value, Value>>& gradients) {
    Value sum;
    for (auto& [weight, gradient] : gradients) {
      std::vector<int64_t> axes;
      for (size_t i = 0; i < g_.shape(gradient).size(); ++i)
        axes.push_back(static_cast<int64_t>(i));
      const Value square = ops::unary(g_, "square", gradient);
      const Value part = axes.empty() ? square : ops::reduce_sum(g_, square, axes);
      sum = sum ? ops::add(g_, sum, part) : part;
    }
    return ops::unary(g_, "sqrt", sum);
  }

  Value update(Value weight, Value gradient, Value rate, Value step, Value factor) {
    const std::string name = g_.node(weight).name;
    const ValueType type = g_.type(weight);
    // No decay on norms and biases: they have one axis.
    const double decay = type.rank() >= 2 ? o_.weight_decay : 0;
    if (o_.optimiser == OptimiserKind::sgd) {
      const Value m = ops::variable(g_, "momentum." + name, state(type));
      const Value u = g_.add("sgd", {weight, gradient, m, rate, factor},
                             SgdAttrs{o_.momentum, decay}, "sgd." + name);
      g_.update(weight, u);
      g_.update(m, {u.node, 1});
      return u;
    }
    const Value m = ops::variable(g_, "m." + name, state(type));
    const Value v = ops::variable(g_, "v." + name, state(type));
    const Value u = g_.add("adamw", {weight, gradient, m, v, rate, step, factor},
                           AdamwAttrs{o_.beta1, o_.beta2, o_.eps, decay}, "adamw." + name);
    g_.update(weight, u);
    g_.update(m, {u.node, 1});
    g_.update(v, {u.node, 2});
    return u;
  }

  // a' = d a + (1 - d) w with d = min(average, (1 + t) / (10 + t)), so that the first steps do not
  // weigh for long.
  void average(Value weight, Value updated, Value step) {
    const std::string name = g_.node(weight).name;
    if (!decay_) {
      const Value t = ops::cast(g_, step, DType::f32);
      const Value ramp = ops::div(g_, ops::add(g_, t, ops::constant(g_, 1)),
                                  ops::add(g_, t, ops::constant(g_, 10)));
      decay_ = ops::binary(g_, "min", ramp, ops::constant(g_, o_.average));
      rest_ = ops::sub(g_, ops::constant(g_, 1), decay_);
    }
    const Value before =
        g_.add_named(get_op("variable"), {}, state(g_.type(weight), Init::copy, name),
                     std::string(kAveragePrefix) + name);
    g_.update(before, ops::add(g_, ops::mul(g_, before, decay_), ops::mul(g_, updated, rest_)));
  }

  Graph g_;
  const TrainOptions& o_;
  StepPart part_;
  Value decay_, rest_;
};

}  // namespace

Graph objective_graph(const Task& task) {
  Graph g = task.train;
  const Graph::Scope scope(g, "objective");
  Value sum;
  for (const LossTerm& term : task.losses) {
    Value part = g.output(term.name + ".sum");
    if (term.weight != 1) part = ops::scaled(g, part, term.weight);
    sum = sum ? ops::add(g, sum, part) : part;
  }
  g.set_output(kObjectiveSum, sum);
  g.set_output(kObjectiveCount, g.output(task.losses.at(0).name + ".count"));
  return g;
}

PassContext step_context(const TrainOptions& options, StepPart part) {
  PassContext context;
  context.differentiate_output = kObjectiveSum;
  context.optimiser = [options, part](const Graph& graph) {
    return StepBuilder(graph, options, part).build();
  };
  return context;
}

StepGraphs make_step(const Task& task, const TrainOptions& options, StepPart part,
                     std::span<const std::string> disabled, std::vector<PassReport>* reports) {
  StepGraphs step;
  step.before = objective_graph(task);
  step.after = compile(step.before, step_context(options, part), disabled, reports);
  return step;
}

}  // namespace fovea

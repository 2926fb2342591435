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
      throw Error(ErrorCode::invalid_argument,
                  "[train] the loss does not depend on any weight: there is nothing to learn "
                  "(build it from the model's outputs)");
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

  using Gradients = std::vector<std::pair<Value, Value>>;  // weight, gradient

  void apply(const Gradients& gradients, Value count) {
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
    // No decay on norms and biases: they have one axis.
    Gradients decayed, plain;
    for (auto& g : gradients) (g_.shape(g.first).size() >= 2 ? decayed : plain).push_back(g);
    update(decayed, o_.weight_decay, "weights", {rate, now, factor});
    update(plain, 0, "vectors", {rate, now, factor});
    g_.update(step, now);
  }

  Value gradient_norm(const Gradients& gradients) {
    std::vector<Value> values;
    for (auto& g : gradients) values.push_back(g.second);
    return ops::unary(g_, "sqrt", g_.add("sum_squares", values));
  }

  struct Scalars {
    Value rate, step, factor;
  };

  // One node for all weights with the same decay.
  void update(const Gradients& gradients, double decay, const std::string& name, Scalars scalars) {
    if (gradients.empty()) return;
    if (o_.optimiser == OptimiserKind::sgd) {
      for (auto& g : gradients) update_sgd(g.first, g.second, decay, scalars);
      return;
    }
    std::vector<Value> inputs, variables;  // variables: weight, m, v of each
    for (auto& [weight, gradient] : gradients) {
      const std::string of = g_.node(weight).name;
      const ValueType type = g_.type(weight);
      const Value m = ops::variable(g_, "m." + of, state(type));
      const Value v = ops::variable(g_, "v." + of, state(type));
      inputs.insert(inputs.end(), {weight, gradient, m, v});
      variables.insert(variables.end(), {weight, m, v});
    }
    inputs.insert(inputs.end(), {scalars.rate, scalars.step, scalars.factor});
    const Value u = g_.add("adamw", inputs, AdamwAttrs{o_.beta1, o_.beta2, o_.eps, decay}, name);
    for (size_t i = 0; i < variables.size(); ++i) {
      const Value updated{u.node, static_cast<int32_t>(i)};
      g_.update(variables[i], updated);
      if (i % 3 == 0 && o_.average > 0) average(variables[i], updated, scalars.step);
    }
  }

  void update_sgd(Value weight, Value gradient, double decay, Scalars scalars) {
    const std::string name = g_.node(weight).name;
    const Value m = ops::variable(g_, "momentum." + name, state(g_.type(weight)));
    const Value u = g_.add("sgd", {weight, gradient, m, scalars.rate, scalars.factor},
                           SgdAttrs{o_.momentum, decay}, "sgd." + name);
    g_.update(weight, u);
    g_.update(m, {u.node, 1});
    if (o_.average > 0) average(weight, u, scalars.step);
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
  context.bf16 = in_bf16(options.precision);
  context.memory_bytes = static_cast<size_t>(options.memory_mb * 1e6);
  context.sizes = {{"B", options.batch / options.accumulate}};
  return context;
}

StepGraphs make_step(const Task& task, const TrainOptions& options, const StepOptions& step) {
  StepGraphs graphs;
  graphs.before = objective_graph(task);
  PassContext context = step_context(options, step.part);
  Level level;
  if (step.level) {
    level = make_level(*step.level, graphs.before);
    context.level = &level;
  }
  graphs.after = compile(graphs.before, context, step.disabled, step.reports);
  return graphs;
}

}  // namespace fovea

// fovea graph: the text form of a model or of its training step, before and after the passes.
#include <fmt/format.h>

#include "cli/cli_support.h"
#include "cli/verbs.h"
#include "fovea/graph/graph_text.h"
#include "fovea/passes/pipeline.h"
#include "fovea/train/step_graph.h"

namespace fovea::cli {

namespace {

void print_reports(const std::vector<PassReport>& reports) {
  fmt::print("# passes\n");
  for (const PassReport& pass : reports) {
    if (pass.disabled)
      fmt::print("# {:<24} disabled\n", pass.name);
    else
      fmt::print("# {:<24} {:>9.3f} ms  {:>6} -> {} nodes\n", pass.name, pass.milliseconds,
                 pass.nodes_before, pass.nodes_after);
  }
}

struct Options {
  std::string path;
  std::vector<std::string> disabled, overrides;
  bool train = false, json = false;
  RunOptions run = {.precision = {}};  // what the recipe says
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("BUNDLE|RECIPE", o.path, "Folder of a model, or a recipe");
  arguments.flag("--train", o.train, "The training step instead of the model");
  add_run_options(arguments, o.run);
  arguments.repeated("--disable-pass", o.disabled, "PASS", "Leave out a pass; may be repeated");
  arguments.repeated("--set", o.overrides, "KEY=VALUE", "Change a value of the recipe");
  arguments.json(o.json);
}

void print_as_json(const StepGraphs& graphs, const std::vector<PassReport>& reports) {
  Json passes = Json::array();
  for (const PassReport& pass : reports) {
    Json row = Json::object();
    row.set("name", pass.name)
        .set("disabled", pass.disabled)
        .set("ms", pass.milliseconds)
        .set("nodes_before", static_cast<int64_t>(pass.nodes_before))
        .set("nodes_after", static_cast<int64_t>(pass.nodes_after));
    passes.push(std::move(row));
  }
  Json out = Json::object();
  out.set("before", print_graph(graphs.before))
      .set("after", print_graph(graphs.after))
      .set("passes", std::move(passes));
  print_json(out);
}

int run(const Call&, Options& o) {
  Model model = Model::open(o.path, o.overrides);
  std::vector<PassReport> reports;
  StepGraphs graphs;
  if (o.train) {
    TrainOptions options = model.train_options();
    options.precision = o.run.precision.value_or(options.precision);
    graphs =
        make_step(model.task(), options,
                  {.level = model.level(o.run.level), .disabled = o.disabled, .reports = &reports});
  } else {
    graphs.before = model.inference();
    graphs.after = model.compiled(graphs.before, o.run, o.disabled, &reports);
  }
  if (o.json) {
    print_as_json(graphs, reports);
    return 0;
  }
  fmt::print("# before the passes: {} nodes\n{}", graphs.before.size(), print_graph(graphs.before));
  fmt::print("# after the passes: {} nodes\n{}", graphs.after.size(), print_graph(graphs.after));
  print_reports(reports);
  return 0;
}

}  // namespace

Verb graph_verb() {
  return {.name = "graph",
          .summary = "print the graph, before and after the passes",
          .description =
              "Prints a model's graph as text, before and after the passes, and what "
              "each pass did. Lines that start with '#' stand between the parts.",
          .examples = {{"fovea graph runs/demo", "the model that predict runs"},
                       {"fovea graph recipes/fashion_mnist.toml --train",
                        "a whole training step: the model, its gradients, the optimiser"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

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

}  // namespace

int graph_verb(const Call& call) {
  std::string path;
  std::vector<std::string> disabled, overrides;
  bool train = false;
  RunOptions run;
  Arguments arguments("graph",
                      "Prints a model's graph as text, before and after the passes, and what each "
                      "pass did.\nLines that start with '#' stand between the parts.");
  arguments.positional("BUNDLE|RECIPE", path, "Folder of a model, or a recipe");
  arguments.flag("--train", train, "The training step instead of the model");
  add_run_options(arguments, run);
  arguments.repeated("--disable-pass", disabled, "NAME", "Leave out a pass; may be repeated");
  arguments.repeated("--set", overrides, "KEY=VALUE", "Change a value of the recipe");
  run.precision.clear();  // what the recipe says
  if (!arguments.parse(call.arguments)) return 0;

  Model model = Model::open(path, overrides);
  std::vector<PassReport> reports;
  StepGraphs graphs;
  if (train) {
    TrainOptions options = model.train_options();
    if (!run.precision.empty()) options.precision = precision_named(run.precision);
    graphs =
        make_step(model.task(), options,
                  {.level = model.level(run.level), .disabled = disabled, .reports = &reports});
  } else {
    graphs.before = model.inference();
    graphs.after = model.compiled(graphs.before, run, disabled, &reports);
  }
  fmt::print("# before the passes: {} nodes\n{}", graphs.before.size(), print_graph(graphs.before));
  fmt::print("# after the passes: {} nodes\n{}", graphs.after.size(), print_graph(graphs.after));
  print_reports(reports);
  return 0;
}

}  // namespace fovea::cli

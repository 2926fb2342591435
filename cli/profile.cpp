// fovea profile: where the time and the memory of a model or of its training step go.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/cli_support.h"
#include "cli/measure.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "fovea/base/progress.h"
#include "fovea/formats/file.h"
#include "fovea/train/step_graph.h"

namespace fovea::cli {

namespace {

// A graph that was run: the model, a whole training step, or one of the two parts of a step that
// accumulates gradients.
struct Part {
  std::string name;
  int64_t times = 1;  // in what is profiled
  Profile profile;
};

struct Result {
  std::string path;
  bool train = false;
  int64_t batch = 0;       // images of one run
  int64_t accumulate = 1;  // runs of a training step
  int threads = 0;
  int64_t runs = 0;
  std::vector<Part> parts;
  // Bytes, of all parts together: each keeps its own.
  int64_t arena = 0;   // with sharing
  int64_t values = 0;  // without
  int64_t total = 0;   // arena, inputs and scratch
  int64_t peak = 0;    // of the whole process
};

// Of all parts, each as often as it runs.
struct Totals {
  double node_milliseconds = 0;
  double run_milliseconds = 0;
  int64_t flops = 0;
  int64_t bytes = 0;
};

Totals totals_of(const Result& r) {
  Totals all;
  for (const Part& part : r.parts) {
    all.node_milliseconds += static_cast<double>(part.times) * part.profile.node_milliseconds;
    all.run_milliseconds += static_cast<double>(part.times) * part.profile.run_milliseconds;
    all.flops += part.times * part.profile.flops;
    all.bytes += part.times * part.profile.bytes;
  }
  return all;
}

// Of the time of all parts.
double share(const NodeReport& node, const Part& part, const Totals& totals) {
  return totals.node_milliseconds > 0
             ? static_cast<double>(part.times) * node.milliseconds / totals.node_milliseconds
             : 0;
}

// Operations a second in units of 10^9.
double gflops(const Totals& t) {
  return t.run_milliseconds > 0 ? static_cast<double>(t.flops) / t.run_milliseconds / 1e6 : 0;
}

double images_per_second(const Result& r, const Totals& t) {
  return t.run_milliseconds > 0
             ? 1e3 * static_cast<double>(r.batch * r.accumulate) / t.run_milliseconds
             : 0;
}

void print_as_json(const Result& r) {
  const Totals t = totals_of(r);
  Json nodes = Json::array();
  for (const Part& part : r.parts)
    for (const NodeReport& node : part.profile.nodes) {
      Json row = Json::object();
      row.set("part", part.name)
          .set("times", part.times)
          .set("name", node.name)
          .set("op", node.op)
          .set("kernel", node.kernel)
          .set("flops", node.flops)
          .set("bytes", node.bytes)
          .set("ms", node.milliseconds)
          .set("share", share(node, part, t))
          .set("alone", node.alone);
      nodes.push(std::move(row));
    }
  Json totals = Json::object();
  totals.set("flops", t.flops)
      .set("bytes", t.bytes)
      .set("node_ms", t.node_milliseconds)
      .set("run_ms", t.run_milliseconds)
      .set("gflops_per_second", gflops(t))
      .set("examples_per_second", images_per_second(r, t));
  Json memory = Json::object();
  memory.set("arena_bytes", r.arena)
      .set("values_bytes", r.values)
      .set("plan_bytes", r.total)
      .set("peak_bytes", r.peak);
  Json out = Json::object();
  out.set("model", r.path)
      .set("train", r.train)
      .set("batch", r.batch)
      .set("accumulate", r.accumulate)
      .set("threads", int64_t{r.threads})
      .set("runs", r.runs)
      .set("nodes", std::move(nodes))
      .set("totals", std::move(totals))
      .set("memory", std::move(memory));
  print_json(out);
}

std::string count(int64_t number) { return format_count(static_cast<double>(number)); }
std::string bytes(int64_t number) { return format_bytes(static_cast<double>(number)); }

void print_rows(const Part& part, const Totals& t) {
  constexpr auto kRight = Table::Align::right;
  Table table({{"name"},
               {"op"},
               {"kernel"},
               {"FLOPs", kRight},
               {"bytes", kRight},
               {"ms", kRight},
               {"share", kRight}});
  for (const NodeReport& node : part.profile.nodes)
    table.row({node.name, node.op, node.kernel, count(node.flops), bytes(node.bytes),
               fmt::format("{:.4f}", node.milliseconds),
               fmt::format("{:.1f} %", 100 * share(node, part, t))});
  table.print();
  fmt::print("\n");
}

void print_as_text(const Result& r) {
  const Totals t = totals_of(r);
  for (const Part& part : r.parts) {
    if (r.parts.size() > 1)
      fmt::print("{}: {} in a training step, {:.3f} ms each; shares are of the step\n", part.name,
                 part.times == 1 ? "once" : fmt::format("{} times", part.times),
                 part.profile.run_milliseconds);
    print_rows(part, t);
  }
  const std::string batch = r.accumulate == 1 ? fmt::format("batch {}", r.batch)
                                              : fmt::format("batch {} x {}", r.accumulate, r.batch);
  fmt::print("{} of {}, {}, {} thread{}, median of {} runs\n",
             r.train ? "one training step" : "one run", r.path, batch, r.threads,
             r.threads == 1 ? "" : "s", r.runs);
  fmt::print("time         {:.3f} ms, {} examples a second; sum of the nodes {:.3f} ms\n",
             t.run_milliseconds, format_count(images_per_second(r, t)), t.node_milliseconds);
  fmt::print("work         {} FLOPs, {} read and written, {:.1f} GFLOP/s\n", count(t.flops),
             bytes(t.bytes), gflops(t));
  fmt::print("arena        {} ({} if nothing shared memory); with inputs and scratch {}\n",
             bytes(r.arena), bytes(r.values), bytes(r.total));
  fmt::print("peak memory  {} of the whole process\n", bytes(r.peak));
}

// What is to be run, before it is.
struct Planned {
  std::string name;
  int64_t times;
  Graph graph;
};

// The same parts as the trainer makes.
std::vector<Planned> step_graphs(Model& model, const RunOptions& run,
                                 const std::vector<std::string>& disabled, int64_t batch) {
  TrainOptions options = model.train_options();
  options.precision = run.precision.value_or(options.precision);
  options.batch = batch * options.accumulate;  // what the memory is planned for
  const auto step = [&](StepPart part) {
    return make_step(model.task(), options,
                     {.part = part, .level = model.level(run.level), .disabled = disabled})
        .after;
  };
  std::vector<Planned> all;
  if (options.accumulate == 1) {
    all.push_back({"step", 1, step(StepPart::whole)});
  } else {
    all.push_back({"accumulate", options.accumulate - 1, step(StepPart::accumulate)});
    all.push_back({"apply", 1, step(StepPart::apply)});
  }
  return all;
}

// Some runs of all parts, one after another.
void write_trace(const std::string& path, const Result& r,
                 const std::vector<Execution*>& executions) {
  constexpr int kRuns = 3;
  Json events = Json::array();
  double at = 0;
  for (int run = 0; run < kRuns; ++run)
    for (size_t i = 0; i < executions.size(); ++i)
      at = add_trace(*executions[i], r.parts[i].name, static_cast<int64_t>(i), at, events);
  Json trace = Json::object();
  trace.set("displayTimeUnit", "ms").set("traceEvents", std::move(events));
  write_file_atomically(path, trace.text());
}

struct Options {
  std::string path, trace;
  std::optional<int64_t> batch, seed;
  int64_t runs = 20, threads = 0;
  std::vector<std::string> disabled, overrides;
  RunOptions run = {.precision = {}};  // what the recipe says
  bool train = false, json = false;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("BUNDLE|RECIPE", o.path, "Folder of a model, or a recipe");
  arguments.flag("--train", o.train, "The training step instead of the model");
  arguments.option("--batch", o.batch, 1, 65536,
                   "Images at a time [1; with --train, what the recipe says]");
  arguments.option("--runs", o.runs, 1, 1000000, "Runs to take the medians of");
  add_run_options(arguments, o.run);
  arguments.repeated("--disable-pass", o.disabled, "PASS", "Leave out a pass; may be repeated");
  arguments.repeated("--set", o.overrides, "KEY=VALUE", "Change a value of the recipe");
  arguments.option("--trace", o.trace, "FILE",
                   "Write some runs as a Chrome trace, for a trace viewer such as Perfetto");
  arguments.seed(o.seed);
  arguments.threads(o.threads);
  arguments.json(o.json);
}

int run(const Call&, Options& o) {
  Model model = Model::open(o.path, o.overrides);
  const TrainOptions& options = model.train_options();
  Result r;
  r.path = o.path;
  r.train = o.train;
  r.runs = o.runs;
  r.batch = o.batch.value_or(r.train ? options.batch / options.accumulate : 1);
  std::vector<Planned> planned;
  if (r.train) {
    planned = step_graphs(model, o.run, o.disabled, r.batch);
    r.accumulate = options.accumulate;
  } else {
    planned.push_back({"model", 1, model.compiled(model.inference(), o.run, o.disabled)});
  }

  const std::shared_ptr<ThreadPool> pool = make_pool(o.threads);
  r.threads = pool->threads();
  const std::shared_ptr<VariableStore> variables = model.variables();
  const auto seed = static_cast<uint64_t>(o.seed.value_or(options.seed));
  // All live until the end, as in training.
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<Execution*> executions;
  for (Planned& part : planned) {
    sessions.push_back(std::make_unique<Session>(std::move(part.graph), variables, pool,
                                                 SessionOptions{.seed = seed}));
    Execution& execution = sessions.back()->prepare({{"B", r.batch}});
    fill_inputs(execution, sessions.back()->graph());
    executions.push_back(&execution);
    r.parts.push_back({part.name, part.times, profile(execution, r.runs)});
    r.arena += static_cast<int64_t>(execution.arena_bytes());
    r.values += static_cast<int64_t>(execution.values_bytes());
    r.total += static_cast<int64_t>(execution.total_bytes());
  }
  r.peak = peak_memory_bytes();
  if (!o.trace.empty()) write_trace(o.trace, r, executions);
  if (o.json)
    print_as_json(r);
  else
    print_as_text(r);
  return 0;
}

}  // namespace

Verb profile_verb() {
  return {.name = "profile",
          .summary = "show where time and memory go, node by node",
          .description =
              "Shows where time and memory go: a row a node, then the totals. A recipe "
              "is profiled with fresh weights. A training step that accumulates "
              "gradients has two parts.",
          .examples = {{"fovea profile runs/demo --threads 1", "one image on one thread"},
                       {"fovea profile recipes/fashion_mnist.toml --train --trace step.json",
                        "a training step, and its trace"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

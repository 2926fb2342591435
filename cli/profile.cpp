// fovea profile: where the time and the memory of a model or of its training step go.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "cli/cli_support.h"
#include "cli/measure.h"
#include "cli/verbs.h"
#include "fovea/base/progress.h"
#include "fovea/runtime/compile.h"
#include "fovea/train/step_graph.h"

namespace fovea::cli {

namespace {

struct Result {
  std::string path;
  bool train = false;
  int64_t batch = 0;
  int threads = 0;
  int64_t runs = 0;
  Profile profile;
  // Bytes.
  int64_t arena = 0;   // with sharing
  int64_t values = 0;  // without
  int64_t total = 0;   // arena, inputs and scratch
  int64_t peak = 0;    // of the whole process
};

double share(const NodeReport& node, const Profile& profile) {
  return profile.node_milliseconds > 0 ? node.milliseconds / profile.node_milliseconds : 0;
}

// Operations a second in units of 10^9.
double gflops(int64_t flops, double milliseconds) {
  return milliseconds > 0 ? static_cast<double>(flops) / milliseconds / 1e6 : 0;
}

double images_per_second(const Result& r) {
  const double milliseconds = r.profile.run_milliseconds;
  return milliseconds > 0 ? 1e3 * static_cast<double>(r.batch) / milliseconds : 0;
}

void print_as_json(const Result& r) {
  Json nodes = Json::array();
  for (const NodeReport& node : r.profile.nodes) {
    Json row = Json::object();
    row.set("name", node.name)
        .set("op", node.op)
        .set("kernel", node.kernel)
        .set("flops", node.flops)
        .set("bytes", node.bytes)
        .set("ms", node.milliseconds)
        .set("share", share(node, r.profile));
    nodes.push(std::move(row));
  }
  Json totals = Json::object();
  totals.set("flops", r.profile.flops)
      .set("bytes", r.profile.bytes)
      .set("node_ms", r.profile.node_milliseconds)
      .set("run_ms", r.profile.run_milliseconds)
      .set("gflops_per_second", gflops(r.profile.flops, r.profile.run_milliseconds))
      .set("examples_per_second", images_per_second(r));
  Json memory = Json::object();
  memory.set("arena_bytes", r.arena)
      .set("values_bytes", r.values)
      .set("plan_bytes", r.total)
      .set("peak_bytes", r.peak);
  Json out = Json::object();
  out.set("model", r.path)
      .set("train", r.train)
      .set("batch", r.batch)
      .set("threads", int64_t{r.threads})
      .set("runs", r.runs)
      .set("nodes", std::move(nodes))
      .set("totals", std::move(totals))
      .set("memory", std::move(memory));
  print_json(out);
}

std::string count(int64_t number) { return format_count(static_cast<double>(number)); }
std::string bytes(int64_t number) { return format_bytes(static_cast<double>(number)); }

void print_as_text(const Result& r) {
  const Profile& p = r.profile;
  size_t name = 4, op = 2, kernel = 6;
  for (const NodeReport& node : p.nodes) {
    name = std::max(name, node.name.size());
    op = std::max(op, node.op.size());
    kernel = std::max(kernel, node.kernel.size());
  }
  fmt::print("{:<{}}  {:<{}}  {:<{}}  {:>7}  {:>7}  {:>9}  {:>7}\n", "name", name, "op", op,
             "kernel", kernel, "FLOPs", "bytes", "ms", "share");
  for (const NodeReport& node : p.nodes)
    fmt::print("{:<{}}  {:<{}}  {:<{}}  {:>7}  {:>7}  {:>9.4f}  {:>5.1f} %\n", node.name, name,
               node.op, op, node.kernel, kernel, count(node.flops), bytes(node.bytes),
               node.milliseconds, 100 * share(node, p));
  fmt::print("\n{} of {}, batch {}, {} thread{}, median of {} runs\n",
             r.train ? "one training step" : "one run", r.path, r.batch, r.threads,
             r.threads == 1 ? "" : "s", r.runs);
  fmt::print("time         {:.3f} ms, {} images a second; sum of the nodes {:.3f} ms\n",
             p.run_milliseconds, format_count(images_per_second(r)), p.node_milliseconds);
  fmt::print("work         {} FLOPs, {} read and written, {:.1f} GFLOP/s\n", count(p.flops),
             bytes(p.bytes), gflops(p.flops, p.run_milliseconds));
  fmt::print("arena        {} ({} if nothing shared memory); with inputs and scratch {}\n",
             bytes(r.arena), bytes(r.values), bytes(r.total));
  fmt::print("peak memory  {} of the whole process\n", bytes(r.peak));
}

}  // namespace

int profile_verb(const Call& call) {
  Result r;
  std::optional<int64_t> batch;
  int64_t threads = 0;
  std::vector<std::string> disabled;
  bool json = false;
  r.runs = 20;
  Arguments arguments("profile",
                      "Shows where time and memory go: a row a node, then the totals. A recipe is "
                      "profiled with\nfresh weights.");
  arguments.positional("BUNDLE|RECIPE", r.path, "Folder of a model, or a recipe");
  arguments.flag("--train", r.train, "The training step instead of the model");
  arguments.option("--batch", batch, 1, 65536,
                   "Images at a time [1; with --train, what the recipe says]");
  arguments.option("--runs", r.runs, 1, 1000000, "Runs to take the medians of");
  arguments.repeated("--disable-pass", disabled, "NAME", "Leave out a pass; may be repeated");
  add_threads(arguments, threads);
  arguments.flag("--json", json, "The result as JSON");
  if (!arguments.parse(call.arguments)) return 0;

  Model model = Model::open(r.path);
  const TrainOptions& options = model.train_options();
  if (r.train) check_train_options(options);
  r.batch = batch.value_or(r.train ? options.batch / options.accumulate : 1);
  Graph graph = r.train ? make_step(model.task(), options, StepPart::whole, disabled).after
                        : compile(model.inference(), {}, disabled);
  const std::shared_ptr<ThreadPool> pool = make_pool(threads);
  r.threads = pool->threads();
  Session session(std::move(graph), model.variables(), pool, static_cast<uint64_t>(options.seed));
  Execution& execution = session.prepare({{"B", r.batch}});
  fill_inputs(execution, session.graph());
  r.profile = profile(execution, r.runs);
  r.arena = static_cast<int64_t>(execution.arena_bytes());
  r.values = static_cast<int64_t>(execution.values_bytes());
  r.total = static_cast<int64_t>(execution.total_bytes());
  r.peak = peak_memory_bytes();
  if (json)
    print_as_json(r);
  else
    print_as_text(r);
  return 0;
}

}  // namespace fovea::cli

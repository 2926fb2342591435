// fovea eval: a bundle measured on a data set, at one level or several.
#include <fmt/format.h>

#include <algorithm>

#include "cli/cli_support.h"
#include "cli/measure.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "fovea/base/progress.h"
#include "fovea/runtime/session.h"

namespace fovea::cli {

namespace {

constexpr int64_t kLatencyRuns = 200;

// What a level is worth, and what it costs.
struct Row {
  std::string level;
  Evaluation evaluation;
  int64_t flops = 0;   // of one example
  double latency = 0;  // of one example, in milliseconds
};

Row measure(Model& model, Split split, int64_t batch, const std::shared_ptr<ThreadPool>& pool,
            const RunOptions& options) {
  Row row;
  row.level = options.level;
  row.evaluation = model.evaluate(split, batch, pool, options);
  Session session(model.compiled(model.inference(), options), std::make_shared<VariableStore>(),
                  pool);
  Execution& execution = session.prepare({{"B", 1}});
  fill_inputs(execution, session.graph());
  row.latency = latency_milliseconds(execution, kLatencyRuns);
  for (const NodeReport& node : execution.reports()) row.flops += node.flops;
  return row;
}

void print_as_json(const Model& model, std::string_view split, const RunOptions& options,
                   const std::vector<Row>& rows) {
  Json levels = Json::array();
  for (const Row& row : rows) {
    Json level = Json::object();
    level.set("level", row.level)
        .set("metrics", row.evaluation.metrics)
        .set("flops_per_image", row.flops)
        .set("latency_ms", row.latency)
        .set("examples_per_second", row.evaluation.examples_per_second);
    levels.push(std::move(level));
  }
  const Evaluation& asked = rows.back().evaluation;
  Json out = Json::object();
  out.set("task", model.kind().name)
      .set("split", split)
      .set("examples", asked.examples)
      .set("level", rows.back().level)
      .set("precision", enum_name(options.precision.value_or(Precision::f32)))
      .set("metrics", asked.metrics)
      .set("examples_per_second", asked.examples_per_second)
      .set("levels", std::move(levels));
  print_json(out);
}

void print_as_table(const std::string& word, std::string_view split, const std::vector<Row>& rows) {
  constexpr auto kRight = Table::Align::right;
  std::vector<Table::Column> columns = {{"level"}};
  for (const auto& metric : rows[0].evaluation.metrics) columns.push_back({metric.first, kRight});
  for (const std::string& title :
       std::vector<std::string>{"FLOPs " + with_article(word), "one " + word, word + "s/s"})
    columns.push_back({title, kRight});
  Table table(std::move(columns));
  for (const Row& row : rows) {
    std::vector<std::string> cells = {row.level};
    for (const auto& metric : row.evaluation.metrics)
      cells.push_back(fmt::format("{:.4f}", metric.second));
    cells.push_back(format_count(static_cast<double>(row.flops)));
    cells.push_back(fmt::format("{:.3f} ms", row.latency));
    cells.push_back(format_count(row.evaluation.examples_per_second));
    table.row(std::move(cells));
  }
  table.print();
  fmt::print("{} {}s of {}\n", rows[0].evaluation.examples, word, split);
}

struct Options {
  std::string path;
  Split split = Split::test;
  int64_t batch = 256, threads = 0;
  RunOptions run;
  bool json = false;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("BUNDLE", o.path, "Folder of the model");
  arguments.option("--split", o.split, "Which part of the data set");
  arguments.option("--batch", o.batch, 1, 65536, "Examples at a time");
  add_run_options(arguments, o.run);
  arguments.threads(o.threads);
  arguments.json(o.json);
}

int run(const Call&, Options& o) {
  Model model = Model::open_bundle(o.path);
  std::vector<std::string> names = {std::string(kFullLevel)};
  if (o.run.level == "all") {
    for (const LevelOptions& level : model.levels()) names.push_back(level.name);
  } else if (model.level(o.run.level)) {
    names.push_back(o.run.level);
  }
  const std::shared_ptr<ThreadPool> pool = make_pool(o.threads);
  std::vector<Row> rows;
  for (const std::string& name : names)
    rows.push_back(measure(model, o.split, o.batch, pool, {name, o.run.precision}));
  if (o.json)
    print_as_json(model, enum_name(o.split), o.run, rows);
  else
    print_as_table(model.example_word(), enum_name(o.split), rows);
  return 0;
}

}  // namespace

Verb eval_verb() {
  return {.name = "eval",
          .summary = "measure a model, its levels too, on its data set",
          .description =
              "Measures a trained model on the data set that its recipe names: how good "
              "it is, and what it costs. With --level, that level beside the full "
              "model; --level all shows every one.",
          .examples = {{"fovea eval runs/demo --level all", "what each level is worth"},
                       {"fovea eval runs/demo --precision bf16",
                        "what computing in bf16 changes; compare the speed"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

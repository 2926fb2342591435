// fovea runs: what was trained before; its recipe, its curves and its result, alone or against
// another.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <set>

#include "cli/cli_support.h"
#include "cli/runs_page.h"
#include "cli/verbs.h"
#include "fovea/base/error.h"
#include "fovea/base/progress.h"
#include "fovea/base/terminal.h"
#include "fovea/base/text.h"
#include "fovea/base/text_plot.h"
#include "fovea/base/visit.h"
#include "fovea/formats/file.h"
#include "fovea/train/run_recorder.h"

namespace fovea::cli {

namespace {

namespace fs = std::filesystem;

struct Options {
  std::optional<std::string> action, first, second;
  std::string runs;
  std::string svg;
  bool json = false;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("list|show|compare", o.action, "What to do [list]");
  arguments.positional("RUN", o.first, "Of show and compare: an id, or a name (its latest run)");
  arguments.positional("OTHER", o.second, "Of compare: the run to hold against it");
  arguments.option("--runs", o.runs, "FILE",
                   "The record, or its folder [$FOVEA_RUNS, or runs/runs.sqlite]");
  arguments.option("--svg", o.svg, "FILE", "Of compare: its curves as a page for a browser");
  arguments.json(o.json);
}

// Where `fovea train` has written, from the same folder and with the same environment.
fs::path record_path(const std::string& given) {
  if (!given.empty())
    return fs::is_directory(given) ? fs::path(given) / kRunsFile : fs::path(given);
  const fs::path usual = runs_file("runs/x"), here = runs_file("x");
  return !fs::exists(usual) && fs::exists(here) ? here : usual;
}

std::string metric(double value) {
  return std::isfinite(value) ? fmt::format("{:.4f}", value) : "-";
}

std::string local_time(double seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  return fmt::format("{:%Y-%m-%d %H:%M}", fmt::localtime(time));
}
std::string utc_time(double seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(time));
}

std::string state_text(const RunRecord& run) { return std::string(enum_name(run.state)); }

// How far it came: "36", or "7/36" where it did not end of itself.
std::string steps_text(const RunRecord& run) {
  return run.state == RunStatus::finished ? fmt::format("{}", run.step)
                                          : fmt::format("{}/{}", run.step, run.total_steps);
}

// What says in one number how good a run is: a test metric, or else one of validation.
std::optional<std::pair<std::string, double>> main_result(const RunRecord& run) {
  for (const char* name : {"test_accuracy", "validation_accuracy"})
    if (const auto it = run.results.find(name); it != run.results.end()) return *it;
  for (const char* prefix : {"test_", "validation_"})
    for (const auto& result : run.results)
      if (result.first.starts_with(prefix)) return result;
  return std::nullopt;
}

// Columns as wide as they need; numbers stand on the right.
void print_table(const std::vector<std::vector<std::string>>& rows, const std::set<size_t>& right) {
  std::vector<size_t> widths;
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) {
      if (i >= widths.size()) widths.push_back(0);
      widths[i] = std::max(widths[i], text_width(row[i]));
    }
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string space(widths[i] - text_width(row[i]), ' ');
      line += (i ? "  " : "") + (right.contains(i) ? space + row[i] : row[i] + space);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    fmt::print("{}\n", line);
  }
}

Json summary_json(const RunRecord& run) {
  Json j = Json::object();
  j.set("id", run.id)
      .set("name", run.name)
      .set("folder", run.folder)
      .set("state", enum_name(run.state))
      .set("began", utc_time(run.began))
      .set("changed", utc_time(run.changed))
      .set("seconds", run.seconds)
      .set("step", run.step)
      .set("total_steps", run.total_steps)
      .set("epochs", run.epochs)
      .set("best_epoch", run.best_epoch)
      .set("seed", run.seed)
      .set("threads", run.threads)
      .set("precision", run.precision)
      .set("parameters", run.parameters)
      .set("version", run.version)
      .set("compiler", run.compiler)
      .set("processor", run.processor)
      .set("host", run.host)
      .set("results", run.results);
  if (!run.error.empty()) j.set("error", run.error);
  return j;
}

int list(RunStore& store, const fs::path& path, const Options& o) {
  const std::vector<RunRecord> runs = store.list();
  if (o.json) {
    Json all = Json::array();
    for (const RunRecord& run : runs) all.push(summary_json(run));
    Json out = Json::object();
    out.set("record", path.string()).set("runs", std::move(all));
    print_json(out);
    return 0;
  }
  if (runs.empty()) {
    fmt::print("No run in {} yet; fovea train adds one.\n", path.string());
    return 0;
  }
  std::vector<std::vector<std::string>> rows = {
      {"id", "name", "began", "state", "steps", "time", "seed", "precision", "result"}};
  for (const RunRecord& run : runs) {
    const auto result = main_result(run);
    rows.push_back({std::to_string(run.id), run.name, local_time(run.began), state_text(run),
                    steps_text(run), format_duration(run.seconds), std::to_string(run.seed),
                    run.precision,
                    result ? fmt::format("{} {}", label_of(result->first), metric(result->second))
                           : std::string("-")});
  }
  print_table(rows, {0, 4, 5, 6});
  const fs::path here = runs_file("x");
  if (o.runs.empty() && path != here && fs::exists(here))
    fmt::print("\n{} in this folder holds more: fovea runs --runs {}\n", here.string(),
               here.string());
  return 0;
}

// The run with this id, or the latest with this name.
RunRecord find_run(RunStore& store, const std::string& word) {
  int64_t id = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
  if (error == std::errc() && end == word.data() + word.size())
    if (auto run = store.load(id)) return *run;
  const std::vector<RunRecord> runs = store.list();
  std::vector<std::string> names;
  for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
    if (run->name == word) return *store.load(run->id);
    names.push_back(run->name);
  }
  if (runs.empty())
    throw Error(ErrorCode::not_found, "[runs] no run was recorded yet; fovea train adds one");
  throw Error(
      ErrorCode::not_found,
      fmt::format("[runs] there is no run '{}'{} (ids {} to {}; fovea runs list shows them)", word,
                  did_you_mean(word, names), runs.front().id, runs.back().id));
}

// The recipe with its defaults, section by section.
void print_settings(const RunRecord& run) {
  std::string section;
  for (const auto& [key, value] : run.settings) {
    const size_t dot = key.rfind('.');
    const std::string of = dot == std::string::npos ? "" : key.substr(0, dot);
    if (of != section) fmt::print("  [{}]\n", section = of);
    fmt::print("  {} = {}\n", dot == std::string::npos ? key : key.substr(dot + 1), value);
  }
}

void print_plots(const RunRecord& run) {
  const size_t width = std::clamp<size_t>(terminal_columns(stdout), 40, 100);
  for (const auto& [curve, points] : run.curves) {
    if (!is_worth_a_chart(curve)) continue;
    fmt::print("\n{}\n", chart_title(curve));
    for (const std::string& line : text_plot(plotted(curve, points), width, 5))
      fmt::print("{}\n", line);
  }
}

// What each epoch came to.
void print_epochs(const RunRecord& run) {
  std::vector<std::vector<std::string>> rows = {{"epoch"}};
  std::map<int64_t, std::map<std::string, double>> epochs;
  std::vector<std::string> curves;
  for (const auto& [curve, points] : run.curves) {
    if (!curve.starts_with("epoch.")) continue;
    curves.push_back(curve);
    rows[0].push_back(label_of(curve.substr(6)));
    for (const RunPoint& p : points) epochs[p.epoch][curve] = p.value;
  }
  if (curves.empty()) return;
  std::set<size_t> right = {0};
  for (size_t i = 0; i < curves.size(); ++i) right.insert(i + 1);
  for (const auto& [epoch, values] : epochs) {
    std::vector<std::string> row = {std::to_string(epoch)};
    for (const std::string& curve : curves) {
      const auto it = values.find(curve);
      row.push_back(it == values.end() ? "-" : metric(it->second));
    }
    rows.push_back(std::move(row));
  }
  fmt::print("\n");
  print_table(rows, right);
}

Json curves_json(const RunRecord& run) {
  Json curves = Json::object();
  for (const auto& [curve, points] : run.curves) {
    Json all = Json::array();
    for (const RunPoint& p : points) {
      Json point = Json::object();
      point.set("step", p.step).set("epoch", p.epoch).set("value", p.value);
      all.push(std::move(point));
    }
    curves.set(curve, std::move(all));
  }
  return curves;
}

int show(const RunRecord& run, const Options& o) {
  if (o.json) {
    Json j = summary_json(run);
    Json settings = Json::object();
    for (const auto& [key, value] : run.settings) settings.set(key, value);
    j.set("recipe", run.recipe).set("settings", std::move(settings));
    j.set("curves", curves_json(run));
    print_json(j);
    return 0;
  }
  const auto row = [](std::string_view what, const std::string& value) {
    fmt::print("{:<14}{}\n", what, value);
  };
  row("run", fmt::format("{} {}", run.id, run.name));
  row("folder", run.folder);
  row("state", state_text(run));
  if (!run.error.empty()) row("error", run.error);
  row("began", local_time(run.began));
  row("training", fmt::format("{}, {} of {} steps, {} epochs", format_duration(run.seconds),
                              run.step, run.total_steps, run.epochs));
  if (run.best_epoch > 0) row("weights", fmt::format("of epoch {}", run.best_epoch));
  row("parameters", format_count(static_cast<double>(run.parameters)));
  row("seed", std::to_string(run.seed));
  row("precision", run.precision);
  row("threads", std::to_string(run.threads));
  row("processor", run.processor);
  row("build", fmt::format("fovea {}, {}", run.version, run.compiler));
  row("host", run.host);
  if (!run.results.empty()) fmt::print("\nresult\n");
  for (const auto& [name, value] : run.results)
    fmt::print("  {:<28}{}\n", label_of(name), value_text(value));
  fmt::print("\nrecipe, with its defaults\n");
  print_settings(run);
  print_epochs(run);
  if (is_terminal(stdout)) print_plots(run);
  return 0;
}

int compare(const RunRecord& a, const RunRecord& b, const Options& o) {
  const std::vector<Difference> differences = differences_of(a, b);
  if (!o.svg.empty()) write_file_atomically(o.svg, compare_page(a, b));
  if (o.json) {
    Json all = Json::array();
    for (const Difference& d : differences) {
      Json j = Json::object();
      j.set("of", d.section).set("key", d.key).set("a", d.a).set("b", d.b);
      all.push(std::move(j));
    }
    Json out = Json::object();
    out.set("a", summary_json(a)).set("b", summary_json(b));
    out.set("differences", std::move(all));
    if (!o.svg.empty()) out.set("svg", o.svg);
    print_json(out);
    return 0;
  }
  // Values in columns that a line of the terminal holds.
  const size_t most = std::max<size_t>(16, (terminal_columns(stdout) - 30) / 2);
  std::vector<std::vector<std::string>> rows = {{"", run_title(a), run_title(b)}};
  std::string section;
  for (const Difference& d : differences) {
    if (d.section != section) rows.push_back({section = d.section});
    rows.push_back({"  " + label_of(d), shortened(d.a, most), shortened(d.b, most)});
  }
  print_table(rows, {});
  if (differences.empty()) fmt::print("Nothing differs.\n");
  if (!o.svg.empty()) fmt::print("\nThe curves: {}\n", o.svg);
  return 0;
}

int run(const Call&, Options& o) {
  const bool to_show = o.action == "show", to_compare = o.action == "compare";
  const auto expect = [](bool holds, const char* message) {
    if (!holds) throw Error(ErrorCode::invalid_argument, fmt::format("[runs] {}", message));
  };
  expect(!to_show || o.first, "show expects a run: an id or a name (fovea runs list shows them)");
  expect(!to_compare || o.second,
         "compare expects two runs: ids or names (fovea runs list shows "
         "them)");
  expect(to_compare || !o.second, "only compare takes two runs");
  expect(to_show || to_compare || !o.first, "list takes no run; fovea runs show RUN shows one");
  expect(to_compare || o.svg.empty(),
         "only compare writes a page: fovea runs compare A B --svg FILE");
  const fs::path path = record_path(o.runs);
  RunStore store = RunStore::open_existing(path);
  if (to_show) return show(find_run(store, *o.first), o);
  if (to_compare) return compare(find_run(store, *o.first), find_run(store, *o.second), o);
  return list(store, path, o);
}

}  // namespace

Verb runs_verb() {
  return {.name = "runs",
          .summary = "list, show and compare what was trained",
          .description =
              "Every training is recorded: recipe, seed, build, processor, curves and result. The "
              "record is the file runs.sqlite beside the folder of the model, so runs/runs.sqlite "
              "for runs/demo; FOVEA_RUNS or train's --runs name another.\nA run is named by its id "
              "or by the name of its folder, which means the latest run there. A run is killed "
              "where its process ended without a word.",
          .examples = {{"fovea runs list", "all runs, the oldest first"},
                       {"fovea runs show demo", "all that is known of the latest run in runs/demo"},
                       {"fovea runs compare 3 demo --svg curves.svg",
                        "what differs in recipe and result, and the curves for a browser"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

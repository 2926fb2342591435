// fovea train: from a recipe to a bundle, and what it is worth.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <utility>

#include "cli/cli_support.h"
#include "cli/measure.h"
#include "cli/stop_on_signal.h"
#include "cli/verbs.h"
#include "fovea/base/error.h"
#include "fovea/base/progress.h"
#include "fovea/formats/bundle.h"
#include "fovea/runtime/compile.h"
#include "fovea/train/run_recorder.h"
#include "fovea/train/trainer.h"

namespace fovea::cli {

namespace {

constexpr std::string_view kNoRecord = "none";  // of --runs

struct Options {
  std::string recipe;
  std::string out;
  std::string init;
  std::string runs;                // the record of runs, as it was asked for
  std::filesystem::path recorded;  // where the run is recorded; empty: nowhere
  bool resume = false, overwrite = false, quiet = false, json = false;
  std::vector<std::string> overrides;
  std::optional<int64_t> seed;
  int64_t threads = 0;
};

// A word as a shell reads it back.
std::string shell_word(const std::string& word) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./,:@%";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

// The command that goes on with this run: its checkpoint holds what --init gave.
std::string resume_command(const std::string& program, const Options& o) {
  std::string command = fmt::format("{} train {} --out {} --resume", shell_word(program),
                                    shell_word(o.recipe), shell_word(o.out));
  for (const std::string& assignment : o.overrides) command += " --set " + shell_word(assignment);
  if (o.seed) command += fmt::format(" --seed {}", *o.seed);
  if (o.threads) command += fmt::format(" --threads {}", o.threads);
  if (!o.runs.empty()) command += " --runs " + shell_word(o.runs);
  return command;
}

// The bar after each step, in few words so that a line of 80 characters holds it; a line after each
// epoch.
void show(Progress& progress, const TrainProgress& p) {
  const std::string speed = format_count(p.examples_per_second);
  if (!p.epoch_done) {
    const double share =
        p.total_steps > 0 ? static_cast<double>(p.total_step) / static_cast<double>(p.total_steps)
                          : 0;
    progress.update(share, fmt::format("epoch {}/{} loss {:.2f} acc {:.3f} {}/s", p.epoch, p.epochs,
                                       p.loss, p.accuracy, speed));
    return;
  }
  std::string line = fmt::format("epoch {:>{}}/{}  loss {:.4f}  accuracy {:.4f}", p.epoch,
                                 fmt::formatted_size("{}", p.epochs), p.epochs, p.loss, p.accuracy);
  for (const auto& [name, value] : p.validation)
    line += fmt::format("  validation {} {:.4f}", name, value);
  progress.line(line +
                fmt::format("  {} examples/s  {} left", speed, format_duration(p.seconds_left)));
}

// What the model costs to use, measured on this machine.
struct Cost {
  std::string word;   // what an example is called
  int64_t flops = 0;  // of one example
  uintmax_t file_bytes = 0;
  double latency_milliseconds = 0;
  double images_per_second = 0;
};

Cost measure(const std::string& folder, const std::shared_ptr<ThreadPool>& pool) {
  Cost cost;
  Model model = Model::open_bundle(folder);
  cost.word = model.example_word();
  {
    Session session(model.compiled(model.inference(), {}), std::make_shared<VariableStore>(), pool);
    Execution& execution = session.prepare({{"B", 1}});
    fill_inputs(execution, session.graph());
    cost.latency_milliseconds = latency_milliseconds(execution, 200);
    for (const NodeReport& node : execution.reports()) cost.flops += node.flops;
  }
  const Split split = has_split(model.data(), Split::test) ? Split::test : Split::train;
  cost.images_per_second = model.evaluate(split, 256, pool).examples_per_second;
  cost.file_bytes = std::filesystem::file_size(std::filesystem::path(folder) / "model.safetensors");
  return cost;
}

void print_as_json(const Options& o, const TrainResult& r, const Cost& cost) {
  Json out = Json::object();
  out.set("out", o.out)
      .set("interrupted", false)
      .set("epochs", r.epochs)
      .set("best_epoch", r.best_epoch)
      .set("stopped_early", r.stopped_early)
      .set("seconds", r.seconds)
      .set("validation", r.validation)
      .set("test", r.test)
      .set("parameters", r.parameters)
      .set("flops_per_image", cost.flops)
      .set("file_bytes", static_cast<int64_t>(cost.file_bytes))
      .set("latency_ms", cost.latency_milliseconds)
      .set("images_per_second", cost.images_per_second);
  print_json(out);
}

void print_as_table(const Call& call, const Options& o, const TrainResult& r, const Cost& cost) {
  const auto row = [](std::string_view what, const std::string& value) {
    fmt::print("{:<22}{}\n", what, value);
  };
  for (const auto& [name, value] : r.test) row("test " + name, fmt::format("{:.4f}", value));
  row("parameters", format_count(static_cast<double>(r.parameters)));
  row("FLOPs " + with_article(cost.word), format_count(static_cast<double>(cost.flops)));
  row("file size", format_bytes(static_cast<double>(cost.file_bytes)));
  row("latency of one " + cost.word, fmt::format("{:.3f} ms", cost.latency_milliseconds));
  row(cost.word + "s a second", format_count(cost.images_per_second));
  fmt::print("{} epoch{} in {}{}, weights of epoch {}, saved in {}\n", r.epochs,
             r.epochs == 1 ? "" : "s", format_duration(r.seconds),
             r.stopped_early ? " (stopped early)" : "", r.best_epoch, o.out);
  if (o.quiet) return;
  const std::string program = shell_word(call.program), out = shell_word(o.out);
  std::vector<std::pair<std::string, std::string>> next = {
      cost.word == "image"
          ? std::pair<std::string, std::string>{"predict " + out + " IMAGE.png",
                                                "the class of an image of your own"}
          : std::pair<std::string, std::string>{"predict " + out + " FILE.csv",
                                                "the classes of rows of your own"},
      {"profile " + out, "where the time goes, node by node"}};
  if (std::filesystem::exists(o.recorded)) {
    const std::string elsewhere =
        o.recorded == runs_file("runs/x") ? "" : " --runs " + shell_word(o.recorded.string());
    next.emplace_back("runs list" + elsewhere, "this run and those before");
  }
  if (!o.overrides.empty())
    next.emplace_back("train " + shell_word(o.recipe) + " --out " + shell_word(o.out + "_full"),
                      "the recipe as it stands");
  size_t width = 0;
  for (const auto& [words, what] : next) width = std::max(width, words.size());
  fmt::print("\nWhat to try next:\n");
  for (const auto& [words, what] : next)
    fmt::print("  {} {:<{}}   {}\n", program, words, width, what);
}

// What the model costs belongs to the run, too.
void record(RunRecorder& recorder, const Cost& cost,
            const std::function<void(const std::string&)>& warn) {
  try {
    recorder.add_results({{"flops_per_image", static_cast<double>(cost.flops)},
                          {"file_bytes", static_cast<double>(cost.file_bytes)},
                          {"latency_ms", cost.latency_milliseconds},
                          {"images_per_second", cost.images_per_second}});
  } catch (const Error& e) {
    warn(fmt::format("{} could not be written: {}", recorder.what(), e.what()));
  }
}

int report_interruption(const Call& call, const Options& o, bool saved) {
  const std::string command = saved ? resume_command(call.program, o) : "";
  if (o.json) {
    Json out = Json::object();
    out.set("out", o.out).set("interrupted", true).set("saved", saved).set("resume", command);
    print_json(out);
  } else if (!saved) {
    fmt::print("Stopped before the first step; {} is as it was.\n", o.out);
  } else {
    fmt::print("Stopped; the step was finished and the state saved in {}. Go on with:\n  {}\n",
               o.out, command);
    if (o.overwrite && is_bundle(o.out))
      fmt::print("Until then {} holds the model that was to be overwritten.\n", o.out);
  }
  return StopOnSignal::exit_code();
}

void declare(Arguments& arguments, Options& o) {
  arguments.positional("RECIPE", o.recipe, "A TOML file, such as recipes/fashion_mnist.toml");
  arguments.option("--out", o.out, "DIR", "Folder of the model [runs/RECIPE]");
  arguments.flag("--resume", o.resume, "Go on from the checkpoint in that folder");
  arguments.flag("--overwrite", o.overwrite,
                 "Put a new run in the place of the one in that folder");
  arguments.option("--init", o.init, "BUNDLE", "Begin with the weights of a trained model");
  arguments.repeated("--set", o.overrides, "KEY=VALUE",
                     "Change a value of the recipe (train.epochs=3); may be repeated");
  arguments.option("--runs", o.runs, "FILE",
                   "Where the run is recorded, or none [$FOVEA_RUNS, or runs.sqlite beside DIR]");
  arguments.seed(o.seed);
  arguments.threads(o.threads);
  arguments.quiet(o.quiet);
  arguments.json(o.json);
}

int run(const Call& call, Options& o) {
  if (o.resume && o.overwrite)
    throw Error(ErrorCode::invalid_argument,
                "[train] expected --resume or --overwrite, got both: one goes on with the run, the "
                "other throws it away");

  RecipeTable recipe = RecipeTable::load(o.recipe);
  for (const std::string& assignment : o.overrides) recipe.set(assignment);
  if (o.seed) recipe.set(fmt::format("train.seed={}", *o.seed));
  if (o.out.empty())
    o.out = (std::filesystem::path("runs") / std::filesystem::path(o.recipe).stem()).string();

  const std::shared_ptr<ThreadPool> pool = make_pool(o.threads);
  Progress progress(stderr);
  TrainRequest request;
  request.out = o.out;
  request.resume = o.resume;
  request.overwrite = o.overwrite;
  request.init = o.init;
  request.pool = pool;
  request.stop = &StopOnSignal::asked();
  ReadOptions reading;
  reading.pool = pool;
  reading.note = [&](const std::string& text) { progress.line("note: " + text); };
  if (!o.quiet) {
    request.progress = [&](const TrainProgress& p) { show(progress, p); };
    reading.progress = [&](Split split, int64_t done, int64_t all) {
      show_loading(progress, split, done, all);
    };
  }
  request.warn = [&](const std::string& text) { progress.line("fovea: warning: " + text); };
  o.recorded = o.runs.empty() ? runs_file(o.out) : std::filesystem::path(o.runs);
  if (o.recorded == kNoRecord) o.recorded.clear();
  RunRecorder recorder(o.recorded);
  if (!o.recorded.empty()) request.observers.push_back(&recorder);

  // While data are read a signal ends the program at once: nothing has been written.
  TrainJob job = read_job(recipe, reading);
  TrainResult result;
  {
    const StopOnSignal stop("finishing this step");
    result = train(std::move(job), request);
  }
  progress.finish();
  if (result.interrupted) return report_interruption(call, o, result.saved);
  const Cost cost = measure(o.out, pool);
  record(recorder, cost, request.warn);
  if (o.json)
    print_as_json(o, result, cost);
  else
    print_as_table(call, o, result, cost);
  return 0;
}

}  // namespace

Verb train_verb() {
  return {.name = "train",
          .summary = "train a model as a recipe says",
          .description =
              "Trains a model as a recipe says and writes it to a folder, with a "
              "checkpoint beside it. The run is recorded for fovea runs, and its curves, weights "
              "and attention stand in DIR/events for TensorBoard.\nCtrl-C finishes the step, "
              "saves, and says how to "
              "go on; a second Ctrl-C ends at once. With --overwrite the model in DIR stays until "
              "the new one is finished.",
          .examples = {{"fovea train recipes/fashion_mnist.toml", "into runs/fashion_mnist"},
                       {"fovea train recipes/fashion_mnist.toml --out runs/short --set "
                        "train.epochs=3",
                        "a shorter training, into a folder of its own"},
                       {"fovea train recipes/fashion_mnist.toml --resume",
                        "go on after Ctrl-C or a power cut"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

// fovea bench: ours, its rivals and the peak of the processor, in turns and in one run.
#include <errno.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "cli/bench_case.h"
#include "cli/bench_peak.h"
#include "cli/bench_rival.h"
#include "cli/cli_support.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "fovea/base/error.h"
#include "fovea/base/progress.h"
#include "fovea/base/temporary_folder.h"
#include "fovea/base/text.h"

namespace fovea::cli {

namespace {

namespace fs = std::filesystem;

constexpr double kTurnMilliseconds = 50;  // of one competitor in one round, or one run
constexpr int64_t kMostRunsOfTurn = 2000;

struct Options {
  std::string kind;  // "train"
  std::string only;
  std::string kernel;
  std::string rivals;
  int64_t rounds = 11;
  std::optional<int64_t> threads;
  bool without_rivals = false;
  bool quiet = false;
  bool json = false;
};

std::vector<float> read_floats(const fs::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  std::vector<float> values(file ? static_cast<size_t>(file.tellg()) / sizeof(float) : 0);
  file.seekg(0);
  file.read(reinterpret_cast<char*>(values.data()),
            static_cast<std::streamsize>(values.size() * sizeof(float)));
  return values;
}

int64_t number(const std::map<std::string, std::string>& answer, const std::string& key) {
  const auto found = answer.find(key);
  return found == answer.end() ? 0 : std::strtoll(found->second.c_str(), nullptr, 10);
}

class Rival : public Competitor {
 public:
  Rival(const RivalProgram& program, const std::string& setup, const fs::path& folder, int threads)
      : folder_(folder), process_(program, folder, threads) {
    implementation = program.name;
    const auto answer = process_.ask(fmt::format("{} threads={}", setup, threads));
    for (const char* key : {"kernel", "version", "blas"})
      if (const auto found = answer.find(key); found != answer.end())
        kernel += (kernel.empty() ? "" : ":") + found->second;
  }

  std::vector<float> output() override {
    process_.ask("output output.f32");
    return read_floats(folder_ / "output.f32");
  }
  std::vector<double> run(int64_t runs) override { return process_.run(runs); }
  BenchMemory memory() override {
    const auto answer = process_.ask("memory");
    const int64_t resident = number(answer, "resident"), peak = number(answer, "peak");
    return {.bytes = peak - resident,
            .parts = {{"after a step of one image", resident}, {"peak", peak}}};
  }

 private:
  fs::path folder_;
  RivalProcess process_;
};

// What one competitor showed, one element a round.
struct Row {
  std::unique_ptr<Competitor> who;
  double difference = 0;  // to ours, relative to the largest of our numbers; NaN: not compared
  int64_t runs = 1;       // in a turn
  std::vector<double> milliseconds = {};
  BenchMemory memory = {};
};

struct Result {
  const BenchCase* problem;
  int threads = 0;
  int64_t flops = 0;
  std::string peak_name = {};
  std::vector<double> peak = {};  // of unit(), one a round
  std::vector<Row> rows = {};     // ours first

  bool reads() const { return problem->read_bytes > 0; }
  double work() const { return static_cast<double>(reads() ? problem->read_bytes : flops); }
  const char* unit() const { return reads() ? "GB/s" : "GFLOP/s"; }
};

double relative_difference(const std::vector<float>& ours, const std::vector<float>& theirs) {
  if (ours.size() != theirs.size()) return std::numeric_limits<double>::infinity();
  if (ours.empty()) return std::numeric_limits<double>::quiet_NaN();
  double largest = 0, difference = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    const double d = std::abs(static_cast<double>(ours[i]) - static_cast<double>(theirs[i]));
    if (std::isnan(d)) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, d);
    largest = std::max(largest, std::abs(static_cast<double>(ours[i])));
  }
  return largest > 0 ? difference / largest : difference;
}

// All set up, compared, and warm.
Result prepare(const BenchCase& problem, const std::vector<RivalProgram>& rivals,
               const std::shared_ptr<ThreadPool>& pool) {
  Result result{.problem = &problem, .threads = pool->threads()};
  const TemporaryFolder folder;
  for (auto& own : problem.own(pool)) {
    if (own->flops > 0)
      result.flops = result.flops ? std::min(result.flops, own->flops) : own->flops;
    result.rows.push_back({.who = std::move(own)});
  }
  bool written = false;
  for (const RivalProgram& program : rivals) {
    const std::string setup = problem.setup(program.name);
    if (setup.empty()) continue;
    if (!std::exchange(written, true)) problem.write_files(folder.path());
    result.rows.push_back(
        {.who = std::make_unique<Rival>(program, setup, folder.path(), pool->threads())});
  }
  const std::vector<float> ours = result.rows[0].who->output();
  for (Row& row : result.rows) {
    if (&row != &result.rows[0]) {
      const std::vector<float> theirs = row.who->output();
      row.difference = relative_difference(ours, theirs);
      if (row.difference > problem.tolerance)
        throw Error(ErrorCode::unsupported,
                    fmt::format("[bench] {}: {} gives {} numbers that differ from our {} by {:.3g} "
                                "of the largest, more than {:.3g}: the times would not compare "
                                "(--without-rivals leaves the rivals out)",
                                problem.name, row.who->implementation, theirs.size(), ours.size(),
                                row.difference, problem.tolerance));
    }
    row.who->run(2);
    const double once = median(row.who->run(3));
    row.runs = static_cast<int64_t>(std::clamp(std::ceil(kTurnMilliseconds / std::max(once, 1e-6)),
                                               1.0, static_cast<double>(kMostRunsOfTurn)));
  }
  return result;
}

// Rounds of turns, each followed by the peak, so that what the machine's neighbours do meets all
// alike.
void measure(Result& result, int64_t rounds, ThreadPool& pool, Progress& progress) {
  const PeakMeter peak = result.reads() ? PeakMeter::of_reading(result.problem->read_bytes)
                                        : PeakMeter(result.problem->dtype);
  result.peak_name = peak.name();
  for (int64_t round = 0; round < rounds; ++round) {
    progress.update(static_cast<double>(round) / static_cast<double>(rounds), result.problem->name);
    for (Row& row : result.rows) {
      // The first run finds the caches full of what the others did.
      std::vector<double> times = row.who->run(row.runs + 1);
      times.erase(times.begin());
      row.milliseconds.push_back(median(std::move(times)));
    }
    result.peak.push_back(peak.rate(pool));
  }
  progress.finish();
  if (result.problem->wants_memory)
    for (Row& row : result.rows) row.memory = row.who->memory();
}

// Median over the rounds of a quotient within each.
template <class F>
double median_of_rounds(const Result& result, F&& quotient) {
  std::vector<double> values;
  for (size_t i = 0; i < result.peak.size(); ++i) values.push_back(quotient(i));
  return median(std::move(values));
}

struct Figures {
  double milliseconds;
  double rate, peak;  // in the result's unit
  double peak_fraction, ratio, images_per_second;
};

Figures figures_of(const Result& result, const Row& row) {
  Figures f;
  f.milliseconds = median(row.milliseconds);
  f.rate = result.work() / f.milliseconds / 1e6;
  const double none = std::numeric_limits<double>::quiet_NaN();
  const bool has_peak = !result.peak_name.empty();
  f.peak = has_peak ? median(result.peak) : none;
  f.peak_fraction = !has_peak ? none : median_of_rounds(result, [&](size_t i) {
    return result.work() / row.milliseconds[i] / 1e6 / result.peak[i];
  });
  f.ratio = median_of_rounds(
      result, [&](size_t i) { return row.milliseconds[i] / result.rows[0].milliseconds[i]; });
  f.images_per_second = 1e3 * static_cast<double>(result.problem->images) / f.milliseconds;
  return f;
}

// No line break stands inside a JSON string, so each begins an indentation.
std::string one_line(const std::string& json) {
  std::string line;
  for (size_t i = 0; i < json.size(); ++i) {
    if (json[i] != '\n') {
      line += json[i];
      continue;
    }
    if (line.ends_with(',')) line += ' ';
    while (i + 1 < json.size() && json[i + 1] == ' ') ++i;
  }
  return line;
}

// "after a step" as "after_a_step_bytes".
std::string json_key(std::string name) {
  std::replace(name.begin(), name.end(), ' ', '_');
  return name + "_bytes";
}

void print_as_json(const Result& result) {
  for (const Row& row : result.rows) {
    const Figures f = figures_of(result, row);
    Json out = Json::object();
    out.set("problem", result.problem->name)
        .set("implementation", row.who->implementation)
        .set("kernel", row.who->kernel)
        .set("threads", int64_t{result.threads})
        .set("rounds", static_cast<int64_t>(result.peak.size()))
        .set("runs_of_round", row.runs)
        .set("median_ms", f.milliseconds)
        .set(result.reads() ? "gbytes_per_s" : "gflops", f.rate)
        .set("peak", result.peak_name)
        .set(result.reads() ? "peak_gbytes_per_s" : "peak_gflops", f.peak)
        .set("peak_fraction", f.peak_fraction)
        .set("times_ours", f.ratio)
        .set("difference", row.difference);
    if (result.reads()) out.set("read_bytes", result.problem->read_bytes);
    if (result.problem->images > 0) out.set("images_per_second", f.images_per_second);
    if (result.problem->wants_memory) {
      out.set("memory_bytes", row.memory.bytes);
      Json parts = Json::object();
      for (const auto& [name, bytes] : row.memory.parts) parts.set(json_key(name), bytes);
      out.set("memory", std::move(parts));
    }
    fmt::print("{}\n", one_line(out.text()));
  }
  std::fflush(stdout);
}

std::string memory_text(const BenchMemory& memory) {
  std::string parts;
  for (const auto& [part, bytes] : memory.parts)
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", part,
                         format_bytes(static_cast<double>(bytes)));
  return fmt::format("{} ({})", format_bytes(static_cast<double>(memory.bytes)), parts);
}

void print_as_text(const Result& result) {
  const BenchCase& problem = *result.problem;
  fmt::print("{}, {} thread{}, {}; ", problem.name, result.threads, result.threads == 1 ? "" : "s",
             result.reads() ? format_bytes(result.work()) : format_count(result.work()) + " FLOPs");
  if (result.peak_name.empty())
    fmt::print("no peak: the processor has no unit for {}\n", dtype_name(problem.dtype));
  else
    fmt::print("peak {:.1f} {} ({})\n", median(result.peak), result.unit(), result.peak_name);
  constexpr auto kRight = Table::Align::right;
  std::vector<Table::Column> columns = {{""},
                                        {"kernel"},
                                        {"ms", kRight},
                                        {result.unit(), kRight},
                                        {"of peak", kRight},
                                        {"x ours", kRight}};
  if (problem.images) columns.push_back({"images/s", kRight});
  Table table(std::move(columns));
  for (const Row& row : result.rows) {
    const Figures f = figures_of(result, row);
    std::vector<std::string> cells = {
        "  " + row.who->implementation,
        row.who->kernel,
        fmt::format("{:.3f}", f.milliseconds),
        fmt::format("{:.1f}", f.rate),
        std::isnan(f.peak_fraction) ? "" : fmt::format("{:.1f} %", 100 * f.peak_fraction),
        fmt::format("{:.2f}", f.ratio)};
    if (problem.images) cells.push_back(fmt::format("{:.0f}", f.images_per_second));
    table.row(std::move(cells));
  }
  table.print();
  if (problem.wants_memory)
    for (const Row& row : result.rows)
      fmt::print("  memory of {}: {}\n", row.who->implementation, memory_text(row.memory));
  for (size_t i = 1; i < result.rows.size(); ++i)
    if (!std::isnan(result.rows[i].difference))
      fmt::print("  {} differs by at most {:.1e} of the largest result\n",
                 result.rows[i].who->implementation, result.rows[i].difference);
  fmt::print("\n");
  std::fflush(stdout);
}

std::vector<BenchCase> cases_of(const Options& o) {
  static constexpr std::string_view kKinds[] = {"attention", "train", "infer"};
  if (!o.kernel.empty() && o.kind != "attention")
    throw Error(ErrorCode::invalid_argument,
                "[bench] --kernel is for attention (FOVEA_FORCE_KERNEL chooses those of a model)");
  std::vector<BenchCase> all;
  if (o.kind == "attention")
    all = attention_cases(o.kernel);
  else if (o.kind == "train")
    all = train_cases();
  else if (o.kind == "infer")
    all = infer_cases();
  else
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[bench] there is nothing called '{}'{} (expected {})", o.kind,
                            did_you_mean(o.kind, kKinds), fmt::join(kKinds, ", ")));
  std::vector<std::string> names;
  std::vector<BenchCase> chosen;
  for (BenchCase& problem : all) {
    names.push_back(problem.name);
    if (problem.name.find(o.only) != std::string::npos) chosen.push_back(std::move(problem));
  }
  if (chosen.empty())
    throw Error(ErrorCode::not_found,
                fmt::format("[bench] --only: no problem's name holds '{}' (problems: {})", o.only,
                            fmt::join(names, ", ")));
  return chosen;
}

// Where `make bench` puts the rivals: build-bench beside the folder in which this program was
// built, or below the current one.
fs::path rivals_folder(const std::string& given) {
  if (!given.empty()) return given;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path beside = program.parent_path().parent_path().parent_path() / "build-bench";
  return !error && fs::is_directory(beside, error) ? beside : fs::path("build-bench");
}

std::vector<RivalProgram> rivals_of(const Options& o) {
  std::vector<RivalProgram> installed;
  if (o.without_rivals) return installed;
  for (RivalProgram& program : rival_programs(rivals_folder(o.rivals))) {
    if (const auto missing = what_is_missing(program))
      fmt::print(stderr, "{}\n", *missing);
    else
      installed.push_back(std::move(program));
  }
  return installed;
}

void declare(Arguments& arguments, Options& o) {
  arguments.positional("attention|train|infer", o.kind, "What to measure");
  arguments.option("--only", o.only, "TEXT", "Only problems whose name holds this");
  arguments.option("--rounds", o.rounds, 1, 100000, "Rounds to take the medians of");
  arguments.option("--kernel", o.kernel, "NAME", "Kernel of attention instead of the first");
  arguments.option("--rivals", o.rivals, "DIR", "Where make bench put the rivals [build-bench]");
  arguments.flag("--without-rivals", o.without_rivals, "Ours and the peak only");
  arguments.threads(o.threads, "0 for train, 1 for the others");
  arguments.quiet(o.quiet);
  arguments.json(o.json);
}

int run(const Call&, Options& o) {
  const std::vector<BenchCase> cases = cases_of(o);
  const std::vector<RivalProgram> rivals = rivals_of(o);
  const std::shared_ptr<ThreadPool> pool = make_pool(o.threads.value_or(o.kind == "train" ? 0 : 1));
  Progress progress(stderr, o.quiet ? std::optional(false) : std::nullopt);
  for (const BenchCase& problem : cases) {
    progress.update(0, problem.name);
    Result result = prepare(problem, rivals, pool);
    measure(result, o.rounds, *pool, progress);
    if (o.json)
      print_as_json(result);
    else
      print_as_text(result);
  }
  return 0;
}

}  // namespace

double median(std::vector<double> values) {
  FOVEA_ASSERT(!values.empty());
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::vector<double> time_runs(int64_t runs, const std::function<void()>& run) {
  std::vector<double> times;
  for (int64_t i = 0; i < runs; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    times.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
            .count());
  }
  return times;
}

Verb bench_verb() {
  return {
      .name = "bench",
      .summary = "attention, train or infer against other runtimes",
      .description =
          "Measures attention kernels, a training step or inference of a small vision "
          "transformer, in turns with LibTorch, ONNX Runtime, oneDNN's products and softmax and "
          "the peak of the processor. "
          "All results are compared first. A row's \"x ours\" says how many times as long as "
          "ours it takes.\nWith --json it prints a line of JSON for each row.",
      .examples = {{"fovea bench infer --without-rivals", "ours and the peak"},
                   {"fovea bench attention --only N49 --json", "problems whose name holds N49"}},
      .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

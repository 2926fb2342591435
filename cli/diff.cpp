// fovea diff: one model run in two ways, and where the results part, node by node.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "cli/cli_support.h"
#include "cli/measure.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "fovea/base/error.h"
#include "fovea/base/text.h"
#include "fovea/runtime/session.h"

namespace fovea::cli {

namespace {

// One way to run the model, as "level=half,precision=bf16" says it.
struct Way {
  std::string text;
  RunOptions run;
  std::string kernels;  // as FOVEA_FORCE_KERNEL takes them
  std::vector<std::string> disabled;
};

Way parse_way(const std::string& text) {
  static const std::vector<std::string_view> kKeys = {"level", "precision", "kernel",
                                                      "disable-pass"};
  Way way;
  way.text = text;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(item.size() + 1, rest.size()));
    const size_t equals = item.find('=');
    const std::string_view key = item.substr(0, equals);
    if (std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end() ||
        equals == std::string_view::npos || equals + 1 == item.size())
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[diff] expected KEY=VALUE,... with the keys {}, got '{}'{}",
                              fmt::join(kKeys, ", "), item, did_you_mean(key, kKeys)));
    const std::string value(item.substr(equals + 1));
    if (key == "level") way.run.level = value;
    if (key == "precision") way.run.precision = precision_named(value);
    if (key == "kernel") way.kernels += (way.kernels.empty() ? "" : ",") + value;
    if (key == "disable-pass") way.disabled.push_back(value);
  }
  return way;
}

// The results of one output of one node, as real numbers.
struct Result {
  std::string op, kernel, type;
  std::vector<double> numbers;
};
struct Results {
  std::vector<std::pair<std::string, size_t>> order;
  std::map<std::pair<std::string, size_t>, Result> by_name;
};

std::vector<double> numbers_of(DType dtype, std::span<const std::byte> bytes) {
  std::vector<double> out(bytes.size() / dtype_size(dtype));
  const auto fill = [&]<class T>(T) {
    const auto* p = reinterpret_cast<const T*>(bytes.data());
    for (size_t i = 0; i < out.size(); ++i) {
      if constexpr (std::is_same_v<T, bf16>)
        out[i] = static_cast<double>(static_cast<float>(p[i]));
      else
        out[i] = static_cast<double>(p[i]);
    }
  };
  switch (dtype) {
    case DType::f32:
      fill(float{});
      break;
    case DType::f64:
      fill(double{});
      break;
    case DType::bf16:
      fill(bf16{});
      break;
    case DType::i32:
      fill(int32_t{});
      break;
    case DType::i8:
      fill(int8_t{});
      break;
    case DType::f16:
    case DType::u8:
    case DType::boolean:
      if (dtype == DType::f16) return {};
      fill(uint8_t{});
      break;
  }
  return out;
}

Results results_of(Model& model, const Way& way, int64_t batch, uint64_t seed,
                   const std::shared_ptr<ThreadPool>& pool) {
  const KernelChoice kernels =
      way.kernels.empty() ? KernelChoice::from_environment() : KernelChoice::parse(way.kernels);
  Session session(model.compiled(model.inference(), way.run, way.disabled),
                  std::make_shared<VariableStore>(), pool, {.seed = seed, .kernels = kernels});
  Execution& execution = session.prepare({{"B", batch}});
  fill_inputs(execution, session.graph());
  std::map<std::string, std::string> kernel_of;
  for (const NodeReport& report : execution.reports()) kernel_of[report.name] = report.kernel;
  Results results;
  execution.run_observed([&](const Node& n, size_t output, std::span<const std::byte> bytes) {
    const auto key = std::pair(n.name, output);
    results.order.push_back(key);
    results.by_name[key] = {std::string(n.op->name), kernel_of[n.name], to_text(n.types[output]),
                            numbers_of(n.types[output].dtype, bytes)};
  });
  return results;
}

// How far two results of one node are apart.
struct Difference {
  std::string name;
  const Result* a = nullptr;
  const Result* b = nullptr;
  double largest = 0;   // |a - b|
  double relative = 0;  // of the norms: |a - b| / |a|
};

Difference compare(const std::string& name, const Result& a, const Result& b) {
  Difference d{name, &a, &b};
  double norm = 0, apart = 0;
  for (size_t i = 0; i < a.numbers.size(); ++i) {
    const double x = a.numbers[i], y = b.numbers[i];
    const double difference = x == y || (x != x && y != y) ? 0 : std::abs(x - y);
    d.largest = difference <= d.largest ? d.largest : difference;  // a NaN is the largest
    norm += std::isfinite(x) ? x * x : 0;
    apart += difference * difference;
  }
  d.relative = apart == 0 ? 0 : std::sqrt(apart / std::max(norm, 1e-300));
  return d;
}

struct Comparison {
  std::vector<Difference> rows;
  size_t only_a = 0, only_b = 0;  // outputs that the other way does not have in that shape
};

Comparison compare(const Results& a, const Results& b) {
  Comparison c;
  for (const auto& key : a.order) {
    const auto other = b.by_name.find(key);
    const Result& mine = a.by_name.at(key);
    if (other == b.by_name.end() || other->second.numbers.size() != mine.numbers.size()) {
      ++c.only_a;
      continue;
    }
    const std::string name =
        key.second == 0 ? key.first : fmt::format("{}:{}", key.first, key.second);
    c.rows.push_back(compare(name, mine, other->second));
  }
  c.only_b = b.order.size() - c.rows.size();
  return c;
}

void print_as_json(const Comparison& c, const Way& a, const Way& b, const Difference* first) {
  Json nodes = Json::array();
  for (const Difference& d : c.rows) {
    Json row = Json::object();
    row.set("name", d.name)
        .set("op", d.a->op)
        .set("type_a", d.a->type)
        .set("type_b", d.b->type)
        .set("kernel_a", d.a->kernel)
        .set("kernel_b", d.b->kernel)
        .set("largest_difference", d.largest)
        .set("relative_difference", d.relative);
    nodes.push(std::move(row));
  }
  Json out = Json::object();
  out.set("a", a.text).set("b", b.text).set("nodes", std::move(nodes));
  out.set("only_a", static_cast<int64_t>(c.only_a)).set("only_b", static_cast<int64_t>(c.only_b));
  out.set("first_apart", first ? first->name : std::string());
  print_json(out);
}

void print_as_table(const Comparison& c, const Way& a, const Way& b, const Difference* first,
                    double tolerance) {
  fmt::print("A: {}\nB: {}\n\n", a.text.empty() ? "as it is" : a.text,
             b.text.empty() ? "as it is" : b.text);
  constexpr auto kRight = Table::Align::right;
  Table table({{"name"}, {"A"}, {"B"}, {"largest", kRight}, {"relative", kRight}});
  for (const Difference& d : c.rows)
    table.row({d.name, d.a->kernel, d.b->kernel, fmt::format("{:.3g}", d.largest),
               fmt::format("{:.3g}", d.relative)},
              d.relative > tolerance ? "*" : "");
  table.print();
  if (c.only_a + c.only_b > 0)
    fmt::print("{} results of A and {} of B have no counterpart: the passes made other nodes.\n",
               c.only_a, c.only_b);
  if (first)
    fmt::print("They part at {}: relative difference {:.3g} (*: above {:g}).\n", first->name,
               first->relative, tolerance);
  else
    fmt::print("No relative difference above {:g}.\n", tolerance);
}

struct Options {
  std::string path, text_a, text_b;
  std::vector<std::string> overrides;
  int64_t batch = 1, threads = 0;
  std::optional<int64_t> seed;
  double tolerance = 1e-5;
  bool json = false;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("BUNDLE|RECIPE", o.path, "Folder of a model, or a recipe");
  arguments.option("--a", o.text_a, "WAY", "The first way; nothing: as the model stands");
  arguments.option("--b", o.text_b, "WAY", "The second way");
  arguments.option("--tolerance", o.tolerance, 0.0, 1e9,
                   "Relative difference that counts as apart");
  arguments.option("--batch", o.batch, 1, 65536, "Images at a time");
  arguments.repeated("--set", o.overrides, "KEY=VALUE", "Change a value of the recipe");
  arguments.seed(o.seed);
  arguments.threads(o.threads);
  arguments.json(o.json);
}

int run(const Call&, Options& o) {
  if (o.text_a == o.text_b)
    throw Error(ErrorCode::invalid_argument,
                "[diff] expected two ways that differ, got the same twice (such as --b "
                "precision=bf16)");

  const Way a = parse_way(o.text_a), b = parse_way(o.text_b);
  Model model = Model::open(o.path, o.overrides);
  const auto seed = static_cast<uint64_t>(o.seed.value_or(model.train_options().seed));
  const std::shared_ptr<ThreadPool> pool = make_pool(o.threads);
  const Results of_a = results_of(model, a, o.batch, seed, pool),
                of_b = results_of(model, b, o.batch, seed, pool);
  const Comparison c = compare(of_a, of_b);
  const auto apart = std::find_if(c.rows.begin(), c.rows.end(), [&](const Difference& d) {
    return !(d.relative <= o.tolerance);
  });
  const Difference* first = apart == c.rows.end() ? nullptr : &*apart;
  if (o.json)
    print_as_json(c, a, b, first);
  else
    print_as_table(c, a, b, first, o.tolerance);
  return 0;
}

}  // namespace

Verb diff_verb() {
  return {.name = "diff",
          .summary = "run in two ways, show where the results part",
          .description =
              "Runs a model in two ways on the same images and shows, node by node, where the "
              "results part.\nA way is KEY=VALUE,... with the keys level, precision, kernel "
              "(FAMILY=NAME, as in doctor) and disable-pass.",
          .examples = {{"fovea diff runs/demo --b precision=bf16", "what bf16 costs in accuracy"},
                       {"fovea diff runs/demo --b kernel=attention=ref",
                        "whether the fast kernels agree with the plain ones"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

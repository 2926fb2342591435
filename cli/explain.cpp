// fovea explain: what a model looked at, as pictures and a page; and whether its answers hang on
// it.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <set>

#include "cli/cli_support.h"
#include "cli/series_sheet.h"
#include "cli/verbs.h"
#include "fovea/base/error.h"
#include "fovea/base/progress.h"
#include "fovea/base/text.h"
#include "fovea/data/permutation.h"
#include "fovea/data/series_dataset.h"
#include "fovea/explain/report.h"
#include "fovea/explain/samples.h"
#include "fovea/formats/image.h"
#include "fovea/infer/predictor.h"
#include "fovea/tasks/sequence_classification.h"

namespace fovea::cli {

namespace {

constexpr int64_t kBatch = 256;
constexpr int64_t kSampledFrom = 2000;  // among which examples are looked for
constexpr int64_t kCurvesHeight = 224, kCurvesWidth = 336;

struct Options {
  std::string path, out, class_text;
  std::vector<std::string> files;
  int64_t samples = 8, images = 500, orders = 5, threads = 0;
  std::optional<int64_t> seed;
  Split split = Split::test;
  RunOptions run;
  bool faithfulness = false, quiet = false, json = false;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("BUNDLE", o.path, "Folder of the model");
  arguments.positionals("FILE", o.files,
                        "PNG or JPEG images, or .csv and .npy files for a model of sequences; "
                        "none: examples of the data set, right and wrong ones",
                        /*required=*/false);
  arguments.option("--out", o.out, "DIR", "Folder for page and pictures; else BUNDLE/explain");
  arguments.option("--class", o.class_text, "NAME",
                   "Class that the gradient is of; else the one that the model names");
  arguments.option("--samples", o.samples, 1, 1000,
                   "Examples of the data set, or of a file of sequences");
  arguments.option("--split", o.split, "Which part of the data set");
  arguments.flag("--faithfulness", o.faithfulness,
                 "Measure whether answers hang on what is ranked high: remove it and see");
  arguments.option("--images", o.images, 2, 1'000'000, "Images of the split for --faithfulness");
  arguments.option("--orders", o.orders, 1, 1000, "Random orders of each, to compare with");
  add_run_options(arguments, o.run);
  arguments.threads(o.threads);
  arguments.seed(o.seed);
  arguments.quiet(o.quiet);
  arguments.json(o.json);
}

// The model in two forms: as it runs, and with its attention to be seen.
struct Runner {
  Session model;
  Explainer explainer;
};

Runner make_runner(Model& model, const RunOptions& options,
                   const std::shared_ptr<ThreadPool>& pool) {
  const Graph& inference = model.inference();
  Level level;
  AttentionMapOptions maps{.gradients = true};
  if (const LevelOptions* named = model.level(options.level)) {
    level = make_level(*named, inference);
    maps.level = &level;
  }
  const TokenGrid grid = token_grid(inference);
  RunOptions exposed = options;
  exposed.level = kFullLevel;  // the level is in the exposed graph already
  return {Session(model.compiled(inference, options), std::make_shared<VariableStore>(), pool),
          Explainer(model.compiled(expose_attention(inference, maps), exposed), grid, pool)};
}

// How examples become pictures to lay attention on.
struct Painter {
  CurvesScale scale = {};  // of sequences; no steps: the examples are images

  Image operator()(const Dataset& data, int64_t i) const {
    if (scale.steps > 0) return curves_picture(data, i, scale, kCurvesHeight, kCurvesWidth);
    const DataInput& input = *data.input(kImageInput);
    const auto pixels = input.sample(i);
    return {input.shape[0], input.shape[1], input.shape[2], {pixels.begin(), pixels.end()}};
  }
};

Painter painter_of(Model& model, const TokenGrid& grid) {
  const Graph& graph = model.inference();
  if (graph.find(kSeriesInput) < 0) return {};
  const SeriesInfo info = series_info(graph);
  // Strips of equal width, though the last token may stand for fewer steps.
  return {{info.mean, info.deviation, grid.columns * steps_of_token(graph)}};
}

// What is to be explained.
struct Examples {
  Dataset data;
  std::vector<std::string> names, truths;  // truths: empty where they are not known
};

// Prepared as those of the training were.
Examples read_files(const Options& o, Model& model) {
  const Graph& graph = model.inference();
  Examples examples;
  if (graph.find(kSeriesInput) >= 0) {
    if (o.files.size() != 1)
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[explain] expected one file of sequences, got {} (explain them one "
                              "by one)",
                              o.files.size()));
    const SeriesInfo info = series_info(graph);
    const Dataset all =
        load_series_file(o.files[0], model.data(), {info.steps, info.features, info.ragged, false});
    std::vector<int64_t> first(static_cast<size_t>(std::min(o.samples, all.size())));
    std::iota(first.begin(), first.end(), int64_t{0});
    examples.data = select(all, first);
    for (const int64_t i : first) examples.names.push_back(all.name(i));
  } else {
    ImageDataset images{"the files", 0, 0, 0, {}, {}, {}, o.files};
    for (const std::string& file : o.files) {
      const Image image =
          prepare_for(graph, model.data().resize, read_image(file), "[explain] " + file);
      images.height = image.height;
      images.width = image.width;
      images.channels = image.channels;
      images.images.insert(images.images.end(), image.pixels.begin(), image.pixels.end());
      images.labels.push_back(-1);
    }
    examples.data = std::move(images);
    examples.names = o.files;
  }
  examples.truths.resize(examples.names.size());
  return examples;
}

// So many examples of the data set, drawn by the seed: their places in it.
std::vector<int64_t> drawn(int64_t size, int64_t count, uint64_t seed, std::string_view stream) {
  std::vector<int64_t> order;
  philox_permutation(size, seed, stream, 0, order);
  order.resize(static_cast<size_t>(std::min(count, size)));
  return order;
}

Examples read_samples(const Options& o, const Dataset& data, Session& model, uint64_t seed) {
  const std::vector<int64_t> places = drawn(data.size(), kSampledFrom, seed, "explain.looked_at");
  const Dataset some = select(data, places);
  const auto predicted = predict_classes(model, some, kBatch);
  const std::vector<int64_t> chosen = choose_samples(some, predicted, o.samples, seed);
  const bool images = data.input(kImageInput) != nullptr;
  Examples examples;
  for (const int64_t i : chosen) {
    const auto at = static_cast<size_t>(i);
    examples.names.push_back(images ? fmt::format("{} image {}", enum_name(o.split), places[at])
                                    : some.name(i));
    examples.truths.push_back(some.class_names[static_cast<size_t>(some.labels[at])]);
  }
  examples.data = select(some, chosen);
  return examples;
}

// The index of a class that is given by its label or number; -1 where none is asked for.
int32_t class_named(const std::string& text, const std::vector<std::string>& labels,
                    int64_t classes) {
  if (text.empty()) return -1;
  for (size_t i = 0; i < labels.size(); ++i)
    if (labels[i] == text) return static_cast<int32_t>(i);
  for (int64_t i = 0; i < classes; ++i)
    if (std::to_string(i) == text) return static_cast<int32_t>(i);
  throw Error(ErrorCode::not_found,
              fmt::format("[--class] there is no class '{}'{} (classes: {})", text,
                          did_you_mean(text, labels),
                          labels.empty() ? fmt::format("0 to {}", classes - 1)
                                         : fmt::format("{}", fmt::join(labels, ", "))));
}

void explain_all(const Options& o, Explainer& explainer, const Examples& examples,
                 const Painter& paint, ExplainReport& report) {
  const Graph& graph = explainer.graph();
  const int64_t classes = graph.shape(graph.output(kLogits))[1].constant();
  const std::vector<int32_t> asked(examples.names.size(),
                                   class_named(o.class_text, report.labels, classes));
  auto explained = explainer.explain(examples.data, asked);
  for (size_t i = 0; i < explained.size(); ++i)
    report.images.push_back({examples.names[i], examples.truths[i],
                             paint(examples.data, static_cast<int64_t>(i)),
                             std::move(explained[i])});
}

Json shares_json(const std::vector<double>& shares) {
  Json array = Json::array();
  for (const double share : shares) array.push(share);
  return array;
}

Json estimate_json(const Estimate& e) {
  Json json = Json::object();
  json.set("mean", e.mean).set("standard_error", e.error);
  return json;
}

Json curve_json(const RemovalCurve& removal) {
  Json means = Json::array(), errors = Json::array();
  for (const Estimate& e : removal.probability) {
    means.push(e.mean);
    errors.push(e.error);
  }
  Json json = Json::object();
  json.set("area", estimate_json(removal.area))
      .set("probability", std::move(means))
      .set("standard_error", std::move(errors));
  return json;
}

Json faithfulness_json(const ExplainReport& report) {
  const Faithfulness& f = *report.faithfulness;
  Json rankings = Json::array();
  for (const RankingFaithfulness& r : f.rankings) {
    Json one = Json::object();
    one.set("ranking", enum_name(r.ranking))
        .set("deletion_below_random", estimate_json(r.deletion_gain))
        .set("insertion_above_random", estimate_json(r.insertion_gain))
        .set("highest_first", curve_json(r.highest_first))
        .set("lowest_first", curve_json(r.lowest_first));
    rankings.push(std::move(one));
  }
  Json json = Json::object();
  json.set("images", f.images)
      .set("tokens", f.tokens)
      .set("steps", f.steps)
      .set("random_orders", f.random_orders)
      .set("removed_patches_become", report.removed)
      .set("random", curve_json(f.random))
      .set("rankings", std::move(rankings));
  return json;
}

std::string_view precision_of(const Options& o) {
  return enum_name(o.run.precision.value_or(Precision::f32));
}

void print_as_json(const Options& o, const ExplainReport& report, const std::string& folder,
                   const std::vector<std::string>& files) {
  Json examples = Json::array();
  for (const ExplainedImage& image : report.images) {
    const Explanation& e = image.explanation;
    Json probabilities = Json::object();
    for (size_t c = 0; c < e.probabilities.size(); ++c)
      probabilities.set(class_name(report, static_cast<int32_t>(c)), e.probabilities[c]);
    Json one = Json::object();
    one.set("name", image.name).set("class", class_name(report, e.predicted));
    if (!image.truth.empty()) one.set("true_class", image.truth);
    one.set("explained_class", class_name(report, e.explained))
        .set("probabilities", std::move(probabilities))
        .set("rollout", shares_json(e.rollout))
        .set("gradient_rollout", shares_json(e.gradient_rollout));
    examples.push(std::move(one));
  }
  Json grid = Json::object();
  grid.set("rows", report.grid.rows).set("columns", report.grid.columns);
  Json names = Json::array();
  for (const std::string& file : files) names.push(std::string_view(file));
  Json out = Json::object();
  out.set("model", report.model)
      .set("level", o.run.level)
      .set("precision", precision_of(o))
      .set("grid", std::move(grid))
      .set("folder", folder)
      .set("files", std::move(names))
      .set("examples", std::move(examples));
  if (report.faithfulness) out.set("faithfulness", faithfulness_json(report));
  print_json(out);
}

void print_as_text(const ExplainReport& report, const std::filesystem::path& page) {
  size_t width = 0;
  for (const ExplainedImage& image : report.images) width = std::max(width, image.name.size());
  for (const ExplainedImage& image : report.images) {
    const Explanation& e = image.explanation;
    const std::string predicted = class_name(report, e.predicted);
    fmt::print("{:<{}}  {} {:.1f} %{}\n", image.name, width, predicted,
               100 * e.probabilities[static_cast<size_t>(e.predicted)],
               image.truth.empty() || image.truth == predicted
                   ? ""
                   : fmt::format("  (truly {})", image.truth));
  }
  if (report.faithfulness) {
    const Faithfulness& f = *report.faithfulness;
    const auto text = [](const Estimate& e) {
      return fmt::format("{:.4f} +- {:.4f}", e.mean, e.error);
    };
    fmt::print(
        "\nArea under the probability of the class, {} images, +- standard error\n"
        "{:<18}  {:>16}  {:>16}  {:>16}  {:>16}\n",
        f.images, "", "deletion", "below random", "insertion", "above random");
    for (const RankingFaithfulness& r : f.rankings)
      fmt::print("{:<18}  {:>16}  {:>16}  {:>16}  {:>16}\n", enum_name(r.ranking),
                 text(r.highest_first.area), text(r.deletion_gain), text(r.lowest_first.area),
                 text(r.insertion_gain));
    fmt::print("{:<18}  {:>16}  {:>16}  {:>16}\n\n", "random order", text(f.random.area), "",
               text(f.random.area));
  }
  fmt::print("page: {}\n", page.string());
}

int run(const Call&, Options& o) {
  Model model = Model::open_bundle(o.path);
  const std::filesystem::path folder =
      o.out.empty() ? std::filesystem::path(o.path) / "explain" : std::filesystem::path(o.out);
  const auto seed = static_cast<uint64_t>(o.seed.value_or(model.train_options().seed));
  const std::shared_ptr<ThreadPool> pool = make_pool(o.threads);
  Runner runner = make_runner(model, o.run, pool);
  if (o.faithfulness && model.inference().find(kSeriesInput) >= 0)
    throw Error(ErrorCode::unsupported,
                "[explain] --faithfulness removes patches of images, and this model sees sequences "
                "(leave it out)");
  // Before minutes of work, not after.
  prepare_report_folder(folder);

  ExplainReport report;
  report.model = o.path;
  report.grid = runner.explainer.grid();
  report.labels = model.labels();
  Dataset data;
  if (o.files.empty() || o.faithfulness) data = model.dataset(o.split, pool);
  const Examples examples =
      o.files.empty() ? read_samples(o, data, runner.model, seed) : read_files(o, model);
  explain_all(o, runner.explainer, examples, painter_of(model, report.grid), report);
  const auto& layers = report.images.at(0).explanation.layers;
  report.about = fmt::format("Level {}, {}; {}x{} tokens, {} layers of attention", o.run.level,
                             precision_of(o), report.grid.rows, report.grid.columns, layers.size());
  if (o.faithfulness) {
    const ImageDataset some =
        as_images(select(data, drawn(data.size(), o.images, seed, "explain.faithfulness")),
                  "[explain] --faithfulness");
    report.removed = "the mean of the training images at that place";
    const auto removed = mean_image(model.images(Split::train, pool, "[explain] --faithfulness"));
    Progress progress(stderr);
    report.faithfulness = measure_faithfulness(
        runner.model, runner.explainer, some, removed,
        {.random_orders = o.orders, .batch = kBatch, .seed = seed, .progress = [&](double done) {
           if (!o.quiet) progress.update(done, "removing patches");
         }});
    progress.finish();
  }
  const auto files = write_report(folder, report);
  if (o.json)
    print_as_json(o, report, folder.string(), files);
  else
    print_as_text(report, folder / "index.html");
  return 0;
}

}  // namespace

Verb explain_verb() {
  return {
      .name = "explain",
      .summary = "draw what a model looked at, as a page",
      .description =
          "Shows what a model looked at: the attention of each layer and head, attention "
          "rollout, and rollout weighted by the gradient of a class, drawn over images, or over "
          "the "
          "curves of sequences. Writes "
          "one page that opens from disk, and each picture as a file of its own.\n"
          "Images of another size or colour than the model's are fitted to it.",
      .examples = {{"fovea explain runs/demo", "examples of the data set, right and wrong ones"},
                   {"fovea explain runs/demo picture.png --out look", "a picture of your own"},
                   {"fovea explain runs/demo --faithfulness",
                    "measure whether answers hang on what is ranked high"}},
      .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

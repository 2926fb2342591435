// fovea explain: what a model looked at, as pictures and a page; and whether its answers hang on
// it.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <set>

#include "cli/cli_support.h"
#include "cli/explain_json.h"
#include "cli/series_sheet.h"
#include "cli/verbs.h"
#include "fovea/base/error.h"
#include "fovea/base/progress.h"
#include "fovea/base/text.h"
#include "fovea/data/permutation.h"
#include "fovea/data/series_dataset.h"
#include "fovea/explain/column_effects.h"
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
                        "PNG or JPEG images, or a .csv or .npy file for a model of numbers; "
                        "none: examples of the data set, right and wrong ones",
                        /*required=*/false);
  arguments.option("--out", o.out, "DIR", "Folder for page and pictures; else BUNDLE/explain");
  arguments.option("--class", o.class_text, "NAME",
                   "Class that the gradient is of; else the one that the model names");
  arguments.option("--samples", o.samples, 1, 1000,
                   "Examples of the data set, or of a file of numbers");
  arguments.option("--split", o.split, "Which part of the data set");
  arguments.flag("--faithfulness", o.faithfulness,
                 "Measure whether answers hang on what is ranked high: remove it and see");
  arguments.option("--images", o.images, 2, 1'000'000,
                   "Images of the split for --faithfulness; or sequences, or rows");
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
  CurvesScale scale = {};  // of numbers; no steps: the examples are images

  Image operator()(const Dataset& data, int64_t i) const {
    if (scale.steps > 0) return curves_picture(data, i, scale, kCurvesHeight, kCurvesWidth);
    const DataInput& input = *data.input(kImageInput);
    const auto pixels = input.sample(i);
    return {input.shape[0], input.shape[1], input.shape[2], {pixels.begin(), pixels.end()}};
  }
};

Painter painter_of(Model& model, const TokenGrid& grid) {
  const Graph& graph = model.inference();
  if (grid.kind == TokenKind::patch) return {};
  const SeriesInfo info = series_info(graph);
  // Strips of equal width, though the last token may stand for fewer steps.
  return {
      {info.mean, info.deviation, grid.kind == TokenKind::steps ? grid.columns * grid.steps : 1}};
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
                  fmt::format("[explain] expected one file of numbers, got {} (explain them one by "
                              "one)",
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
    // A file, or a line, by which people find it again.
    examples.names.push_back(images && some.files.empty()
                                 ? fmt::format("{} image {}", enum_name(o.split), places[at])
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

std::vector<float> row_of(const Examples& examples, int64_t i) {
  const DataInput& input = *examples.data.input(kSeriesInput);
  std::vector<float> values(input.sample_bytes() / sizeof(float));
  std::memcpy(values.data(), input.sample(i).data(), input.sample_bytes());
  return values;
}

void explain_all(const Options& o, Runner& runner, const Examples& examples, const Painter& paint,
                 ExplainReport& report) {
  const Graph& graph = runner.explainer.graph();
  const int64_t classes = graph.shape(graph.output(kLogits))[1].constant();
  const std::vector<int32_t> asked(examples.names.size(),
                                   class_named(o.class_text, report.labels, classes));
  auto explained = runner.explainer.explain(examples.data, asked);
  report.columns = examples.data.columns;
  if (report.grid.kind == TokenKind::steps) report.colours = curve_colours();
  std::vector<std::vector<double>> effects;
  if (report.grid.kind != TokenKind::patch) {
    std::vector<int32_t> named;
    for (const Explanation& e : explained) named.push_back(e.explained);
    effects = column_effects(runner.model, examples.data, named, paint.scale.mean);
  }
  for (size_t i = 0; i < explained.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    report.images.push_back(
        {examples.names[i], examples.truths[i], paint(examples.data, at), std::move(explained[i])});
    if (!effects.empty()) report.images.back().column_effects = std::move(effects[i]);
    if (report.grid.kind == TokenKind::column) report.images.back().values = row_of(examples, at);
  }
}

std::string_view precision_of(const Options& o) {
  return enum_name(o.run.precision.value_or(Precision::f32));
}

double mean_of(const std::vector<float>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
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
        "\nArea under the probability of the class, {} {}, +- standard error\n"
        "{:<18}  {:>16}  {:>16}  {:>16}  {:>16}\n",
        f.images, token_words(report.grid.kind).examples, "", "deletion", "below random",
        "insertion", "above random");
    for (const RankingFaithfulness& r : f.rankings)
      fmt::print("{:<18}  {:>16}  {:>16}  {:>16}  {:>16}\n", enum_name(r.ranking),
                 text(r.highest_first.area), text(r.deletion_gain), text(r.lowest_first.area),
                 text(r.insertion_gain));
    fmt::print("{:<18}  {:>16}  {:>16}  {:>16}\n\n", "random order", text(f.random.area), "",
               text(f.random.area));
  }
  for (const Explanation::Layer& layer : report.images.at(0).explanation.layers) {
    if (layer.spans.empty()) continue;
    fmt::print("{} sees {:.1f} tokens to each side (mean of its heads' spans:", layer.name,
               mean_of(layer.spans));
    for (const float span : layer.spans) fmt::print(" {:.1f}", span);
    fmt::print(")\n");
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
  explain_all(o, runner, examples, painter_of(model, report.grid), report);
  const auto& layers = report.images.at(0).explanation.layers;
  report.about = fmt::format("Level {}, {}; {}x{} tokens, {} layers of attention", o.run.level,
                             precision_of(o), report.grid.rows, report.grid.columns, layers.size());
  if (o.faithfulness) {
    const Dataset some = select(data, drawn(data.size(), o.images, seed, "explain.faithfulness"));
    const bool images = report.grid.kind == TokenKind::patch;
    report.removed = images ? "the mean of the training images at that place"
                            : "the mean of each column in training";
    std::vector<uint8_t> removed;
    if (images) {
      removed = mean_image(model.images(Split::train, pool, "[explain] --faithfulness"));
    } else {
      const SeriesInfo info = series_info(model.inference());
      removed = mean_series(info.mean, info.steps);
    }
    Progress progress(stderr);
    report.faithfulness = measure_faithfulness(
        runner.model, runner.explainer, some, removed,
        {.random_orders = o.orders, .batch = kBatch, .seed = seed, .progress = [&](double done) {
           if (!o.quiet)
             progress.update(done, fmt::format("removing {}", token_words(report.grid.kind).parts));
         }});
    progress.finish();
  }
  const auto files = write_report(folder, report);
  if (o.json)
    print_json(explain_json(report, {o.run.level, precision_of(o)}, folder.string(), files));
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
          "rollout, and rollout weighted by the gradient of a class, drawn over images, over the "
          "curves of sequences, or over the columns of rows; for numbers also what each column "
          "adds to the answer. Writes one page that opens from disk, and each picture as a file of "
          "its own.\n"
          "Images of another size or colour than the model's are fitted to it.",
      .examples = {{"fovea explain runs/demo", "examples of the data set, right and wrong ones"},
                   {"fovea explain runs/demo picture.png --out look", "a picture of your own"},
                   {"fovea explain runs/demo --faithfulness",
                    "measure whether answers hang on what is ranked high"}},
      .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

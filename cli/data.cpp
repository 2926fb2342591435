// fovea data: what is in the data set that a model or a recipe names.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "cli/cli_support.h"
#include "cli/data_export.h"
#include "cli/sample_sheet.h"
#include "cli/series_sheet.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "fovea/base/error.h"
#include "fovea/data/splits.h"
#include "fovea/data/statistics.h"
#include "fovea/formats/file.h"

namespace fovea::cli {

namespace {

constexpr std::array<Split, 3> kSplits = {Split::train, Split::validation, Split::test};
constexpr size_t kShownTwins = 3;
constexpr double kImbalance = 3;  // the largest class by the smallest, from which it is pointed out

struct Contents {
  std::array<Dataset, 3> splits;               // empty: there is none
  std::array<std::vector<int64_t>, 3> counts;  // by class
  PixelStatistics pixels;                      // of train, where it is images
  SeriesStatistics series;                     // of train, where it is numbers
  std::vector<Twins> twins;
  std::vector<std::string> skipped;  // what is said of samples that are left out

  const Dataset& train() const { return splits[0]; }
  // nullptr where it is numbers.
  const DataInput* image() const { return train().input(kImageInput); }
  std::string_view sample_word() const { return image() != nullptr ? "image" : "sample"; }
};

Contents read_contents(const DataOptions& options, const std::shared_ptr<ThreadPool>& pool) {
  Contents contents;
  Progress progress(stderr);
  contents.splits = load_splits(options, [&](Split split) {
    LoadContext context;
    context.pool = pool;
    context.progress = [&, split](int64_t done, int64_t all) {
      show_loading(progress, split, done, all);
    };
    return context;
  });
  for (size_t i = 0; i < contents.splits.size(); ++i)
    if (contents.splits[i].size() > 0) contents.counts[i] = class_counts(contents.splits[i]);
  for (const Split split : kSplits) {
    std::string text = skipped_text(options, contents.splits[static_cast<size_t>(split)], split);
    if (!text.empty()) contents.skipped.push_back(std::move(text));
  }
  contents.pixels = pixel_statistics(contents.train());
  contents.series = series_statistics(contents.train());
  contents.twins = find_twins(contents.splits);
  return contents;
}

bool is_leak(const Twins& t) { return t.a != t.b; }

// What a person should know before training.
std::vector<std::string> remarks(const Contents& c) {
  std::vector<std::string> lines;
  const std::vector<int64_t>& counts = c.counts[0];
  const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
  const auto name = [&](auto it) {
    return c.train().class_names[static_cast<size_t>(it - counts.begin())];
  };
  if (*least == 0)
    lines.push_back(fmt::format("the class '{}' has no training sample", name(least)));
  else if (static_cast<double>(*most) >= kImbalance * static_cast<double>(*least))
    lines.push_back(fmt::format(
        "'{}' has {:.1f} times as many training samples as '{}' "
        "(task.balance = 1.0 makes training treat classes alike)",
        name(most), static_cast<double>(*most) / static_cast<double>(*least), name(least)));
  lines.insert(lines.end(), c.skipped.begin(), c.skipped.end());
  const auto tell = [&](const std::string& one, const std::string& many, auto&& counts_as) {
    std::vector<std::string> named;
    size_t found = 0;
    for (const Twins& t : c.twins) {
      if (!counts_as(t)) continue;
      if (++found <= kShownTwins)
        named.push_back(fmt::format("{} = {}", c.splits[static_cast<size_t>(t.a)].name(t.first),
                                    c.splits[static_cast<size_t>(t.b)].name(t.second)));
    }
    if (found > 0)
      lines.push_back(fmt::format("{} {}: {}{}", found, found == 1 ? one : many,
                                  fmt::join(named, "; "), found > named.size() ? "; ..." : ""));
  };
  const std::string_view word = c.sample_word();
  for (const auto& [a, b] :
       {std::pair(Split::train, Split::validation), std::pair(Split::train, Split::test),
        std::pair(Split::validation, Split::test)}) {
    const std::string rest =
        fmt::format("in {} too (a leak: {} looks better than it is)", enum_name(a), enum_name(b));
    tell(fmt::format("{} of {} is {}", word, enum_name(b), rest),
         fmt::format("{}s of {} are {}", word, enum_name(b), rest),
         [a = a, b = b](const Twins& t) { return t.a == a && t.b == b; });
  }
  tell(fmt::format("{} stands twice in its split", word),
       fmt::format("{}s stand twice in their split", word),
       [](const Twins& t) { return !is_leak(t); });
  tell(fmt::format("pair of equal {}s has different classes", word),
       fmt::format("pairs of equal {}s have different classes", word),
       [](const Twins& t) { return !t.same_label; });
  for (size_t k = 0; k < c.series.mean.size(); ++k) {
    const std::string& column = c.train().columns.at(k);
    if (c.series.deviation[k] == 0)
      lines.push_back(
          fmt::format("the column '{}' is {} in all of train: it says nothing "
                      "(data.ignore)",
                      column, c.series.mean[k]));
    if (c.series.missing[k] > 0)
      lines.push_back(fmt::format("the column '{}' has no value in {} steps of train", column,
                                  c.series.missing[k]));
  }
  return lines;
}

void print_as_json(const DataOptions& options, const Contents& c) {
  const Dataset& train = c.train();
  Json classes = Json::array(), channels = Json::array();
  for (size_t k = 0; k < train.class_names.size(); ++k) {
    Json one = Json::object();
    one.set("name", train.class_names[k]);
    for (Split split : kSplits)
      if (const auto& counts = c.counts[static_cast<size_t>(split)]; !counts.empty())
        one.set(enum_name(split), counts[k]);
    classes.push(std::move(one));
  }
  Json counts = Json::object(), skipped = Json::object();
  for (Split split : kSplits) {
    const Dataset& data = c.splits[static_cast<size_t>(split)];
    counts.set(enum_name(split), data.size());
    skipped.set(enum_name(split), static_cast<int64_t>(data.skipped.size()));
  }
  for (size_t k = 0; k < c.pixels.mean.size(); ++k) {
    Json channel = Json::object();
    channel.set("mean", c.pixels.mean[k]).set("deviation", c.pixels.deviation[k]);
    channels.push(std::move(channel));
  }
  Json twins = Json::array();
  for (const Twins& t : c.twins) {
    Json one = Json::object();
    one.set("split_a", enum_name(t.a))
        .set("a", c.splits[static_cast<size_t>(t.a)].name(t.first))
        .set("split_b", enum_name(t.b))
        .set("b", c.splits[static_cast<size_t>(t.b)].name(t.second))
        .set("same_class", t.same_label);
    twins.push(std::move(one));
  }
  Json notes = Json::array();
  for (const std::string& line : remarks(c)) notes.push(line);
  Json out = Json::object();
  out.set("source", train.source).set("kind", enum_name(options.kind));
  if (const DataInput* image = c.image()) {
    out.set("height", image->shape[0])
        .set("width", image->shape[1])
        .set("channels", image->shape[2]);
  } else {
    const std::vector<int64_t>& shape = train.input(kSeriesInput)->shape;
    Json columns = Json::array();
    for (size_t k = 0; k < c.series.mean.size(); ++k) {
      Json column = Json::object();
      column.set("name", train.columns.at(k))
          .set("mean", c.series.mean[k])
          .set("deviation", c.series.deviation[k])
          .set("least", c.series.least[k])
          .set("most", c.series.most[k])
          .set("missing", c.series.missing[k]);
      columns.push(std::move(column));
    }
    out.set("steps", shape[0]).set("features", shape[1]);
    out.set("lengths_differ", train.input(kLengthInput) != nullptr);
    out.set("columns", std::move(columns));
  }
  out.set("samples", std::move(counts))
      .set("skipped", std::move(skipped))
      .set("classes", std::move(classes));
  if (c.image() != nullptr) out.set("pixels", std::move(channels));
  out.set(c.image() != nullptr ? "equal_images" : "equal_samples", std::move(twins))
      .set("notes", std::move(notes));
  print_json(out);
}

std::string shape_text(const Contents& c) {
  if (const DataInput* image = c.image())
    return fmt::format("{}x{} {}", image->shape[1], image->shape[0],
                       image->shape[2] == 1 ? "grey" : "colour");
  const std::vector<int64_t>& shape = c.train().input(kSeriesInput)->shape;
  const std::string features = fmt::format("{} feature{}", shape[1], shape[1] == 1 ? "" : "s");
  if (shape[0] == 1) return "rows of " + features;
  return fmt::format("sequences of {}{} steps with {}",
                     c.train().input(kLengthInput) != nullptr ? "up to " : "", shape[0], features);
}

void print_pixels(const PixelStatistics& pixels) {
  fmt::print("\npixels of train, from 0 (black) to 1:");
  for (size_t k = 0; k < pixels.mean.size(); ++k)
    fmt::print("{} mean {:.3f}, deviation {:.3f}", k > 0 ? ";" : "", pixels.mean[k],
               pixels.deviation[k]);
  fmt::print("\n");
}

// The columns of train.
void print_columns(const Contents& c) {
  constexpr auto kRight = Table::Align::right;
  const SeriesStatistics& s = c.series;
  std::vector<Table::Column> titles = {{"column"}};
  for (const char* title : {"least", "mean", "most", "deviation"})
    titles.push_back({title, kRight});
  const bool missing =
      std::any_of(s.missing.begin(), s.missing.end(), [](int64_t n) { return n > 0; });
  if (missing) titles.push_back({"no value", kRight});
  Table table(std::move(titles));
  for (size_t k = 0; k < s.mean.size(); ++k) {
    std::vector<std::string> cells = {c.train().columns.at(k)};
    for (const double v : {s.least[k], s.mean[k], s.most[k], s.deviation[k]})
      cells.push_back(fmt::format("{:.4g}", v));
    if (missing) cells.push_back(std::to_string(s.missing[k]));
    table.row(std::move(cells));
  }
  fmt::print("\n");
  table.print();
}

void print_as_table(const DataOptions& options, const Contents& c) {
  const Dataset& train = c.train();
  fmt::print("{} ({}): {}, {} classes\n\n", train.source, enum_name(options.kind), shape_text(c),
             train.class_names.size());
  size_t width = 5;
  for (const std::string& name : train.class_names) width = std::max(width, name.size());
  const auto row = [&](const std::string& name, auto&& count_of) {
    fmt::print("{:<{}}", name, width);
    for (Split split : kSplits) {
      const auto i = static_cast<size_t>(split);
      if (c.counts[i].empty()) continue;
      const int64_t count = count_of(i);
      fmt::print("  {:>9} {:>5.1f} %", count,
                 100 * static_cast<double>(count) / static_cast<double>(c.splits[i].size()));
    }
    fmt::print("\n");
  };
  fmt::print("{:<{}}", "class", width);
  for (Split split : kSplits)
    if (!c.counts[static_cast<size_t>(split)].empty()) fmt::print("  {:>17}", enum_name(split));
  fmt::print("\n");
  for (size_t k = 0; k < train.class_names.size(); ++k)
    row(train.class_names[k], [&](size_t i) { return c.counts[i][k]; });
  row("all", [&](size_t i) { return c.splits[i].size(); });
  if (c.image() != nullptr)
    print_pixels(c.pixels);
  else
    print_columns(c);
  for (const std::string& line : remarks(c)) fmt::print("note: {}\n", line);
}

struct Options {
  std::string path, sheet, export_folder;
  Split split = Split::train;
  std::vector<std::string> overrides;
  int64_t threads = 0;
  std::optional<int64_t> limit;
  bool json = false;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("BUNDLE|RECIPE", o.path, "Folder of a model, or a recipe");
  arguments.option("--sheet", o.sheet, "FILE",
                   "Write a PNG picture of samples of each class as the model sees them: images, "
                   "curves, or rows");
  arguments.option("--split", o.split, "Of the sheet; only train is augmented");
  arguments.option("--export", o.export_folder, "DIR",
                   "Write the images as DIR/SPLIT/CLASS/N.png, and do no more");
  arguments.option("--limit", o.limit, 1, INT64_MAX,
                   "Export at most so many of each class and split");
  arguments.repeated("--set", o.overrides, "KEY=VALUE", "Change a value of the recipe");
  arguments.threads(o.threads);
  arguments.json(o.json);
}

int export_only(const Model& model, const Options& o, const std::shared_ptr<ThreadPool>& pool) {
  const int64_t written = export_images(model.data(), o.export_folder, o.limit, pool);
  if (o.json) {
    Json out = Json::object();
    out.set("exported", written).set("folder", o.export_folder);
    print_json(out);
  } else {
    fmt::print("{} images written to {}\n", written, o.export_folder);
  }
  return 0;
}

void write_sheet(const Model& model, const Options& o, const Contents& contents) {
  const Dataset& data = contents.splits[static_cast<size_t>(o.split)];
  if (data.size() == 0)
    throw Error(
        ErrorCode::not_found,
        fmt::format("[--sheet] there is no {} split (--split names another)", enum_name(o.split)));
  if (contents.image() == nullptr) {
    const auto order = static_cast<uint64_t>(model.train_options().seed);
    write_file_atomically(o.sheet, encode_png(series_sheet(data, contents.series, order)));
    return;
  }
  check_augment(model.augment());
  const AugmentOptions as_trained = o.split == Split::train ? model.augment() : AugmentOptions{};
  const auto seed = static_cast<uint64_t>(model.train_options().seed);
  write_file_atomically(o.sheet,
                        encode_png(sample_sheet(as_images(data, "[--sheet]"), as_trained, seed)));
}

int run(const Call&, Options& o) {
  if (o.limit && o.export_folder.empty())
    throw Error(ErrorCode::invalid_argument,
                "[data] --limit belongs to --export DIR, which is not given (give it, or leave out "
                "--limit)");
  Model model = Model::open(o.path, o.overrides);
  model.check_keys();
  const std::shared_ptr<ThreadPool> pool = make_pool(o.threads);
  if (!o.export_folder.empty()) return export_only(model, o, pool);
  const Contents contents = read_contents(model.data(), pool);
  if (!o.sheet.empty()) write_sheet(model, o, contents);
  if (o.json)
    print_as_json(model.data(), contents);
  else
    print_as_table(model.data(), contents);
  if (!o.sheet.empty() && !o.json)
    fmt::print("samples of {} drawn in {}\n", enum_name(o.split), o.sheet);
  return 0;
}

}  // namespace

Verb data_verb() {
  return {.name = "data",
          .summary = "show what is in a data set, or write it as PNG files",
          .description =
              "Shows what is in the data set that a model or a recipe names: samples by split and "
              "class, sizes, brightness or the ranges of columns, samples that stand twice or in "
              "two splits, and what to take care of.",
          .examples = {{"fovea data recipes/fashion_mnist.toml --sheet samples.png",
                        "counts, and a picture of what the model sees in training"},
                       {"fovea data recipes/fashion_mnist.toml --export clothes --limit 50",
                        "fifty images of each class as folders of PNG files"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli

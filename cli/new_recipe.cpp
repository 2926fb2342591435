#include "cli/new_recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <mutex>

#include "fovea/base/error.h"
#include "fovea/formats/image.h"

namespace fovea::cli {
namespace {

constexpr size_t kOpened = 400;
constexpr size_t kChunk = 16;
constexpr int64_t kLargestSide = 64;   // of samples; more costs time, less loses detail
constexpr int64_t kMostTokens = 64;    // that attention looks at
constexpr double kImbalance = 1.5;     // the largest class by the smallest, from which it is mended
constexpr double kMixedAspects = 1.3;  // spread from which nothing is cut off
constexpr int64_t kFewImages = 1000, kTooFewOfAClass = 20;

bool is_grey(const Image& image) {
  for (size_t i = 0; image.channels == 3 && i < image.pixels.size(); i += 3)
    if (image.pixels[i] != image.pixels[i + 1] || image.pixels[i] != image.pixels[i + 2])
      return false;
  return true;
}

int64_t middle(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// What was seen, file by file.
struct Seen {
  std::vector<int64_t> heights, widths;
  std::vector<double> aspects;
};

void look_at(const std::filesystem::path& path, ImageSurvey& survey, Seen& seen,
             std::mutex& mutex) {
  try {
    const Image image = read_image(path);
    const bool grey = is_grey(image);
    const std::lock_guard lock(mutex);
    survey.colour = survey.colour || !grey;
    seen.heights.push_back(image.height);
    seen.widths.push_back(image.width);
    seen.aspects.push_back(static_cast<double>(image.width) / static_cast<double>(image.height));
  } catch (const std::exception& e) {
    const std::lock_guard lock(mutex);
    ++survey.unreadable;
    // Threads come in any order; the first by name is the same each time.
    std::string problem = e.what();
    if (const size_t end = problem.find("] "); problem[0] == '[' && end != std::string::npos)
      problem.erase(0, end + 2);
    if (survey.first_problem.empty() || problem < survey.first_problem)
      survey.first_problem = problem;
  }
}

// What was chosen.
struct Choice {
  int64_t height = 0, width = 0, channels = 1;
  ResizeMode resize = ResizeMode::crop;
  std::string why_size, why_resize;
  int64_t patch = 1, tokens = 0;
  int64_t width_of_model = 64, layers = 4;
  double dropout = 0.1;
  int64_t batch = 64, epochs = 40;
  double average = 0.99;
  int64_t shift = 1;
  bool flip = true;
  double balance = 0;
};

// The stem halves twice, then patches are cut: sides are multiples of 4 * patch.
int64_t rounded_side(double side, int64_t unit) {
  return std::max<int64_t>(unit, std::llround(side / static_cast<double>(unit)) * unit);
}

void choose_size(const ImageSurvey& s, Choice& c) {
  c.channels = s.colour ? 3 : 1;
  const int64_t longest = std::max(s.height, s.width);
  const int64_t side = std::min(longest, kLargestSide);
  // As many stem outputs become one patch as keep the tokens few.
  c.patch = 1;
  const auto tokens = [&](int64_t patch) {
    const double f = static_cast<double>(side) / static_cast<double>(longest);
    return std::ceil(static_cast<double>(s.height) * f / static_cast<double>(4 * patch)) *
           std::ceil(static_cast<double>(s.width) * f / static_cast<double>(4 * patch));
  };
  while (tokens(c.patch) > static_cast<double>(kMostTokens)) ++c.patch;
  const int64_t unit = 4 * c.patch;
  const bool mixed = s.most_aspect > kMixedAspects * s.least_aspect;
  const double f = static_cast<double>(side) / static_cast<double>(longest);
  c.height = rounded_side(static_cast<double>(s.height) * f, unit);
  c.width = rounded_side(static_cast<double>(s.width) * f, unit);
  if (mixed) c.height = c.width = rounded_side(static_cast<double>(side), unit);
  c.tokens = (c.height / unit) * (c.width / unit);
  if (s.one_size && c.height == s.height && c.width == s.width) {
    c.why_size = "as the files are";
    c.why_resize = "nothing to resize here; what to do with other images that come later";
    return;
  }
  c.why_size = s.one_size ? fmt::format("the files are {}x{}", s.width, s.height)
                          : fmt::format("most files are about {}x{}", s.width, s.height);
  c.resize = mixed ? ResizeMode::pad : ResizeMode::crop;
  c.why_resize = mixed ? "shapes differ much: black beside them, nothing is cut off"
                       : "scaled to cover, and the little that stands out is cut off";
}

int64_t steps_of(const ImageSurvey& s, const Choice& c) {
  return std::max<int64_t>(1, (s.samples[0] + c.batch - 1) / c.batch);
}

void choose_model(const ImageSurvey& s, Choice& c) {
  const int64_t n = s.samples[0];
  if (n < 2000) {
    c.width_of_model = 48;
    c.layers = 3;
    c.dropout = 0.2;
  } else if (n >= 20'000) {
    c.dropout = 0.0;
  }
  // At least twenty steps an epoch, so that few images also are many steps.
  for (c.batch = 128; c.batch > 16 && n / c.batch < 20;) c.batch /= 2;
  const int64_t steps = steps_of(s, c);
  c.epochs = std::clamp<int64_t>((3000 + steps - 1) / steps, 20, 100);
  c.average = steps * c.epochs > 5000 ? 0.999 : 0.99;
  c.shift = std::max<int64_t>(1, std::min(c.height, c.width) / 14);
  // Mirrored letters and digits are others.
  c.flip = !std::all_of(
      s.list.class_names.begin(), s.list.class_names.end(), [](const std::string& name) {
        return name.size() == 1 || name.find_first_not_of("0123456789") == std::string::npos;
      });
  const auto [least, most] = std::minmax_element(s.class_counts.begin(), s.class_counts.end());
  if (static_cast<double>(*most) >= kImbalance * static_cast<double>(*least)) c.balance = 1;
}

}  // namespace

std::string toml_string(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      quoted += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    else
      quoted += c;
  }
  return quoted + "\"";
}

ImageSurvey survey_images(const std::string& path, const std::shared_ptr<ThreadPool>& pool,
                          const std::function<void(double share)>& progress) {
  ImageSurvey s;
  std::error_code ignored;
  if (std::filesystem::is_regular_file(path, ignored)) {
    s.data.kind = DataKind::image_csv;
    s.data.file = path;
  } else {
    s.data.kind = DataKind::image_folder;
    s.data.dir = path;
  }
  s.list = list_image_files(s.data);
  s.class_counts.resize(s.list.class_names.size());
  for (const ImageFile& file : s.list.files) {
    ++s.samples[static_cast<size_t>(file.split)];
    if (file.split == Split::train) ++s.class_counts[static_cast<size_t>(file.label)];
  }
  const size_t files = s.list.files.size(), opened = std::min(files, kOpened);
  s.opened = static_cast<int64_t>(opened);
  Seen seen;
  std::mutex mutex;
  for (size_t first = 0; first < opened; first += kChunk) {
    const size_t count = std::min(kChunk, opened - first);
    pool->parallel_for(static_cast<int64_t>(count), [&](int64_t i, int) {
      const size_t at = (first + static_cast<size_t>(i)) * files / opened;
      look_at(s.list.files[at].path, s, seen, mutex);
    });
    progress(static_cast<double>(first + count) / static_cast<double>(opened));
  }
  if (seen.heights.empty())
    throw Error(ErrorCode::corrupt,
                fmt::format("[new] none of the {} image files that were opened can be read: {} "
                            "(PNG and JPEG are known; convert them first)",
                            s.opened, s.first_problem));
  s.height = middle(seen.heights);
  s.width = middle(seen.widths);
  for (const auto* sides : {&seen.heights, &seen.widths})
    for (int64_t side : *sides) {
      s.least_side = s.least_side == 0 ? side : std::min(s.least_side, side);
      s.most_side = std::max(s.most_side, side);
    }
  for (size_t i = 0; i < seen.heights.size(); ++i)
    s.one_size = s.one_size && seen.heights[i] == s.height && seen.widths[i] == s.width;
  std::sort(seen.aspects.begin(), seen.aspects.end());
  s.least_aspect = seen.aspects[seen.aspects.size() / 10];
  s.most_aspect = seen.aspects[seen.aspects.size() - 1 - seen.aspects.size() / 10];
  return s;
}

std::vector<std::string> remarks(const ImageSurvey& s) {
  std::vector<std::string> lines;
  const auto& counts = s.class_counts;
  const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
  const auto name = [&](auto it) {
    return s.list.class_names[static_cast<size_t>(it - counts.begin())];
  };
  if (*least < kTooFewOfAClass)
    lines.push_back(fmt::format("the class '{}' has {} image{} to train with: expect little of it",
                                name(least), *least, *least == 1 ? "" : "s"));
  if (static_cast<double>(*most) >= kImbalance * static_cast<double>(*least))
    lines.push_back(fmt::format(
        "'{}' has {:.1f} times as many images to train with as '{}': "
        "task.balance makes up for it",
        name(most), static_cast<double>(*most) / static_cast<double>(std::max<int64_t>(*least, 1)),
        name(least)));
  if (s.samples[0] < kFewImages)
    lines.push_back(
        fmt::format("{} images are few to learn from: more of them help more than "
                    "anything in the recipe",
                    s.samples[0]));
  if (!s.one_size)
    lines.push_back(fmt::format("sizes differ: sides of {} to {} pixels, {}x{} in the middle",
                                s.least_side, s.most_side, s.width, s.height));
  if (s.least_side < 12)
    lines.push_back(fmt::format("some images are only {} pixels high or wide", s.least_side));
  if (s.samples[1] == 0)
    lines.push_back(
        "no validation images: the last weights are kept, not the "
        "best");
  if (s.samples[2] == 0) lines.push_back("no test images: nothing will say how good the model is");
  if (s.unreadable > 0)
    lines.push_back(
        fmt::format("{} of {} files that were opened cannot be read, such as: {} "
                    "(data.unreadable=skip leaves them out)",
                    s.unreadable, s.opened, s.first_problem));
  if (s.list.others > 0)
    lines.push_back(fmt::format("{} other file{} in the folders left alone", s.list.others,
                                s.list.others == 1 ? " is" : "s are"));
  return lines;
}

std::string image_classifier_recipe(const ImageSurvey& s, const std::string& command,
                                    const std::string& file) {
  Choice c;
  choose_size(s, c);
  choose_model(s, c);
  std::string out;
  const auto line = [&](const std::string& text, const std::string& comment = "") {
    out += comment.empty() ? text + "\n" : fmt::format("{:<26} # {}\n", text, comment);
  };
  const auto name_of = [](auto value) { return fmt::format("\"{}\"", enum_name(value)); };
  line(fmt::format("# Written by: {}", command));
  line(fmt::format("# It saw {} classes; {} images to train with, {} to validate, {} to test.",
                   s.list.class_names.size(), s.samples[0], s.samples[1], s.samples[2]));
  for (const std::string& remark : remarks(s)) {
    std::string one = remark;
    std::replace_if(
        one.begin(), one.end(), [](unsigned char ch) { return ch < 0x20 || ch == 0x7f; }, '?');
    line("# - " + one);
  }
  line("# Train it: fovea train " + file);
  line("");
  line("[task]");
  line("kind = \"image_classification\"");
  line("label_smoothing = 0.05", "a little doubt, since labels are never all right");
  line(fmt::format("balance = {:.1f}", c.balance),
       c.balance > 0 ? "1: as if all classes were equally frequent; 0: as they are"
                     : "classes are about equally frequent; 1 would make up for it");
  line("");
  line("[data]");
  line("kind = " + name_of(s.data.kind));
  if (s.data.kind == DataKind::image_folder)
    line("dir = " + toml_string(s.data.dir), "from the folder in which fovea runs");
  else
    line("file = " + toml_string(s.data.file), "from the folder in which fovea runs");
  if (!s.list.given[static_cast<size_t>(Split::validation)])
    line("validation = 0.1", "share cut from the images, each class in proportion");
  if (!s.list.given[static_cast<size_t>(Split::test)]) line("test = 0.15", "likewise");
  line(fmt::format("height = {}", c.height), c.why_size);
  line(fmt::format("width = {}", c.width));
  line(fmt::format("channels = {}", c.channels),
       c.channels == 1 ? "all that were opened are grey" : "colour");
  line("resize = " + name_of(c.resize), c.why_resize);
  line("unreadable = \"error\"", "\"skip\" leaves files out that cannot be read");
  line("");
  line("[model]");
  line("stem = [32, 64]", fmt::format("two convolutions with stride 2: {}x{} become {}x{}", c.width,
                                      c.height, c.width / 4, c.height / 4));
  line(fmt::format("patch = {}", c.patch), fmt::format("{} tokens for attention", c.tokens));
  line(fmt::format("width = {}", c.width_of_model),
       s.samples[0] < 2000 ? "small, since the images are few" : "");
  line("heads = 4");
  line(fmt::format("layers = {}", c.layers));
  line(fmt::format("mlp = {}", 2 * c.width_of_model));
  line(fmt::format("dropout = {:.1f}", c.dropout),
       c.dropout > 0 ? "against learning by heart; 0 for many images" : "images are many");
  line("");
  line("[augment]");
  line(fmt::format("shift = {}", c.shift), "pixels, in any direction");
  line(fmt::format("flip = {}", c.flip),
       c.flip ? "false where left and right mean something"
              : "the classes look like digits or letters, which must not be mirrored");
  line("erase = 0.2", "share of the images of which a part is hidden");
  line("");
  line("[train]");
  line(fmt::format("epochs = {}", c.epochs), fmt::format("{} steps", c.epochs * steps_of(s, c)));
  line(fmt::format("batch = {}", c.batch));
  line(fmt::format("learning_rate = {}", c.batch >= 128 ? "2e-3" : "1e-3"));
  line("weight_decay = 0.05");
  line("warmup = 0.05");
  line(fmt::format("average = {}", c.average), "moving average of the weights");
  line("precision = \"auto\"", "bf16 where the processor is faster with it");
  line("seed = 1");
  return out;
}

}  // namespace fovea::cli

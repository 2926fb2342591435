#include "fovea/explain/report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <system_error>

#include "fovea/base/error.h"
#include "fovea/explain/curve_plot.h"
#include "fovea/formats/file.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kSide = 336, kHeadSide = 140;  // pixels of the pictures in files
constexpr uint64_t kMostPage = uint64_t{1} << 30;
constexpr std::string_view kPage = "index.html";
constexpr std::array<std::string_view, 4> kKinds = {"input", "rollout", "gradient", "heads"};
constexpr std::array<std::string_view, 2> kPlots = {"deletion.svg", "insertion.svg"};

std::string picture_name(size_t image, std::string_view kind) {
  return fmt::format("{:02}-{}.png", image + 1, kind);
}

// Whether a report of any size would give a file this name.
bool is_report_file(const std::string& name) {
  if (name == kPage || std::find(kPlots.begin(), kPlots.end(), name) != kPlots.end()) return true;
  const size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
  return digits >= 2 && std::any_of(kKinds.begin(), kKinds.end(), [&](std::string_view kind) {
           return name.substr(digits) == fmt::format("-{}.png", kind);
         });
}

bool holds_report(const fs::path& folder) {
  if (!fs::is_regular_file(folder / kPage)) return false;
  return read_text_file(folder / kPage, kMostPage).substr(0, 1024).find(kPageMark) !=
         std::string::npos;
}

[[noreturn]] void fail(ErrorCode code, const fs::path& folder, const std::string& what) {
  throw Error{code, fmt::format("[explain] {}: {}", folder.string(), what)};
}

// Names of what the folder holds.
std::vector<std::string> entries(const fs::path& folder) {
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().string());
  if (error)
    fail(ErrorCode::io, folder,
         fmt::format("cannot be read: {} (choose another folder with --out)", error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

void prepare_report_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!fs::is_directory(folder))
    fail(ErrorCode::io, folder,
         fmt::format("the folder cannot be made: {} (choose another one with --out)",
                     error ? error.message() : "something else has that name"));
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    fail(ErrorCode::io, folder, "may not be written to (choose another folder with --out)");
  const std::vector<std::string> names = entries(folder);
  if (!names.empty() && !holds_report(folder))
    fail(ErrorCode::invalid_argument, folder,
         fmt::format("the folder holds other things, such as {} (choose another one with --out, or "
                     "empty it)",
                     names[0]));
}

std::vector<std::string> write_report(const fs::path& folder, const ExplainReport& report) {
  prepare_report_folder(folder);
  std::vector<std::string> written;
  const auto write_picture = [&](const std::string& name, const Image& image) {
    write_file_atomically(folder / name, encode_png(image));
    written.push_back(name);
  };
  for (size_t i = 0; i < report.images.size(); ++i) {
    const ExplainedImage& of = report.images[i];
    const Explanation& e = of.explanation;
    const auto heat = [&](const std::vector<double>& shares) {
      const Range range = range_of(shares);
      return with_scale(heat_map(of.image, shares, report.grid, range, kSide), range);
    };
    write_picture(picture_name(i, "input"), enlarged(of.image, kSide));
    write_picture(picture_name(i, "rollout"), heat(e.rollout));
    write_picture(picture_name(i, "gradient"), heat(e.gradient_rollout));
    const Range range = head_range(e);
    std::vector<std::vector<Image>> lines;
    for (const Explanation::Layer& layer : e.layers) {
      lines.emplace_back();
      for (const std::vector<double>& head : layer.heads)
        lines.back().push_back(heat_map(of.image, head, report.grid, range, kHeadSide));
    }
    write_picture(picture_name(i, "heads"), with_scale(sheet(lines), range));
  }
  if (report.faithfulness) {
    const std::vector<Plot> plots = faithfulness_plots(*report.faithfulness, report.grid.kind);
    for (size_t i = 0; i < plots.size(); ++i) {
      write_file_atomically(folder / kPlots[i], svg_plot(plots[i]));
      written.emplace_back(kPlots[i]);
    }
  }
  // The page last: where it stands, all that it belongs to does.
  write_file_atomically(folder / kPage, explain_page(report));
  written.emplace_back(kPage);
  for (const std::string& name : entries(folder))
    if (is_report_file(name) && std::find(written.begin(), written.end(), name) == written.end())
      fs::remove(folder / name);
  return written;
}

}  // namespace fovea

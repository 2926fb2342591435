#include "cli/runs_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "fovea/base/progress.h"
#include "fovea/base/visit.h"
#include "fovea/formats/chart.h"

namespace fovea::cli {

namespace {

constexpr std::string_view kByStep = "step.", kByEpoch = "epoch.";

// Adds what differs of two maps; `text` makes a value readable.
template <class T, class Text>
void add_differences(std::vector<Difference>& out, const std::string& section,
                     const std::map<std::string, T>& a, const std::map<std::string, T>& b,
                     Text text) {
  std::set<std::string> keys;
  for (const auto& [key, value] : a) keys.insert(key);
  for (const auto& [key, value] : b) keys.insert(key);
  for (const std::string& key : keys) {
    const auto in_a = a.find(key), in_b = b.find(key);
    const std::string of_a = in_a == a.end() ? "-" : text(in_a->second);
    const std::string of_b = in_b == b.end() ? "-" : text(in_b->second);
    if (of_a != of_b) out.push_back({section, key, of_a, of_b});
  }
}

std::map<std::string, std::string> made_with(const RunRecord& run) {
  return {{"version", run.version},
          {"compiler", run.compiler},
          {"processor", run.processor},
          {"precision", run.precision},
          {"threads", std::to_string(run.threads)}};
}

std::map<std::string, std::string> outcome(const RunRecord& run) {
  std::map<std::string, std::string> values = {
      {"state", std::string(enum_name(run.state))},
      {"epochs", std::to_string(run.epochs)},
      {"steps", std::to_string(run.step)},
      {"best_epoch", std::to_string(run.best_epoch)},
      {"parameters", format_count(static_cast<double>(run.parameters))},
      {"training_time", format_duration(run.seconds)}};
  if (!run.error.empty()) values["error"] = run.error;
  return values;
}

std::vector<std::string> curves_of(const RunRecord& a, const RunRecord& b) {
  std::set<std::string> names;
  for (const RunRecord* run : {&a, &b})
    for (const auto& [curve, points] : run->curves)
      if (is_worth_a_chart(curve)) names.insert(curve);
  // Epochs first: they tell more.
  return {names.begin(), names.end()};
}

}  // namespace

std::string run_title(const RunRecord& run) { return fmt::format("{} {}", run.id, run.name); }

std::string label_of(std::string name) {
  std::replace(name.begin(), name.end(), '_', ' ');
  return name;
}

std::string label_of(const Difference& difference) {
  return difference.section == "recipe" ? difference.key : label_of(difference.key);
}

std::string value_text(double value) {
  if (!std::isfinite(value)) return "-";
  const bool whole = value == std::round(value) && std::abs(value) < 1e15;
  return whole ? fmt::format("{:.0f}", value) : fmt::format("{:.6g}", value);
}

bool is_worth_a_chart(const std::string& curve) {
  // Each epoch has the training's own means.
  return curve != "step.accuracy";
}

std::string chart_title(const std::string& curve) {
  if (curve.starts_with(kByEpoch)) return label_of(curve.substr(kByEpoch.size())) + " by epoch";
  if (curve.starts_with(kByStep)) return label_of(curve.substr(kByStep.size())) + " by step";
  return label_of(curve);
}

std::vector<std::pair<double, double>> plotted(const std::string& curve,
                                               const std::vector<RunPoint>& points) {
  std::vector<std::pair<double, double>> out;
  for (const RunPoint& p : points)
    out.emplace_back(static_cast<double>(curve.starts_with(kByEpoch) ? p.epoch : p.step), p.value);
  return out;
}

std::vector<Difference> differences_of(const RunRecord& a, const RunRecord& b) {
  std::vector<Difference> out;
  const auto same = [](const std::string& text) { return text; };
  add_differences(out, "recipe", a.settings, b.settings, same);
  add_differences(out, "result", a.results, b.results, value_text);
  add_differences(out, "result", outcome(a), outcome(b), same);
  add_differences(out, "made with", made_with(a), made_with(b), same);
  return out;
}

std::string compare_page(const RunRecord& a, const RunRecord& b) {
  ChartPage page;
  page.title = fmt::format("{} and {}", run_title(a), run_title(b));
  page.subtitle = a.folder == b.folder ? a.folder : fmt::format("{}   {}", a.folder, b.folder);
  page.legend = {run_title(a), run_title(b)};
  for (const std::string& curve : curves_of(a, b)) {
    Chart chart{chart_title(curve), curve.starts_with(kByEpoch) ? "epoch" : "step", {}, true};
    size_t kind = 0;
    for (const RunRecord* run : {&a, &b}) {
      if (const auto it = run->curves.find(curve); it != run->curves.end())
        chart.lines.push_back({kind, plotted(curve, it->second)});
      ++kind;
    }
    page.charts.push_back(std::move(chart));
  }
  std::string section;
  for (const Difference& d : differences_of(a, b)) {
    if (d.section != section) {
      section = d.section;
      page.tables.push_back({"What differs: " + section, {{"", run_title(a), run_title(b)}}});
    }
    page.tables.back().rows.push_back({label_of(d), d.a, d.b});
  }
  return svg_page(page);
}

}  // namespace fovea::cli

#include "cli/explain_json.h"

#include <cmath>

#include "fovea/base/visit.h"

namespace fovea::cli {

namespace {

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
      .set("removed_tokens_become", report.removed)
      .set("random", curve_json(f.random))
      .set("rankings", std::move(rankings));
  return json;
}

Json columns_json(const ExplainReport& report, const ExplainedImage& of) {
  Json columns = Json::array();
  for (size_t c = 0; c < of.column_effects.size(); ++c) {
    Json column = Json::object();
    if (c < report.columns.size()) column.set("column", report.columns[c]);
    if (c < of.values.size() && !std::isnan(of.values[c]))
      column.set("value", static_cast<double>(of.values[c]));
    column.set("adds", of.column_effects[c]);
    columns.push(std::move(column));
  }
  return columns;
}

// Of each layer whose heads have learned how far to see.
Json spans_json(const ExplainReport& report) {
  Json spans = Json::object();
  for (const Explanation::Layer& layer : report.images.at(0).explanation.layers) {
    if (layer.spans.empty()) continue;
    Json heads = Json::array();
    for (const float span : layer.spans) heads.push(static_cast<double>(span));
    spans.set(layer.name, std::move(heads));
  }
  return spans;
}

}  // namespace

Json explain_json(const ExplainReport& report, const ExplainedWith& with, const std::string& folder,
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
    if (!image.column_effects.empty()) one.set("columns", columns_json(report, image));
    examples.push(std::move(one));
  }
  Json grid = Json::object();
  grid.set("rows", report.grid.rows).set("columns", report.grid.columns);
  Json names = Json::array();
  for (const std::string& file : files) names.push(std::string_view(file));
  Json out = Json::object();
  out.set("model", report.model)
      .set("level", with.level)
      .set("precision", with.precision)
      .set("grid", std::move(grid))
      .set("folder", folder)
      .set("files", std::move(names))
      .set("examples", std::move(examples))
      .set("spans", spans_json(report));
  if (report.faithfulness) out.set("faithfulness", faithfulness_json(report));
  return out;
}

}  // namespace fovea::cli

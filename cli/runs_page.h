// What two recorded runs have apart, and their curves as a page.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "fovea/train/run_store.h"

namespace fovea::cli {

struct Difference {
  std::string section;  // "recipe", "result", "made with"
  std::string key;      // "train.epochs", "test_accuracy"
  std::string a, b;     // "-" where one has no such value
};

// All that differs, of how the runs were made and what came out; not where and when they were made.
std::vector<Difference> differences_of(const RunRecord& a, const RunRecord& b);

// An SVG document: the curves that either has, and the differences.
std::string compare_page(const RunRecord& a, const RunRecord& b);

// "3 demo"
std::string run_title(const RunRecord& run);
// "test_accuracy" as people read it: "test accuracy".
std::string label_of(std::string name);
// A key of the recipe stays as it is typed.
std::string label_of(const Difference& difference);
// A number as short as it can be without losing what matters; a whole one with all its digits.
std::string value_text(double value);

// Whether a curve is drawn: what is measured each epoch need not be shown by step as well.
bool is_worth_a_chart(const std::string& curve);
// "validation loss by epoch"
std::string chart_title(const std::string& curve);
// Its points over epochs or steps, as its name says.
std::vector<std::pair<double, double>> plotted(const std::string& curve,
                                               const std::vector<RunPoint>& points);

}  // namespace fovea::cli

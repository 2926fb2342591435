#include "fovea/explain/samples.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "fovea/base/error.h"
#include "fovea/data/permutation.h"
#include "fovea/infer/evaluator.h"
#include "fovea/tasks/task.h"

namespace fovea {
namespace {

// `count` of the candidates, each time one of the class that was taken least so far.
std::vector<int64_t> spread(const std::vector<int64_t>& candidates, const Dataset& dataset,
                            size_t count) {
  std::map<int32_t, std::vector<int64_t>> by_class;  // the next to take is the last
  for (auto it = candidates.rbegin(); it != candidates.rend(); ++it)
    by_class[dataset.labels[static_cast<size_t>(*it)]].push_back(*it);
  // Classes in the order in which the candidates bring them.
  std::vector<int32_t> classes;
  for (const int64_t i : candidates) {
    const int32_t label = dataset.labels[static_cast<size_t>(i)];
    if (std::find(classes.begin(), classes.end(), label) == classes.end()) classes.push_back(label);
  }
  std::vector<int64_t> chosen;
  while (chosen.size() < std::min(count, candidates.size())) {
    for (const int32_t label : classes) {
      auto& left = by_class[label];
      if (left.empty() || chosen.size() == count) continue;
      chosen.push_back(left.back());
      left.pop_back();
    }
  }
  return chosen;
}

}  // namespace

std::vector<int32_t> predict_classes(Session& model, const Dataset& dataset, int64_t batch) {
  const bool images = dataset.input(kImageInput) != nullptr;
  check_inputs(model.graph(), dataset,
               fmt::format("[explain] {}{}", images ? "an image of " : "", dataset.source));
  batch = std::clamp<int64_t>(batch, 1, std::max<int64_t>(dataset.size(), 1));
  Execution& execution = model.prepare({{"B", batch}});
  const auto classes =
      static_cast<size_t>(execution.output_type(kProbabilities).shape[1].constant());
  const std::span labels(dataset.labels);
  std::vector<int32_t> predicted;
  for (int64_t first = 0; first < dataset.size(); first += batch) {
    const auto n = static_cast<size_t>(std::min(batch, dataset.size() - first));
    feed_batch(execution, input_bytes(dataset, first, static_cast<int64_t>(n)),
               labels.subspan(static_cast<size_t>(first), n), batch);
    execution.run();
    const auto p = execution.output_f32(kProbabilities);
    for (size_t i = 0; i < n; ++i) {
      const auto row = p.subspan(i * classes, classes);
      predicted.push_back(
          static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin()));
    }
  }
  return predicted;
}

std::vector<int64_t> choose_samples(const Dataset& dataset, const std::vector<int32_t>& predicted,
                                    int64_t count, uint64_t seed) {
  FOVEA_ASSERT(static_cast<int64_t>(predicted.size()) == dataset.size());
  std::vector<int64_t> order, right, wrong;
  philox_permutation(dataset.size(), seed, "explain.samples", 0, order);
  for (const int64_t i : order) {
    const auto at = static_cast<size_t>(i);
    (predicted[at] == dataset.labels[at] ? right : wrong).push_back(i);
  }
  const auto all = static_cast<size_t>(std::max<int64_t>(count, 0));
  const size_t wrong_ones = std::min(wrong.size(), all * 3 / 8);
  std::vector<int64_t> chosen = spread(right, dataset, all - wrong_ones);
  // Where few are right, more wrong ones fill the page.
  for (const int64_t i : spread(wrong, dataset, all - chosen.size())) chosen.push_back(i);
  return chosen;
}

}  // namespace fovea

#include "fovea/explain/column_effects.h"

#include <fmt/format.h>

#include <cstring>

#include "fovea/base/error.h"
#include "fovea/explain/prober.h"
#include "fovea/infer/evaluator.h"

namespace fovea {

std::vector<std::vector<double>> column_effects(Session& model, const Dataset& examples,
                                                std::span<const int32_t> classes,
                                                const std::vector<double>& mean, int64_t batch) {
  check_inputs(model.graph(), examples, "[explain] " + examples.source);
  const DataInput* series = examples.input(kSeriesInput);
  if (series == nullptr || series->shape.size() != 2 ||
      series->shape[1] != static_cast<int64_t>(mean.size()) ||
      static_cast<int64_t>(classes.size()) != examples.size())
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[explain] expected series with {} columns, as there are means, and a "
                            "class for each of {} examples, got {} classes",
                            mean.size(), examples.size(), classes.size())};
  const size_t features = mean.size();
  // Behind the columns, the probability with all of them.
  std::vector<std::vector<double>> effects(classes.size(), std::vector<double>(features + 1));
  Prober prober(model, examples, batch);
  for (size_t i = 0; i < classes.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const auto whole = series->sample(at);
    prober.push(at, whole, classes[i], &effects[i][features]);
    for (size_t f = 0; f < features; ++f) {
      std::vector<uint8_t> without(whole.begin(), whole.end());
      const auto value = static_cast<float>(mean[f]);
      for (size_t k = f * sizeof value; k < without.size(); k += features * sizeof value)
        std::memcpy(without.data() + k, &value, sizeof value);
      prober.push(at, without, classes[i], &effects[i][f]);
    }
  }
  prober.flush();
  for (std::vector<double>& of : effects) {
    const double all = of.back();
    of.pop_back();
    for (double& effect : of) effect = all - effect;
  }
  return effects;
}

}  // namespace fovea

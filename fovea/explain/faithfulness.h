// Whether what an explanation ranks high is what the model's answer hangs on: patches of images,
// steps of sequences or columns of rows are removed in the order of the ranking, and the
// probability of the class is watched.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fovea/data/dataset.h"
#include "fovea/explain/explainer.h"
#include "fovea/runtime/session.h"

namespace fovea {

enum class Ranking { rollout, gradient_rollout, last_layer };
inline std::span<const std::string_view> enum_names(Ranking) {
  static constexpr std::array<std::string_view, 3> kNames = {"rollout", "gradient_rollout",
                                                             "last_layer"};
  return kNames;
}

struct FaithfulnessOptions {
  int64_t random_orders = 5;  // of each example
  int64_t most_steps = 50;    // patches go one by one, or in as many equal parts as this
  int64_t batch = 256;
  uint64_t seed = 1;
  std::function<void(double done)> progress = {};  // told now and then, 0 to 1
};

// A mean over examples and its standard error.
struct Estimate {
  double mean = 0, error = 0;
};

// The probability of the class that the model names on the whole example, as its tokens go.
struct RemovalCurve {
  std::vector<Estimate> probability;  // [steps + 1]: with 0, 1, ... all parts removed
  Estimate area;                      // under it, by trapezoids over the share removed in [0,1]
};

// Deletion removes tokens from the whole example (Petsiuk et al. 2018, "RISE"); insertion begins
// with none and puts them in. Putting in the highest-ranked first is removing the lowest-ranked
// first, read backwards, and has the same area; so two curves tell all.
struct RankingFaithfulness {
  Ranking ranking = Ranking::rollout;
  RemovalCurve highest_first, lowest_first;
  // Differences on the same examples, more is better: how much smaller the area of deletion is, and
  // how much larger that of insertion, than in random order.
  Estimate deletion_gain, insertion_gain;
};

struct Faithfulness {
  int64_t images = 0, tokens = 0, steps = 0, random_orders = 0;
  RemovalCurve random;                        // each example's mean over its random orders
  std::vector<RankingFaithfulness> rankings;  // one of each
};

// The mean of all images of a data set, place by place, rounded: [height,width,channels].
std::vector<uint8_t> mean_image(const ImageDataset& dataset);

// The mean of training at each step: what stands in the place of numbers that are gone. mean [F];
// gives the bytes of f32 [steps,F].
std::vector<uint8_t> mean_series(const std::vector<double>& mean, int64_t steps);

// model: compiled for inference, with the output "probabilities", of the same weights as the
// explainer's. removed: a sample of the image or the series, whose parts stand in the place of what
// is gone. Tokens that a ranking holds equal go in a random order; of a sequence that is shorter
// than others those go that are there. Throws Error (invalid_argument) where there are no examples,
// or they have other sizes; and what running throws.
Faithfulness measure_faithfulness(Session& model, Explainer& explainer, const Dataset& dataset,
                                  std::span<const uint8_t> removed,
                                  const FaithfulnessOptions& options = {});

}  // namespace fovea

// Whether what an explanation ranks high is what the model's answer hangs on: patches of images are
// removed in the order of the ranking, and the probability of the class is watched.
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
  int64_t random_orders = 5;  // of each image
  int64_t most_steps = 50;    // patches go one by one, or in as many equal parts as this
  int64_t batch = 256;
  uint64_t seed = 1;
  std::function<void(double done)> progress = {};  // told now and then, 0 to 1
};

// A mean over images and its standard error.
struct Estimate {
  double mean = 0, error = 0;
};

// The probability of the class that the model names on the whole image, as patches go.
struct RemovalCurve {
  std::vector<Estimate> probability;  // [steps + 1]: with 0, 1, ... all parts removed
  Estimate area;                      // under it, by trapezoids over the share removed in [0,1]
};

// Deletion removes patches from the whole image (Petsiuk et al. 2018, "RISE"); insertion begins
// with none and puts them in. Putting in the highest-ranked first is removing the lowest-ranked
// first, read backwards, and has the same area; so two curves tell all.
struct RankingFaithfulness {
  Ranking ranking = Ranking::rollout;
  RemovalCurve highest_first, lowest_first;
  // Differences on the same images, more is better: how much smaller the area of deletion is, and
  // how much larger that of insertion, than in random order.
  Estimate deletion_gain, insertion_gain;
};

struct Faithfulness {
  int64_t images = 0, tokens = 0, steps = 0, random_orders = 0;
  RemovalCurve random;                        // each image's mean over its random orders
  std::vector<RankingFaithfulness> rankings;  // one of each
};

// The mean of all images of a data set, place by place, rounded: [height,width,channels].
std::vector<uint8_t> mean_image(const ImageDataset& dataset);

// model: compiled for inference, with the output "probabilities", of the same weights as the
// explainer's. removed [height,width,channels]: what stands in the place of patches that are gone.
// Patches that a ranking holds equal go in a random order. Throws Error (invalid_argument) where
// there are no images, or the pictures have other sizes; and what running throws.
Faithfulness measure_faithfulness(Session& model, Explainer& explainer, const ImageDataset& dataset,
                                  std::span<const uint8_t> removed,
                                  const FaithfulnessOptions& options = {});

}  // namespace fovea

// Transformer for rows of numbers: sequences of time steps, or one row whose columns are the
// tokens.
#pragma once

#include <array>
#include <span>
#include <string_view>
#include <vector>

#include "fovea/models/blocks.h"

namespace fovea {

// What attention looks at. steps: each `patch` steps in turn are a token; features: each column of
// a row is one; automatic: features where samples have one step, else steps.
enum class SeriesTokens { automatic, steps, features };
inline std::span<const std::string_view> enum_names(SeriesTokens) {
  static constexpr std::array<std::string_view, 3> kNames = {"auto", "steps", "features"};
  return kNames;
}

enum class SeriesPosition { learned, sinusoidal };
inline std::span<const std::string_view> enum_names(SeriesPosition) {
  static constexpr std::array<std::string_view, 2> kNames = {"learned", "sinusoidal"};
  return kNames;
}

// The section [model] of a recipe whose task sees rows of numbers.
struct SeriesOptions {
  SeriesTokens tokens = SeriesTokens::automatic;
  int64_t patch = 1;  // steps of a token (Nie et al. 2023, "A time series is worth 64 words")
  SeriesPosition position = SeriesPosition::learned;  // of steps
  int64_t layers = 3;
  int64_t width = 64;
  int64_t heads = 4;
  int64_t mlp = 128;
  double dropout = 0.1;
  AttentionOptions attention = {};  // [model.attention]

  template <class V>
  void visit(V& v) {
    v("tokens", tokens);
    v("patch", patch);
    v("position", position);
    v("layers", layers);
    v("width", width);
    v("heads", heads);
    v("mlp", mlp);
    v("dropout", dropout);
  }
};

struct SeriesInputs {
  Value series;                          // f32 [B,T,F]
  Value length = {};                     // i32 [B]: steps that are there; none: all are
  const std::vector<double>& mean;       // [F]
  const std::vector<double>& deviation;  // [F]; 0, of a column that never changes, counts as 1
  bool gaps = false;                     // NaN stands for no value, and becomes the mean
};

// Names of the constants that hold mean and deviation.
inline constexpr std::string_view kSeriesMean = "series.mean";
inline constexpr std::string_view kSeriesDeviation = "series.deviation";

// Logits f32 [B,classes]. Each feature is shifted and scaled to mean 0 and deviation 1. Steps:
// linear embedding of `patch` steps, learned positions or sines (Vaswani et al. 2017, section 3.5),
// encoder that sees no step beyond the length, mean over the tokens that are there. Features: the
// token of column j is x_j w_j + b_j (Gorishniy et al. 2021, "Revisiting deep learning models for
// tabular data", section 3.3, for numbers), encoder, mean over the tokens in place of a [CLS]
// token. Throws Error for options that do not fit.
Value series_classifier(Graph& g, const SeriesInputs& inputs, int64_t classes,
                        const SeriesOptions& options, const BuildContext& context);

}  // namespace fovea

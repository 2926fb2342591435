// The sections [train] and [record] of a recipe.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace fovea {

enum class OptimiserKind { adamw, sgd };
inline std::span<const std::string_view> enum_names(OptimiserKind) {
  static constexpr std::array<std::string_view, 2> kNames = {"adamw", "sgd"};
  return kNames;
}
enum class ScheduleKind { constant, cosine };
inline std::span<const std::string_view> enum_names(ScheduleKind) {
  static constexpr std::array<std::string_view, 2> kNames = {"constant", "cosine"};
  return kNames;
}

// Of the products; everything else is f32. automatic: bf16 where the processor is faster with it.
enum class Precision { f32, bf16, automatic };
inline std::span<const std::string_view> enum_names(Precision) {
  static constexpr std::array<std::string_view, 3> kNames = {"f32", "bf16", "auto"};
  return kNames;
}

struct TrainOptions {
  int64_t epochs = 10;
  int64_t batch = 128;     // examples in one step
  int64_t accumulate = 1;  // micro-batches that make one step; divides batch
  OptimiserKind optimiser = OptimiserKind::adamw;
  double learning_rate = 1e-3;
  ScheduleKind schedule = ScheduleKind::cosine;
  double warmup = 0.05;        // share of all steps in which the rate rises from 0
  double final_rate = 0.0;     // share of the rate that is left at the end of the cosine
  double weight_decay = 0.05;  // decoupled; none on weights of one axis (norms, biases)
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double momentum = 0.9;  // sgd
  double clip = 1.0;      // largest global norm of the gradient; 0: no clipping
  double average = 0.0;   // decay of the moving average of the weights; 0: none
  int64_t patience = 0;   // epochs without a better validation metric before stopping; 0: never
  int64_t checkpoint_every = 200;  // steps; also at the end of each epoch
  int64_t seed = 1;
  Precision precision = Precision::f32;
  double memory_mb = 0;  // what a step's values may take, in 10^6 bytes: the backward part computes
                         // again what does not fit; 0: as much as it needs

  template <class V>
  void visit(V& v) {
    v("epochs", epochs);
    v("batch", batch);
    v("accumulate", accumulate);
    v("optimiser", optimiser);
    v("learning_rate", learning_rate);
    v("schedule", schedule);
    v("warmup", warmup);
    v("final_rate", final_rate);
    v("weight_decay", weight_decay);
    v("beta1", beta1);
    v("beta2", beta2);
    v("eps", eps);
    v("momentum", momentum);
    v("clip", clip);
    v("average", average);
    v("patience", patience);
    v("checkpoint_every", checkpoint_every);
    v("seed", seed);
    v("precision", precision);
    v("memory_mb", memory_mb);
  }
};

// The section [record]: what is written for TensorBoard while a model learns.
struct RecordOptions {
  bool tensorboard = true;        // event files, in the folder "events" of the bundle
  int64_t every = 10;             // steps from one point of the curves to the next
  int64_t histograms_every = 1;   // epochs between those of weights and attention; 0: none
  int64_t attention_images = 16;  // of the validation split, on which attention is watched; 0: none
  int64_t attention_pictures = 4;  // of them, drawn

  template <class V>
  void visit(V& v) {
    v("tensorboard", tensorboard);
    v("every", every);
    v("histograms_every", histograms_every);
    v("attention_images", attention_images);
    v("attention_pictures", attention_pictures);
  }
};

// Whether products are computed in bf16 on this processor.
bool in_bf16(Precision precision);

// Throws Error naming the key that is out of its range.
void check_train_options(const TrainOptions& options);
void check_record_options(const RecordOptions& options);

}  // namespace fovea

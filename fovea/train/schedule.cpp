#include "fovea/train/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "fovea/base/error.h"
#include "fovea/kernels/versions.h"

namespace fovea {

double learning_rate(const TrainOptions& o, int64_t step, int64_t total) {
  const double warm = std::floor(o.warmup * static_cast<double>(total));
  const double at = static_cast<double>(step);
  if (at < warm) return o.learning_rate * (at + 1) / (warm + 1);
  if (o.schedule == ScheduleKind::constant) return o.learning_rate;
  const double share = (at - warm) / std::max(1.0, static_cast<double>(total) - warm);
  const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * share));
  return o.learning_rate * (o.final_rate + (1 - o.final_rate) * cosine);
}

bool in_bf16(Precision precision) {
  return precision == Precision::bf16 || (precision == Precision::automatic && has_fast_bf16());
}

void check_train_options(const TrainOptions& o) {
  const auto want = [](bool ok, const char* key, const char* expected, double got) {
    if (!ok)
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[train] {}: expected {}, got {}", key, expected, got));
  };
  const auto integer = [&](const char* key, int64_t v, int64_t least) {
    want(v >= least, key, least == 0 ? "at least 0" : "at least 1", static_cast<double>(v));
  };
  integer("epochs", o.epochs, 1);
  integer("batch", o.batch, 1);
  integer("accumulate", o.accumulate, 1);
  integer("patience", o.patience, 0);
  integer("checkpoint_every", o.checkpoint_every, 1);
  integer("seed", o.seed, 0);
  want(o.batch % o.accumulate == 0, "accumulate", "a divisor of the batch",
       static_cast<double>(o.accumulate));
  // The steps of all epochs are counted in 64 bits.
  want(o.epochs <= 1'000'000'000, "epochs", "at most 1000000000", static_cast<double>(o.epochs));
  want(o.seed <= 0x7fffffff, "seed", "at most 2147483647", static_cast<double>(o.seed));
  want(o.learning_rate > 0 && o.learning_rate < 1e3, "learning_rate", "a number above 0",
       o.learning_rate);
  want(o.warmup >= 0 && o.warmup < 1, "warmup", "a share from 0 up to, not including, 1", o.warmup);
  want(o.final_rate >= 0 && o.final_rate <= 1, "final_rate", "a share from 0 to 1", o.final_rate);
  want(o.weight_decay >= 0 && o.weight_decay < 10, "weight_decay", "at least 0", o.weight_decay);
  want(o.beta1 >= 0 && o.beta1 < 1, "beta1", "from 0 up to, not including, 1", o.beta1);
  want(o.beta2 >= 0 && o.beta2 < 1, "beta2", "from 0 up to, not including, 1", o.beta2);
  want(o.eps > 0, "eps", "a number above 0", o.eps);
  want(o.momentum >= 0 && o.momentum < 1, "momentum", "from 0 up to, not including, 1", o.momentum);
  want(o.clip >= 0, "clip", "at least 0", o.clip);
  want(o.memory_mb >= 0 && o.memory_mb < 1e9, "memory_mb", "at least 0", o.memory_mb);
  want(o.average >= 0 && o.average < 1, "average", "from 0 up to, not including, 1", o.average);
}

void check_record_options(const RecordOptions& o) {
  const auto integer = [](const char* key, int64_t v, int64_t least) {
    if (v < least)
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[record] {}: expected at least {}, got {}", key, least, v));
  };
  integer("every", o.every, 1);
  integer("histograms_every", o.histograms_every, 0);
  integer("attention_images", o.attention_images, 0);
  integer("attention_pictures", o.attention_pictures, 0);
}

}  // namespace fovea

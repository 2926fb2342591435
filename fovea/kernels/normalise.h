// Weights of the scores of each row by one of the normalisers (base/normaliser.h), and the
// gradient.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "fovea/base/dtype.h"
#include "fovea/base/normaliser.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

struct NormaliserOptions {
  Normaliser kind = Normaliser::softmax;
  int64_t top_k = 0;               // of top_k: how many are kept, at least 1
  double softmax_temperature = 1;  // of hard, gumbel and gumbel_hard, above 0
  // Of gumbel and gumbel_hard: stream_id() of a name. Their noise for element e of the global batch
  // is -log(-log u) with u = (n + 1/2) 2^-23, n the upper 23 bits of
  // philox4x32({low e/4, high e/4, low stream, high stream}, seed, step)[e % 4].
  uint64_t stream = 0;

  std::optional<std::string> fault() const { return fault_of(kind, top_k, softmax_temperature); }
};

// Everything is dense [rows, cols], f32 or f64. A row that is wholly -infinity gives zeros, and
// gradient 0; one with a NaN or +infinity gives a NaN. y may lie where x lies, dx where dy lies.
struct NormaliseProblem {
  NormaliserOptions normaliser = {};
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t per_sample = 0;  // elements of one sample; counts the noise
};
// rng: {seed, step, first_sample}, for the random ones. Element i of x is element
// first_sample per_sample + i of the global batch.
struct NormaliseArgs {
  const void* x = nullptr;
  const int32_t* rng = nullptr;
  void* y = nullptr;
};
std::span<const Kernel<NormaliseProblem, NormaliseArgs>> normalise_kernels();

struct NormaliseGradArgs {
  const void* x = nullptr;
  const void* dy = nullptr;
  const int32_t* rng = nullptr;  // as in forward
  void* dx = nullptr;
};
std::span<const Kernel<NormaliseProblem, NormaliseGradArgs>> normalise_grad_kernels();

}  // namespace fovea

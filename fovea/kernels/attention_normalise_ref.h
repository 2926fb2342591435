// The weights of one query by another normaliser than softmax, for the reference kernels of
// attention.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "fovea/kernels/attention.h"
#include "fovea/kernels/normaliser_row.h"

namespace fovea::attention_detail {

class RefNormaliser {
 public:
  // Rows of tk doubles that it works in.
  static constexpr int64_t kRows = 5;

  RefNormaliser(const AttentionProblem& p, double* room)
      : score(room),
        weight(room + p.tk),
        dweight(room + 2 * p.tk),
        soft_(room + 3 * p.tk),
        order_(reinterpret_cast<int32_t*>(room + 4 * p.tk)),
        p_(p) {
    std::fill_n(score, p.tk, -INFINITY);
  }

  // score, -infinity where the link is not seen, becomes weight.
  void forward(const int32_t* rng, int64_t b, int64_t h, int64_t i, double sink) {
    if (is_random(p_.normaliser.kind)) {
      const int64_t first = (((rng[2] + b) * p_.heads + h) * p_.tq + i) * p_.tk;
      for (int64_t j = 0; j < p_.tk; ++j)
        score[j] +=
            normaliser_detail::gumbel_noise(p_.normaliser, rng, static_cast<uint64_t>(first + j));
    }
    make(false, sink, weight);
  }

  // After forward: dweight, the gradient of weight, becomes that of the score. Returns the gradient
  // of the sink.
  double backward(double sink) {
    const double of_sink = make(true, sink, soft_);
    double dot = 0;
    for (int64_t j = 0; j < p_.tk; ++j) dot += soft_[j] == 0 ? 0 : soft_[j] * dweight[j];
    normaliser_detail::normalise_grad_row(p_.normaliser, soft_, dweight, p_.tk, dweight);
    return -of_sink * dot;
  }

  double *score, *weight, *dweight;  // of each key

 private:
  // Returns the weight of the sink.
  double make(bool soft, double sink, double* to) const {
    normaliser_detail::normalise_row(p_.normaliser, score, p_.tk, soft, order_, to);
    if (sink == -INFINITY) return 0;
    // The softmax of what top-k keeps gets one more score.
    const auto top = std::max_element(to, to + p_.tk) - to;
    if (to[top] == 0) return 1;
    const double lse = score[top] - std::log(to[top]), all = std::max(lse, sink);
    const double sum = std::exp(lse - all) + std::exp(sink - all);
    for (int64_t j = 0; j < p_.tk; ++j) to[j] *= std::exp(lse - all) / sum;
    return std::exp(sink - all) / sum;
  }

  double* soft_;
  int32_t* order_;
  const AttentionProblem& p_;
};

}  // namespace fovea::attention_detail

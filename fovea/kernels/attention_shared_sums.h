// Gradients that several heads or samples of attention add to: who waits for whom, what is set to 0
// first, and how what each left is summed up. The same order of sums for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fovea/kernels/attention_seen.h"

namespace fovea::attention_detail {

// Those that add to the same part of a gradient of biases or relative keys work one after another:
// `samples` samples by `groups` key/value heads are one chain.
class GradientChains {
 public:
  GradientChains(const AttentionProblem& p, const AttentionBackwardArgs& args)
      : samples(p.relative_keys || shared_bias(p, args) ? p.batch : 1),
        groups(args.dbias && p.bias_plane.head == 0 ? p.kv_heads : 1),
        count(p.batch / samples * (p.kv_heads / groups)),
        p_(p),
        args_(args) {}

  int64_t first_sample(int64_t chain) const { return chain / (p_.kv_heads / groups) * samples; }
  int64_t first_kv_head(int64_t chain) const { return chain % (p_.kv_heads / groups) * groups; }

  // Zeros in the part of the bias's gradient that the chain adds to.
  void zero_bias(int64_t chain) const {
    if (!args_.dbias) return;
    const AttentionPlane& s = p_.bias_plane;
    const int64_t group = p_.heads / p_.kv_heads, head = first_kv_head(chain) * group;
    for (int64_t b = 0; b < (shared_bias(p_, args_) ? 1 : samples); ++b)
      for (int64_t h = 0; h < (s.head == 0 ? 1 : group); ++h)
        for (int64_t i = 0; i < (s.query == 0 ? 1 : p_.tq); ++i)
          std::fill_n(
              links_row(static_cast<float*>(args_.dbias), s, first_sample(chain) + b, head + h, i),
              p_.tk, 0.0f);
  }

  const int64_t samples, groups, count;

 private:
  static bool shared_bias(const AttentionProblem& p, const AttentionBackwardArgs& args) {
    return args.dbias && p.bias_plane.batch == 0;
  }

  const AttentionProblem& p_;
  const AttentionBackwardArgs& args_;
};

// to [tq + tk - 1]: the sums over samples of a head's gradients by distance, which lie reversed, in
// distance_row() numbers for each head of each sample; from: those of the first sample.
inline void add_distances(const AttentionProblem& p, const float* from, float* to) {
  const int64_t count = p.tq + p.tk - 1, sample = p.heads * distance_row(p);
  for (int64_t n = 0; n < count; ++n) {
    double sum = 0;
    for (int64_t b = 0; b < p.batch; ++b) sum += from[b * sample + count - 1 - n];
    to[n] = static_cast<float>(sum);
  }
}

// to[head]: the sum over samples of sums [batch, heads].
inline void add_samples(const AttentionProblem& p, const double* sums, int64_t head, void* to) {
  double sum = 0;
  for (int64_t b = 0; b < p.batch; ++b) sum += sums[b * p.heads + head];
  static_cast<float*>(to)[head] = static_cast<float>(sum);
}

}  // namespace fovea::attention_detail
